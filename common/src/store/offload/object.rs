//! Blobs as objects: files of a folder, or objects of a bucket.

use std::time::Duration;

use bytes::Bytes;
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, ObjectStoreExt, RetryConfig};

use crate::id::BlobName;
use crate::store::{BlobOptions, BlobPlace, StoreError};

/// How long one object may take, all tries together.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(15);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(3);
/// How often a request is tried again.
const RETRIES: usize = 3;

/// A folder or a bucket.
#[derive(Debug)]
pub(super) struct Objects {
    store: Box<dyn ObjectStore>,
    prefix: Path,
    /// In the words of the configuration.
    place: String,
}

impl Objects {
    /// Opens the place, if it is not the store itself; a folder is made if there is none.
    ///
    /// # Errors
    /// [`StoreError::Refused`] for settings that cannot be right, [`StoreError::Unavailable`] if a folder
    /// cannot be used.
    pub(super) fn open(options: &BlobOptions) -> Result<Option<Self>, StoreError> {
        match &options.place {
            BlobPlace::Store => Ok(None),
            BlobPlace::Folder(path) => {
                let place = format!("file:{}", path.display());
                let failed = |error: String| StoreError::Unavailable(format!("{place} (blobs.place): {error}"));
                std::fs::create_dir_all(path).map_err(|error| failed(error.to_string()))?;
                let folder = LocalFileSystem::new_with_prefix(path).map_err(|error| failed(error.to_string()))?;
                // What the store has accepted must be on disk, here too.
                let store = Box::new(folder.with_fsync(true));
                Ok(Some(Self { store, prefix: Path::default(), place }))
            }
            BlobPlace::Bucket { bucket, prefix } => {
                let place = format!("s3://{bucket}/{prefix}");
                let refused = |why: String| StoreError::Refused(format!("{place} (blobs.place): {why}"));
                let prefix = Path::parse(prefix).map_err(|error| refused(error.to_string()))?;
                let retry =
                    RetryConfig { backoff: BackoffConfig::default(), max_retries: RETRIES, retry_timeout: PATIENCE };
                let client = ClientOptions::new().with_timeout(REQUEST).with_connect_timeout(CONNECT);
                let mut builder =
                    AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retry).with_client_options(client);
                if let Some(endpoint) = &options.endpoint {
                    builder = builder.with_allow_http(endpoint.starts_with("http://")).with_endpoint(endpoint);
                }
                let store = Box::new(builder.build().map_err(|error| refused(error.to_string()))?);
                Ok(Some(Self { store, prefix, place }))
            }
        }
    }

    /// The place, in the words of the configuration.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// Writes an object, whole or not at all; one of the same name is replaced.
    pub(super) async fn put(&self, name: &BlobName, data: Bytes) -> Result<(), StoreError> {
        let path = self.path(name);
        self.in_time("written", async { self.store.put(&path, data.into()).await.map(drop) }).await
    }

    /// Reads an object; nothing if there is none.
    pub(super) async fn get(&self, name: &BlobName) -> Result<Option<Bytes>, StoreError> {
        let path = self.path(name);
        let read = async {
            match self.store.get(&path).await {
                Ok(found) => found.bytes().await.map(Some),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        };
        self.in_time("read", read).await
    }

    /// Removes an object, if there is one.
    pub(super) async fn remove(&self, name: &BlobName) -> Result<(), StoreError> {
        let path = self.path(name);
        let remove = async {
            match self.store.delete(&path).await {
                Err(object_store::Error::NotFound { .. }) => Ok(()),
                answer => answer,
            }
        };
        self.in_time("removed", remove).await
    }

    /// Spread by digest, so that no folder grows too large.
    fn path(&self, name: &BlobName) -> Path {
        let digits = name.digest().as_str().get(..2).unwrap_or_default();
        self.prefix.clone().join(digits).join(name.to_string())
    }

    async fn in_time<T>(
        &self,
        verb: &str,
        work: impl Future<Output = Result<T, object_store::Error>>,
    ) -> Result<T, StoreError> {
        let failed = |why: String| {
            StoreError::Unavailable(format!("a large value cannot be {verb} at {} (blobs.place): {why}", self.place))
        };
        match tokio::time::timeout(PATIENCE, work).await {
            Ok(answer) => answer.map_err(|error| failed(error.to_string())),
            Err(_) => Err(failed(format!("no answer within {} s", PATIENCE.as_secs()))),
        }
    }
}
