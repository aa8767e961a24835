//! Everything that needs more than pure code: one binary, one module a subject.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod conformance_sqlite;
mod decide;
mod models;
mod sqlite;
mod structure;
mod tools;
mod tools_mcp;
