//! The worker: takes tasks, decides what is to be done, does it, and writes
//! down what came of it.

pub mod fault;
pub mod http;
pub mod models;
pub mod process;
pub mod tools;
