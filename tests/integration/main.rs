//! Tests across crates. One binary, one module a subject.
mod conformance_sqlite;
mod sqlite;
