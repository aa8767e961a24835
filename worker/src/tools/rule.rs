//! Rules about tools, in the syntax of Claude Code's permissions: `Read`,
//! `Bash(git diff:*)`, `Read(src/**)`, `WebFetch(domain:example.com)`, `mcp__github__*`.
//!
//! A rule is read in one of two ways. What *grants* something (an allow list,
//! an effect class below `once`) must fit the call beyond doubt: a command with
//! shell operators fits no pattern. What *takes* something (a deny list, the
//! class `once`) fits when any part of the call does. Taking is a guard rail,
//! not a wall: a shell can name a program in more ways than a rule can.

mod command;
mod list;
mod policy;

use std::path::{Component, Path, PathBuf};

use common::journal::Effect;
use globset::GlobMatcher;
use serde_json::Value;

pub use list::{Effects, Permissions, Verdict};
pub use policy::{Policy, Rules, Tier};

/// Tools whose rules have patterns of paths, with the argument that holds the path.
pub(super) const PATH_TOOLS: [(&str, &str); 5] =
    [("Read", "file_path"), ("Write", "file_path"), ("Edit", "file_path"), ("Glob", "path"), ("Grep", "path")];

/// A rule.
#[derive(Debug, Clone)]
pub struct Rule {
    text: String,
    name: Name,
    pattern: Option<Pattern>,
}

