//! Judges: agents that are asked whether a text trips a guard.

use crate::id::Digest;

/// An agent that judges for a guard: what its file says of it. It calls no tools and sees one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judge {
    /// The name of its file.
    pub name: String,
    /// What it is to look for.
    pub system: String,
    /// Its model's name in `teamster.yaml`; none: the default.
    pub model: Option<String>,
    /// Handed to the provider.
    pub effort: Option<String>,
}

impl Judge {
    /// Tells one judge from another, and from what it was before its file was changed.
    pub fn digest(&self) -> Digest {
        let Self { name, system, model, effort } = self;
        Digest::of(serde_json::json!([name, system, model, effort]).to_string().as_bytes())
    }
}
