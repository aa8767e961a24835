//! Private data: what is found private is replaced by a token before it reaches
//! a journal, a log or a model, and put back only for those who may see it. Pure.
//!
//! A token is derived from kind and value with a key: the same value has the same
//! token in every task, different values have different ones, and without the key
//! nobody can tell which. Exactly the same: a spelling is never changed, so that
//! what is put back is what came in, and templates that compare values compare
//! tokens just as well. What a token stands for lies encrypted in the journal of
//! each task that uses it, in [`SealedValues`], and is nowhere else.
//!
//! A list of forms and names finds what it lists: a name in prose, an address
//! spelt out, a value in Base64 or in a picture are not found.

mod embedded;
mod event;
mod find;
mod keys;
mod number;
mod reveal;
mod seal;
mod view;

use std::collections::BTreeSet;
use std::fmt;

use regex::Regex;

use self::embedded::Embedded;
use self::find::Forms;
pub use self::keys::KeyError;
use self::keys::Keys;
pub use self::seal::Sealer;
use crate::config::{PrivateData, Reveal};
use crate::id::PipelineName;
use crate::journal::SealedValues;
use crate::secret::SecretError;

/// What an agent is told when private data is configured: a part of its system prompt.
pub const NOTICE: &str = "Some values are kept from you: in their place stand tokens such as \
    private-email-k7x2m9qa4tz3w5yb. Treat a token as the value itself. Where you would write the value, write the \
    token exactly as it stands; tools that may see the value get it. Do not guess what is behind a token.";

/// The configured private data, with its keys.
pub struct Private {
    keys: Keys,
    forms: Forms,
    embedded: Option<Embedded>,
    /// In lower case.
    fields: BTreeSet<String>,
    /// Kinds that tokens of this installation can have.
    kinds: BTreeSet<String>,
    reveal: Reveal,
}

impl fmt::Debug for Private {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Private").field("kinds", &self.kinds).field("reveal", &self.reveal).finish_non_exhaustive()
    }
}

/// Why private data cannot be handled: the process must not start.
#[derive(Debug, thiserror::Error)]
pub enum PrivateError {
    /// There is no key.
    #[error("private_data.key: {0}; nothing is taken in without it, so that no private value is kept in the clear")]
    Missing(#[from] SecretError),
    /// What is there is no key.
    #[error("private_data.key: {0}")]
    Key(#[from] KeyError),
    /// A pattern is none.
    #[error("private_data.{0}: not a pattern: {1}")]
    Pattern(String, String),
}

impl Private {
    /// Reads the keys and makes the forms ready.
    ///
    /// # Errors
    /// A missing or unusable key, or a pattern that is none.
    pub fn load(config: &PrivateData) -> Result<Self, PrivateError> {
        let secrets =
            config.key.as_slice().iter().map(crate::secret::SecretRef::resolve).collect::<Result<Vec<_>, _>>()?;
        Self::with_keys(config, Keys::new(&secrets)?)
    }

    fn with_keys(config: &PrivateData, keys: Keys) -> Result<Self, PrivateError> {
        let compile = |place: String, pattern: &str| -> Result<Regex, PrivateError> {
            crate::config::private::compile(pattern).map_err(|why| PrivateError::Pattern(place, why))
        };
        let patterns = config.patterns.iter();
        let patterns = patterns
            .map(|(name, pattern)| Ok((name.clone(), compile(format!("patterns.{name}"), pattern)?)))
            .collect::<Result<Vec<_>, PrivateError>>()?;
        let except = config.except.iter().map(|pattern| compile("except".to_owned(), pattern));
        let except = except.collect::<Result<Vec<_>, _>>()?;
        let fields: BTreeSet<String> = config.fields.iter().map(|name| name.to_lowercase()).collect();
        let embedded = Embedded::of(&fields).map_err(|why| PrivateError::Pattern("fields".to_owned(), why))?;
        let names = config.kinds.iter().map(|kind| kind.as_str()).chain(config.patterns.keys().map(String::as_str));
        let kinds = names.chain(fields.iter().map(String::as_str)).map(kind).collect();
        let forms = Forms::new(&config.kinds, patterns, except)
            .map_err(|error| PrivateError::Pattern("kinds".to_owned(), error.to_string()))?;
        Ok(Self { keys, forms, embedded, fields, kinds, reveal: config.reveal.clone() })
    }

    /// Seals what comes in, given what is sealed in its task already.
    pub fn sealer<'p>(&'p self, known: &'p SealedValues) -> Sealer<'p> {
        Sealer::new(self, known)
    }

    /// Whether the output of a pipeline is shown with its values.
    pub fn shows_output_of(&self, pipeline: &PipelineName) -> bool {
        self.reveal.outputs.contains(pipeline)
    }

    /// Whether people see the values in what they are to approve.
    pub fn shows_people(&self) -> bool {
        self.reveal.people
    }

    /// The rules for calls that are made with the values, as they are written.
    pub fn tool_rules(&self) -> &[String] {
        &self.reveal.tools
    }

    fn is_field(&self, name: &str) -> bool {
        !self.fields.is_empty() && self.fields.contains(&name.to_lowercase())
    }
}

/// The name of a field as it stands in tokens.
fn kind(name: &str) -> String {
    crate::id::Token::new(name, [0; 10]).kind().to_owned()
}

#[cfg(test)]
mod tests;
