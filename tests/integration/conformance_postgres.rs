//! The Postgres store against the suite for all stores, in a schema of its own for each case.

use std::sync::Arc;

use async_trait::async_trait;
use common::store::{PostgresStore, Store, StoreError, StoreOptions};
use suite::conformance::{Backend, Place};
use suite::servers::postgres;

struct Schema(String);

#[async_trait]
impl Backend for Schema {
    async fn open(&self, options: StoreOptions) -> Result<Arc<dyn Store>, StoreError> {
        Ok(PostgresStore::open(&self.0, options).await?)
    }
}

fn fresh() -> Place {
    Box::new(Schema(postgres::place()))
}

suite::conformance!(fresh);
