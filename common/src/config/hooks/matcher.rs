//! What a group of hooks is about, as Claude Code reads it: nothing or `*` is
//! everything; names with `|` or `,` between them are these names; whatever has
//! other characters is a regular expression that may fit anywhere in a name.

use regex::{Regex, RegexBuilder};
use serde::Deserialize;

/// The largest compiled expression, in bytes.
const EXPRESSION: usize = 1 << 20;

/// A matcher.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(try_from = "String")]
pub struct Matcher {
    text: String,
    fits: Fits,
}

#[derive(Debug, Clone, Default)]
enum Fits {
    #[default]
    All,
    Names(Vec<String>),
    Expression(Regex),
}

/// A text that fits nothing, or cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the matcher {matcher:?} {why}")]
pub struct InvalidMatcher {
    matcher: String,
    why: String,
}

impl Matcher {
    /// Whether hooks of this matcher are about something of this name.
    pub fn fits(&self, name: &str) -> bool {
        match &self.fits {
            Fits::All => true,
            Fits::Names(names) => names.iter().any(|other| other == name),
            Fits::Expression(expression) => expression.is_match(name),
        }
    }

    /// Whether it fits everything.
    pub const fn is_about_all(&self) -> bool {
        matches!(self.fits, Fits::All)
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl TryFrom<String> for Matcher {
    type Error = InvalidMatcher;

    fn try_from(text: String) -> Result<Self, InvalidMatcher> {
        let invalid = |why: String| InvalidMatcher { matcher: text.chars().take(80).collect(), why };
        let of_names = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | ' ' | ',' | '|');
        let fits = match text.trim() {
            "" | "*" => Fits::All,
            list if list.chars().all(of_names) => {
                let names: Vec<String> = list.split(['|', ',']).map(|name| name.trim().to_owned()).collect();
                if names.iter().any(String::is_empty) {
                    return Err(invalid("has an empty name in it".to_owned()));
                }
                // It would fit nothing, and nobody would notice that nobody is asked.
                let server =
                    names.iter().find(|name| name.strip_prefix("mcp__").is_some_and(|rest| !rest.contains("__")));
                if let Some(server) = server {
                    return Err(invalid(format!(
                        "names a server and no tool; write {server}__.* for all of its tools"
                    )));
                }
                Fits::Names(names)
            }
            expression => {
                let compiled = RegexBuilder::new(expression).size_limit(EXPRESSION).build();
                Fits::Expression(compiled.map_err(|error| {
                    let why = error.to_string();
                    invalid(format!("is no regular expression: {}", why.lines().last().unwrap_or_default().trim()))
                })?)
            }
        };
        Ok(Self { text, fits })
    }
}
