//! Pipelines: what a user writes, checked and made ready to run. Pure.
//!
//! [`model`] is the checked form that everything else uses; [`template`] is the
//! one language of templates and conditions; [`Bundle`] is a pipeline with all
//! that it refers to, and [`compile`] makes the checked form of it.

pub(crate) mod agent;
pub mod batching;
mod bundle;
mod graph;
pub mod model;
pub mod replay;
pub(crate) mod source;
pub mod template;
pub mod untrusted;

pub use bundle::{Bundle, compile};
