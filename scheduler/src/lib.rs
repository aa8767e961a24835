//! The scheduler: takes work in over HTTP, webhooks, batch files and cron,
//! stores it durably, and moves on what time has come for.
//!
//! It runs no pipeline and keeps nothing of its own: several schedulers may
//! serve one store. [`service`] wires the parts; [`cron::ticks`],
//! the readers of [`batch`] and the senders of [`ingress`] are pure.

pub mod api;
mod app;
pub mod batch;
mod catalog;
pub mod cron;
mod erasure;
pub mod halt;
pub mod ingress;
mod letters;
mod private;
mod problem;
pub mod relay;
mod serve;
pub mod service;
mod settings;
pub mod sweep;
mod text;
pub mod wire;

pub use app::HttpLimits;
pub use service::{Scheduler, SchedulerError, SchedulerHandle, SchedulerOptions};
