//! What the scheduler, the workers and the CLI of Teamster share: the words of
//! the design as types, the pure rules, and the store.
//!
//! Nothing here depends on a service. Modules import downward only, in the
//! order of ARCHITECTURE.md.

pub mod audit;
pub mod broker;
pub mod clock;
pub mod config;
pub mod diagnostic;
mod document;
pub mod entropy;
pub mod failure;
pub mod id;
pub mod journal;
pub mod metrics;
pub mod pipeline;
pub mod private;
pub mod project;
pub mod retry;
pub mod schema;
pub mod secret;
pub mod shutdown;
pub mod span;
pub mod store;
pub mod submission;
pub mod task;
pub mod telemetry;
mod tls;
pub mod transfer;
