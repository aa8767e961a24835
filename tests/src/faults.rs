//! Faults on the way between two programs: a TCP proxy that holds back,
//! breaks or refuses connections as a test tells it.

pub mod proxy;
