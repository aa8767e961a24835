//! The seal of a journal: a signature over its newest hash, by whoever wrote that
//! and has the key. Only the newest seal of a task is kept, so that a journal
//! that was cut off has none that fits. Ed25519 (RFC 8032): the same key and text
//! give the same signature, so that sealing is pure.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Serialize};

use super::chain::EventHash;
use crate::id::TaskId;

/// What is signed begins with this, so that no signature for another purpose fits.
const PURPOSE: &[u8] = b"teamster seal 1";

/// Why a text is no key. Never repeats the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is no key: {0}")]
pub struct InvalidKey(&'static str);

/// What seals: an Ed25519 key. `Debug` hides it.
pub struct SealKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl SealKey {
    /// The key of a seed, which came from a cryptographic random source.
    ///
    /// # Errors
    /// [`InvalidKey`] if the library does not take it.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, InvalidKey> {
        let pair =
            Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| InvalidKey("the library does not take this seed"))?;
        let public =
            <[u8; 32]>::try_from(pair.public_key().as_ref()).map_err(|_| InvalidKey("it has no public key"))?;
        Ok(Self { pair, public: PublicKey(public) })
    }

    /// The key of a seed as a person wrote it: 32 bytes as 64 hexadecimal digits or as base64.
    ///
    /// # Errors
    /// [`InvalidKey`], which does not repeat the text.
    pub fn parse(text: &str) -> Result<Self, InvalidKey> {
        Self::from_seed(&bytes_of(text).ok_or(InvalidKey(FORM))?)
    }

    /// Whoever has this can check what the key sealed.
    pub const fn public(&self) -> PublicKey {
        self.public
    }

    /// Seals the journal of a task up to event `version`.
    pub fn seal(&self, task: TaskId, version: u64, hash: EventHash) -> Seal {
        let signed = self.pair.sign(&statement(task, version, hash));
        let mut signature = [0; 64];
        // An Ed25519 signature has 64 bytes.
        for (place, byte) in signature.iter_mut().zip(signed.as_ref()) {
            *place = *byte;
        }
        Seal { version, key: self.public.id(), signature }
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealKey({})", self.public.id())
    }
}

/// What a seal is checked with. Written as 64 hexadecimal digits; read from base64, too.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Its name, for people and to tell keys apart.
    pub fn id(&self) -> KeyId {
        let mut id = [0; 8];
        id.copy_from_slice(&blake3::hash(&self.0).as_bytes()[..8]);
        KeyId(id)
    }

    /// Whether a seal was made with the key of this one for this journal.
    pub fn accepts(&self, seal: &Seal, task: TaskId, hash: EventHash) -> bool {
        seal.key == self.id()
            && UnparsedPublicKey::new(&ED25519, self.0)
                .verify(&statement(task, seal.version, hash), &seal.signature)
                .is_ok()
    }
}

impl FromStr for PublicKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        bytes_of(text).map(Self).ok_or(InvalidKey(FORM))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// The name of a key: the first 8 bytes of the BLAKE3 of the public one, as 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId([u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// See the module. Written as hexadecimal digits of its 80 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Seal {
    /// The number of the event that it covers, and with it all before.
    pub version: u64,
    /// Whose it is.
    pub key: KeyId,
    signature: [u8; 64],
}

impl Seal {
    /// How many bytes it has.
    pub const LENGTH: usize = 80;

    /// The seal that a store kept as bytes.
    pub const fn from_bytes(bytes: &[u8; Self::LENGTH]) -> Self {
        let (version, rest) = bytes.split_at(8);
        let (key, signature) = rest.split_at(8);
        let (Some(version), Some(key), Some(signature)) =
            (version.first_chunk(), key.first_chunk(), signature.first_chunk())
        else {
            // The lengths are those of the array.
            return Self { version: 0, key: KeyId([0; 8]), signature: [0; 64] };
        };
        Self { version: u64::from_be_bytes(*version), key: KeyId(*key), signature: *signature }
    }

    /// The bytes, for a store to keep.
    pub fn to_bytes(&self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        bytes[..8].copy_from_slice(&self.version.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.key.0);
        bytes[16..].copy_from_slice(&self.signature);
        bytes
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seal(event {}, key {})", self.version, self.key)
    }
}

