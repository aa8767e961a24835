//! Message Batches, as the real API has them: made, listed, looked at, and read
//! line by line once they have ended. What a request comes to is said by the same
//! function that answers single ones.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use common::clock::{Clock, SystemClock, Timestamp};
use serde_json::{Value, json};

use super::wire::{Message, Reply};
use super::{Api, Request, Shared, lock};

/// The most requests of a batch, as documented.
const MOST_REQUESTS: usize = 100_000;
/// The path of all of it.
const PATH: &str = "/v1/messages/batches";
/// An error kind that is no error: the request expired.
pub const EXPIRED: &str = "expired";
/// An error kind that is no error: the batch was cancelled before the request's turn.
pub const CANCELED: &str = "canceled";

/// A batch that was made.
#[derive(Debug, Clone)]
pub struct Made {
    /// Its id.
    pub id: String,
    /// Its requests: `custom_id` and `params`.
    pub requests: Vec<Value>,
    created: Timestamp,
}

/// What there is of batches.
#[derive(Default)]
pub(super) struct Batches {
    made: Mutex<Vec<Made>>,
    held: AtomicBool,
    lost: AtomicUsize,
    refused: AtomicUsize,
    wrong: Mutex<Option<String>>,
}

impl Batches {
    pub(super) fn made(&self) -> Vec<Made> {
        lock(&self.made).clone()
    }

    pub(super) fn hold(&self, held: bool) {
        self.held.store(held, Ordering::SeqCst);
    }

    pub(super) fn lose(&self, answers: usize) {
        self.lost.store(answers, Ordering::SeqCst);
    }

    pub(super) fn refuse_text(&self, text: &str) {
        *lock(&self.wrong) = Some(text.to_owned());
    }

    pub(super) fn refuse(&self, sends: usize) {
        self.refused.store(sends, Ordering::SeqCst);
    }
}

/// Whether a request line is about batches.
pub(super) fn is_meant(line: &str) -> bool {
    line.split(' ').nth(1).is_some_and(|target| target.starts_with(PATH))
}

/// Answers; nothing: the connection breaks before the answer.
pub(super) fn reply(shared: &Shared, request: &Request) -> Option<Reply> {
    let mut words = request.line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let rest: Vec<&str> = path[PATH.len()..].split('/').filter(|part| !part.is_empty()).collect();
    let not_found = || Reply::error(404, "not_found_error", "there is no such batch");
    Some(match (method, rest.as_slice()) {
        ("POST", []) => return make(shared, request),
        ("GET", []) => list(shared, query),
        ("GET", [id]) => find(shared, id).map_or_else(not_found, |batch| document(&show(shared, &batch))),
        ("GET", [id, "results"]) => match find(shared, id) {
            Some(_) if shared.batches.held.load(Ordering::SeqCst) => not_found(),
            Some(batch) => Reply::Raw("application/x-jsonl", results(shared, request, &batch)),
            None => not_found(),
        },
        _ => not_found(),
    })
}

fn document(value: &Value) -> Reply {
    Reply::Raw("application/json", value.to_string().into_bytes())
}

fn find(shared: &Shared, id: &str) -> Option<Made> {
    lock(&shared.batches.made).iter().find(|batch| batch.id == id).cloned()
}

fn count_down(left: &AtomicUsize) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

fn make(shared: &Shared, request: &Request) -> Option<Reply> {
    let requests = request.json["requests"].as_array().cloned().unwrap_or_default();
    if let Some(violation) = violation(shared, request, &requests) {
        lock(&shared.violations).push(format!("batch in request {}: {violation}", request.number));
        return Some(Reply::error(400, "invalid_request_error", &violation));
    }
    if count_down(&shared.batches.refused) {
        return Some(Reply::error(529, "overloaded_error", "Overloaded"));
    }
    let wrong = lock(&shared.batches.wrong).clone();
    let is_wrong = |entry: &Value| wrong.as_ref().is_some_and(|text| entry.to_string().contains(text));
    if let Some(number) = requests.iter().position(is_wrong) {
        let message = format!("requests.{number}.params: this cannot be read");
        return Some(Reply::error(400, "invalid_request_error", &message));
    }
    let mut made = lock(&shared.batches.made);
    let batch = Made { id: format!("msgbatch_{}", made.len() + 1), requests, created: SystemClock.now() };
    made.push(batch.clone());
    drop(made);
    let answer = document(&show(shared, &batch));
    (!count_down(&shared.batches.lost)).then_some(answer)
}

