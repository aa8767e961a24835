//! Hooks: real commands and a real service that are asked before and after what
//! agents do; over a real store, a scheduler and a worker.

use common::failure::FailureClass;
use common::id::TaskId;
use common::journal::{CallResult, Event, HookDecision, HookEvent, HookRuling, Recorded};
use common::task::{DeadReason, State};
use serde_json::{Value, json};
use suite::fakes::hooks::HookService;
use suite::fakes::model::{FakeModel, Message, Reply, Request};
use suite::fixtures::scheduler::RunningScheduler;

/// A task of an agent that works under hooks.
struct Stage {
    api: RunningScheduler,
    task: TaskId,
    model: FakeModel,
}

const AGENT: &str = "---\nname: clerk\ntools: Bash, Read\nmodel: m\n---\nWork.\n";
const PIPELINE: &str = "name: p\nretry: { attempts: 2, backoff: { initial: 10ms, jitter: none } }\n\
    steps:\n  - { id: work, agent: clerk, prompt: Go. }\n";

/// Calls the shell once, then ends its turn.
fn one_call(request: &Request) -> Reply {
    match request.turn() {
        0 => Message::new().tool_use("a", "Bash", &json!({"command": "echo one >> log; cat log"})),
        _ => Message::of_text("Done."),
    }
    .into()
}

/// A hook that is a command.
fn command(command: &str) -> Value {
    json!({"type": "command", "command": command})
}

/// A command that answers with JSON.
fn says(answer: &Value) -> Value {
    command(&format!("cat > /dev/null; printf %s '{answer}'"))
}

fn specific(event: &str, fields: &Value) -> Value {
    let mut output = json!({"hookEventName": event});
    output.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    json!({ "hookSpecificOutput": output })
}

/// What `PreToolUse` hooks say of calls of `Bash`.
fn before(hooks: &[Value]) -> Value {
    json!({"PreToolUse": [{"matcher": "Bash", "hooks": hooks}]})
}

async fn stage(hooks: &Value, permissions: &str) -> Stage {
    staged(hooks, permissions, &[], one_call).await
}

async fn staged(
    hooks: &Value,
    permissions: &str,
    files: &[(&str, &str)],
    answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
) -> Stage {
    let model = FakeModel::answering(answer).await.unwrap();
    let config = format!(
        "models:\n  m: {{ provider: fake, model: claude-sonnet-4-6 }}\n\
         providers:\n  fake: {{ kind: anthropic, base_url: '{}', key: 'env:PATH' }}\n\
         permissions: {{ {permissions} }}\nhooks: {hooks}\n",
        model.base_url()
    );
    let mut all = vec![("teamster.yaml", config.as_str()), ("pipelines/p.yaml", PIPELINE), ("agents/clerk.md", AGENT)];
    all.retain(|(path, _)| files.iter().all(|(given, _)| given != path));
    all.extend(files);
    let api = RunningScheduler::start(&all).await;
    let id = api.submit(&json!({"pipeline": "p", "input": {}})).await;
    Stage { task: id.parse().unwrap(), api, model }
}

impl Stage {
    /// Has a worker go on to the end, and gives the journal.
    async fn end(&self) -> Ended {
        let worker = self.api.worker();
        self.api.watch(&self.task.to_string(), None, "end").await;
        worker.drain().await;
        assert_eq!(self.model.violations(), Vec::<String>::new());
        let state = self.api.store.head(self.task).await.unwrap().unwrap().state;
        Ended { state, journal: self.api.store.journal(self.task, 0, 1_000).await.unwrap() }
    }

    /// Has a worker come to a question, and go.
    async fn question(&self) -> Value {
        let worker = self.api.worker();
        self.api.watch(&self.task.to_string(), None, "parked").await;
        worker.drain().await;
        let page = self.api.get("/v1/approvals").await.json();
        assert_eq!(page["approvals"].as_array().unwrap().len(), 1, "{page}");
        page["approvals"][0].clone()
    }

    async fn approve(&self, question: &Value) {
        let path = format!("/v1/approvals/{}", question["id"].as_str().unwrap());
        assert_eq!(self.api.post(&path, &json!({"decision": "approve"})).await.status, 200);
    }

