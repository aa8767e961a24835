//! Stand-ins for the outside world, and what tests need to call the real thing.

pub mod calls;
pub mod mcp;
