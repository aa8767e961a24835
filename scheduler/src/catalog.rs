//! The pipelines as the store has them, compiled once a digest.
//!
//! Several schedulers and workers share one store, so the store says which
//! definition is current; this only remembers for a moment what it said, and
//! for long what a digest means, because that never changes.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::id::{Digest, PipelineName};
use common::pipeline::model::Pipeline;
use common::store::{Definition, Store, StoreError};
use lru::LruCache;
use tokio::time::Instant;

/// Compiled pipelines that are remembered.
const COMPILED: NonZeroUsize = NonZeroUsize::new(1_024).unwrap();
/// How long an answer of the store about what is current is believed: so late
/// may another process's `apply` be seen here.
const BELIEVED: Duration = Duration::from_millis(250);

/// Why a pipeline cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CatalogError {
    /// There is no such pipeline.
    #[error("there is no pipeline {0}; `teamster apply` makes one known")]
    Unknown(PipelineName),
    /// This version cannot read the definition.
    #[error("the definition of pipeline {name} ({}) cannot be read by this version: {why}", digest.short())]
    Unreadable {
        /// The pipeline.
        name: PipelineName,
        /// Its definition.
        digest: Digest,
        /// What is wrong with it.
        why: String,
    },
    /// See [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The pipelines of a store.
#[derive(Debug)]
pub(crate) struct Catalog {
    store: Arc<dyn Store>,
    cache: Mutex<Cache>,
}

#[derive(Debug)]
struct Cache {
    compiled: LruCache<Digest, Arc<Pipeline>>,
    current: LruCache<PipelineName, (Instant, Arc<Pipeline>)>,
    all: Option<(Instant, Arc<[Arc<Pipeline>]>)>,
}

impl Catalog {
    /// The pipelines of this store.
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        let cache = Cache { compiled: LruCache::new(COMPILED), current: LruCache::new(COMPILED), all: None };
        Self { store, cache: Mutex::new(cache) }
    }

    /// A pipeline by the definition that is current.
    pub(crate) async fn current(&self, name: &PipelineName) -> Result<Arc<Pipeline>, CatalogError> {
        if let Some((at, compiled)) = self.cache().current.get(name)
            && at.elapsed() < BELIEVED
        {
            return Ok(Arc::clone(compiled));
        }
        let asked = Instant::now();
        let definition = self.store.current(name).await?.ok_or_else(|| CatalogError::Unknown(name.clone()))?;
        let compiled = self.compile(&definition)?;
        self.cache().current.put(name.clone(), (asked, Arc::clone(&compiled)));
        Ok(compiled)
    }

    /// A pipeline by the digest of its definition.
    pub(crate) async fn pinned(&self, name: &PipelineName, digest: &Digest) -> Result<Arc<Pipeline>, CatalogError> {
        if let Some(compiled) = self.cache().compiled.get(digest) {
            return Ok(Arc::clone(compiled));
        }
        let definition = self.store.definition(digest).await?.ok_or_else(|| CatalogError::Unknown(name.clone()))?;
        self.compile(&definition)
    }

    /// All pipelines that are current and can be read; of the others the log speaks.
    pub(crate) async fn all(&self) -> Result<Arc<[Arc<Pipeline>]>, StoreError> {
        if let Some((at, all)) = &self.cache().all
            && at.elapsed() < BELIEVED
        {
            return Ok(Arc::clone(all));
        }
        let asked = Instant::now();
        let mut all = Vec::new();
        for definition in self.store.definitions().await? {
            match self.compile(&definition) {
                Ok(compiled) => all.push(compiled),
                Err(error) => tracing::warn!(%error, "a pipeline's triggers are not served"),
            }
        }
        let all: Arc<[Arc<Pipeline>]> = all.into();
        self.cache().all = Some((asked, Arc::clone(&all)));
        Ok(all)
    }

    /// Forgets what is current, after an `apply` of this process.
    pub(crate) fn forget_current(&self) {
        let mut cache = self.cache();
        cache.current.clear();
        cache.all = None;
    }

    /// Compiles a definition, or finds it compiled.
    pub(crate) fn compile(&self, definition: &Definition) -> Result<Arc<Pipeline>, CatalogError> {
        if let Some(compiled) = self.cache().compiled.get(&definition.digest) {
            return Ok(Arc::clone(compiled));
        }
        let compiled = common::pipeline::compile(definition).map_err(|error| CatalogError::Unreadable {
            name: definition.name.clone(),
            digest: definition.digest.clone(),
            why: error.to_string(),
        })?;
        let compiled = Arc::new(compiled);
        self.cache().compiled.put(definition.digest.clone(), Arc::clone(&compiled));
        Ok(compiled)
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        // A cache cannot be left half-changed in a way that matters.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
