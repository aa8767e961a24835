//! Which calls are made with private values: what rules name, and nothing else.

use std::path::Path;

use common::config::Config;
use common::failure::{Failure, FailureClass};
use common::journal::SealedValues;
use common::private::Private;
use serde_json::Value;

use super::rule::{InvalidRule, Reading, Rule, Subject};
use super::search;

/// The tool of commands for a shell: a value put into one could go on as another command.
const SHELL: &str = "Bash";
/// The argument that is an address, of tools that have one.
const URL: &str = "url";
/// Tools whose argument `url` is an address: values are escaped in it.
const ADDRESSED: [&str; 2] = ["http", "WebFetch"];

/// The private data of an installation, and the calls that may have it.
#[derive(Debug)]
pub struct PrivateData {
    private: Private,
    rules: Vec<Rule>,
}

/// The rules for calls that are made with private values.
///
/// # Errors
/// The first text that is no rule, or that names what must not have them.
pub fn rules(texts: &[String]) -> Result<Vec<Rule>, InvalidRule> {
    let rule = |text: &String| {
        let rule = Rule::parse(text)?;
        let why = if rule.names(SHELL) {
            "a private value that is put into a command of a shell could go on as another command; give it to a `run` step"
        } else if rule.names(super::agent::AGENT) {
            "what an agent is told stays sealed: name the tools that the agent calls"
        } else {
            return Ok(rule);
        };
        Err(rule.refused(why))
    };
    texts.iter().map(rule).collect()
}

impl PrivateData {
    /// From `private_data:`, if it is there.
    ///
    /// # Errors
    /// `configuration`: a missing key, a rule that cannot be read.
    pub fn from_config(config: &Config) -> Result<Option<Self>, Failure> {
        let Some(private) = &config.private_data else { return Ok(None) };
        let wrong = |what: String| Failure::new(FailureClass::Configuration, format!("teamster.yaml: {what}"));
        let private = Private::load(private).map_err(|error| wrong(error.to_string()))?;
        let rules =
            rules(private.tool_rules()).map_err(|error| wrong(format!("private_data.reveal.tools: {error}")))?;
        Ok(Some(Self { private, rules }))
    }

    /// What is private.
    pub const fn private(&self) -> &Private {
        &self.private
    }

    /// The arguments with their values, for a call that may have them.
    pub fn revealed(&self, tool: &str, arguments: &Value, workspace: &Path, sealed: &SealedValues) -> Option<Value> {
        // What was found by search is judged by its own name.
        let (name, own) = match arguments.get("name").and_then(Value::as_str) {
            Some(name) if tool == search::CALL => (name, arguments.get("arguments").unwrap_or(&Value::Null)),
            _ => (tool, arguments),
        };
        let subject = Subject { tool: name, arguments: own, workspace: Some(workspace) };
        if name == SHELL || !self.rules.iter().any(|rule| rule.fits(subject, Reading::Grants)) {
            return None;
        }
        let mut revealed = self.private.reveal(arguments, sealed);
        if ADDRESSED.contains(&tool)
            && let (Some(url), Some(place)) = (arguments.get(URL).and_then(Value::as_str), revealed.get_mut(URL))
        {
            *place = Value::String(self.private.reveal_url(url, sealed));
        }
        Some(revealed)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn rules_that_would_leak_are_refused() {
        for text in ["Bash", "Bash(git:*)", "Agent", "mcp__*x", ""] {
            assert!(rules(&[text.to_owned()]).is_err(), "{text}");
        }
        let texts = ["mcp__crm__*", "http", "run", "WebFetch(domain:crm.example)"].map(str::to_owned);
        assert_eq!(rules(&texts).unwrap().len(), 4);
    }
}
