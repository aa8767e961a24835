//! Dead letters of the broker: messages that nobody could use, with the reason.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, LongString};

use super::consume::Received;
use super::publish::{Message, PERSISTENT};
use super::topology::{Names, Part};

/// The header with the reason.
const REASON: &str = "x-teamster-reason";
/// The header with the queue that the message came from.
const QUEUE: &str = "x-teamster-queue";
/// The longest reason, in bytes.
const LONGEST: usize = 1 << 10;

/// A message as it lies among the dead letters: body and properties as they were, and the reason.
pub(super) fn letter(names: &Names, queue: &str, received: &Received, why: &str) -> Message {
    let properties = received.properties.clone();
    let mut headers: FieldTable = properties.headers().clone().unwrap_or_default();
    headers.insert(REASON.into(), text(why));
    headers.insert(QUEUE.into(), text(queue));
    // With the time that its sender gave it, it would be gone again before anyone looks.
    let properties = BasicProperties::default().with_headers(headers).with_delivery_mode(PERSISTENT);
    let properties = keep(properties, &received.properties);
    Message { route: (names.dead(), String::new()), part: Part::Dead, properties, body: received.body.clone() }
}

/// What of a message's properties says something about its content.
fn keep(mut properties: BasicProperties, given: &BasicProperties) -> BasicProperties {
    if let Some(kind) = given.content_type() {
        properties = properties.with_content_type(kind.clone());
    }
    if let Some(encoding) = given.content_encoding() {
        properties = properties.with_content_encoding(encoding.clone());
    }
    if let Some(id) = given.message_id() {
        properties = properties.with_message_id(id.clone());
    }
    if let Some(id) = given.correlation_id() {
        properties = properties.with_correlation_id(id.clone());
    }
    if let Some(name) = given.app_id() {
        properties = properties.with_app_id(name.clone());
    }
    properties
}

fn text(text: &str) -> AMQPValue {
    let end = (0..=text.len().min(LONGEST)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    AMQPValue::LongString(LongString::from(text.get(..end).unwrap_or_default()))
}
