//! The Redis store against the suite for all stores, on a cluster of three nodes.

use std::sync::Arc;

use async_trait::async_trait;
use common::store::{RedisStore, Store, StoreError, StoreOptions};
use suite::conformance::{Backend, Place};
use suite::servers::place::unique_name;
use suite::servers::redis::cluster;

struct Prefix(String);

#[async_trait]
impl Backend for Prefix {
    async fn open(&self, options: StoreOptions) -> Result<Arc<dyn Store>, StoreError> {
        Ok(RedisStore::open(&self.0, options).await?)
    }
}

fn fresh() -> Place {
    // A cluster that is started here blocks its thread.
    let nodes = std::thread::spawn(|| cluster::shared().addresses()).join().expect("a cluster");
    Box::new(Prefix(format!("redis+cluster://{}?prefix={}", nodes.join(","), unique_name())))
}

suite::conformance!(fresh);
