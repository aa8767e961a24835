//! Batches of a provider: many requests that go out together and are answered
//! within a day, for a part of the price. A provider makes each exchange once and
//! knows of no task, as with single requests.

use async_trait::async_trait;
use common::clock::Timestamp;
use common::failure::Failure;
use futures::stream::BoxStream;
use serde_json::Value;

use super::ModelRequest;
use super::price::Tokens;

/// The largest body of a batch, in bytes. APIs take more (256 MB); a worker holds it in memory, twice while it goes out.
pub const LARGEST_BODY: usize = 32 << 20;

/// A batch as its provider lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The provider's id.
    pub id: String,
    /// When it was made, by the provider's clock.
    pub created: Timestamp,
    /// How many requests it has.
    pub count: u64,
    /// Whether all of them have come to an end.
    pub ended: bool,
}

/// An answer that is not billed yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The content blocks, verbatim.
    pub content: Vec<Value>,
    /// Why the model stopped.
    pub stop_reason: String,
    /// The model that answered.
    pub model: String,
    /// The provider's id of the reply.
    pub response_id: String,
    /// The tokens that it took.
    pub tokens: Tokens,
}

/// What came of one request.
#[derive(Debug)]
pub struct Ended {
    /// Its id, as it was sent.
    pub id: String,
    /// The answer, or why there is none.
    pub answer: Result<Answer, Failure>,
}

/// What came of sending a batch.
#[derive(Debug)]
pub enum Unsent {
    /// The provider said no: there is no such batch.
    Refused(Failure),
    /// Nobody knows whether the provider has it.
    Unknown(Failure),
}

/// A provider's batches.
#[async_trait]
pub trait Batches: Send + Sync + std::fmt::Debug {
    /// A request as it stands in a batch, in JSON.
    ///
    /// # Errors
    /// As for a request that is sent by itself.
    fn request(&self, id: &str, request: &ModelRequest<'_>) -> Result<Vec<u8>, Failure>;

    /// Sends a batch of such requests.
    async fn send(&self, requests: &[Vec<u8>]) -> Result<Listed, Unsent>;

    /// The newest batches, made at this time or later.
    async fn since(&self, time: Timestamp) -> Result<Vec<Listed>, Failure>;

    /// How far a batch is; nothing: there is none of that id (any more).
    async fn look(&self, id: &str) -> Result<Option<Listed>, Failure>;

    /// What came of the requests of a batch that has ended, in any order.
    async fn results(&self, id: &str) -> Result<BoxStream<'static, Result<Ended, Failure>>, Failure>;
}
