//! Numbers of bytes as users write them.

use serde::Deserialize;
use serde_json::Value;

/// A number of bytes, written as `512KiB`, `5MiB`, `1GiB` or a plain number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "Value")]
pub struct Size(pub u64);

impl Size {
    /// As a length in memory.
    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl TryFrom<Value> for Size {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let invalid = || format!("{value} is not a size; write a number of bytes, or 512KiB, 5MiB, 1GiB");
        if let Some(bytes) = value.as_u64() {
            return Ok(Self(bytes));
        }
        let text = value.as_str().ok_or_else(invalid)?.trim();
        let units = [("KiB", 1_u64 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("B", 1)];
        let (digits, scale) =
            units.iter().find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, *scale))).unwrap_or((text, 1));
        let number: u64 = digits.trim().parse().map_err(|_| invalid())?;
        number.checked_mul(scale).map(Self).ok_or_else(invalid)
    }
}
