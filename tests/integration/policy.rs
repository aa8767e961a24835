//! Policy in layers, through the real program and real workers: what is above
//! holds, and `teamster check` says what holds and who said it.

use common::journal::{CallResult, Event, GuardThen, Recorded};
use common::project::Project;
use serde_json::{Value, json};
use suite::binary;
use suite::fakes::model::{FakeModel, Message, Request};
use suite::fixtures::scheduler::RunningScheduler;
use suite::fixtures::worker::RunningWorker;
use suite::project::ProjectDir;

const AGENT: &str = "---\nname: clerk\ntools: Bash\nmodel: m\n---\nWork.\n";

fn pipeline(more: &str) -> String {
    format!("name: p\n{more}steps:\n  - {{ id: work, agent: clerk, prompt: Go. }}\n")
}

fn check(dir: &ProjectDir, policy: &std::path::Path, more: &[&str]) -> (i32, Value) {
    let place = dir.path().display().to_string();
    let mut arguments = vec!["check", &place, "--json"];
    arguments.extend(more);
    let output = binary::command(&arguments).unwrap().env("TEAMSTER_POLICY", policy).output().unwrap();
    let said = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output.status.code().unwrap(), said)
}

#[test]
fn check_says_what_holds_and_who_said_it_and_what_would_lift_a_ceiling() {
    let config = "models:\n  m: { provider: rehearsal, model: r }\nlimits: { input: 10KiB }\n";
    let own = pipeline("team: sales\npermissions: { expires: 30m }\n");
    let team = "permissions:\n  deny: [Write]\n  votes: 2\n";
    let files = [
        ("teamster.yaml", config),
        ("pipelines/p.yaml", own.as_str()),
        ("agents/clerk.md", AGENT),
        ("teams/sales.yaml", team),
        ("policy.yaml", "permissions: { deny: ['Bash(rm:*)'] }\nlimits: { journal: 1MiB }\n"),
    ];
    let dir = ProjectDir::new(&files);
    let policy = dir.path().join("policy.yaml");
    let (code, said) = check(&dir, &policy, &["--policy=p"]);
    assert_eq!(code, 0, "{said}");
    let holds = |key: &str| -> Vec<(Value, Value, Value)> {
        let all = said["policy"].as_array().unwrap().iter().filter(|setting| setting["key"] == key);
        all.map(|setting| (setting["value"].clone(), setting["layer"].clone(), setting["line"].clone())).collect()
    };
    let rows = |rows: &[(&str, &str, u32)]| -> Vec<(Value, Value, Value)> {
        rows.iter().map(|(value, layer, line)| (json!(value), json!(layer), json!(line))).collect()
    };
    assert_eq!(holds("permissions.deny"), rows(&[("Bash(rm:*)", "organisation", 1), ("Write", "team", 2)]));
    assert_eq!(holds("permissions.votes"), [(json!(2), json!("team"), json!(3))]);
    assert_eq!(holds("permissions.expires"), rows(&[("30m", "task", 3)]));
    assert_eq!(holds("limits.input"), rows(&[("10KiB", "project", 3)]));
    assert_eq!(holds("limits.journal"), rows(&[("1MiB", "organisation", 2)]));
    assert_eq!(holds("limits.json_depth"), [(json!(64), json!("default"), Value::Null)]);
    let (code, _) = check(&dir, &policy, &["--policy=other"]);
    assert_ne!(code, 0);

    // What is above is made tighter, and what is below would lift it.
    std::fs::write(&policy, "permissions: { votes: 3, expires: 10m }\nlimits: { input: 1KiB }\n").unwrap();
    let (code, said) = check(&dir, &policy, &[]);
    let problems: Vec<&str> =
        said["diagnostics"].as_array().unwrap().iter().map(|problem| problem["message"].as_str().unwrap()).collect();
    assert_eq!((code, problems.len()), (4, 1), "{problems:?}");
    assert!(
        problems[0].contains("`limits.input: \"10KiB\"` lifts what the organisation says: \"1KiB\""),
        "{problems:?}"
    );
    std::fs::write(&policy, "permissions: { votes: 3, expires: 10m }\n").unwrap();
    let (code, said) = check(&dir, &policy, &[]);
    let places: Vec<String> = said["diagnostics"]
        .as_array()
        .unwrap()
        .iter()
        .map(|problem| format!("{}:{}", problem["file"].as_str().unwrap(), problem["line"]))
        .collect();
    assert_eq!((code, places), (4, vec!["pipelines/p.yaml:3".to_owned(), "teams/sales.yaml:3".to_owned()]), "{said}");

    // Without what is above, nothing is said to be in order.
    let (code, _) = check(&dir, &dir.path().join("none.yaml"), &[]);
    assert_eq!(code, 4);
    std::fs::write(&policy, "permissions: { deny: ['Bash('] }\n").unwrap();
    let (code, said) = check(&dir, &policy, &[]);
    assert!(code == 4 && said.to_string().contains("Bash("), "{said}");
}