/// A text that is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{rule:?} is not a rule: {why}; write the name of a tool, such as Read or mcp__github__*, or a tool with a pattern, \
     such as Bash(git diff:*), Read(src/**) or WebFetch(domain:example.com)"
)]
pub struct InvalidRule {
    rule: String,
    why: String,
}

/// How a rule is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// It allows: in doubt it does not fit.
    Grants,
    /// It forbids: in doubt it fits.
    Takes,
}

/// A call, as rules see it.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The tool.
    pub tool: &'a str,
    /// Its arguments.
    pub arguments: &'a Value,
    /// The working directory, against which absolute paths are taken.
    pub workspace: Option<&'a Path>,
}

#[derive(Debug, Clone)]
enum Name {
    Exact(String),
    /// Everything that begins so.
    Prefix(String),
}

#[derive(Debug, Clone)]
enum Pattern {
    Command(command::Pattern),
    Path {
        matcher: GlobMatcher,
        /// The directory that all matches are in.
        within: PathBuf,
    },
    /// The agents that may be called.
    Agents(Vec<String>),
    /// The host, or what every subdomain ends with.
    Domain {
        host: String,
        subdomains: bool,
    },
}

impl Rule {
    /// Reads a rule.
    ///
    /// # Errors
    /// [`InvalidRule`], which says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, InvalidRule> {
        let fail = |why: &str| InvalidRule { rule: text.chars().take(200).collect(), why: why.to_owned() };
        let trimmed = text.trim();
        let (name, pattern) = match trimmed.split_once('(') {
            None => (trimmed, None),
            Some((name, rest)) => {
                (name, Some(rest.strip_suffix(')').ok_or_else(|| fail("its parenthesis is not closed"))?.trim()))
            }
        };
        if name.is_empty() {
            return Err(fail("it names no tool"));
        }
        let plain = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
        let parsed = match name.strip_suffix('*') {
            None if !plain(name) => return Err(fail("the name of the tool has characters that no tool has")),
            // The name of a server stands for all of its tools.
            None if name.strip_prefix("mcp__").is_some_and(|rest| !rest.contains("__")) => {
                Name::Prefix(format!("{name}__"))
            }
            None => Name::Exact(name.to_owned()),
            Some(prefix) if prefix.starts_with("mcp__") && plain(prefix) => Name::Prefix(prefix.to_owned()),
            Some(_) => return Err(fail("only the tools of MCP servers can be named with *")),
        };
        // Without a restriction, a pattern is none.
        let pattern = match pattern.filter(|pattern| !matches!(*pattern, "*" | "**" | ":*")) {
            None => None,
            Some("") => return Err(fail("its pattern is empty")),
            Some(pattern) => Some(Pattern::parse(name, pattern).map_err(|why| fail(&why))?),
        };
        Ok(Self { text: trimmed.to_owned(), name: parsed, pattern })
    }

    /// Says why a rule that can be read is not taken here.
    pub(super) fn refused(&self, why: &str) -> InvalidRule {
        InvalidRule { rule: self.text.clone(), why: why.to_owned() }
    }

    /// The rule as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the rule is about this tool, whatever its arguments.
    pub fn names(&self, tool: &str) -> bool {
        match &self.name {
            Name::Exact(name) => name == tool,
            Name::Prefix(prefix) => tool.starts_with(prefix.as_str()),
        }
    }

    /// Whether the rule is about every call of the tools that it names.
    pub fn is_about_all_calls(&self) -> bool {
        self.pattern.is_none()
    }

    /// The MCP server that the rule names, if it names one.
    pub fn mcp_server(&self) -> Option<&str> {
        let (Name::Exact(name) | Name::Prefix(name)) = &self.name;
        let server = name.strip_prefix("mcp__")?.split("__").next()?;
        (!server.is_empty()).then_some(server)
    }

    /// Whether the rule fits a call.
    pub fn fits(&self, subject: Subject<'_>, reading: Reading) -> bool {
        self.names(subject.tool) && self.pattern.as_ref().is_none_or(|pattern| pattern.fits(subject, reading))
    }
}

impl Pattern {
    fn parse(tool: &str, pattern: &str) -> Result<Self, String> {
        if tool == "Bash" {
            return command::Pattern::parse(pattern).map(Self::Command);
        }
        if tool == super::agent::AGENT {
            return Ok(Self::Agents(pattern.split(',').map(|name| name.trim().to_owned()).collect()));
        }
        if tool == "WebFetch" {
            let host = pattern.strip_prefix("domain:").ok_or("a pattern of WebFetch begins with domain:")?;
            let host = host.trim().to_ascii_lowercase();
            let (host, subdomains) = match host.strip_prefix("*.") {
                Some(rest) => (rest.to_owned(), true),
                None => (host, false),
            };
            let valid = |c: char| c.is_alphanumeric() || matches!(c, '-' | '.' | ':' | '[' | ']' | '_');
            if host.is_empty() || !host.chars().all(valid) {
                return Err("what follows domain: is no host name".to_owned());
            }
            return Ok(Self::Domain { host, subdomains });
        }
        if PATH_TOOLS.iter().any(|(name, _)| *name == tool) {
            let relative = pattern.trim_start_matches("./");
            if relative.starts_with('/') || relative.split('/').any(|part| part == "..") {
                return Err("paths are relative to the working directory and do not leave it".to_owned());
            }
            let plain = |part: &&str| !part.contains(['*', '?', '[', '{', '\\']);
            let within = relative.split('/').take_while(plain).collect();
            return super::glob::matcher(relative).map(|matcher| Self::Path { matcher, within });
        }
        Err(format!("{tool} takes no pattern"))
    }

    fn fits(&self, subject: Subject<'_>, reading: Reading) -> bool {
        let text = |name: &str| subject.arguments.get(name).and_then(Value::as_str);
        match self {
            Self::Command(pattern) => text("command").is_some_and(|command| pattern.fits(command, reading)),
            Self::Agents(names) => {
                text(super::agent::SUBAGENT_TYPE).is_some_and(|name| names.iter().any(|other| other == name))
            }
            Self::Domain { host, subdomains } => {
                let url = text("url").and_then(|url| reqwest::Url::parse(url).ok());
                let Some(actual) = url.as_ref().and_then(|url| url.host_str()) else { return false };
                let actual = actual.trim_end_matches('.').to_ascii_lowercase();
                if *subdomains {
                    actual.strip_suffix(host.as_str()).is_some_and(|rest| rest.ends_with('.'))
                } else {
                    actual == *host
                }
            }
            Self::Path { matcher, within } => {
                let argument = PATH_TOOLS.iter().find(|(name, _)| *name == subject.tool).map(|(_, argument)| *argument);
                let path = argument.and_then(text).unwrap_or(".");
                let Some(path) = plain_path(path, subject.workspace, reading) else {
                    // It cannot be told which file this is.
                    return reading == Reading::Takes;
                };
                // A search comes by all that is below its path.
                let searches = matches!(subject.tool, "Glob" | "Grep") && reading == Reading::Takes;
                matcher.is_match(&path)
                    // `src/**` is about the directory itself as well.
                    || matcher.is_match(path.join("."))
                    || searches && (within.starts_with(&path) || path.starts_with(within))
            }
        }
    }
}

/// A path relative to the working directory, without dots, as far as its text tells.
fn plain_path(path: &str, workspace: Option<&Path>, reading: Reading) -> Option<PathBuf> {
    let given = Path::new(path);
    let inside = if given.is_absolute() { given.strip_prefix(workspace?).ok()? } else { given };
    let mut plain = PathBuf::new();
    for part in inside.components() {
        match part {
            // Through a link, `..` leads elsewhere than it looks.
            Component::ParentDir if reading == Reading::Grants => return None,
            Component::ParentDir => {
                plain.pop();
            }
            Component::Normal(name) => plain.push(name),
            _ => {}
        }
    }
    Some(plain)
}

/// Whether a class lets more happen than `once`, so that its rule must fit beyond doubt.
fn reading_for(effect: Effect) -> Reading {
    if effect == Effect::Once { Reading::Takes } else { Reading::Grants }
}

#[cfg(test)]
mod tests;
