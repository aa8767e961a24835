//! The Postgres store against the suite for all stores, in a schema of its own for each case.

use suite::fixtures::places::postgres;

suite::conformance!(postgres);
