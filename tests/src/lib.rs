//! suite

pub mod drive;
