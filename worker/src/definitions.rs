//! Definitions by digest, compiled once and kept: tasks in flight keep the one
//! that they started with, whatever is applied meanwhile.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use common::failure::{Failure, FailureClass};
use common::id::Digest;
use common::pipeline::{self, model::Pipeline};
use common::store::{Definition, Store, StoreError};
use lru::LruCache;

/// Compiled definitions kept at most.
const KEPT: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// Why there is no compiled definition, by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum DefinitionError {
    /// Finish the task: no version of this program's age can run it.
    #[error(transparent)]
    Unusable(Failure),
    /// Try again.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The definitions that a worker has seen.
#[derive(Debug)]
pub struct Definitions {
    store: Arc<dyn Store>,
    compiled: Mutex<LruCache<Digest, Arc<Pipeline>>>,
}

impl Definitions {
    /// Reads from this store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, compiled: Mutex::new(LruCache::new(KEPT)) }
    }

    /// The pipeline of a digest.
    pub async fn get(&self, digest: &Digest) -> Result<Arc<Pipeline>, DefinitionError> {
        if let Some(pipeline) = self.lock().get(digest) {
            return Ok(Arc::clone(pipeline));
        }
        let Some(definition) = self.store.definition(digest).await? else {
            let message = format!(
                "the definition {} is not in the store; apply the pipeline again and replay the task",
                digest.short()
            );
            return Err(DefinitionError::Unusable(Failure::new(FailureClass::Configuration, message)));
        };
        self.compile(&definition).map_err(DefinitionError::Unusable)
    }

    /// Compiles a definition, or finds it compiled.
    pub fn compile(&self, definition: &Definition) -> Result<Arc<Pipeline>, Failure> {
        if let Some(pipeline) = self.lock().get(&definition.digest) {
            return Ok(Arc::clone(pipeline));
        }
        let pipeline = pipeline::compile(definition).map_err(|diagnostics| {
            let message = format!("this version cannot read definition {}: {diagnostics}", definition.digest.short());
            Failure::new(FailureClass::Configuration, message)
        })?;
        let pipeline = Arc::new(pipeline);
        self.lock().put(definition.digest.clone(), Arc::clone(&pipeline));
        Ok(pipeline)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LruCache<Digest, Arc<Pipeline>>> {
        // Nothing that can panic runs under this lock.
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
