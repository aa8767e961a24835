//! Tasks that other systems publish to the broker: what a message says. Pure.
//!
//! A message is the body of `POST /v1/tasks`, and is checked as that is. Its
//! `message_id` is the idempotency key if the body gives none: brokers deliver a
//! message again whenever an acknowledgement is lost, so that a message with
//! neither may become two tasks.

use common::broker::Letter;
use common::id::IdempotencyKey;

use crate::text::check_text;
use crate::wire::SubmitTask;

/// What a message may carry beside the input of a task.
const ENVELOPE: usize = 64 << 10;

/// The task that a message asks for, or why it never can be one.
pub(crate) fn read(letter: &Letter, input_limit: usize, depth: usize) -> Result<SubmitTask, String> {
    let limit = input_limit.saturating_add(ENVELOPE);
    if letter.body.len() > limit {
        return Err(format!("the message has {} bytes; at most {limit} are taken (limits.input)", letter.body.len()));
    }
    check_text(&letter.body, depth)?;
    let mut reader = serde_json::Deserializer::from_slice(&letter.body);
    let mut task: SubmitTask = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let place = if path == "." { String::new() } else { format!(" at `{path}`") };
        format!("the message is not a task{place}: {}", error.into_inner())
    })?;
    reader.end().map_err(|error| format!("the message is not one JSON object: {error}"))?;
    if task.idempotency_key.is_none() {
        task.idempotency_key = letter.message_id.as_deref().map(key).transpose()?;
    }
    Ok(task)
}

fn key(id: &str) -> Result<IdempotencyKey, String> {
    id.parse().map_err(|error| format!("the message_id cannot be an idempotency key: {error}"))
}
