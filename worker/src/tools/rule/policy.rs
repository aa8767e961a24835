//! What becomes of a call: the agent's own lists, the rules of the
//! installation and the mode, in one place. Deny beats ask beats allow, and of
//! several layers of policy the strictest holds.

use std::sync::Arc;

use common::config::{self, PermissionMode};

use super::{InvalidRule, Permissions, Reading, Rule, Subject, Verdict};
use crate::tools::agent::AGENT;

/// Tools that only read, whatever they are called with.
const READING: [&str; 3] = ["Read", "Glob", "Grep"];
/// Tools that change files of the working directory.
const EDITING: [&str; 2] = ["Write", "Edit"];

/// The rules of an installation.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    allow: Vec<Rule>,
    ask: Vec<Rule>,
    deny: Vec<Rule>,
    trust: Vec<Rule>,
}

impl Rules {
    /// From `permissions:` of `teamster.yaml`.
    ///
    /// # Errors
    /// The first text that is no rule, or one that would not be heeded here.
    pub fn parse(permissions: &config::Permissions) -> Result<Self, InvalidRule> {
        let rule = |text: &String| {
            let rule = Rule::parse(text)?;
            if rule.names(AGENT) {
                let why = "whom an agent may call is said by `tools` and `disallowedTools` of its own file".to_owned();
                return Err(InvalidRule { rule: text.clone(), why });
            }
            Ok(rule)
        };
        let rules = |texts: &[String]| texts.iter().map(rule).collect::<Result<Vec<_>, _>>();
        Ok(Self {
            allow: rules(&permissions.allow)?,
            ask: rules(&permissions.ask)?,
            deny: rules(&permissions.deny)?,
            trust: rules(&permissions.trust)?,
        })
    }
}

/// What one layer of policy says of all agents under it, whatever is said below.
#[derive(Debug, Clone)]
pub struct Tier {
    rules: Rules,
    mode: Option<PermissionMode>,
    all: Permissions,
}

impl Tier {
    /// From `permissions:` of a layer.
    ///
    /// # Errors
    /// As [`Rules::parse`].
    pub fn parse(permissions: &config::Permissions) -> Result<Self, InvalidRule> {
        Ok(Self { rules: Rules::parse(permissions)?, mode: permissions.mode, all: Permissions::default() })
    }

    fn verdict(&self, subject: Subject<'_>) -> Verdict {
        let alone = Policy { own: &self.all, rules: &self.rules, mode: self.mode, tiers: &[] };
        match alone.verdict(subject) {
            // What a hook below allows lifts nothing here.
            Verdict::Unruled(why) => Verdict::Asks(why),
            verdict => verdict,
        }
    }
}

/// What one agent may do in an installation.
#[derive(Debug, Clone)]
pub struct Policy<'a> {
    /// What its own file says.
    pub own: &'a Permissions,
    /// What the installation says.
    pub rules: &'a Rules,
    /// How everything else is judged; `None`: what its own file allows is allowed.
    pub mode: Option<PermissionMode>,
    /// Other layers of policy: each judges for itself, and the strictest verdict holds.
    pub tiers: &'a [Arc<Tier>],
}

