#![allow(clippy::unwrap_used, clippy::panic)]

use proptest::prelude::*;
use serde_json::json;

use super::direction::{combine, direction};
use super::*;
use crate::config::{Config, Guards, SandboxMode, Size};
use crate::diagnostic::Diagnostics;
use crate::document::Node;
use crate::journal::{GuardThen, HookEvent};

fn under(organisation: &str, project: &str) -> (Option<Config>, Diagnostics) {
    let mut out = Diagnostics::new();
    let above = organisation_of(organisation, &mut out);
    let config = Config::parse(&SourceFile::new("teamster.yaml", project), above, &mut out);
    (config, out)
}

fn organisation_of(text: &str, out: &mut Diagnostics) -> Vec<(Layer, crate::config::Hooks)> {
    organisation(&SourceFile::new("/etc/teamster/policy.yaml", text), out).into_iter().collect()
}

const ORGANISATION: &str =
    "permissions: { deny: ['Bash(rm:*)'], mode: default, votes: 2, approvers: [ann, bob, cem], expires: 4h }
limits: { input: 100KiB, queue_depth: 99999999999 }
sandbox: { mode: require, run: { network: false, write: [/srv] }, mcp: { memory: 1GiB } }
hooks: { PreToolUse: [{ hooks: [{ type: command, command: above }] }] }
budgets: { all: { usd: 100, every: 1d } }
guards: { keys: { on: output, patterns: [sk-], then: ask, required: true }, rude: { on: input, judge: { prompt: Rude?, model: haiku } } }
";

#[test]
fn a_project_has_what_its_organisation_says_and_what_it_tightens_itself() {
    let project = "permissions: { deny: [Write], approvers: [cem, bob], expires: 1h }
limits: { journal: 1MiB }
sandbox: { run: { write: [/srv/a] } }
mcp_servers: { m: { command: [m], sandbox: { memory: 100MiB } } }
hooks: { PreToolUse: [{ hooks: [{ type: command, command: below }] }] }
";
    let (config, out) = under(ORGANISATION, project);
    assert_eq!(out.errors(), 0, "{out}");
    let config = config.unwrap();
    let permissions = &config.permissions;
    assert_eq!((permissions.votes, permissions.expires.to_string().as_str()), (2, "1h"));
    assert_eq!(
        (&permissions.approvers, &permissions.deny),
        (&vec!["cem".to_owned(), "bob".to_owned()], &vec!["Write".to_owned()])
    );
    assert_eq!((config.limits.input, config.limits.journal), (Size(100 << 10), Size(1 << 20)));
    assert_eq!(config.limits.queue_depth, 10_000_000, "a ceiling is no word for more than the default");
    let run = config.sandbox.run();
    assert!(run.mode == SandboxMode::Require && !run.network);
    assert_eq!(json!(run.write), json!(["/srv/a"]));
    assert_eq!(config.sandbox.bash().mode, SandboxMode::Require);
    let hooks: Vec<String> = config.hooks.about(HookEvent::PreToolUse, "Bash").map(|hook| hook.name()).collect();
    assert_eq!(hooks, ["above", "below"]);
    assert!(config.budgets.contains_key("all"));
    assert!(config.guards["keys"].required && config.guards["keys"].then == GuardThen::Ask);
    assert_eq!(config.guards["rude"].judge().unwrap().system, "Rude?");
    assert_eq!(config.policy[0].permissions().deny, ["Bash(rm:*)"]);
}

#[test]
fn what_would_lift_a_ceiling_is_an_error_that_names_both_places() {
    let table = [
        ("permissions: { votes: 1 }", "permissions.votes"),
        ("permissions: { expires: 5h }", "permissions.expires"),
        ("permissions: { approvers: [ann, eve] }", "permissions.approvers"),
        ("permissions: { approvers: [] }", "permissions.approvers"),
        ("permissions: { mode: acceptEdits }", "permissions.mode"),
        ("limits: { input: 1MiB }", "limits.input"),
        ("sandbox: { mode: prefer }", "sandbox.bash.mode"),
        ("sandbox: { bash: { mode: 'off' } }", "sandbox.bash.mode"),
        ("sandbox: { run: { network: true } }", "sandbox.run.network"),
        ("sandbox: { run: { write: [/srv, /home] } }", "sandbox.run.write"),
        ("mcp_servers: { m: { command: [m], sandbox: { memory: 2GiB } } }", "mcp_servers.m.sandbox.memory"),
        ("mcp_servers: { m: { command: [m], sandbox: { mode: 'off' } } }", "mcp_servers.m.sandbox.mode"),
        ("budgets: { all: { usd: 1000 } }", "budgets.all"),
        ("guards: { keys: { then: mark } }", "guards.keys"),
        ("guards: { keys: { required: false } }", "guards.keys"),
        ("guards: { keys: { on: output, patterns: [sk-live-] } }", "guards.keys"),
        ("guards: { keys: { on: output, schema: {} } }", "guards.keys"),
        ("guards: { rude: { then: ask } }", "guards.rude"),
        ("guards: { rude: { on: input, judge: agent } }", "guards.rude"),
    ];
    for (project, key) in table {
        let (config, out) = under(ORGANISATION, project);
        assert!(config.is_none(), "{project}");
        let error = out.iter().next().unwrap();
        assert_eq!((error.file.as_str(), error.line), ("teamster.yaml", Some(1)), "{project}: {out}");
        assert!(error.message.contains(&format!("`{key}: ")), "{project}: {out}");
        assert!(error.help.as_ref().unwrap().contains("/etc/teamster/policy.yaml:"), "{project}: {out}");
    }
}

