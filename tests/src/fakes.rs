//! Stand-ins for the outside world, and what tests need to call the real thing:
//! servers on loopback ports that speak the real wire and misbehave on demand.
//! There are no fakes of our own traits.

pub mod calls;
pub mod github;
pub mod hooks;
pub mod mcp;
pub mod mcp_http;
pub mod model;
pub mod oauth;
pub mod sales;
