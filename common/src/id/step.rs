//! Who does something within a task: a step, an item of one, or an agent that works for either.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{InvalidId, StepId};

/// A step, one item of a step with `foreach`, or a subagent that works for either: `research`, `enrich[3]`,
/// `research/1`, `enrich[3]/2/1`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StepKey {
    /// The step of the pipeline.
    pub step: StepId,
    /// Which item, for one that fans out.
    pub index: Option<u32>,
    /// The line of subagents that leads to this one, each by its number under the one before, from 1. Empty for the
    /// step itself.
    pub lineage: Vec<u32>,
}

impl StepKey {
    /// The deepest line of subagents.
    pub const MAX_DEPTH: usize = 8;

    /// The key of a step that does not fan out, or of the fan-out as a whole.
    pub const fn of(step: StepId) -> Self {
        Self { step, index: None, lineage: Vec::new() }
    }

    /// The key of one item of a step that fans out.
    pub const fn item(step: StepId, index: u32) -> Self {
        Self { step, index: Some(index), lineage: Vec::new() }
    }

    /// The key of a subagent of this one.
    #[must_use]
    pub fn subagent(&self, number: u32) -> Self {
        let mut key = self.clone();
        key.lineage.push(number);
        key
    }

    /// Who called it, for a subagent.
    pub fn caller(&self) -> Option<Self> {
        let (_, above) = self.lineage.split_last()?;
        Some(Self { lineage: above.to_vec(), ..self.clone() })
    }

    /// The step or item for which it works.
    #[must_use]
    pub fn root(&self) -> Self {
        Self { step: self.step.clone(), index: self.index, lineage: Vec::new() }
    }

    /// Whether it is a subagent.
    pub const fn is_subagent(&self) -> bool {
        !self.lineage.is_empty()
    }
}

impl fmt::Display for StepKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.step)?;
        if let Some(index) = self.index {
            write!(f, "[{index}]")?;
        }
        self.lineage.iter().try_for_each(|number| write!(f, "/{number}"))
    }
}

impl FromStr for StepKey {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        const RULE: &str =
            "a step key is a step id, or ID[INDEX] for one item of a foreach step; /NUMBER behind it names a subagent";
        let invalid = || InvalidId::new("step key", text, RULE);
        let mut parts = text.split('/');
        let root = parts.next().unwrap_or_default();
        let number =
            |part: &str| part.parse::<u32>().ok().filter(|number| *number > 0 && !part.starts_with(['0', '+']));
        let lineage = parts.map(number).collect::<Option<Vec<u32>>>().ok_or_else(invalid)?;
        if lineage.len() > Self::MAX_DEPTH {
            return Err(invalid());
        }
        let Some((step, rest)) = root.split_once('[') else {
            return Ok(Self { lineage, ..Self::of(StepId::new(root)?) });
        };
        let index = rest.strip_suffix(']').and_then(|digits| digits.parse().ok()).ok_or_else(invalid)?;
        Ok(Self { lineage, ..Self::item(StepId::new(step)?, index) })
    }
}

impl TryFrom<String> for StepKey {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<StepKey> for String {
    fn from(key: StepKey) -> Self {
        key.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_key_reads_back_what_it_writes() {
        for text in ["research", "enrich[0]", "enrich[12]", "research/1", "enrich[3]/2/1"] {
            assert_eq!(text.parse::<StepKey>().map(|k| k.to_string()).as_deref(), Ok(text));
        }
        for bad in [
            "x[",
            "x[]",
            "x[-1]",
            "x[1]y",
            "[1]",
            "x/",
            "x/0",
            "x/01",
            "x/+1",
            "x/a",
            "/1",
            "x/1[0]",
            "x/1/1/1/1/1/1/1/1/1",
        ] {
            assert!(bad.parse::<StepKey>().is_err(), "{bad:?}");
        }
    }
}