#[test]
fn lower_layers_add_guards_and_make_their_end_stricter() {
    let project = "guards: { keys: { then: fail }, own: { on: output, patterns: [x], then: mark } }\n";
    let (config, out) = under(ORGANISATION, project);
    assert_eq!(out.errors(), 0, "{out}");
    let config = config.unwrap();
    let ends = |guards: &Guards| -> Vec<(String, GuardThen, bool)> {
        guards.iter().map(|(name, guard)| (name.clone(), guard.then, guard.required)).collect()
    };
    let expected = [
        ("keys".to_owned(), GuardThen::Fail, true),
        ("own".to_owned(), GuardThen::Mark, false),
        ("rude".to_owned(), GuardThen::Fail, false),
    ];
    assert_eq!(ends(&config.guards), expected);
    assert!(config.guards["keys"].look(&json!("sk-1")).is_some());
    let mut out = Diagnostics::new();
    let text = "guards: { own: { then: ask }, team: { on: input, patterns: [y] } }\n";
    let (of_team, _) = team(&SourceFile::new("teams/sales.yaml", text), &mut out).unwrap();
    let expected = [
        ("keys".to_owned(), GuardThen::Fail, true),
        ("own".to_owned(), GuardThen::Ask, true),
        ("rude".to_owned(), GuardThen::Fail, false),
        ("team".to_owned(), GuardThen::Fail, true),
    ];
    assert_eq!(ends(&of_team.guards(&config.guards)), expected);
    // A milder end does not count, also in a definition that was checked under other files.
    let (milder, _) = team(&SourceFile::new("teams/a.yaml", "guards: { keys: { then: mark } }"), &mut out).unwrap();
    assert_eq!(milder.guards(&config.guards)["keys"].then, GuardThen::Fail);
    assert!(out.is_empty(), "{out}");
}

#[test]
fn every_value_says_where_it_is_from() {
    let (config, _) = under(ORGANISATION, "permissions:\n  deny: [Write]\n");
    let config = config.unwrap();
    let mut out = Diagnostics::new();
    let of_team = SourceFile::new("teams/sales.yaml", "permissions: { ask: [Bash], votes: 3 }\n");
    let (of_team, _) = team(&of_team, &mut out).unwrap();
    let pipeline = SourceFile::new("pipelines/p.yaml", "name: p\npermissions: { expires: 30m }\nbudget: { usd: 1 }\n");
    let of_task = task(&Node::parse(&pipeline).unwrap(), &pipeline);
    let layers: Vec<&Layer> = config.policy.iter().chain([&of_team, &of_task]).collect();
    let merged = merge(&layers, &defaults());
    assert!(merged.lifts.is_empty() && out.is_empty());
    let from = |key: &str| -> Vec<String> {
        let found = merged.settings.iter().filter(|setting| setting.key == key);
        found.map(|setting| format!("{} {} {}", setting.value, setting.layer, setting.place())).collect()
    };
    let rules = ["\"Bash(rm:*)\" organisation /etc/teamster/policy.yaml:1", "\"Write\" project teamster.yaml:2"];
    assert_eq!(from("permissions.deny"), rules);
    assert_eq!(from("permissions.votes"), ["3 team teams/sales.yaml:1"]);
    assert_eq!(from("permissions.expires"), ["\"30m\" task pipelines/p.yaml:2"]);
    assert_eq!(from("budget.usd"), ["1 task pipelines/p.yaml:3"]);
    assert_eq!(from("limits.json_depth"), ["64 default "]);
    assert_eq!(from("sandbox.bash.mode"), ["\"require\" organisation /etc/teamster/policy.yaml:3"]);
    let above = config.permissions;
    let held = of_task.tighten(&of_team.tighten(&above));
    assert_eq!((held.votes, held.expires.to_string().as_str(), &held.approvers), (3, "30m", &above.approvers));
}

