//! Stores that are served through `RabbitMQ` against the suite for all stores.

mod sqlite {
    use suite::fixtures::places::{hinted, sqlite};

    fn fresh() -> suite::conformance::Place {
        hinted(sqlite())
    }

    suite::conformance!(fresh);
}

mod redis {
    use suite::fixtures::places::{hinted, redis};

    fn fresh() -> suite::conformance::Place {
        hinted(redis(4))
    }

    suite::conformance!(fresh);
}

mod postgres {
    use suite::fixtures::places::{hinted, postgres};

    fn fresh() -> suite::conformance::Place {
        hinted(postgres())
    }

    suite::conformance!(fresh);
}
