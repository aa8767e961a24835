//! Stores that are served through `RabbitMQ` against the suite for all stores.

mod sqlite {
    use std::sync::Arc;

    use async_trait::async_trait;
    use common::store::{SqliteStore, Store, StoreError, StoreOptions};
    use suite::conformance::{Backend, Place};
    use suite::fixtures::hinted::HintedPlace;
    use suite::servers::rabbitmq;

    struct File(tempfile::TempDir);

    #[async_trait]
    impl Backend for File {
        async fn open(&self, options: StoreOptions) -> Result<Arc<dyn Store>, StoreError> {
            Ok(SqliteStore::open(&self.0.path().join("teamster.db"), options)?)
        }
    }

    #[expect(clippy::expect_used, reason = "a test that gets no directory cannot run")]
    fn fresh() -> Place {
        let file = File(tempfile::tempdir().expect("a temporary directory"));
        Box::new(HintedPlace::new(Box::new(file), rabbitmq::place()))
    }

    suite::conformance!(fresh);
}