impl Policy<'_> {
    /// Whether an agent is told of a tool: some of its calls may be made.
    pub fn offers(&self, tool: &str) -> bool {
        let mut deny = self.all_rules().flat_map(|rules| &rules.deny);
        !deny.any(|rule| rule.names(tool) && rule.is_about_all_calls()) && self.own.offers(tool)
    }

    /// Whether rules tell calls of the tool apart by their arguments.
    pub fn is_about_calls_of(&self, tool: &str) -> bool {
        let mut rules = self.all_rules().flat_map(|Rules { allow, ask, deny, .. }| allow.iter().chain(ask).chain(deny));
        self.own.is_about_calls_of(tool) || rules.any(|rule| rule.names(tool) && !rule.is_about_all_calls())
    }

    fn all_rules(&self) -> impl Iterator<Item = &Rules> {
        std::iter::once(self.rules).chain(self.tiers.iter().map(|tier| &tier.rules))
    }

    /// Whether a call is made without a question although its agent has read text of strangers.
    pub fn trusts(&self, subject: Subject<'_>) -> bool {
        self.mode == Some(PermissionMode::BypassPermissions)
            || self.rules.trust.iter().any(|rule| rule.fits(subject, Reading::Grants))
    }

    /// What becomes of a call.
    pub fn verdict(&self, subject: Subject<'_>) -> Verdict {
        let of_tiers = self.tiers.iter().map(|tier| tier.verdict(subject));
        let strictest = |a: Verdict, b: Verdict| if strictness(&b) > strictness(&a) { b } else { a };
        match of_tiers.fold(self.own_verdict(subject), strictest) {
            Verdict::Asks(why) => self.asks(why),
            verdict => verdict,
        }
    }

    /// As the agent's own lists, the rules of the installation and the mode say.
    fn own_verdict(&self, subject: Subject<'_>) -> Verdict {
        let taken = |rule: &&Rule| rule.fits(subject, Reading::Takes);
        if let Some(rule) = self.rules.deny.iter().find(taken).map(Rule::text) {
            return Verdict::Refused(format!("the rule {rule} of this installation forbids this call"));
        }
        match self.own.verdict(subject) {
            Verdict::Allowed => {}
            other => return other,
        }
        let reads = READING.contains(&subject.tool);
        if self.mode == Some(PermissionMode::Plan) && !reads {
            return Verdict::Refused("in plan mode nothing is called that may change something".to_owned());
        }
        if let Some(rule) = self.rules.ask.iter().find(taken).map(Rule::text) {
            let why = format!("the rule {rule} asks");
            return self.asks(why);
        }
        match self.mode {
            None | Some(PermissionMode::BypassPermissions) => Verdict::Allowed,
            Some(PermissionMode::AcceptEdits) if EDITING.contains(&subject.tool) => Verdict::Allowed,
            Some(_) if reads || self.rules.allow.iter().any(|rule| rule.fits(subject, Reading::Grants)) => {
                Verdict::Allowed
            }
            Some(_) => match self.asks("no rule allows it".to_owned()) {
                Verdict::Asks(why) => Verdict::Unruled(why),
                refused => refused,
            },
        }
    }

    /// What becomes of a call that a person is to be asked about.
    pub fn asks(&self, why: String) -> Verdict {
        let nobody = Some(PermissionMode::DontAsk);
        if self.mode == nobody || self.tiers.iter().any(|tier| tier.mode == nobody) {
            return Verdict::Refused(format!("a person would have to be asked ({why}), and nobody is in this mode"));
        }
        Verdict::Asks(why)
    }
}

