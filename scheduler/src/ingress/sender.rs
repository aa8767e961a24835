//! What every sender of webhooks has in common.

use axum::http::HeaderMap;
use common::clock::Timestamp;
use common::config::Webhook;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use sha2::Sha256;

use super::github::GitHub;
use super::hmac::Generic;

/// The longest id of a delivery, in bytes: it becomes part of an idempotency key.
const ID: usize = 128;
/// The longest name of an event, in bytes.
const EVENT: usize = 128;

/// A request as it came in, unparsed.
#[derive(Debug, Clone, Copy)]
pub struct Raw<'a> {
    /// The body, byte for byte.
    pub body: &'a [u8],
    /// The headers.
    pub headers: &'a HeaderMap,
}

/// What a sender says happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    /// The sender's id of it: the same when it is sent again.
    pub id: String,
    /// What kind of event, such as `pull_request.opened`, if the sender says.
    pub event: Option<String>,
    /// The event itself.
    pub payload: Value,
    /// The sender only tries whether anyone is there.
    pub ping: bool,
}

/// The signature is missing, malformed or wrong, or too old. Says what was expected, never what would fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadSignature(pub String);

/// The request is signed well and cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotUnderstood(pub String);

/// Someone who sends webhooks.
pub trait Sender: Send + Sync {
    /// Whether one of the secrets signed these bytes. Compares in constant time.
    fn verify(&self, raw: Raw<'_>, secrets: &[SecretString], now: Timestamp) -> Result<(), BadSignature>;

    /// What a verified request says; `payload` is its body, parsed.
    fn read(&self, raw: Raw<'_>, payload: Value) -> Result<Delivery, NotUnderstood>;
}

/// The sender that the configuration names.
pub fn sender(webhook: &Webhook) -> Result<Box<dyn Sender>, String> {
    match webhook.sender.as_str() {
        "github" => Ok(Box::new(GitHub)),
        "hmac" => webhook
            .hmac
            .clone()
            .map(|hmac| Box::new(Generic(hmac)) as Box<dyn Sender>)
            .ok_or_else(|| "the sender hmac needs `hmac: { header: NAME }` beside it".to_owned()),
        other => Err(format!("{other:?} is not a sender that this version knows; use github or hmac")),
    }
}

/// Whether HMAC-SHA256 of `message` under one of the secrets is `tag`.
pub(super) fn signed(message: &[u8], tag: &[u8], secrets: &[SecretString]) -> bool {
    let mut fits = false;
    for secret in secrets {
        // HMAC takes keys of any length, so this never fails.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes()) else { continue };
        mac.update(message);
        // `verify_slice` compares in constant time; every secret is tried, whichever fits.
        fits |= mac.verify_slice(tag).is_ok();
    }
    fits
}

/// A header as text.
pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// The id of a delivery, within its limits.
pub(super) fn delivery_id(text: &str) -> Result<String, NotUnderstood> {
    bounded("id of the delivery", text, ID)
}

/// The name of an event, within its limits.
pub(super) fn event_name(text: &str) -> Result<String, NotUnderstood> {
    bounded("name of the event", text, EVENT)
}

fn bounded(what: &str, text: &str, most: usize) -> Result<String, NotUnderstood> {
    if (1..=most).contains(&text.len()) && !text.chars().any(char::is_control) {
        return Ok(text.to_owned());
    }
    Err(NotUnderstood(format!("the {what} has {} bytes; 1 to {most} are taken", text.len())))
}