    /// What the model was shown in its last request, after its own words.
    fn shown(&self) -> Value {
        let requests = self.model.requests();
        requests.last().unwrap().messages().last().unwrap()["content"].clone()
    }
}

struct Ended {
    state: State,
    journal: Vec<Recorded>,
}

impl Ended {
    fn rulings(&self) -> Vec<(HookEvent, &HookRuling)> {
        let decided = self.journal.iter().filter_map(|recorded| match &recorded.event {
            Event::HookDecided { event, ruling, .. } => Some((*event, &**ruling)),
            _ => None,
        });
        decided.collect()
    }

    fn commands(&self) -> Vec<&str> {
        let intended = self.journal.iter().filter_map(|recorded| match &recorded.event {
            Event::CallIntended { call, .. } => call.arguments["command"].as_str(),
            _ => None,
        });
        intended.collect()
    }

    fn told(&self) -> String {
        let mut results = self.journal.iter().filter_map(|recorded| match &recorded.event {
            Event::CallFinished { result: CallResult::Done { content, .. }, .. } => Some(content.to_string()),
            _ => None,
        });
        results.next_back().unwrap()
    }

    #[track_caller]
    fn refused(&self, why: &str) {
        assert!(matches!(self.state, State::Succeeded { .. }), "{:?}", self.state);
        assert_eq!(self.commands(), Vec::<&str>::new());
        assert!(self.told().contains(why), "{}", self.told());
    }

    #[track_caller]
    fn ran(&self, commands: &[&str]) {
        assert!(matches!(self.state, State::Succeeded { .. }), "{:?}", self.state);
        assert_eq!(self.commands(), commands);
    }

    #[track_caller]
    fn died(&self) -> &common::failure::Failure {
        let State::Dead { reason, error, .. } = &self.state else { panic!("{:?}", self.state) };
        assert_ne!(*reason, DeadReason::Unreadable);
        error
    }
}

