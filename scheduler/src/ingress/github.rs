//! GitHub: <https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries>.
//!
//! It waits ten seconds for an answer and never sends again by itself.

use common::clock::Timestamp;
use secrecy::SecretString;
use serde_json::Value;

use super::sender::{BadSignature, Delivery, NotUnderstood, Raw, Sender, delivery_id, event_name, header, signed};

/// The sender `github`. Events are named `EVENT.ACTION`, or `EVENT` where there is no action.
#[derive(Debug, Clone, Copy)]
pub struct GitHub;

impl Sender for GitHub {
    fn verify(&self, raw: Raw<'_>, secrets: &[SecretString], _: Timestamp) -> Result<(), BadSignature> {
        let given = header(raw.headers, "x-hub-signature-256").ok_or_else(|| {
            BadSignature("the header X-Hub-Signature-256 is missing: is a secret set in the webhook's settings?".into())
        })?;
        let tag = given.strip_prefix("sha256=").and_then(|digits| hex::decode(digits).ok());
        if tag.is_some_and(|tag| signed(raw.body, &tag, secrets)) {
            return Ok(());
        }
        Err(BadSignature("X-Hub-Signature-256 does not fit the body and the secret".into()))
    }

    fn read(&self, raw: Raw<'_>, payload: Value) -> Result<Delivery, NotUnderstood> {
        let missing = |name| NotUnderstood(format!("the header {name} is missing"));
        let id = delivery_id(header(raw.headers, "x-github-delivery").ok_or_else(|| missing("X-GitHub-Delivery"))?)?;
        let event = header(raw.headers, "x-github-event").ok_or_else(|| missing("X-GitHub-Event"))?;
        let name = match payload.get("action").and_then(Value::as_str) {
            Some(action) => format!("{event}.{action}"),
            None => event.to_owned(),
        };
        Ok(Delivery { id, event: Some(event_name(&name)?), ping: event == "ping", payload })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use axum::http::HeaderMap;
    use serde_json::json;

    use super::*;

    const SECRET: &str = "It's a Secret to Everybody";
    const BODY: &[u8] = b"Hello, World!";
    const TAG: &str = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

    fn verify(body: &[u8], signature: Option<&str>, secrets: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        if let Some(signature) = signature {
            headers.insert("x-hub-signature-256", signature.parse().unwrap());
        }
        let secrets: Vec<SecretString> = secrets.iter().map(|secret| (*secret).to_owned().into()).collect();
        GitHub.verify(Raw { body, headers: &headers }, &secrets, Timestamp::from_millis(0)).is_ok()
    }

    #[test]
    fn the_documented_example_verifies() {
        assert!(verify(BODY, Some(TAG), &[SECRET]));
    }

    #[test]
    fn either_of_two_secrets_verifies_while_one_is_rotated() {
        assert!(verify(BODY, Some(TAG), &["new", SECRET]));
        assert!(verify(BODY, Some(TAG), &[SECRET, "new"]));
    }

    #[test]
    fn anything_else_does_not_verify() {
        assert!(!verify(b"Hello, World?", Some(TAG), &[SECRET]));
        assert!(!verify(BODY, Some(TAG), &["wrong"]));
        assert!(!verify(BODY, Some(TAG), &[]));
        assert!(!verify(BODY, Some("sha256="), &[SECRET]));
        assert!(!verify(BODY, Some(&TAG[..40]), &[SECRET]));
        assert!(!verify(BODY, Some(&TAG["sha256=".len()..]), &[SECRET]));
        assert!(!verify(BODY, Some("sha256=zz"), &[SECRET]));
        assert!(!verify(BODY, None, &[SECRET]));
    }

    #[test]
    fn an_event_is_named_with_its_action() {
        let headers: HeaderMap = [("x-github-delivery", "72d3162e"), ("x-github-event", "pull_request")]
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .into_iter()
            .collect();
        let read = |payload| GitHub.read(Raw { body: &[], headers: &headers }, payload).unwrap();
        assert_eq!(read(json!({"action": "opened"})).event.as_deref(), Some("pull_request.opened"));
        assert_eq!(read(json!({})).event.as_deref(), Some("pull_request"));
        assert!(!read(json!({})).ping);
    }
}
