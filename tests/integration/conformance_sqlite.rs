//! The `SQLite` store against the suite for all stores.

use std::sync::Arc;

use async_trait::async_trait;
use common::store::{SqliteStore, Store, StoreError, StoreOptions};
use suite::conformance::{Backend, Place};

struct File(tempfile::TempDir);

#[async_trait]
impl Backend for File {
    async fn open(&self, options: StoreOptions) -> Result<Arc<dyn Store>, StoreError> {
        Ok(SqliteStore::open(&self.0.path().join("teamster.db"), options)?)
    }
}

#[expect(clippy::expect_used, reason = "a test that gets no directory cannot run")]
fn fresh() -> Place {
    Box::new(File(tempfile::tempdir().expect("a temporary directory")))
}

suite::conformance!(fresh);
