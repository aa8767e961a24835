//! Everything that needs more than pure code: one binary, one module a subject.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
// Tests say what they counted.
#![allow(clippy::print_stdout, clippy::format_collect)]

mod agents;
mod api;
mod approvals;
mod bad_input;
mod batches;
mod blobs;
mod blobs_s3;
mod chaos;
mod cli;
mod conformance_postgres;
mod conformance_rabbitmq;
mod conformance_redis;
mod conformance_redis_cluster;
mod conformance_sqlite;
mod crash;
mod crash_mcp;
mod decide;
mod differential;
mod faults;
mod models;
mod models_openai;
mod offload;
mod permissions;
mod pipelines;
mod postgres;
mod rabbitmq;
mod rabbitmq_fleet;
mod rabbitmq_ingress;
mod rabbitmq_tls;
mod redis;
mod schedules;
mod servers;
mod simulation;
mod slow_clients;
mod sqlite;
mod structure;
mod subagents;
mod tools;
mod tools_http;
mod tools_mcp;
mod transfer;
mod truncation;
mod webhooks;
