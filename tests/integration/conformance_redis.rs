//! The Redis store against the suite for all stores, in one partition and in several.

use std::sync::Arc;

use async_trait::async_trait;
use common::store::{RedisStore, Store, StoreError, StoreOptions};
use suite::conformance::{Backend, Place};
use suite::servers::place::with_parameter;
use suite::servers::redis;

struct Prefix(String);

#[async_trait]
impl Backend for Prefix {
    async fn open(&self, options: StoreOptions) -> Result<Arc<dyn Store>, StoreError> {
        Ok(RedisStore::open(&self.0, options).await?)
    }
}

fn place(partitions: &str) -> Place {
    // A server that is started here blocks its thread.
    let url = std::thread::spawn(redis::place).join().expect("a server");
    Box::new(Prefix(with_parameter(&url, "partitions", partitions)))
}

mod single {
    fn fresh() -> suite::conformance::Place {
        super::place("1")
    }

    suite::conformance!(fresh);
}

mod partitioned {
    fn fresh() -> suite::conformance::Place {
        super::place("4")
    }

    suite::conformance!(fresh);
}
