//! Whoever signs with HMAC-SHA256 over the raw body and has no file of their own.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::clock::Timestamp;
use common::config::{Encoding, HmacSender};
use secrecy::SecretString;
use serde_json::Value;

use super::sender::{BadSignature, Delivery, NotUnderstood, Raw, Sender, delivery_id, event_name, header, signed};

/// The sender `hmac`, as it is configured.
#[derive(Debug, Clone, PartialEq)]
pub struct Generic(pub HmacSender);

impl Sender for Generic {
    fn verify(&self, raw: Raw<'_>, secrets: &[SecretString], _: Timestamp) -> Result<(), BadSignature> {
        let name = &self.0.header;
        let given = header(raw.headers, name).ok_or_else(|| BadSignature(format!("the header {name} is missing")))?;
        let tag = given.strip_prefix(&self.0.prefix).and_then(|text| match self.0.encoding {
            Encoding::Hex => hex::decode(text).ok(),
            Encoding::Base64 => STANDARD.decode(text).ok(),
        });
        if tag.is_some_and(|tag| signed(raw.body, &tag, secrets)) {
            return Ok(());
        }
        Err(BadSignature(format!("{name} does not fit the body and the secret")))
    }

    fn read(&self, raw: Raw<'_>, payload: Value) -> Result<Delivery, NotUnderstood> {
        let wanted = |name: &str| {
            header(raw.headers, name).ok_or_else(|| NotUnderstood(format!("the header {name} is missing")))
        };
        let id = match &self.0.id_header {
            Some(name) => delivery_id(wanted(name)?)?,
            // The same bytes are the same delivery: all that can be said without an id.
            None => blake3::hash(raw.body).to_hex().to_string(),
        };
        let event = self.0.event_header.as_deref().map(|name| event_name(wanted(name)?)).transpose()?;
        Ok(Delivery { id, event, payload, ping: false })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ::hmac::{Hmac, KeyInit, Mac};
    use axum::http::HeaderMap;
    use serde_json::json;
    use sha2::Sha256;

    use super::*;

    const BODY: &[u8] = br#"{"order":17}"#;

    fn tag() -> Vec<u8> {
        let mut mac = Hmac::<Sha256>::new_from_slice(b"secret").unwrap();
        mac.update(BODY);
        mac.finalize().into_bytes().to_vec()
    }

    fn sender(encoding: Encoding, prefix: &str) -> Generic {
        Generic(HmacSender {
            header: "X-Signature".into(),
            prefix: prefix.into(),
            encoding,
            id_header: None,
            event_header: Some("X-Event".into()),
        })
    }

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn hex_and_base64_signatures_verify_with_their_prefix_only() {
        let now = Timestamp::from_millis(0);
        let secrets = ["secret".to_owned().into()];
        for (encoding, prefix, text) in [
            (Encoding::Hex, "", hex::encode(tag())),
            (Encoding::Hex, "sha256=", format!("sha256={}", hex::encode(tag()))),
            (Encoding::Base64, "v1,", format!("v1,{}", STANDARD.encode(tag()))),
        ] {
            let sender = sender(encoding, prefix);
            let good = headers(&[("x-signature", &text)]);
            assert!(sender.verify(Raw { body: BODY, headers: &good }, &secrets, now).is_ok(), "{text}");
            assert!(sender.verify(Raw { body: b"{}", headers: &good }, &secrets, now).is_err());
            let bad = headers(&[("x-signature", &format!("x{text}"))]);
            assert!(sender.verify(Raw { body: BODY, headers: &bad }, &secrets, now).is_err());
        }
    }

    #[test]
    fn without_an_id_header_the_bytes_are_the_id() {
        let headers = headers(&[("x-event", "order.paid")]);
        let read = |body| sender(Encoding::Hex, "").read(Raw { body, headers: &headers }, json!({})).unwrap();
        assert_eq!(read(BODY).id, read(BODY).id);
        assert_ne!(read(BODY).id, read(b"{}").id);
        assert_eq!(read(BODY).event.as_deref(), Some("order.paid"));
    }
}
