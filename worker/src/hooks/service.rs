//! Hooks that are services: one `POST`, no retry.

use std::collections::BTreeMap;
use std::time::Duration;

use common::config::SecretOrText;
use common::failure::{Failure, FailureClass};
use common::journal::HookEvent;
use serde_json::Value;

use super::answer::HookAnswer;
use crate::answer::ToolError;
use crate::http::{HttpAnswer, HttpRequest};

pub(super) fn request(
    url: &str,
    headers: &BTreeMap<String, SecretOrText>,
    input: &Value,
    timeout: Duration,
    response_limit: usize,
) -> Result<HttpRequest, Failure> {
    let header = |(name, value): (&String, &SecretOrText)| {
        let value = match value {
            SecretOrText::Text(text) => text.clone().into(),
            SecretOrText::Secret(secret) => secret.resolve().map_err(|error| {
                Failure::new(FailureClass::Configuration, format!("its header {name} cannot be had: {error}"))
            })?,
        };
        Ok((name.clone(), value))
    };
    Ok(HttpRequest {
        method: "POST".to_owned(),
        url: url.to_owned(),
        headers: headers.iter().map(header).collect::<Result<_, Failure>>()?,
        json: Some(input.clone()),
        key: None,
        traceparent: None,
        timeout,
        response_limit,
    })
}

/// What a service's answer means: by any status but 2xx it has not agreed.
pub(super) fn answer(event: HookEvent, answer: Result<HttpAnswer, ToolError>) -> Result<HookAnswer, Failure> {
    let answer = answer.map_err(|error| match error {
        ToolError::Failed(failure) | ToolError::Lost(failure) => Failure { detail: None, ..failure },
    })?;
    let read = match &answer.body {
        Value::Null => Ok(HookAnswer::default()),
        // It did not say that it is JSON.
        Value::String(text) => HookAnswer::of_text(event, text),
        value => HookAnswer::of_value(event, value),
    };
    read.map_err(|why| Failure::new(FailureClass::Protocol, why))
}
