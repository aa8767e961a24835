//! Keys: tokens of values, and values encrypted and opened.
//!
//! Encryption is AES-256-GCM-SIV (RFC 8452) with the token as associated data
//! and a nonce that is derived from token and value: the same value gives the
//! same ciphertext, which says no more than its token does, and no randomness
//! is needed. From each key of 32 bytes, three are derived with BLAKE3, one for
//! each use.

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};

use crate::id::Token;

/// What ciphertexts of this form begin with.
const FORM: &str = "1.";
/// How many keys may open at once.
const KEYS: usize = 8;

/// A value that is private.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Plain {
    /// A text, or a part of one.
    Text(String),
    /// JSON that is no text: a number, a truth value, a list, an object.
    Json(String),
}

impl Plain {
    fn tagged(&self) -> Vec<u8> {
        let (tag, text) = match self {
            Self::Text(text) => (b't', text),
            Self::Json(text) => (b'j', text),
        };
        let mut bytes = Vec::with_capacity(text.len() + 1);
        bytes.push(tag);
        bytes.extend_from_slice(text.as_bytes());
        bytes
    }

    fn of_tagged(bytes: &[u8]) -> Option<Self> {
        let (tag, text) = bytes.split_first()?;
        let text = std::str::from_utf8(text).ok()?.to_owned();
        match tag {
            b't' => Some(Self::Text(text)),
            b'j' => Some(Self::Json(text)),
            _ => None,
        }
    }
}

/// A text that is no key. The text is a secret, and not repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is not 32 bytes.
    #[error("a key is 32 bytes, written as 64 hexadecimal digits or in Base64; make one with `openssl rand -hex 32`")]
    Form,
    /// There are too many, or none.
    #[error("there are {0} keys; use 1 to {KEYS}: the first seals, all open")]
    Number(usize),
    /// The cryptography refused it.
    #[error("the key cannot be used")]
    Refused,
}

struct Key {
    of_tokens: [u8; 32],
    of_nonces: [u8; 32],
    cipher: LessSafeKey,
}

/// The keys of an installation: the first seals, all open.
pub(super) struct Keys {
    first: Key,
    older: Vec<Key>,
}

impl Keys {
    pub(super) fn new(secrets: &[SecretString]) -> Result<Self, KeyError> {
        let Some((first, older)) = secrets.split_first().filter(|_| secrets.len() <= KEYS) else {
            return Err(KeyError::Number(secrets.len()));
        };
        Ok(Self { first: Key::new(first)?, older: older.iter().map(Key::new).collect::<Result<_, _>>()? })
    }

    /// The token of a value, and the value encrypted for it.
    pub(super) fn token(&self, kind: &str, plain: &Plain) -> Token {
        let mut hasher = blake3::Hasher::new_keyed(&self.first.of_tokens);
        hasher.update(kind.as_bytes()).update(&[0]).update(&plain.tagged());
        let mut body = [0; 10];
        hasher.finalize_xof().fill(&mut body);
        Token::new(kind, body)
    }

    /// A value, encrypted for its token.
    pub(super) fn seal(&self, token: &Token, plain: &Plain) -> Option<String> {
        let mut bytes = plain.tagged();
        let mut hasher = blake3::Hasher::new_keyed(&self.first.of_nonces);
        hasher.update(token.as_str().as_bytes()).update(&[0]).update(&bytes);
        let mut nonce = [0; NONCE_LEN];
        hasher.finalize_xof().fill(&mut nonce);
        let aad = Aad::from(token.as_str().as_bytes());
        let cipher = &self.first.cipher;
        cipher.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut bytes).ok()?;
        let mut text = FORM.to_owned();
        BASE64_URL_SAFE_NO_PAD.encode_string([&nonce[..], &bytes].concat(), &mut text);
        Some(text)
    }

    /// The value behind a token; none if no key opens it, or it was erased.
    pub(super) fn open(&self, token: &Token, ciphertext: &str) -> Option<Plain> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(ciphertext.strip_prefix(FORM)?).ok()?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_LEN)?;
        std::iter::once(&self.first).chain(&self.older).find_map(|key| {
            let mut sealed = sealed.to_vec();
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let plain = key.cipher.open_in_place(nonce, Aad::from(token.as_str().as_bytes()), &mut sealed).ok()?;
            Plain::of_tagged(plain)
        })
    }
}

impl Key {
    fn new(secret: &SecretString) -> Result<Self, KeyError> {
        let master = bytes(secret.expose_secret().trim()).ok_or(KeyError::Form)?;
        let derive = |purpose: &str| blake3::derive_key(purpose, &master);
        let cipher = derive("teamster private data, encryption, 1");
        let cipher = UnboundKey::new(&AES_256_GCM_SIV, &cipher).map_err(|_| KeyError::Refused)?;
        Ok(Self {
            of_tokens: derive("teamster private data, tokens, 1"),
            of_nonces: derive("teamster private data, nonces, 1"),
            cipher: LessSafeKey::new(cipher),
        })
    }
}

fn bytes(text: &str) -> Option<[u8; 32]> {
    if text.len() == 64 {
        let mut key = [0; 32];
        for (byte, pair) in key.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        return Some(key);
    }
    let decoded = BASE64_STANDARD.decode(text).or_else(|_| BASE64_URL_SAFE_NO_PAD.decode(text)).ok()?;
    decoded.try_into().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn keys(texts: &[&str]) -> Result<Keys, KeyError> {
        Keys::new(&texts.iter().map(|text| SecretString::from((*text).to_owned())).collect::<Vec<_>>())
    }

    #[test]
    fn a_value_is_opened_by_its_token_and_a_key_that_is_still_named() {
        let (old, new) = ("11".repeat(32), "IiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiI=");
        let before = keys(&[&old]).unwrap();
        let plain = Plain::Text("jane@example.org".to_owned());
        let token = before.token("email", &plain);
        let sealed = before.seal(&token, &plain).unwrap();
        assert!(!sealed.contains("jane"));
        let during = keys(&[new, &old]).unwrap();
        assert_eq!(during.open(&token, &sealed), Some(plain.clone()));
        assert_ne!(during.token("email", &plain), token);
        assert_eq!(keys(&[new]).unwrap().open(&token, &sealed), None);
        let other = before.token("email", &Plain::Text("joe@example.org".to_owned()));
        assert_eq!(before.open(&other, &sealed), None, "a ciphertext cannot be moved to another token");
        for damaged in ["", "1.", "1.AAAA", "2.AAAA", &sealed[..sealed.len() - 4]] {
            assert_eq!(before.open(&token, damaged), None);
        }
    }

    #[test]
    fn what_is_no_key_is_refused_and_not_repeated() {
        for text in ["hunter2", &"1".repeat(63), &"g".repeat(64), "AAAA"] {
            assert_eq!(keys(&[text]).err(), Some(KeyError::Form));
        }
        assert_eq!(keys(&[]).err(), Some(KeyError::Number(0)));
    }
}
