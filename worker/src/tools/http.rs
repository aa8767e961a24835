//! HTTP tools: requests that the operator declares under `tools:` in
//! `teamster.yaml` and that agents use like any other tool.
//!
//! Templates see the arguments as `input`. In the URL, every text of them is
//! percent-encoded first, and none may make up a `.` or `..` in the path: a
//! model chooses values within the URL, never the URL.

use std::time::Duration;

use async_trait::async_trait;
use common::config::{HttpTool as Declared, SecretOrText};
use common::failure::{Failure, FailureClass};
use common::journal::Effect;
use common::pipeline::template::{Scope, Template};
use serde_json::Value;

use super::{Tool, ToolAnswer, ToolCall, ToolError, ToolSpec};
use crate::http::{HttpClient, HttpRequest};

/// How long a request may take if the configuration does not say.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A declared request.
#[derive(Debug)]
pub struct HttpTool {
    spec: ToolSpec,
    declared: Declared,
    url: Template,
    json: Option<Template>,
    client: HttpClient,
}

impl HttpTool {
    /// A tool by its declaration.
    ///
    /// # Errors
    /// `template` if the URL or the body is no template.
    pub fn new(name: &str, declared: &Declared, client: HttpClient) -> Result<Self, Failure> {
        let origin = |key: &str| format!("teamster.yaml: tools.{name}.{key}");
        Ok(Self {
            spec: ToolSpec {
                name: name.to_owned(),
                description: declared.description.clone(),
                input_schema: declared.input.clone(),
            },
            url: Template::new(Value::String(declared.url.clone()), &origin("url"))?,
            json: declared.json.clone().map(|json| Template::new(json, &origin("json"))).transpose()?,
            declared: declared.clone(),
            client,
        })
    }

    fn request(&self, call: &ToolCall) -> Result<HttpRequest, Failure> {
        let url = self.url.render_text(&Scope::of_input(&percent_encoded(&call.arguments)))?;
        if has_dot_segments(&url) {
            let message = format!("{}: an argument leads to another path of the URL", self.spec.name);
            return Err(Failure::new(FailureClass::InvalidRequest, message));
        }
        let json = match &self.json {
            Some(template) => Some(template.render(&Scope::of_input(&call.arguments))?),
            None if ["POST", "PUT", "PATCH"].iter().any(|verb| verb.eq_ignore_ascii_case(&self.declared.method)) => {
                Some(call.arguments.clone())
            }
            None => None,
        };
        let mut headers = Vec::new();
        for (name, value) in &self.declared.headers {
            let value = match value {
                SecretOrText::Text(text) => text.clone().into(),
                SecretOrText::Secret(secret) => secret.resolve().map_err(|error| {
                    let message = format!("teamster.yaml: tools.{}.headers.{name}: {error}", self.spec.name);
                    Failure::new(FailureClass::Configuration, message)
                })?,
            };
            headers.push((name.clone(), value));
        }
        let timeout = self.declared.timeout.map_or(TIMEOUT, common::span::Span::get);
        Ok(HttpRequest {
            method: self.declared.method.clone(),
            url,
            headers,
            json,
            key: Some(call.key.clone()),
            traceparent: call.context.traceparent.clone(),
            timeout: timeout.min(call.context.timeout),
            response_limit: call.context.output_limit,
        })
    }
}

#[async_trait]
impl Tool for HttpTool {
    fn reaches_out(&self) -> bool {
        true
    }

    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn effect(&self, _arguments: &Value) -> Effect {
        let reads = self.declared.method.eq_ignore_ascii_case("GET");
        self.declared.effect.unwrap_or(if reads { Effect::Read } else { Effect::Once })
    }

    /// A refusal of the request itself (most of 4xx) is an answer: the model
    /// sees it, with the beginning of its body, and can do better.
    async fn call(&self, call: ToolCall) -> Result<ToolAnswer, ToolError> {
        let request = self.request(&call).map_err(ToolError::Failed)?;
        match self.client.send(request).await {
            Ok(answer) => Ok(ToolAnswer::text(as_text(&answer.body))),
            Err(ToolError::Failed(Failure {
                class: FailureClass::InvalidRequest,
                message,
                detail: Some(detail),
                ..
            })) => {
                let body = detail.get("body").map(as_text).unwrap_or_default();
                Ok(ToolAnswer::error(format!("{message}\n{body}")))
            }
            Err(error) => Err(error),
        }
    }
}

fn as_text(body: &Value) -> String {
    match body {
        Value::Null => "(no content)".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The same value with every text percent-encoded but for unreserved characters (RFC 3986).
fn percent_encoded(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(
            text.bytes()
                .map(|byte| match byte {
                    b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
                    _ => format!("%{byte:02X}"),
                })
                .collect(),
        ),
        Value::Array(items) => items.iter().map(percent_encoded).collect(),
        Value::Object(fields) => fields.iter().map(|(key, field)| (key.clone(), percent_encoded(field))).collect(),
        other => other.clone(),
    }
}

fn has_dot_segments(url: &str) -> bool {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    path.split(['/', '\\']).any(|segment| matches!(segment, "." | ".."))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn arguments_cannot_break_out_of_their_place_in_the_url() {
        let encoded = percent_encoded(&json!({"id": "a/b?c=d&é", "n": 5, "list": ["x y"]}));
        assert_eq!(encoded, json!({"id": "a%2Fb%3Fc%3Dd%26%C3%A9", "n": 5, "list": ["x%20y"]}));
        assert!(has_dot_segments("https://example.com/users/../admin"));
        assert!(!has_dot_segments("https://example.com/a..b/c?d=/../"));
    }
}