fn violation(shared: &Shared, request: &Request, requests: &[Value]) -> Option<String> {
    if requests.is_empty() || requests.len() > MOST_REQUESTS {
        return Some(format!("requests: {} items, and 1 to {MOST_REQUESTS} are allowed", requests.len()));
    }
    let mut ids = BTreeSet::new();
    for (number, entry) in requests.iter().enumerate() {
        let id = entry["custom_id"].as_str().unwrap_or_default();
        let plain = id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if !(1..=64).contains(&id.len()) || !plain {
            return Some(format!("requests.{number}.custom_id: should match pattern '^[a-zA-Z0-9_-]{{1,64}}$'"));
        }
        if !ids.insert(id) {
            return Some(format!("requests.{number}.custom_id: {id} is there twice"));
        }
        if entry["params"].get("stream").is_some() {
            return Some(format!("requests.{number}.params.stream: a batch does not stream"));
        }
        let version = request.headers.get("anthropic-version").map(String::as_str).unwrap_or_default();
        // The schema at hand is that of single requests.
        let mut single = entry["params"].clone();
        single["stream"] = Value::Bool(true);
        if let Some(why) = lock(&shared.said).violation(version, &single) {
            return Some(format!("requests.{number}.params: {why}"));
        }
    }
    None
}

fn show(shared: &Shared, batch: &Made) -> Value {
    let held = shared.batches.held.load(Ordering::SeqCst);
    let count = batch.requests.len();
    let (processing, ended) = if held { (count, 0) } else { (0, count) };
    json!({"id": batch.id, "type": "message_batch", "created_at": batch.created,
        "processing_status": if held { "in_progress" } else { "ended" },
        "request_counts": {"processing": processing, "succeeded": ended, "errored": 0, "canceled": 0, "expired": 0},
        "results_url": (!held).then(|| format!("https://elsewhere.example{PATH}/{}/results", batch.id))})
}

/// The newest first, a page at a time.
fn list(shared: &Shared, query: &str) -> Reply {
    let parameter = |name: &str| query.split('&').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
    let limit: usize = parameter("limit").and_then(|limit| limit.parse().ok()).unwrap_or(20);
    let mut all = shared.batches.made();
    all.reverse();
    if let Some(after) = parameter("after_id") {
        let at = all.iter().position(|batch| batch.id == after).map_or(all.len(), |at| at + 1);
        all.drain(..at);
    }
    let page: Vec<Value> = all.iter().take(limit).map(|batch| show(shared, batch)).collect();
    document(&json!({"data": page, "has_more": all.len() > limit}))
}

/// In another order than that of the requests.
fn results(shared: &Shared, asked: &Request, batch: &Made) -> Vec<u8> {
    let lines = batch.requests.iter().rev().map(|entry| {
        let request = Request { api: Api::Batches, json: entry["params"].clone(), ..asked.clone() };
        let result = match (shared.answer)(&request) {
            Reply::Message(message) => {
                json!({"type": "succeeded", "message": whole(&message, &entry["params"], &entry["custom_id"])})
            }
            Reply::Error(error) if error.kind == EXPIRED || error.kind == CANCELED => json!({"type": error.kind}),
            Reply::Error(error) => {
                let error = json!({"type": error.kind, "message": error.message});
                json!({"type": "errored", "error": {"type": "error", "error": error}})
            }
            other => panic!("a request in a batch is answered or not, and not {other:?}"),
        };
        format!("{}\n", json!({"custom_id": entry["custom_id"], "result": result}))
    });
    lines.collect::<String>().into_bytes()
}

fn whole(message: &Message, params: &Value, id: &Value) -> Value {
    let (model, tokens) = message.origin(&params["model"], params.to_string().len() / 4);
    json!({"id": format!("msg_{}", id.as_str().unwrap_or_default()), "type": "message", "role": "assistant",
        "model": model, "content": message.content(), "stop_reason": message.stop_reason(), "stop_sequence": null,
        "usage": {"input_tokens": tokens, "output_tokens": 20}})
}
