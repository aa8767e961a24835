//! Judges: agents that are asked whether a text trips a guard.

use serde::Deserialize;
use serde_json::Value;

use crate::id::Digest;

/// An agent that judges for a guard. It calls no tools and sees one text.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Judge {
    /// The name of its file; none if the guard itself says what it is.
    #[serde(skip)]
    pub name: Option<String>,
    /// What it is to look for.
    #[serde(rename = "prompt")]
    pub system: String,
    /// Its model's name in `teamster.yaml`; none: the default.
    #[serde(default)]
    pub model: Option<String>,
    /// Handed to the provider.
    #[serde(default)]
    pub effort: Option<String>,
}

impl Judge {
    /// Tells one judge from another, and from what it was before its file was changed.
    pub fn digest(&self) -> Digest {
        let Self { name, system, model, effort } = self;
        Digest::of(serde_json::json!([name, system, model, effort]).to_string().as_bytes())
    }

    /// What people call it.
    pub fn title(&self) -> String {
        self.name.as_ref().map_or_else(|| "the judge".to_owned(), |name| format!("the judge {name}"))
    }
}

/// `judge:` as it is written: the name of an agent, or what would stand in its file.
pub(super) enum Written {
    Agent(String),
    Here(Judge),
}

impl Written {
    pub(super) fn read(value: Value) -> Result<Self, String> {
        match value {
            Value::String(name) => Ok(Self::Agent(name)),
            value => {
                let read = serde_json::from_value::<Judge>(value);
                let judge = read.map_err(|error| {
                    format!("a judge is the name of an agent, or `prompt`, `model` and `effort`: {error}")
                })?;
                if judge.system.trim().is_empty() {
                    return Err("the `prompt` of a judge says what it is to look for".to_owned());
                }
                Ok(Self::Here(judge))
            }
        }
    }
}
