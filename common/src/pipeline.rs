//! Pipelines: what a user writes, checked and made ready to run. Pure.
//!
//! [`model`] is the checked form that everything else uses; [`template`] is the
//! one language of templates and conditions.

pub mod model;
pub mod template;
