//! One file a command.

pub(crate) mod apply;
pub(crate) mod approvals;
pub(crate) mod audit;
pub(crate) mod batch;
pub(crate) mod bench;
pub(crate) mod check;
pub(crate) mod demo;
pub(crate) mod dev;
pub(crate) mod dlq;
pub(crate) mod doctor;
pub(crate) mod export;
pub(crate) mod halt;
pub(crate) mod import;
pub(crate) mod limits;
pub(crate) mod queues;
pub(crate) mod scheduler;
pub(crate) mod submit;
pub(crate) mod tasks;
mod value;
pub(crate) mod worker;
