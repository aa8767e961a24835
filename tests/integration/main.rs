//! Everything that needs more than pure code: one binary, one module a subject.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod conformance_sqlite;
mod models;
mod structure;
mod tools;
mod sqlite;
