//! What the tests of Teamster share.

pub mod conformance;