fn one_call(request: &Request) -> suite::fakes::model::Reply {
    match request.turn() {
        0 => Message::new().tool_use("a", "Bash", &json!({"command": "echo one"})),
        _ => Message::of_text("Done."),
    }
    .into()
}

/// The task of an agent whose work is done under policy of all layers (organisation, team, project, pipeline).
struct Governed {
    api: RunningScheduler,
    worker: RunningWorker,
    id: String,
    /// What was seen of it until it was parked or done.
    seen: Vec<(u64, String)>,
}

impl Governed {
    async fn start(model: &FakeModel, organisation: &str, team: &str, project: &str, own: &str) -> Self {
        let config = format!(
            "models:\n  m: {{ provider: fake, model: claude-sonnet-4-6 }}\n\
             providers:\n  fake: {{ kind: anthropic, base_url: '{}', key: 'env:PATH' }}\n{project}\n",
            model.base_url()
        );
        let own = pipeline(&format!("team: sales\n{own}"));
        let files = [
            ("teamster.yaml", config.as_str()),
            ("pipelines/p.yaml", own.as_str()),
            ("agents/clerk.md", AGENT),
            ("teams/sales.yaml", team),
            ("policy.yaml", organisation),
        ];
        let api = RunningScheduler::start(&files).await;
        let loaded = Project::load_under(api.project.path(), &[api.project.path().join("policy.yaml")]).unwrap();
        let id = api.submit(&json!({"pipeline": "p", "input": {}})).await;
        let worker = api.tuned_worker(|config| *config = loaded.config);
        let seen = api.watch(&id, None, "parked").await;
        Self { api, worker, id, seen }
    }

    fn is_parked(&self) -> bool {
        self.seen.last().is_some_and(|(_, kind)| kind == "parked")
    }

    /// Drains the worker, for the journal as it is then.
    async fn journal(self) -> Vec<Recorded> {
        self.worker.drain().await;
        self.api.store.journal(self.id.parse().unwrap(), 0, 1_000).await.unwrap()
    }
}

