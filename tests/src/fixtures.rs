//! Parts of the program, started for a test.

pub mod worker;
