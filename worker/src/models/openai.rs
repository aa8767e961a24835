//! Chat Completions of OpenAI, streaming, and what speaks the same wire (vLLM,
//! Ollama, gateways).
//!
//! What is sent (`request`) and what a stream says (`reply`) is pure; the
//! exchange is that of all providers.

mod reply;
mod request;

use std::sync::Arc;

use async_trait::async_trait;
use common::clock::Clock;
use common::failure::Failure;
use reqwest::header::{AUTHORIZATION, HeaderMap};

use self::reply::Accumulator;
use self::request::Dialect;
use super::price::Prices;
use super::wire::{self, Options, Wire};
use super::{Answered, ModelRequest, Provider};

/// Where the API is. The version is part of the address, as the official clients have it.
pub const BASE_URL: &str = "https://api.openai.com/v1";

const PATH: &str = "/chat/completions";

/// A client of Chat Completions.
#[derive(Debug)]
pub struct OpenAi {
    wire: Wire,
    dialect: Dialect,
}

impl OpenAi {
    /// Builds the client; sends nothing.
    ///
    /// # Errors
    /// `Configuration`, when the address, a header or the machine's TLS setup is wrong.
    pub fn new(options: Options, prices: Arc<Prices>, clock: Arc<dyn Clock>) -> Result<Self, Failure> {
        let headers = headers(&options)?;
        let dialect = Dialect::of(&options.base_url);
        Wire::new(options, PATH, headers, prices, clock).map(|wire| Self { wire, dialect })
    }
}

#[async_trait]
impl Provider for OpenAi {
    async fn call(&self, request: ModelRequest<'_>) -> Result<Answered, Failure> {
        let body = request::body(self.dialect, request.head, &request.messages, request.no_tools)?;
        self.wire.call::<Accumulator>(request.head, &body, request.traceparent.as_deref()).await
    }
}

fn headers(options: &Options) -> Result<HeaderMap, Failure> {
    let mut headers = wire::with_configured(HeaderMap::new(), options)?;
    if let Some(key) = &options.key {
        let value = wire::key_header(options, "Bearer ", key)?;
        headers.entry(AUTHORIZATION).or_insert(value);
    }
    Ok(headers)
}
