//! The HTTP API.

pub mod wire;
