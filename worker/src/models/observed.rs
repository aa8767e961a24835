//! A provider around a provider that measures its requests.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use common::failure::Failure;
use common::metrics::Metrics;

use super::batches::Batches;
use super::{Answered, ModelRequest, Provider};

/// See the module.
#[derive(Debug)]
pub(super) struct Observed {
    inner: Arc<dyn Provider>,
    name: String,
    metrics: Arc<Metrics>,
}

impl Observed {
    pub(super) fn around(inner: Arc<dyn Provider>, name: &str, metrics: Arc<Metrics>) -> Arc<dyn Provider> {
        Arc::new(Self { inner, name: name.to_owned(), metrics })
    }
}

#[async_trait]
impl Provider for Observed {
    async fn call(&self, request: ModelRequest<'_>) -> Result<Answered, Failure> {
        let (model, started) = (request.head.model.clone(), Instant::now());
        let answer = self.inner.call(request).await;
        let outcome = match &answer {
            Ok(_) => "ok",
            Err(failure) => failure.class.as_str(),
        };
        self.metrics.model_asked(&self.name, &model, outcome, started.elapsed());
        answer
    }

    // What came of a request in a model batch is counted with its task's journal; it was not waited for here.
    fn batches(&self) -> Option<&dyn Batches> {
        self.inner.batches()
    }
}