#[test]
fn what_is_no_policy_has_no_place_in_its_files() {
    for text in [
        "models: {}",
        "permissions: { votes: many }",
        "hooks: { Start: [] }",
        "sandbox: 1",
        "guards: { a: { then: ask } }",
        "guards: { a: { on: input, schema: schemas/a.json } }",
        "guards: { a: { on: input, judge: agent } }",
    ] {
        let mut out = Diagnostics::new();
        assert!(organisation_of(text, &mut out).is_empty() && out.has_errors(), "{text}");
    }
    for text in [
        "limits: {}",
        "sandbox: {}",
        "budget: { usd: 0 }",
        "guards: { a: }",
        "guards: { a: { required: false } }",
        "guards: { a: { on: input, judge: agent } }",
    ] {
        let mut out = Diagnostics::new();
        assert!(team(&SourceFile::new("teams/a.yaml", text), &mut out).is_none() && out.has_errors(), "{text}");
    }
}

fn setting() -> impl Strategy<Value = (&'static str, Value)> {
    let people = prop::sample::subsequence(vec!["ann", "bob", "cem"], 0..=3);
    let places = prop::sample::subsequence(vec!["/", "/srv", "/srv/a", "/home"], 0..=4);
    prop_oneof![
        (1..=5_u32).prop_map(|votes| ("permissions.votes", json!(votes))),
        (1..=48_u32).prop_map(|hours| ("permissions.expires", json!(format!("{hours}h")))),
        any::<bool>().prop_map(|allowed| ("permissions.allow_bypass", json!(allowed))),
        people.prop_map(|people| ("permissions.approvers", json!(people))),
        prop::sample::select(vec!["plan", "dontAsk", "default", "acceptEdits", "bypassPermissions"])
            .prop_map(|mode| ("permissions.mode", json!(mode))),
        (1..=9_u32).prop_map(|size| ("limits.input", json!(format!("{size}KiB")))),
        prop::sample::select(vec!["off", "prefer", "require"]).prop_map(|mode| ("sandbox.bash.mode", json!(mode))),
        any::<bool>().prop_map(|open| ("sandbox.run.network", json!(open))),
        places.prop_map(|places| ("sandbox.run.write", json!(places))),
        (prop::sample::select(vec!["mark", "ask", "fail"]), any::<bool>()).prop_map(|(then, required)| {
            ("guards.keys", json!({"on": "output", "patterns": ["sk-"], "then": then, "required": required}))
        }),
        (1..=9_u32).prop_map(|size| ("sandbox.mcp.memory", json!(format!("{size}GiB")))),
    ]
}

fn layer(level: Level, settings: Vec<(&'static str, Value)>) -> Layer {
    let said: std::collections::BTreeMap<_, _> = settings.into_iter().collect();
    let file = SourceFile::new(level.as_str(), "");
    let of = |(key, value): (&str, Value)| Setting {
        key: key.to_owned(),
        value,
        layer: level,
        file: level.as_str().to_owned(),
        line: Some(1),
        at: None,
    };
    Layer { level, file, settings: said.into_iter().map(of).collect() }
}

proptest! {
    #[test]
    fn no_merge_of_any_layers_lifts_what_a_layer_says(
        layers in prop::collection::vec(prop::collection::vec(setting(), 0..8), 1..5)
    ) {
        let levels = [Level::Organisation, Level::Project, Level::Team, Level::Task];
        let layers: Vec<Layer> =
            levels.into_iter().zip(layers).map(|(level, settings)| layer(level, settings)).collect();
        let all: Vec<&Layer> = layers.iter().collect();
        let merged = merge(&all, &defaults());
        // What holds would lift nothing that any layer says whose word counts at all.
        let lifted = |setting: &Setting| merged.lifts.iter().any(|lift| &lift.lower == setting);
        for said in layers.iter().flat_map(|layer| &layer.settings).filter(|setting| !lifted(setting)) {
            let holds = merged.settings.iter().find(|setting| setting.key == said.key).unwrap();
            let combined = combine(direction(&said.key).unwrap(), &said.value, &holds.value);
            prop_assert!(!combined.lifts, "{said:?} {holds:?}");
        }
        // And the more layers, the less may happen.
        for count in 1..all.len() {
            let fewer = merge(&all[..count], &defaults());
            for upper in fewer.settings.iter().filter(|setting| setting.layer != Level::Default) {
                let holds = merged.settings.iter().find(|setting| setting.key == upper.key).unwrap();
                let combined = combine(direction(&upper.key).unwrap(), &upper.value, &holds.value);
                prop_assert!(!combined.lifts, "{upper:?} {holds:?}");
            }
        }
    }
}
