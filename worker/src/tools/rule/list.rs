//! Lists of rules: what an agent may do, and what repeating a call may do.

use std::collections::BTreeMap;

use common::journal::Effect;

use super::{InvalidRule, Reading, Rule, Subject, reading_for};

/// What an agent may do: deny beats allow.
#[derive(Debug, Clone, Default)]
pub struct Permissions {
    /// `None`: everything that is not denied.
    allow: Option<Vec<Rule>>,
    deny: Vec<Rule>,
}

/// What becomes of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is made.
    Allowed,
    /// A person is asked first, for a reason that they are told.
    Asks(String),
    /// The same, only because nothing allows it: a hook may.
    Unruled(String),
    /// It is refused, for a reason that the model is told.
    Refused(String),
}

impl Permissions {
    /// From the texts of the lists.
    ///
    /// # Errors
    /// The first text that is no rule.
    pub fn parse(allow: Option<&[String]>, deny: &[String]) -> Result<Self, InvalidRule> {
        let rules = |texts: &[String]| texts.iter().map(|text| Rule::parse(text)).collect::<Result<Vec<_>, _>>();
        Ok(Self { allow: allow.map(rules).transpose()?, deny: rules(deny)? })
    }

    /// Allows one more rule, if not everything is allowed anyway.
    #[must_use]
    pub fn also_allowing(mut self, rule: Rule) -> Self {
        if let Some(allow) = &mut self.allow {
            allow.push(rule);
        }
        self
    }

    /// The rules of the allow list, if there is one.
    pub fn allow(&self) -> Option<&[Rule]> {
        self.allow.as_deref()
    }

    /// Whether an agent is offered a tool: some of its calls may be allowed.
    pub fn offers(&self, tool: &str) -> bool {
        self.allow.as_ref().is_none_or(|rules| rules.iter().any(|rule| rule.names(tool)))
            && !self.deny.iter().any(|rule| rule.names(tool) && rule.is_about_all_calls())
    }

    /// Whether rules tell calls of the tool apart by their arguments.
    pub fn is_about_calls_of(&self, tool: &str) -> bool {
        self.allow.iter().flatten().chain(&self.deny).any(|rule| rule.names(tool) && !rule.is_about_all_calls())
    }

    /// What becomes of a call.
    pub fn verdict(&self, subject: Subject<'_>) -> Verdict {
        if let Some(rule) = self.deny.iter().find(|rule| rule.fits(subject, Reading::Takes)) {
            return Verdict::Refused(format!("the rule {} forbids this call", rule.text()));
        }
        let Some(allow) = &self.allow else { return Verdict::Allowed };
        if allow.iter().any(|rule| rule.fits(subject, Reading::Grants)) {
            return Verdict::Allowed;
        }
        let about: Vec<&str> = allow.iter().filter(|rule| rule.names(subject.tool)).map(Rule::text).collect();
        Verdict::Refused(if about.is_empty() {
            format!("{} is not among the tools that may be used", subject.tool)
        } else {
            format!("this call does not fit what is allowed: {}", about.join(", "))
        })
    }
}

/// What repeating calls may do, by the operator's word: `effects:` in `teamster.yaml`.
#[derive(Debug, Clone, Default)]
pub struct Effects {
    /// The longest first; of equals, the stricter class first.
    rules: Vec<(Rule, Effect)>,
}

impl Effects {
    /// From the texts of the configuration.
    ///
    /// # Errors
    /// The first text that is no rule.
    pub fn parse(rules: &BTreeMap<String, Effect>) -> Result<Self, InvalidRule> {
        let strictness = |effect: Effect| match effect {
            Effect::Once => 0,
            Effect::Keyed => 1,
            Effect::Read => 2,
        };
        let mut rules =
            rules.iter().map(|(text, effect)| Ok((Rule::parse(text)?, *effect))).collect::<Result<Vec<_>, _>>()?;
        rules.sort_by_key(|(rule, effect)| (std::cmp::Reverse(rule.text().len()), strictness(*effect)));
        Ok(Self { rules })
    }

    /// The class of a call by the longest rule that fits, if one does.
    pub fn of(&self, subject: Subject<'_>) -> Option<Effect> {
        self.rules.iter().find(|(rule, effect)| rule.fits(subject, reading_for(*effect))).map(|(_, effect)| *effect)
    }
}
