//! The scheduler: takes work in over HTTP, webhooks, batch files and cron,
//! stores it durably, and moves on what time has come for.

pub mod api;