impl TryFrom<String> for Seal {
    type Error = InvalidKey;

    fn try_from(text: String) -> Result<Self, InvalidKey> {
        unhex(&text).map(|bytes| Self::from_bytes(&bytes)).ok_or(InvalidKey("a seal is 160 hexadecimal digits"))
    }
}

impl From<Seal> for String {
    fn from(seal: Seal) -> Self {
        hex(&seal.to_bytes())
    }
}

const FORM: &str = "write 32 bytes as 64 hexadecimal digits or as base64 (teamster audit key makes a pair)";

fn statement(task: TaskId, version: u64, hash: EventHash) -> [u8; 15 + 16 + 8 + 32] {
    let mut text = [0; 71];
    text[..15].copy_from_slice(PURPOSE);
    text[15..31].copy_from_slice(task.as_uuid().as_bytes());
    text[31..39].copy_from_slice(&version.to_be_bytes());
    text[39..].copy_from_slice(hash.as_bytes());
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).filter_map(|n| char::from_digit(u32::from(n), 16)).collect()
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes: Vec<u8> = pairs.iter().filter_map(|[a, b]| Some(digit(a)? << 4 | digit(b)?)).collect();
    if rest.is_empty() && pairs.len() == N { bytes.try_into().ok() } else { None }
}

/// 32 bytes as hexadecimal digits, or as base64 with either alphabet, padded or not.
fn bytes_of(text: &str) -> Option<[u8; 32]> {
    let text = text.trim();
    if text.len() == 64 {
        return unhex(text);
    }
    let plain = text.trim_end_matches('=').replace('-', "+").replace('_', "/");
    STANDARD_NO_PAD.decode(plain).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::clock::Timestamp;

    fn task() -> TaskId {
        TaskId::new(Timestamp::from_millis(5), [7; 10])
    }

    #[test]
    fn a_key_is_that_of_the_standard() {
        // RFC 8032, section 7.1, test 1.
        let key = SealKey::parse("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60").unwrap();
        let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        assert_eq!(key.public().to_string(), public);
        assert_eq!(public.parse(), Ok(key.public()));
        let same = SealKey::parse("nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=").unwrap();
        assert_eq!(same.public(), key.public());
        let url = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A";
        assert_eq!(SealKey::parse(url).unwrap().public(), key.public());
        assert!(!format!("{key:?}").contains("9d61"));
    }

    #[test]
    fn what_is_no_key_is_refused_and_not_repeated() {
        for text in ["", "hunter2", &"z".repeat(64), &"a".repeat(63), &"é".repeat(32), &"A".repeat(44)] {
            let error = SealKey::parse(text).unwrap_err().to_string();
            assert!(text.is_empty() || !error.contains(text), "{error}");
        }
    }

    #[test]
    fn a_seal_fits_its_task_its_event_its_hash_and_its_key_alone() {
        let (key, other) = (SealKey::from_seed(&[1; 32]).unwrap(), SealKey::from_seed(&[2; 32]).unwrap());
        let hash = EventHash::from_bytes([3; 32]);
        let seal = key.seal(task(), 9, hash);
        assert_eq!(seal, key.seal(task(), 9, hash), "the same again gives the same");
        assert!(key.public().accepts(&seal, task(), hash));
        let another = TaskId::new(Timestamp::from_millis(6), [7; 10]);
        assert!(!key.public().accepts(&seal, another, hash));
        assert!(!key.public().accepts(&seal, task(), EventHash::from_bytes([4; 32])));
        assert!(!key.public().accepts(&Seal { version: 8, ..seal }, task(), hash));
        assert!(!other.public().accepts(&seal, task(), hash));
        assert!(!other.public().accepts(&Seal { key: other.public().id(), ..seal }, task(), hash));
        assert_eq!(Seal::from_bytes(&seal.to_bytes()), seal);
        let text = serde_json::to_string(&seal).unwrap();
        assert_eq!(serde_json::from_str::<Seal>(&text).unwrap(), seal);
    }
}
