//! The Redis store against the suite for all stores, on a cluster of three nodes.

use suite::fixtures::places::redis_cluster;

suite::conformance!(redis_cluster);