/// How little a verdict lets happen.
const fn strictness(verdict: &Verdict) -> u8 {
    match verdict {
        Verdict::Allowed => 0,
        Verdict::Unruled(_) => 1,
        Verdict::Asks(_) => 2,
        Verdict::Refused(_) => 3,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// `allow`, `ask` and `deny` of the installation, `tools` and `disallowedTools` of the agent, by `|`.
    fn verdict(lists: &str, mode: Option<PermissionMode>, tool: &str, arguments: &Value) -> char {
        let lists: Vec<Vec<String>> = lists
            .split('|')
            .map(|list| list.split(';').map(str::trim).filter(|rule| !rule.is_empty()).map(str::to_owned).collect())
            .collect();
        let [allow, ask, deny, tools, disallowed] = lists.try_into().unwrap();
        let own = Permissions::parse((!tools.is_empty()).then_some(&tools[..]), &disallowed).unwrap();
        let rules = Rules::parse(&config::Permissions { allow, ask, deny, ..config::Permissions::default() }).unwrap();
        match (Policy { own: &own, rules: &rules, mode, tiers: &[] }).verdict(Subject {
            tool,
            arguments,
            workspace: None,
        }) {
            Verdict::Allowed => '+',
            Verdict::Asks(_) | Verdict::Unruled(_) => '?',
            Verdict::Refused(_) => '-',
        }
    }

    #[test]
    fn a_rule_about_calling_agents_is_refused_rather_than_ignored() {
        for text in ["Agent", "Agent(helper)"] {
            let deny = config::Permissions { deny: vec![text.to_owned()], ..config::Permissions::default() };
            assert!(Rules::parse(&deny).unwrap_err().to_string().contains("disallowedTools"), "{text}");
        }
    }

    #[test]
    fn permissions_are_as_the_truth_table_says() {
        use PermissionMode::{AcceptEdits, BypassPermissions, Default, DontAsk, Plan};
        let modes = [None, Some(Default), Some(AcceptEdits), Some(Plan), Some(DontAsk), Some(BypassPermissions)];
        let bash = |command: &str| ("Bash", json!({"command": command}));
        let read = |path: &str| ("Read", json!({"file_path": path}));
        let write = |path: &str| ("Write", json!({"file_path": path, "content": ""}));
        let fetch = |host: &str| ("WebFetch", json!({"url": format!("https://{host}/x")}));
        let crm = ("mcp__crm__write", json!({}));
        // allow | ask | deny of the installation | tools | disallowedTools of the agent, the call, and what becomes of
        // it in each mode: none, default, acceptEdits, plan, dontAsk, bypassPermissions.
        let table = [
            ("||||", read("a"), "++++++"),
            ("||||", ("Glob", json!({"pattern": "*"})), "++++++"),
            ("||||", ("Grep", json!({"pattern": "x"})), "++++++"),
            ("||||", write("a"), "+?+--+"),
            ("||||", ("Edit", json!({"file_path": "a"})), "+?+--+"),
            ("||||", bash("ls"), "+??--+"),
            ("||||", fetch("a.example"), "+??--+"),
            ("||||", crm.clone(), "+??--+"),
            // What is allowed is not asked, whatever allows more of it.
            ("Bash||||", bash("ls"), "+++-++"),
            ("Bash(git diff:*)||||", bash("git diff HEAD"), "+++-++"),
            ("Bash(git diff:*)||||", bash("git push"), "+??--+"),
            ("Bash(git diff:*)||||", bash("git diff; git push"), "+??--+"),
            ("WebFetch(domain:a.example)||||", fetch("a.example"), "+++-++"),
            ("WebFetch(domain:a.example)||||", fetch("b.example"), "+??--+"),
            ("mcp__crm__*||||", crm.clone(), "+++-++"),
            ("mcp__crm||||", crm.clone(), "+++-++"),
            ("mcp__mail__*||||", crm.clone(), "+??--+"),
            ("Write(out/**)||||", write("out/a"), "+++-++"),
            ("Write(out/**)||||", write("src/a"), "+?+--+"),
            // Ask beats allow, and also where everything else is allowed.
            ("|Bash|||", bash("ls"), "???--?"),
            ("Bash|Bash|||", bash("ls"), "???--?"),
            ("Bash|Bash(git push:*)|||", bash("git push"), "???--?"),
            ("Bash|Bash(git push:*)|||", bash("true && git push"), "???--?"),
            ("Bash|Bash(git push:*)|||", bash("git diff"), "+++-++"),
            ("|Read(secrets/**)|||", read("secrets/a"), "????-?"),
            ("|Read(secrets/**)|||", read("src/a"), "++++++"),
            ("|Write|||", write("a"), "???--?"),
            ("|mcp__crm__*|||", crm.clone(), "???--?"),
            ("|WebFetch(domain:*.a.example)|||", fetch("b.a.example"), "???--?"),
            // Deny beats ask and allow.
            ("||Bash||", bash("ls"), "------"),
            ("Bash|Bash|Bash||", bash("ls"), "------"),
            ("Bash||Bash(rm:*)||", bash("rm x"), "------"),
            ("Bash||Bash(rm:*)||", bash("ls; rm x"), "------"),
            ("Bash||Bash(rm:*)||", bash("ls"), "+++-++"),
            ("||Read(.env)||", read(".env"), "------"),
            ("||Read(.env)||", read("./x/../.env"), "------"),
            ("||Read(.env)||", read("env"), "++++++"),
            ("mcp__crm__*||mcp__crm__write||", crm.clone(), "------"),
            ("mcp__crm__*||mcp__crm__drop||", crm.clone(), "+++-++"),
            ("||WebFetch(domain:a.example)||", fetch("a.example"), "------"),
            // The agent's own lists come before all of that, and grant nothing that a mode asks about.
            ("|||Read|", bash("ls"), "------"),
            ("Bash|||Read|", bash("ls"), "------"),
            ("|||Bash|", bash("ls"), "+??--+"),
            ("Bash|||Bash|", bash("ls"), "+++-++"),
            ("|||Bash(git diff:*)|", bash("git diff"), "+??--+"),
            ("|||Bash(git diff:*)|", bash("git push"), "------"),
            ("||||Bash", bash("ls"), "------"),
            ("Bash||||Bash(rm:*)", bash("rm x"), "------"),
            ("Bash||||Bash(rm:*)", bash("ls"), "+++-++"),
            ("|Bash||Bash|Bash", bash("ls"), "------"),
            ("|||Read; Write|", write("a"), "+?+--+"),
            ("|||mcp__crm__*|", crm.clone(), "+??--+"),
            ("|||mcp__mail__*|", crm.clone(), "------"),
            // Several rules: the strictest that fits.
            ("Bash(git:*)|Bash(git push:*)|Bash(git push --force:*)||", bash("git status"), "+++-++"),
            ("Bash(git:*)|Bash(git push:*)|Bash(git push --force:*)||", bash("git push"), "???--?"),
            ("Bash(git:*)|Bash(git push:*)|Bash(git push --force:*)||", bash("git push --force"), "------"),
            ("Write(out/**)|Write(out/final/**)|||", write("out/final/a"), "???--?"),
            ("Write(out/**)|Write(out/final/**)|||", write("out/a"), "+++-++"),
            ("Read|Read(a/**)|Read(a/b/**)||", read("a/b/c"), "------"),
            ("Read|Read(a/**)|Read(a/b/**)||", read("a/c"), "????-?"),
            ("Read|Read(a/**)|Read(a/b/**)||", read("c"), "++++++"),
            ("mcp__crm__read|mcp__crm__write|||", crm, "???--?"),
        ];
        assert!(table.len() >= 60);
        for (lists, (tool, arguments), expected) in table {
            let found: String = modes.iter().map(|mode| verdict(lists, *mode, tool, &arguments)).collect();
            assert_eq!(found, expected, "{lists}  {tool} {arguments}");
        }
    }

    fn lists() -> impl Strategy<Value = config::Permissions> {
        use PermissionMode::{AcceptEdits, BypassPermissions, Default, DontAsk, Plan};
        let rules = ["Bash", "Bash(git:*)", "Bash(git push:*)", "Read", "Read(a/**)", "Write", "mcp__crm__*"];
        let list = || prop::collection::vec(prop::sample::select(rules.map(str::to_owned).to_vec()), 0..3);
        let modes = vec![None, Some(Default), Some(AcceptEdits), Some(Plan), Some(DontAsk), Some(BypassPermissions)];
        (list(), list(), list(), prop::sample::select(modes)).prop_map(|(allow, ask, deny, mode)| config::Permissions {
            allow,
            ask,
            deny,
            mode,
            ..config::Permissions::default()
        })
    }

    proptest! {
        #[test]
        fn no_merge_of_any_layers_allows_what_one_of_them_asks_about_or_refuses(
            layers in prop::collection::vec(lists(), 1..5),
            (tool, arguments) in prop::sample::select(vec![
                ("Bash", json!({"command": "git push"})),
                ("Bash", json!({"command": "git diff"})),
                ("Bash", json!({"command": "ls; git push"})),
                ("Read", json!({"file_path": "a/b"})),
                ("Write", json!({"file_path": "x", "content": ""})),
                ("mcp__crm__write", json!({})),
            ]),
        ) {
            let subject = Subject { tool, arguments: &arguments, workspace: None };
            let own = Permissions::default();
            let [lowest, above @ ..] = &layers[..] else { unreachable!() };
            let rules = Rules::parse(lowest).unwrap();
            let tiers: Vec<Arc<Tier>> = above.iter().map(|layer| Arc::new(Tier::parse(layer).unwrap())).collect();
            let policy = Policy { own: &own, rules: &rules, mode: lowest.mode, tiers: &tiers };
            let verdict = policy.verdict(subject);
            for layer in &layers {
                let rules = Rules::parse(layer).unwrap();
                let alone = Policy { own: &own, rules: &rules, mode: layer.mode, tiers: &[] };
                prop_assert!(strictness(&verdict) >= strictness(&alone.verdict(subject)), "{layer:?} {verdict:?}");
            }
            // What a hook may allow is asked about by the lowest layer alone.
            if let Verdict::Unruled(_) = verdict {
                prop_assert!(tiers.iter().all(|tier| tier.verdict(subject) == Verdict::Allowed));
            }
        }
    }
}
