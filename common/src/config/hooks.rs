//! `hooks:` in the shape of Claude Code's settings: for each event a list of
//! groups, each with a matcher and the hooks that are asked.
//!
//! Pure: says which hooks are about something. Asking them is the worker's.
//! Source of names and shapes: the hooks reference of Claude Code.

mod matcher;
mod read;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

pub use self::matcher::{InvalidMatcher, Matcher};
pub(crate) use self::read::{Author, read};
use super::SecretOrText;
use crate::journal::HookEvent;
use crate::span::Span;

/// How long a hook may take that does not say.
const TIMEOUT: Span = Span::from_secs(60);
/// How long a hook may take at most.
const LONGEST: Span = Span::from_secs(600);
/// The longest name of a hook, in characters.
const NAME: usize = 80;

/// All hooks of an installation, or of an agent.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct Hooks(BTreeMap<HookEvent, Vec<HookGroup>>);

/// Hooks that are about the same things.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookGroup {
    /// What they are about: tools by name, agents for `SubagentStop`.
    #[serde(default)]
    pub matcher: Matcher,
    /// The hooks, in the order in which they are asked.
    pub hooks: Vec<Arc<Hook>>,
}

/// One hook.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "Written")]
pub struct Hook {
    /// How it is asked.
    pub handler: HookHandler,
    /// How long it may take.
    pub timeout: Span,
}

/// How a hook is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum HookHandler {
    /// A command of the shell, with JSON on stdin.
    Command(String),
    /// A `POST` of the same JSON.
    Http {
        /// Where to.
        url: String,
        /// Headers, as texts or secrets by reference.
        headers: BTreeMap<String, SecretOrText>,
    },
}

impl Hooks {
    /// The hooks that are asked at an event about something: a tool, an agent, or a kind of compaction.
    pub fn about<'a>(&'a self, event: HookEvent, subject: &'a str) -> impl Iterator<Item = &'a Arc<Hook>> {
        let groups = self.0.get(&event).into_iter().flatten();
        groups.filter(move |group| group.matcher.fits(subject)).flat_map(|group| &group.hooks)
    }

    /// These, and before them those of who is above.
    #[must_use]
    pub fn under(mut self, mut above: Self) -> Self {
        for (event, groups) in std::mem::take(&mut self.0) {
            above.0.entry(event).or_default().extend(groups);
        }
        above
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.values().flatten().all(|group| group.hooks.is_empty())
    }

    /// Whether some of them are programs.
    pub fn start_programs(&self) -> bool {
        self.all().any(|hook| matches!(hook.handler, HookHandler::Command(_)))
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Hook>> {
        self.0.values().flatten().flat_map(|group| &group.hooks)
    }
}

impl Hook {
    /// What people and the journal know it by: the beginning of its command, or its URL. Not what follows, which may
    /// be secret.
    pub fn name(&self) -> String {
        let name = match &self.handler {
            HookHandler::Command(command) => {
                let plain = |word: &&str| {
                    word.chars()
                        .all(|c| c.is_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '$' | '"' | '{' | '}'))
                        && !word.starts_with('-')
                };
                let mut words = command.split_whitespace().skip_while(|word| word.contains('='));
                let program: Vec<&str> = words.by_ref().take(1).filter(plain).collect();
                // Interpreters are told what to run.
                let script = words.next().filter(plain).filter(|word| word.contains(['.', '/']));
                let words: Vec<&str> = program.into_iter().chain(script).collect();
                if words.is_empty() { "command".to_owned() } else { words.join(" ") }
            }
            HookHandler::Http { url, .. } => {
                let end = url.find(['?', '#']).unwrap_or(url.len());
                let (scheme, rest) = url[..end].split_once("://").unwrap_or(("http", &url[..end]));
                let authority = rest.find('/').unwrap_or(rest.len());
                let host = rest[..authority].rsplit('@').next().unwrap_or_default();
                format!("{scheme}://{host}{}", &rest[authority..])
            }
        };
        name.chars().take(NAME).collect()
    }
}

/// A hook as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    r#type: Kind,
    #[serde(default)]
    command: Option<String>,
    #[serde(default)]
    url: Option<String>,
    #[serde(default)]
    headers: Option<BTreeMap<String, SecretOrText>>,
    #[serde(default)]
    timeout: Option<Timeout>,
    /// Of Claude Code: what its user sees meanwhile. Nobody does here.
    #[serde(default, rename = "statusMessage")]
    _status_message: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Command,
    Http,
}

/// Seconds, as in Claude Code, or a span.
#[derive(Deserialize)]
#[serde(try_from = "Value")]
struct Timeout(Span);

impl TryFrom<Value> for Timeout {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let span = match &value {
            Value::Number(number) => {
                let seconds = number.as_f64().filter(|seconds| *seconds > 0.0 && *seconds <= 1e6);
                seconds.map(|seconds| Span::clamped(std::time::Duration::from_secs_f64(seconds)))
            }
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        let fits = span.filter(|span| *span <= LONGEST);
        fits.map(Self).ok_or_else(|| {
            format!("{value} is no timeout; write seconds, or a text such as 500ms or 2m, up to {LONGEST}")
        })
    }
}

impl TryFrom<Written> for Hook {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let Written { r#type, command, url, headers, timeout, .. } = written;
        let handler = match (r#type, command, url) {
            (Kind::Command, Some(command), None) if headers.is_none() => {
                if command.trim().is_empty() {
                    return Err("`command` is empty".to_owned());
                }
                HookHandler::Command(command)
            }
            (Kind::Command, ..) => {
                return Err("a hook of type command has a `command`, and no `url` or `headers`".to_owned());
            }
            (Kind::Http, None, Some(url)) => {
                if !url.starts_with("https://") && !url.starts_with("http://") {
                    return Err("`url` must start with https:// or http://".to_owned());
                }
                HookHandler::Http { url, headers: headers.unwrap_or_default() }
            }
            (Kind::Http, ..) => return Err("a hook of type http has a `url`, and no `command`".to_owned()),
        };
        Ok(Self { handler, timeout: timeout.map_or(TIMEOUT, |timeout| timeout.0) })
    }
}

#[cfg(test)]
mod tests;
