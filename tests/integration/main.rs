//! Everything that needs more than pure code: one binary, one module a subject.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod agents;
mod api;
mod approvals;
mod bad_input;
mod batches;
mod cli;
mod conformance_sqlite;
mod decide;
mod models;
mod schedules;
mod slow_clients;
mod sqlite;
mod structure;
mod tools;
mod tools_http;
mod tools_mcp;
mod webhooks;
