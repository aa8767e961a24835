//! Parts of the program, started for a test.

pub mod process;
pub mod scheduler;
pub mod worker;
