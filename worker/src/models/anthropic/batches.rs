//! The Message Batches API: <https://docs.claude.com/en/api/creating-message-batches>.
//! Requests in a batch are those of single calls, but for the streaming.

use std::sync::Arc;

use async_trait::async_trait;
use common::clock::Timestamp;
use common::failure::{Failure, FailureClass};
use futures::stream::{BoxStream, StreamExt};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::reply;
use super::request;
use crate::models::ModelRequest;
use crate::models::batches::{Answer, Batches, Ended, Listed, Unsent};
use crate::models::wire::Wire;
use crate::models::wire::errors;
use crate::models::wire::json::Unanswered;

/// Behind the path of single requests.
const PATH: &str = "/batches";
/// Batches of one page of the list; the most that the API gives.
const PAGE: &str = "100";
/// The most pages that are read.
const PAGES: usize = 20;

/// The batches of one provider.
#[derive(Debug)]
pub(super) struct MessageBatches(pub Arc<Wire>);

#[async_trait]
impl Batches for MessageBatches {
    fn request(&self, id: &str, request: &ModelRequest<'_>) -> Result<Vec<u8>, Failure> {
        let mut params = request::body(request.head, &request.messages, request.no_tools)?;
        if let Value::Object(params) = &mut params {
            params.shift_remove("stream");
        }
        serde_json::to_vec(&json!({"custom_id": id, "params": params}))
            .map_err(|e| Failure::new(FailureClass::Internal, format!("the request cannot be written: {e}")))
    }

    async fn send(&self, requests: &[Vec<u8>]) -> Result<Listed, Unsent> {
        let length: usize = requests.iter().map(|request| request.len() + 1).sum();
        let mut body = Vec::with_capacity(length + 16);
        body.extend_from_slice(b"{\"requests\":[");
        for (number, request) in requests.iter().enumerate() {
            if number > 0 {
                body.push(b',');
            }
            body.extend_from_slice(request);
        }
        body.extend_from_slice(b"]}");
        match self.0.document(Method::POST, PATH, &[], Some(body)).await {
            Ok(batch) => self.listed(&batch).map_err(Unsent::Unknown),
            // What failed on its side may have happened before; what it refuses has not.
            Err(Unanswered { failure, status: Some(status) }) if status.is_client_error() => {
                Err(Unsent::Refused(failure))
            }
            Err(Unanswered { failure, .. }) => Err(Unsent::Unknown(failure)),
        }
    }

    async fn since(&self, time: Timestamp) -> Result<Vec<Listed>, Failure> {
        let mut found = Vec::new();
        let mut after: Option<String> = None;
        for _ in 0..PAGES {
            let mut query = vec![("limit", PAGE)];
            query.extend(after.as_deref().map(|id| ("after_id", id)));
            let page = self.0.document(Method::GET, PATH, &query, None).await.map_err(|answer| answer.failure)?;
            let batches = page["data"].as_array().map(Vec::as_slice).unwrap_or_default();
            for batch in batches {
                let batch = self.listed(batch)?;
                if batch.created < time {
                    return Ok(found);
                }
                found.push(batch);
            }
            match found.last().filter(|_| page["has_more"] == true && !batches.is_empty()) {
                Some(last) => after = Some(last.id.clone()),
                None => break,
            }
        }
        Ok(found)
    }

    async fn look(&self, id: &str) -> Result<Option<Listed>, Failure> {
        match self.0.document(Method::GET, &format!("{PATH}/{id}"), &[], None).await {
            Ok(batch) => self.listed(&batch).map(Some),
            Err(Unanswered { status: Some(status), .. }) if status == reqwest::StatusCode::NOT_FOUND => Ok(None),
            Err(Unanswered { failure, .. }) => Err(failure),
        }
    }

    async fn results(&self, id: &str) -> Result<BoxStream<'static, Result<Ended, Failure>>, Failure> {
        // Not `results_url`: the key goes to no address that an answer names.
        let lines = Arc::clone(&self.0).lines(&format!("{PATH}/{id}/results")).await?;
        let wire = Arc::clone(&self.0);
        Ok(lines.map(move |line| line.and_then(|line| ended(&wire, &line))).boxed())
    }
}

impl MessageBatches {
    fn listed(&self, batch: &Value) -> Result<Listed, Failure> {
        let counts = batch["request_counts"].as_object();
        let count = counts.map(|counts| counts.values().filter_map(Value::as_u64).sum());
        let created = batch["created_at"].as_str().and_then(|text| text.parse().ok());
        match (batch["id"].as_str().filter(|id| is_plain(id)), created, count) {
            (Some(id), Some(created), Some(count)) => {
                let ended = batch["processing_status"] == "ended";
                Ok(Listed { id: id.to_owned(), created, count, ended })
            }
            _ => Err(malformed(&self.0, "a batch without id, created_at or request_counts")),
        }
    }
}

