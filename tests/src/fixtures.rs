//! Parts of the program, started for a test.

pub mod agent_task;
pub mod amqp;
pub mod ear;
pub mod example;
pub mod hinted;
pub mod kill;
pub mod places;
pub mod process;
pub mod program;
pub mod sandbox;
pub mod scheduler;
pub mod worker;
