//! The name of a large value that lies beside the journals.

use std::fmt;
use std::str::FromStr;

use super::{Digest, InvalidId, Shard};

/// The name of a blob: what it holds (the digest), where it is kept, and which
/// keeping of that content it is (the generation, random). A blob that was
/// condemned and is kept anew gets another name, so that whoever removes the old
/// one, however late, never removes the new one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlobName {
    house: BlobHouse,
    shard: Shard,
    generation: [u8; 8],
    digest: Digest,
}

/// Where the bytes of a blob are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BlobHouse {
    /// In the store that keeps the journals.
    Store,
    /// In a folder or a bucket beside it.
    Object,
}

impl BlobHouse {
    const fn letter(self) -> char {
        match self {
            Self::Store => 's',
            Self::Object => 'o',
        }
    }
}

impl BlobName {
    /// How many characters a name has.
    pub const LENGTH: usize = 1 + 3 + 1 + 16 + 1 + 64;

    /// A name for a content of a task in `shard`.
    pub const fn new(house: BlobHouse, shard: Shard, generation: [u8; 8], digest: Digest) -> Self {
        Self { house, shard, generation, digest }
    }

    /// Where its bytes are.
    pub const fn house(&self) -> BlobHouse {
        self.house
    }

    /// Where it lies in a store that is spread over several machines: with its tasks.
    pub const fn shard(&self) -> Shard {
        self.shard
    }

    /// The digest of its content.
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }
}

impl fmt::Display for BlobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let generation = u64::from_be_bytes(self.generation);
        write!(f, "{}{:03x}-{generation:016x}-{}", self.house.letter(), self.shard.number(), self.digest)
    }
}

impl FromStr for BlobName {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        parse(text).ok_or_else(|| {
            InvalidId::new(
                "blob name",
                text,
                "a blob's name is written by Teamster alone: s or o, shard-generation-digest",
            )
        })
    }
}

fn parse(text: &str) -> Option<BlobName> {
    let plain = |digits: &str| digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let house = [BlobHouse::Store, BlobHouse::Object].into_iter().find(|house| text.starts_with(house.letter()))?;
    let mut parts = text.get(1..)?.splitn(3, '-');
    let (shard, generation, digest) = (parts.next()?, parts.next()?, parts.next()?);
    if shard.len() != 3 || generation.len() != 16 || !plain(shard) || !plain(generation) {
        return None;
    }
    Some(BlobName {
        house,
        shard: Shard::numbered(u16::from_str_radix(shard, 16).ok()?),
        generation: u64::from_str_radix(generation, 16).ok()?.to_be_bytes(),
        digest: Digest::try_from(digest.to_owned()).ok()?,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn name(house: BlobHouse) -> BlobName {
        BlobName::new(house, Shard::numbered(0xABC), [0, 1, 2, 3, 4, 5, 6, 0xF7], Digest::of(b"x"))
    }

    #[test]
    fn a_name_is_read_as_it_is_written() {
        for house in [BlobHouse::Store, BlobHouse::Object] {
            let text = name(house).to_string();
            assert_eq!(text.len(), BlobName::LENGTH);
            assert_eq!(text.parse::<BlobName>().unwrap(), name(house));
        }
    }

    #[test]
    fn what_nobody_writes_is_no_name() {
        let good = name(BlobHouse::Store).to_string();
        let foreign = [
            String::new(),
            "s".to_owned(),
            "é".to_owned(),
            good.replace('s', "x"),
            good.to_uppercase(),
            format!("{good}0"),
            good[..good.len() - 1].to_owned(),
            good.replacen("abc", "+bc", 1),
        ];
        for text in foreign {
            assert!(text.parse::<BlobName>().is_err(), "{text}");
        }
    }
}
