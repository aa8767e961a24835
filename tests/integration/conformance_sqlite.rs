//! The `SQLite` store against the suite for all stores.

use suite::fixtures::places::sqlite;

suite::conformance!(sqlite);
