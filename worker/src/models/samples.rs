//! What the tests of the providers begin with.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use common::journal::RequestHead;
use serde_json::{Value, json};

use super::wire::Options;

/// A provider with a key that nothing may show.
pub(super) fn options() -> Options {
    Options {
        name: "sample".to_owned(),
        base_url: "https://api.example.com".to_owned(),
        key: Some("sk-secret".to_owned().into()),
        key_origin: "SAMPLE_API_KEY".to_owned(),
        headers: BTreeMap::new(),
        idle_timeout: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
    }
}

/// What all requests share, with a system prompt and one tool.
pub(super) fn head() -> RequestHead {
    RequestHead {
        alias: "model".to_owned(),
        provider: "sample".to_owned(),
        model: "model-x".to_owned(),
        max_tokens: 1_000,
        system: "Be brief.".to_owned(),
        tools: vec![json!({"name": "Read", "description": "d", "input_schema": {"type": "object"}})],
        ..RequestHead::default()
    }
}

/// The same, with options.
pub(super) fn with_options(options: &Value) -> RequestHead {
    RequestHead { options: options.as_object().unwrap().clone(), ..head() }
}
