//! The Anthropic Messages API, streaming: a thin typed client of our own.
//!
//! What is sent (`request`) and what a stream says (`reply`) is pure; the
//! exchange is that of all providers.

mod batches;
mod block;
mod reply;
mod request;
mod schema;

use std::sync::Arc;

use async_trait::async_trait;
use common::clock::Clock;
use common::failure::Failure;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};

use self::batches::MessageBatches;
use self::reply::Accumulator;
use super::batches::Batches;
use super::price::Prices;
use super::wire::{self, Options, Wire};
use super::{Answered, ModelRequest, Provider};

/// Where the API is.
pub const BASE_URL: &str = "https://api.anthropic.com";

/// The version that every server of this API speaks.
const VERSION: &str = "2023-06-01";
const VERSION_HEADER: &str = "anthropic-version";
const PATH: &str = "/v1/messages";

/// A client of the Messages API.
#[derive(Debug)]
pub struct Anthropic {
    wire: Arc<Wire>,
    batches: MessageBatches,
}

impl Anthropic {
    /// Builds the client; sends nothing.
    ///
    /// # Errors
    /// `Configuration`, when the address, a header or the machine's TLS setup is wrong.
    pub fn new(options: Options, prices: Arc<Prices>, clock: Arc<dyn Clock>) -> Result<Self, Failure> {
        let headers = headers(&options)?;
        let wire = Arc::new(Wire::new(options, PATH, headers, prices, clock)?);
        Ok(Self { batches: MessageBatches(Arc::clone(&wire)), wire })
    }
}

#[async_trait]
impl Provider for Anthropic {
    async fn call(&self, request: ModelRequest<'_>) -> Result<Answered, Failure> {
        let body = request::body(request.head, &request.messages, request.no_tools)?;
        self.wire.call::<Accumulator>(request.head, &body, request.traceparent.as_deref()).await
    }

    fn batches(&self) -> Option<&dyn Batches> {
        Some(&self.batches)
    }
}

fn headers(options: &Options) -> Result<HeaderMap, Failure> {
    let version = (HeaderName::from_static(VERSION_HEADER), HeaderValue::from_static(VERSION));
    let mut headers = wire::with_configured(HeaderMap::from_iter([version]), options)?;
    // Later versions of the API take the key as a bearer token.
    let by_key_header = headers.get(VERSION_HEADER).is_some_and(|version| version == VERSION);
    let (header, before) =
        if by_key_header { (HeaderName::from_static("x-api-key"), "") } else { (AUTHORIZATION, "Bearer ") };
    if let Some(key) = &options.key {
        let value = wire::key_header(options, before, key)?;
        headers.entry(header).or_insert(value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::models::samples::options;

    fn with_header(name: &str, value: &str) -> Options {
        Options { headers: [(name.to_owned(), value.to_owned())].into(), ..options() }
    }

    #[test]
    fn the_key_goes_where_the_version_wants_it() {
        let first = headers(&options()).unwrap();
        assert_eq!(
            (&first["x-api-key"], &first[VERSION_HEADER]),
            (&"sk-secret".parse().unwrap(), &VERSION.parse().unwrap())
        );
        let second = headers(&with_header("anthropic-version", "2026-10-21")).unwrap();
        assert_eq!(second[AUTHORIZATION], "Bearer sk-secret");
        assert!(second.get("x-api-key").is_none());
    }

    #[test]
    fn a_wrong_header_or_key_is_named_and_the_key_is_not_shown() {
        let failure = headers(&with_header("bad header", "x")).unwrap_err();
        assert!(failure.message.contains("\"bad header\""));
        let failure = headers(&Options { key: Some("sk-line\nbreak".to_owned().into()), ..options() }).unwrap_err();
        assert!(failure.message.contains("SAMPLE_API_KEY") && !failure.message.contains("sk-line"));
    }
}
