//! The worker: takes tasks, decides what is to be done, does it, and writes
//! down what came of it.
//!
//! [`decide`] is pure; [`execute`] performs what it says; [`service`] is the
//! process around it. `models` and `tools` are the ways to the outside world.

pub mod answer;
pub mod batching;
pub mod decide;
pub mod definitions;
pub mod execute;
pub mod fault;
pub mod halt;
pub mod health;
pub mod hooks;
pub mod http;
pub mod intake;
pub mod lease;
pub mod models;
pub mod outside;
pub mod process;
pub mod quota;
pub mod service;
mod sse;
pub mod tools;
