//! What the integration tests share: the conformance suite of stores, fakes
//! that speak real wires, and fixtures.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::missing_panics_doc, missing_docs)]

pub mod binary;
pub mod chaos;
pub mod conformance;
#[expect(
    clippy::print_stdout,
    clippy::type_complexity,
    clippy::unnecessary_box_returns,
    clippy::format_collect,
    reason = "a comparison tells what it did; its differences are large and rare"
)]
pub mod differential;
pub mod drive;
pub mod fakes;
pub mod faults;
pub mod fixtures;
pub mod invariants;
pub mod project;
pub mod servers;
pub mod simulation;
