//! The Redis store against the suite for all stores, in one partition and in several.

mod single {
    fn fresh() -> suite::conformance::Place {
        suite::fixtures::places::redis(1)
    }

    suite::conformance!(fresh);
}

mod partitioned {
    fn fresh() -> suite::conformance::Place {
        suite::fixtures::places::redis(4)
    }

    suite::conformance!(fresh);
}