const ONE: &str = "echo one >> log; cat log";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_is_told_of_the_call_and_its_no_is_what_the_model_sees() {
    let hook = command(
        "cat > \"$CLAUDE_PROJECT_DIR\"/asked.json; pwd > \"$CLAUDE_PROJECT_DIR\"/where; echo 'not here' >&2; exit 2",
    );
    let stage = stage(&before(&[hook]), "").await;
    let ended = stage.end().await;
    ended.refused("Bash was not called: a hook refused it: not here");
    let asked = std::fs::read_to_string(stage.api.project.path().join("asked.json")).unwrap();
    let asked: Value = serde_json::from_str(&asked).unwrap();
    assert_eq!((&asked["hook_event_name"], &asked["tool_name"]), (&json!("PreToolUse"), &json!("Bash")));
    assert_eq!((&asked["tool_input"], &asked["tool_use_id"]), (&json!({"command": ONE}), &json!("a")));
    assert_eq!((&asked["session_id"], &asked["step"]), (&json!(stage.task), &json!("work")));
    assert_eq!(asked["permission_mode"], "default");
    let place = std::fs::read_to_string(stage.api.project.path().join("where")).unwrap();
    assert_eq!(asked["cwd"].as_str().unwrap(), place.trim(), "it runs in the directory of the task");
    let [(HookEvent::PreToolUse, ruling)] = ended.rulings()[..] else { panic!("{:?}", ended.rulings()) };
    assert_eq!((ruling.decision, ruling.reason.as_deref()), (HookDecision::Deny, Some("not here")));
    assert_eq!(ruling.ran[0].hook, "cat");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hook_that_is_not_about_the_tool_is_not_asked_and_one_that_says_nothing_changes_nothing() {
    let hooks = json!({"PreToolUse": [
        {"matcher": "Read|mcp__.*", "hooks": [command("exit 2")]},
        {"matcher": "*", "hooks": [command("exit 0"), says(&json!({}))]},
    ]});
    let ended = stage(&hooks, "").await.end().await;
    ended.ran(&[ONE]);
    let [(_, ruling)] = ended.rulings()[..] else { panic!("{:?}", ended.rulings()) };
    assert_eq!((ruling.decision, ruling.ran.len()), (HookDecision::Pass, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_does_not_judge_has_not_agreed() {
    let service = HookService::answering(|body| match body["tool_use_id"].as_str() {
        // Each hook below asks in a way of its own.
        Some("a") => (500, "{}".to_owned()),
        _ => (200, String::new()),
    });
    let service = service.await.unwrap();
    let garbage = HookService::answering(|_| (200, "fine".to_owned())).await.unwrap();
    let silent = HookService::answering(|_| (0, String::new())).await.unwrap();
    let http = |url: &str| json!({"type": "http", "url": url, "timeout": "300ms"});
    let table = [
        ("hangs", json!({"type": "command", "command": "sleep 60", "timeout": 0.3}), "did not answer within 300ms"),
        ("crashes", command("echo boom >&2; exit 1"), "exit code 1: boom"),
        ("is killed", command("kill -9 $$"), "signal 9"),
        ("is not there", command("/no/such/program"), "exit code 127"),
        ("mumbles", command("echo fine"), "no JSON"),
        ("misspells", says(&specific("PreToolUse", &json!({"permissionDecison": "allow"}))), "not understood"),
        ("answers to something else", says(&specific("PostToolUse", &json!({}))), "was asked about PreToolUse"),
        ("says too much", command("head -c 3000000 /dev/zero"), "larger than limits.tool_output"),
        ("breaks down as a service", http(&service.url), "500"),
        ("mumbles as a service", http(&garbage.url), "no JSON"),
        ("hangs as a service", http(&silent.url), "not answered within 0.3 s"),
        ("is no service", http("http://127.0.0.1:1/"), "127.0.0.1:1"),
    ];
    let runs = table.into_iter().map(|(what, hook, why)| async move {
        // That an earlier one agreed does not help.
        let allow = says(&specific("PreToolUse", &json!({"permissionDecision": "allow"})));
        let ended = stage(&before(&[allow, hook]), "").await.end().await;
        ended.refused("did not judge it");
        assert!(ended.told().contains(why), "a hook that {what}: {}", ended.told());
        let (_, ruling) = ended.rulings()[0];
        assert_eq!(ruling.decision, HookDecision::Deny, "a hook that {what}");
        assert!(ruling.ran[1].failure.is_some(), "a hook that {what}");
    });
    for run in runs {
        run.await;
    }
    assert_eq!((service.asked().len(), silent.asked().len()), (1, 1), "nothing is asked twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_is_asked_the_same_with_its_secrets_and_answers_the_same() {
    let deny = specific("PreToolUse", &json!({"permissionDecision": "deny", "permissionDecisionReason": "closed"}));
    let service = HookService::answering(move |_| (200, deny.to_string())).await.unwrap();
    let hook = json!({"type": "http", "url": service.url, "headers": {"x-team": "sales", "x-path": "env:PATH"}});
    let ended = stage(&before(&[hook]), "").await.end().await;
    ended.refused("a hook refused it: closed");
    let [(headers, body)] = &service.asked()[..] else { panic!("{:?}", service.asked()) };
    assert_eq!((headers["x-team"].to_str().unwrap(), &body["tool_name"]), ("sales", &json!("Bash")));
    assert_eq!(headers["x-path"].to_str().unwrap(), std::env::var("PATH").unwrap());
    assert!(!serde_json::to_string(&ended.journal).unwrap().contains(&std::env::var("PATH").unwrap()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_hook_allows_is_not_asked_because_of_a_mode_and_rules_hold_all_the_same() {
    let allow = before(&[says(&specific("PreToolUse", &json!({"permissionDecision": "allow"})))]);
    stage(&allow, "mode: default").await.end().await.ran(&[ONE]);
    stage(&allow, "mode: default, deny: ['Bash(cat:*)']").await.end().await.refused("forbids this call");
    stage(&allow, "mode: plan").await.end().await.refused("in plan mode");
    let asked = stage(&allow, "ask: ['Bash(cat:*)']").await;
    let question = asked.question().await;
    assert_eq!(question["title"], "clerk wants to call Bash (the rule Bash(cat:*) asks)");
    asked.approve(&question).await;
    asked.end().await.ran(&[ONE]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_hook_asks_a_person_decides_and_the_hook_is_not_asked_again() {
    let ask = specific("PreToolUse", &json!({"permissionDecision": "ask", "permissionDecisionReason": "odd"}));
    let hook = command(&format!(
        "cat >> \"$CLAUDE_PROJECT_DIR\"/asked; echo >> \"$CLAUDE_PROJECT_DIR\"/asked; printf %s '{ask}'"
    ));
    let stage = stage(&before(&[hook]), "").await;
    let question = stage.question().await;
    assert_eq!(question["title"], "clerk wants to call Bash (a hook asks: odd)");
    assert_eq!(question["show"], json!({"command": ONE}));
    stage.approve(&question).await;
    stage.end().await.ran(&[ONE]);
    let asked = std::fs::read_to_string(stage.api.project.path().join("asked")).unwrap();
    assert_eq!(asked.lines().count(), 1, "by another worker it is not asked anew: {asked}");
    let nobody = staged(&before(&[says(&ask)]), "mode: dontAsk, allow: [Bash]", &[], one_call).await;
    nobody.end().await.refused("nobody is in this mode");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_hook_changes_is_judged_again_and_is_what_is_called() {
    let change = |to: Value| says(&specific("PreToolUse", &json!({"updatedInput": to})));
    let two = json!({"command": "echo two"});
    // The second sees what the first changed, and refuses what the model wanted.
    let look = command("grep -q 'echo two' || exit 2");
    let ended = stage(&before(&[change(two.clone()), look]), "").await.end().await;
    ended.ran(&["echo two"]);
    assert_eq!(ended.rulings()[0].1.updated, Some(two.clone()));
    let broken = stage(&before(&[change(json!({"commando": 7}))]), "").await.end().await;
    broken.refused("a hook changed its arguments, and they do not fit its schema");
    let denied = stage(&before(&[change(two.clone())]), "deny: ['Bash(echo two:*)']").await.end().await;
    denied.refused("forbids this call");
    let asked = stage(&before(&[change(two.clone())]), "ask: ['Bash(echo two:*)']").await;
    let question = asked.question().await;
    assert_eq!(question["show"], two, "a person decides on what would be called");
    asked.approve(&question).await;
    asked.end().await.ran(&["echo two"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_hooks_say_of_a_result_stands_behind_all_results() {
    let note = |text: &str| says(&specific("PostToolUse", &json!({"additionalContext": text})));
    let hooks = json!({
        "PreToolUse": [{"hooks": [says(&specific("PreToolUse", &json!({"additionalContext": "before"})))]}],
        "PostToolUse": [{"matcher": "Bash", "hooks": [
            command("cat > \"$CLAUDE_PROJECT_DIR\"/asked.json"),
            says(&json!({"decision": "block", "reason": "too loud"})),
            note("after"),
        ]}],
    });
    let two_calls = |request: &Request| -> Reply {
        match request.turn() {
            0 => Message::new().tool_use("a", "Bash", &json!({"command": "echo one"})).tool_use(
                "b",
                "Bash",
                &json!({"command": "exit 3"}),
            ),
            _ => Message::of_text("Done."),
        }
        .into()
    };
    let stage = staged(&hooks, "", &[], two_calls).await;
    let ended = stage.end().await;
    assert!(matches!(ended.state, State::Succeeded { .. }), "{:?}", ended.state);
    let shown = stage.shown();
    let kinds: Vec<&str> = shown.as_array().unwrap().iter().map(|block| block["type"].as_str().unwrap()).collect();
    assert_eq!(kinds[..2], ["tool_result", "tool_result"], "{shown}");
    let texts: Vec<&str> =
        shown.as_array().unwrap().iter().skip(2).map(|block| block["text"].as_str().unwrap()).collect();
    let expected = [
        "A hook adds to the call of Bash: before",
        "A hook objects to the result of Bash: too loud",
        "A hook adds to the call of Bash: after",
        "A hook adds to the call of Bash: before",
    ];
    assert_eq!(texts, expected, "those about the first call, then those about the second, which failed");
    let asked = std::fs::read_to_string(stage.api.project.path().join("asked.json")).unwrap();
    let asked: Value = serde_json::from_str(&asked).unwrap();
    assert_eq!(asked["tool_input"], json!({"command": "echo one"}));
    assert!(asked["tool_response"].to_string().contains("one"), "{asked}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_that_nobody_could_look_at_does_not_reach_the_model() {
    let after = |hook: Value| json!({"PostToolUse": [{"hooks": [hook]}]});
    let withheld = stage(&after(command("exit 1")), "").await;
    withheld.end().await.ran(&[ONE]);
    let shown = withheld.shown();
    assert_eq!((&shown[0]["content"], &shown[0]["is_error"]), (&json!("The result is withheld."), &json!(true)));
    assert!(shown[1]["text"].as_str().unwrap().contains("did not judge it"), "{shown}");
    let replace = specific("PostToolUse", &json!({"updatedToolOutput": "[cut]"}));
    let replaced = stage(&after(says(&replace)), "").await;
    replaced.end().await.ran(&[ONE]);
    assert_eq!((&replaced.shown()[0]["content"], replaced.shown()[0].get("is_error")), (&json!("[cut]"), None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_hook_has_the_agent_go_on_and_knows_that_it_did() {
    let hook = "if grep -q '\"stop_hook_active\":false'; then echo 'the tests fail' >&2; exit 2; fi";
    let stage = staged(&json!({"Stop": [{"hooks": [command(hook)]}]}), "", &[], one_call).await;
    let ended = stage.end().await;
    ended.ran(&[ONE]);
    let told = stage.shown();
    assert!(told.to_string().contains("You are not done yet; a hook says: the tests fail"), "{told}");
    let decisions: Vec<HookDecision> = ended.rulings().iter().map(|(_, ruling)| ruling.decision).collect();
    assert_eq!(decisions, [HookDecision::Deny, HookDecision::Pass]);
    assert_eq!(stage.model.requests().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_hook_cannot_have_an_agent_go_on_for_ever() {
    let hooks = json!({"Stop": [{"hooks": [says(&json!({"decision": "block", "reason": "more"}))]}]});
    let stage = staged(&hooks, "", &[], |_| Message::of_text("Done.").into()).await;
    let ended = stage.end().await;
    let error = ended.died();
    assert_eq!(error.class, FailureClass::Limit);
    assert_eq!(error.detail.as_ref().unwrap()["output"], "Done.", "what it made is kept");
    assert_eq!(stage.model.requests().len(), 4);
    // One that says that everything is over lets it end.
    let hooks = json!({"Stop": [{"hooks": [says(&json!({"decision": "block", "reason": "x", "continue": false}))]}]});
    let over = staged(&hooks, "", &[], |_| Message::of_text("Done.").into()).await.end().await;
    assert!(matches!(over.state, State::Succeeded { .. }), "{:?}", over.state);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_output_that_no_stop_hook_could_look_at_is_none_and_the_hook_is_tried_again() {
    let first = "test -e \"$CLAUDE_PROJECT_DIR\"/seen && exit 0; touch \"$CLAUDE_PROJECT_DIR\"/seen; sleep 60";
    let hook = json!({"type": "command", "command": first, "timeout": 0.5});
    let stage = staged(&json!({"Stop": [{"hooks": [hook]}]}), "", &[], |_| Message::of_text("Done.").into()).await;
    let ended = stage.end().await;
    assert!(matches!(ended.state, State::Succeeded { .. }), "{:?}", ended.state);
    let retried = |recorded: &&Recorded| matches!(recorded.event, Event::StepRetrying { .. });
    assert_eq!(ended.journal.iter().filter(retried).count(), 1);
    assert_eq!(stage.model.requests().len(), 1, "the model is not paid again");
    let hooks = json!({"Stop": [{"hooks": [command("exit 1")]}]});
    let broken = staged(&hooks, "", &[], |_| Message::of_text("Done.").into()).await.end().await;
    assert!(broken.died().message.contains("did not judge it"), "{:?}", broken.state);
}

/// Calls another agent, and says what that one said.
fn with_helper(request: &Request) -> Reply {
    let prompt = request.messages()[0]["content"].to_string();
    let call = json!({"description": "help", "prompt": "You help.", "subagent_type": "helper"});
    match (prompt.contains("You help."), request.turn()) {
        (true, 0) => Message::of_text("Half."),
        (true, _) => Message::of_text("Whole."),
        (false, 0) => Message::new().tool_use("h", "Agent", &call),
        (false, _) => Message::of_text("Done."),
    }
    .into()
}

const CALLER: &str = "---\nname: clerk\ntools: Agent(helper)\nmodel: m\n---\nWork.\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subagent_is_held_by_hooks_of_the_installation_and_of_its_own_file() {
    let again = "tee -a \"$CLAUDE_PROJECT_DIR\"/asked | grep -q 'stop_hook_active\":true' || { echo 'the other half' >&2; exit 2; }";
    let hooks = json!({"SubagentStop": [
        {"matcher": "helper", "hooks": [command(again)]},
        {"matcher": "other", "hooks": [command("exit 1")]},
    ]});
    let helper = "---\nname: helper\ndescription: helps\nhooks:\n  Stop:\n    - hooks: [{ type: command, command: 'exit 0' }]\n---\nHelp.\n";
    let files = [("agents/clerk.md", CALLER), ("agents/helper.md", helper)];
    let stage = staged(&hooks, "", &files, with_helper).await;
    let ended = stage.end().await;
    assert!(matches!(ended.state, State::Succeeded { .. }), "{:?}", ended.state);
    assert!(ended.told().contains("Whole."), "{}", ended.told());
    let asked = std::fs::read_to_string(stage.api.project.path().join("asked")).unwrap();
    for part in ["\"agent_type\":\"helper\"", "\"agent_id\":\"work/1\"", "\"last_assistant_message\":\"Half.\""] {
        assert!(asked.contains(part), "{part} in {asked}");
    }
    let rulings = ended.rulings();
    assert_eq!(rulings.len(), 2);
    let ran: Vec<usize> = rulings.iter().map(|(_, ruling)| ruling.ran.len()).collect();
    assert_eq!(ran, [1, 2], "the agent's own hook is asked after those of the installation");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calling_another_agent_is_a_call_that_hooks_can_refuse_change_or_put_to_a_person() {
    let helper = "---\nname: helper\ndescription: helps\n---\nHelp.\n";
    let files = [("agents/clerk.md", CALLER), ("agents/helper.md", helper)];
    let about = |hook: Value| json!({"PreToolUse": [{"matcher": "Agent", "hooks": [hook]}]});
    let refused = staged(&about(command("echo alone >&2; exit 2")), "", &files, with_helper).await.end().await;
    assert!(refused.told().contains("Agent was not called: a hook refused it: alone"), "{}", refused.told());
    let input = json!({"description": "d", "prompt": "You help. Really.", "subagent_type": "helper"});
    let change = says(&specific("PreToolUse", &json!({"updatedInput": input, "permissionDecision": "ask"})));
    let changed = staged(&about(change), "", &files, with_helper).await;
    let question = changed.question().await;
    assert_eq!((&question["show"], &question["title"]), (&input, &json!("clerk wants to call Agent (a hook asks)")));
    changed.approve(&question).await;
    let ended = changed.end().await;
    let prompts = ended.journal.iter().filter_map(|recorded| match &recorded.event {
        Event::SubagentCalled { prompt, .. } => Some(prompt.as_str()),
        _ => None,
    });
    assert_eq!(prompts.collect::<Vec<_>>(), ["You help. Really."]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hook_can_end_an_agent_in_the_middle_of_its_work() {
    let end = says(&json!({"continue": false, "stopReason": "enough"}));
    for event in ["PreToolUse", "PostToolUse"] {
        let ended = stage(&json!({event: [{"hooks": [end]}]}), "").await.end().await;
        let error = ended.died();
        assert_eq!(error.class, FailureClass::Rejected);
        assert_eq!(error.message, format!("a {event} hook ended the agent: enough"));
        assert_eq!(ended.commands().len(), usize::from(event == "PostToolUse"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tool_step_is_asked_about_too_and_fails_if_it_is_refused() {
    let pipeline = "name: p\nsteps:\n  - { id: work, tool: Bash, with: { command: echo one } }\n";
    let files = [("pipelines/p.yaml", pipeline)];
    let refused = staged(&before(&[command("echo no >&2; exit 2")]), "", &files, one_call).await.end().await;
    assert_eq!(refused.died().message, "Bash was not called: a hook refused it: no");
    let change = says(&specific("PreToolUse", &json!({"updatedInput": {"command": "echo two"}})));
    staged(&before(&[change]), "", &files, one_call).await.end().await.ran(&["echo two"]);
}
