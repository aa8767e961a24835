//! How a large value is written down: its JSON, compressed with zstd, under the
//! BLAKE3 digest of the JSON. Equal values have equal digests.

use std::io::Read;

use serde_json::Value;

use crate::id::Digest;

/// Fast, and good enough for JSON: about 300 MB/s.
const LEVEL: i32 = 3;

/// A value as it is kept.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) digest: Digest,
    pub(super) data: Vec<u8>,
    /// The length of its JSON.
    pub(super) length: usize,
}

/// Writes a value down.
///
/// # Errors
/// What cannot be encoded, in words.
pub(super) fn pack(value: &Value) -> Result<Packed, String> {
    let text = serde_json::to_vec(value).map_err(|error| error.to_string())?;
    let data = zstd::bulk::compress(&text, LEVEL).map_err(|error| error.to_string())?;
    Ok(Packed { digest: Digest::of(&text), data, length: text.len() })
}

/// Reads a value of at most `limit` bytes of JSON, and says how many it has.
///
/// # Errors
/// What is wrong with the data, in words.
pub(super) fn unpack(data: &[u8], digest: &Digest, limit: u64) -> Result<(Value, usize), String> {
    let mut text = Vec::new();
    let reader = zstd::stream::read::Decoder::with_buffer(data).map_err(|error| error.to_string())?;
    reader
        .take(limit.saturating_add(1))
        .read_to_end(&mut text)
        .map_err(|error| format!("it cannot be decompressed: {error}"))?;
    if text.len() as u64 > limit {
        return Err(format!("it has more than {limit} bytes"));
    }
    if Digest::of(&text) != *digest {
        return Err("its content is not what its name says".to_owned());
    }
    let value = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    Ok((value, text.len()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_is_read_as_it_was_written() {
        let value = json!({"z": [1, 2.5, "é", null], "a": "x".repeat(100_000)});
        let packed = pack(&value).unwrap();
        assert!(packed.data.len() < 1_000);
        let (read, length) = unpack(&packed.data, &packed.digest, 1 << 20).unwrap();
        assert_eq!(
            (serde_json::to_string(&read).unwrap(), length),
            (serde_json::to_string(&value).unwrap(), packed.length)
        );
    }

    #[test]
    fn what_was_damaged_is_found_out() {
        let packed = pack(&json!("x".repeat(1_000))).unwrap();
        let mut flipped = packed.data.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let other = pack(&json!("y")).unwrap().data;
        for data in [&flipped[..], &other, &packed.data[..packed.data.len() - 3], b"", b"not zstd"] {
            assert!(unpack(data, &packed.digest, 1 << 20).is_err());
        }
    }

    #[test]
    fn what_swells_is_stopped() {
        let packed = pack(&json!("x".repeat(1 << 20))).unwrap();
        assert!(unpack(&packed.data, &packed.digest, 1 << 16).unwrap_err().contains("more than 65536"));
    }
}