/// An id becomes a part of a path.
fn is_plain(id: &str) -> bool {
    (1..=256).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

fn malformed(wire: &Wire, why: &str) -> Failure {
    let fault = errors::StreamFault::Malformed(why.to_owned());
    errors::broken(wire.origin(), &fault, &errors::Hints::default())
}

/// One line of the results.
fn ended(wire: &Wire, line: &[u8]) -> Result<Ended, Failure> {
    let mut line: Value = serde_json::from_slice(line)
        .map_err(|error| malformed(wire, &format!("a line of the results is no JSON: {error}")))?;
    let Some(id) = line["custom_id"].as_str().map(str::to_owned) else {
        return Err(malformed(wire, "a line of the results has no custom_id"));
    };
    let result = line["result"].take();
    let answer = match result["type"].as_str() {
        Some("succeeded") => answer(result).ok_or_else(|| malformed(wire, "an answer without id, model or content")),
        Some("errored") => {
            // The error of the request, within that of the API.
            let error = if result["error"]["error"].is_object() { &result["error"]["error"] } else { &result["error"] };
            let text = |key: &str| error[key].as_str().unwrap_or_default();
            Err(errors::of_entry(wire.origin(), text("type"), text("message")))
        }
        Some("expired") => {
            let text = "had no room for the request in a model batch within a day: it expired";
            Err(errors::failure(wire.origin(), FailureClass::Timeout, text, &errors::Hints::default()))
        }
        Some("canceled") => {
            let text = "did not answer the request: somebody cancelled the model batch there";
            Err(errors::failure(wire.origin(), FailureClass::Unavailable, text, &errors::Hints::default()))
        }
        other => Err(malformed(wire, &format!("a result of the type {other:?}"))),
    };
    Ok(Ended { id, answer })
}

fn answer(mut result: Value) -> Option<Answer> {
    let message = result["message"].as_object_mut()?;
    let Some(Value::Array(content)) = message.shift_remove("content") else { return None };
    let text = |key: &str| message.get(key).and_then(Value::as_str).map(str::to_owned);
    let none = Map::new();
    let usage = message.get("usage").and_then(Value::as_object).unwrap_or(&none);
    Some(Answer {
        content,
        stop_reason: text("stop_reason")?,
        model: text("model")?,
        response_id: text("id")?,
        tokens: reply::tokens(usage),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;

    use common::clock::SystemClock;
    use reqwest::header::HeaderMap;

    use super::*;
    use crate::models::price::{Prices, Tokens};
    use crate::models::samples::{head, options};

    fn wire() -> Arc<Wire> {
        let prices = Arc::new(Prices::shipped().unwrap());
        Arc::new(Wire::new(options(), super::super::PATH, HeaderMap::new(), prices, Arc::new(SystemClock)).unwrap())
    }

    fn result(result: &Value) -> Result<Answer, Failure> {
        let line = json!({"custom_id": "a", "result": result}).to_string();
        let ended = ended(&wire(), line.as_bytes()).unwrap();
        assert_eq!(ended.id, "a");
        ended.answer
    }

    #[test]
    fn a_request_is_that_of_a_single_call_without_the_streaming() {
        let messages = vec![json!({"role": "user", "content": "Go."})];
        let request = ModelRequest { head: &head(), messages, no_tools: false, traceparent: None };
        let batched: Value = serde_json::from_slice(&MessageBatches(wire()).request("a", &request).unwrap()).unwrap();
        let mut single = request::body(&head(), &request.messages, false).unwrap();
        single.as_object_mut().unwrap().shift_remove("stream").unwrap();
        assert_eq!(batched, json!({"custom_id": "a", "params": single}));
    }

    #[test]
    fn an_answer_is_taken_as_it_is_with_its_tokens() {
        let content = json!([{"type": "new_kind", "b": 1, "a": 2}, {"type": "text", "text": "Hi"}]);
        let message = json!({"id": "msg_1", "model": "m", "content": content, "stop_reason": "end_turn",
            "usage": {"input_tokens": 3, "output_tokens": 5, "cache_read_input_tokens": 7}});
        let answer = result(&json!({"type": "succeeded", "message": message})).unwrap();
        assert_eq!(Value::from(answer.content).to_string(), content.to_string());
        assert_eq!((answer.stop_reason.as_str(), answer.response_id.as_str()), ("end_turn", "msg_1"));
        assert_eq!(answer.tokens, Tokens { input: 3, output: 5, cache_read: 7, ..Tokens::default() });
    }

    #[test]
    fn what_is_no_answer_is_classed_by_what_went_wrong() {
        let errored = |kind: &str, message: &str| {
            let error = json!({"type": "error", "error": {"type": kind, "message": message}});
            result(&json!({"type": "errored", "error": error})).unwrap_err()
        };
        let classes: BTreeMap<&str, FailureClass> = [
            ("invalid_request_error", FailureClass::InvalidRequest),
            ("rate_limit_error", FailureClass::RateLimited),
            ("overloaded_error", FailureClass::Overloaded),
            ("api_error", FailureClass::Unavailable),
            ("some_new_error", FailureClass::Unavailable),
        ]
        .into();
        for (kind, class) in classes {
            let failure = errored(kind, "why");
            assert_eq!(failure.class, class, "{kind}");
            assert!(failure.message.contains("why"), "{failure}");
        }
        assert_eq!(errored("invalid_request_error", "prompt is too long: 9").class, FailureClass::ContextWindow);
        for (kind, class) in [("expired", FailureClass::Timeout), ("canceled", FailureClass::Unavailable)] {
            let failure = result(&json!({"type": kind})).unwrap_err();
            assert!(failure.class == class && class.is_transient(), "{failure}");
        }
        assert_eq!(result(&json!({"type": "melted"})).unwrap_err().class, FailureClass::Protocol);
        assert_eq!(result(&json!({"type": "succeeded"})).unwrap_err().class, FailureClass::Protocol);
    }

    #[test]
    fn an_id_that_would_lead_elsewhere_is_none() {
        let batch = |id: &str| {
            json!({"id": id, "created_at": "2026-11-21T08:00:00Z", "processing_status": "ended",
                "request_counts": {"processing": 0, "succeeded": 2, "errored": 1, "canceled": 0, "expired": 0}})
        };
        let batches = MessageBatches(wire());
        let listed = batches.listed(&batch("msgbatch_1")).unwrap();
        assert_eq!((listed.count, listed.ended), (3, true));
        for id in ["", "../messages", "a/b", "a?b"] {
            assert!(batches.listed(&batch(id)).is_err(), "{id:?}");
        }
    }
}
