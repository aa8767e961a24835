//! Models: one trait, one file a provider.
//!
//! A provider makes one request and classes what can go wrong, once. It does
//! not retry, does not journal and does not know of tasks: the step's retry
//! policy is the only layer that tries again.

use std::time::Duration;

use async_trait::async_trait;
use common::failure::Failure;
use common::journal::{ModelCall, RequestHead};
use serde_json::Value;

pub mod anthropic;
pub mod batches;
pub mod length;
mod observed;
pub mod openai;
mod output;
pub mod output_tool;
pub mod price;
pub mod registry;
pub mod rehearsal;
#[cfg(test)]
mod samples;
pub mod window;
pub mod wire;

pub use registry::{Models, ResolvedModel};

/// One request to a model.
#[derive(Debug, Clone)]
pub struct ModelRequest<'a> {
    /// What all requests of the step share.
    pub head: &'a RequestHead,
    /// The messages, in the neutral form of the Messages API.
    pub messages: Vec<Value>,
    /// Whether the model must answer in words, whatever tools it is told of.
    pub no_tools: bool,
    /// Goes out with the request where the wire has a place for it.
    pub traceparent: Option<String>,
}

/// An answer to a request, with what it says of others.
#[derive(Debug, Clone, PartialEq)]
pub struct Answered {
    /// The reply.
    pub call: ModelCall,
    /// For how long the model takes no other request like this one.
    pub pause: Option<Duration>,
}

impl From<ModelCall> for Answered {
    fn from(call: ModelCall) -> Self {
        Self { call, pause: None }
    }
}

/// Something that answers requests.
#[async_trait]
pub trait Provider: Send + Sync + std::fmt::Debug {
    /// Makes one request. Cancel-safe: dropping the future closes the connection.
    async fn call(&self, request: ModelRequest<'_>) -> Result<Answered, Failure>;

    /// Its batches, if it takes many requests together.
    fn batches(&self) -> Option<&dyn batches::Batches> {
        None
    }
}