/// What an agent was told of its one call, by a worker under this policy; and what a person was asked before.
async fn told(organisation: &str, team: &str, project: &str, own: &str) -> (String, Option<Value>) {
    let model = FakeModel::answering(one_call).await.unwrap();
    let governed = Governed::start(&model, organisation, team, project, own).await;
    let mut asked = None;
    if governed.is_parked() {
        let api = &governed.api;
        asked = Some(api.get("/v1/approvals").await.json()["approvals"][0].clone());
        let path = format!("/v1/approvals/{}", asked.as_ref().unwrap()["id"].as_str().unwrap());
        let by = json!({"decision": "reject", "by": "ann"});
        assert_eq!(api.post(&path, &by).await.status, 200);
        api.watch(&governed.id, None, "end").await;
    }
    let journal = governed.journal().await;
    let result = journal.iter().find_map(|recorded| match &recorded.event {
        Event::CallFinished { result: CallResult::Done { content, .. }, .. } => Some(content.to_string()),
        _ => None,
    });
    (result.unwrap(), asked)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_layer_judges_a_call_and_the_strictest_verdict_holds() {
    let open = "permissions: { allow: [Bash] }";
    let hook = |reason: &str| {
        let command = format!("echo {reason} >&2; exit 2");
        format!("hooks: {}", json!({"PreToolUse": [{"hooks": [{"type": "command", "command": command}]}]}))
    };
    let allows = json!({"hookSpecificOutput": {"hookEventName": "PreToolUse", "permissionDecision": "allow"}});
    let allows = json!({"PreToolUse": [{"hooks": [{"type": "command", "command": format!("printf %s '{allows}'")}]}]});
    let allows = format!("hooks: {allows}");
    // Organisation, team, project, pipeline; what the model is told, and whether a person was asked before.
    let table = [
        ("{}", "{}", open, "", "one", false),
        ("permissions: { deny: ['Bash(echo:*)'] }", "{}", open, "", "forbids this call", false),
        ("{}", "permissions: { deny: ['Bash(echo:*)'] }", open, "", "forbids this call", false),
        ("{}", "{}", open, "permissions: { deny: ['Bash(echo:*)'] }\n", "forbids this call", false),
        ("permissions: { mode: plan }", "{}", open, "", "in plan mode", false),
        ("{}", "permissions: { mode: plan }", open, "", "in plan mode", false),
        // What is allowed below is asked about all the same, also if a hook allows it.
        ("permissions: { mode: default }", "{}", open, "", "a person refused it", true),
        ("permissions: { mode: default }", "{}", &allows, "", "a person refused it", true),
        ("{}", &allows, "permissions: { mode: default }", "", "a person refused it", true),
        ("{}", "{}", &format!("permissions: {{ mode: default }}\n{allows}"), "", "one", false),
        ("permissions: { mode: default, allow: [Bash] }", "{}", open, "", "one", false),
        ("permissions: { ask: [Bash] }", "{}", open, "", "a person refused it", true),
        (&hook("above"), "{}", open, "", "a hook refused it: above", false),
        ("{}", &hook("team"), open, "", "a hook refused it: team", false),
    ];
    for (organisation, team, project, own, expected, asks) in table {
        let (told, asked) = told(organisation, team, project, own).await;
        assert!(told.contains(expected), "{organisation} {team} {project} {own}: {told}");
        assert_eq!(asked.is_some(), asks, "{organisation} {team} {project} {own}");
    }
    // Who is asked, and until when, is what all layers leave.
    let (_, asked) = told(
        "permissions: { ask: [Bash], approvers: [ann, bob, cem] }",
        "permissions: { approvers: [cem, ann] }",
        "",
        "permissions: { expires: 1m }\n",
    )
    .await;
    assert_eq!(asked.unwrap()["approvers"], json!(["cem", "ann"]));
}

/// What comes of an agent that says a key, under guards of all layers: the end of the task, and what tripped.
async fn guarded(organisation: &str, team: &str, project: &str, own: &str) -> (String, Vec<(String, GuardThen)>) {
    let fake = FakeModel::answering(|_| Message::of_text("sk-1").into()).await.unwrap();
    let governed = Governed::start(&fake, organisation, team, project, own).await;
    let is_parked = governed.is_parked();
    let journal = governed.journal().await;
    let trips = journal.iter().filter_map(|recorded| match &recorded.event {
        Event::GuardTripped { trip, .. } => Some((trip.guard.clone(), trip.then)),
        _ => None,
    });
    let end = if is_parked { "parked" } else { journal.last().unwrap().event.kind() };
    (end.to_owned(), trips.collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guards_of_upper_layers_hold_for_agents_that_name_none_and_lower_ones_only_tighten_them() {
    let above = "guards: { keys: { on: output, patterns: [sk-], then: mark, required: true } }";
    let free = "guards: { keys: { on: output, patterns: [sk-], then: mark } }";
    for (organisation, team, project, own, end, trips) in [
        (free, "{}", "", "", "succeeded", &[][..]),
        (above, "{}", "", "", "succeeded", &[("keys", GuardThen::Mark)]),
        (above, "guards: { keys: { then: ask } }", "", "", "parked", &[("keys", GuardThen::Ask)]),
        (above, "{}", "guards: { keys: { then: ask } }", "", "parked", &[("keys", GuardThen::Ask)]),
        (above, "{}", "", "guards: { keys: { then: fail } }\n", "died", &[("keys", GuardThen::Fail)]),
        // What a team or a pipeline names holds for all of its agents.
        (free, "guards: { keys: {} }", "", "", "succeeded", &[("keys", GuardThen::Mark)]),
        (
            above,
            "guards: { own: { on: output, schema: { maxLength: 2 } } }",
            "",
            "",
            "died",
            &[("keys", GuardThen::Mark), ("own", GuardThen::Fail)],
        ),
    ] {
        let found = guarded(organisation, team, project, own).await;
        let trips: Vec<(String, GuardThen)> = trips.iter().map(|(name, then)| ((*name).to_owned(), *then)).collect();
        assert_eq!(found, (end.to_owned(), trips), "{organisation} {team} {project} {own}");
    }
}

#[test]
fn check_shows_where_guards_are_from_and_refuses_milder_ones() {
    let files = [
        (
            "teamster.yaml",
            "models:\n  m: { provider: rehearsal, model: r }\nguards:\n  own: { on: input, patterns: [x] }\n",
        ),
        ("pipelines/p.yaml", &*pipeline("team: sales\n")),
        ("agents/clerk.md", AGENT),
        ("teams/sales.yaml", "guards:\n  keys: { then: ask }\n"),
        ("policy.yaml", "guards:\n  keys: { on: output, patterns: [sk-], then: mark, required: true }\n"),
    ];
    let dir = ProjectDir::new(&files);
    let policy = dir.path().join("policy.yaml");
    let (code, said) = check(&dir, &policy, &["--policy=p"]);
    assert_eq!(code, 0, "{said}");
    let row = |key: &str| said["policy"].as_array().unwrap().iter().find(|row| row["key"] == key).unwrap().clone();
    let keys = row("guards.keys");
    assert_eq!((&keys["layer"], &keys["line"], &keys["value"]["then"]), (&json!("team"), &json!(2), &json!("ask")));
    assert_eq!(keys["value"]["patterns"], json!(["sk-"]));
    assert_eq!(row("guards.own")["layer"], "project");
    for (team, message) in [
        ("guards:\n  keys: { on: output, patterns: [none] }\n", "lifts what the organisation says"),
        ("guards:\n  kays: { then: fail }\n", "there is no guard `kays` above"),
    ] {
        std::fs::write(dir.path().join("teams/sales.yaml"), team).unwrap();
        let (code, said) = check(&dir, &policy, &[]);
        let problem = &said["diagnostics"][0];
        assert!(code == 4 && problem["message"].as_str().unwrap().contains(message), "{said}");
        assert_eq!((&problem["file"], &problem["line"]), (&json!("teams/sales.yaml"), &json!(2)), "{said}");
    }
    std::fs::write(&policy, "guards:\n  keys: { on: output, patterns: [sk-], then: fail }\n").unwrap();
    std::fs::write(dir.path().join("teams/sales.yaml"), "guards:\n  keys: { then: ask }\n").unwrap();
    let (code, said) = check(&dir, &policy, &[]);
    assert!(code == 4 && said["diagnostics"][0]["message"].as_str().unwrap().contains("lifts what"), "{said}");
}
