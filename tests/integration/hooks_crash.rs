//! The real program, killed by `SIGKILL` at each journal append in turn, while
//! hooks are asked about all that an agent does: what they said and is journaled
//! is never asked again, and every effect happens once.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Instant;

use common::id::TaskId;
use common::journal::{Event, Run};
use common::task::{State, WaitOn};
use rustix::process::Signal;
use serde_json::{Value, json};
use suite::fakes::model::{FakeModel, Message, Reply, Request};
use suite::fixtures::kill::at_each_append;
use suite::fixtures::process::{PATIENCE, WorkerProcess};
use suite::fixtures::scheduler::RunningScheduler;

const PIPELINE: &str = "name: p\nretry: { attempts: 3, backoff: { initial: 10ms, jitter: none } }\n\
    steps:\n  - { id: work, agent: clerk, prompt: 'log={{ input.log }}' }\n";
const AGENT: &str = "---\nname: clerk\ntools: Bash, Glob, Agent(helper)\nmodel: m\n---\nWork.\n";
const HELPER: &str = "---\nname: helper\ndescription: helps\ntools: Bash\n---\nHelp.\n";
/// What each call writes that is made: the first as a hook changed it.
const EFFECTS: [&str; 3] = ["changed", "helped", "permitted"];

/// Every hook writes down what it was asked, by its event, step, call and turn, before it answers.
fn hooks() -> Value {
    let script = "python3 \"$CLAUDE_PROJECT_DIR\"/hook.py";
    let hook = json!([{"hooks": [{"type": "command", "command": script}]}]);
    json!({"PreToolUse": hook, "PostToolUse": hook, "Stop": hook, "SubagentStop": hook})
}

const SCRIPT: &str = r#"
import json, os, sys
asked = json.load(sys.stdin)
event, call = asked["hook_event_name"], asked.get("tool_use_id")
active = asked.get("stop_hook_active")
what = call or ("again" if active else "first")
with open(os.path.join(os.environ["CLAUDE_PROJECT_DIR"], "asked.log"), "a") as log:
    log.write(f"{event} {asked['step']} {what}\n")
def say(**fields):
    print(json.dumps({"hookSpecificOutput": {"hookEventName": event, **fields}}))
if event == "PreToolUse":
    command = asked["tool_input"].get("command", "")
    if "denied" in command:
        say(permissionDecision="deny", permissionDecisionReason="not that")
    elif "plain" in command:
        say(updatedInput={"command": command.replace("plain", "changed")}, additionalContext="I changed it")
    elif "permitted" in command:
        say(permissionDecision="ask")
elif event == "PostToolUse":
    say(additionalContext="I saw it")
elif event == "Stop" and not active:
    print(json.dumps({"decision": "block", "reason": "once more"}))
"#;

fn answer(request: &Request) -> Reply {
    let prompt = request.messages()[0]["content"].clone();
    let prompt = prompt.as_str().or_else(|| prompt[0]["text"].as_str()).unwrap().to_owned();
    let log = prompt.split(' ').next().unwrap().strip_prefix("log=").unwrap().to_owned();
    let echo = |what: &str| json!({"command": format!("echo {what} >> '{log}'")});
    let helper = json!({"description": "help", "prompt": format!("log={log} helper"), "subagent_type": "helper"});
    let message = match (prompt.ends_with(" helper"), request.turn()) {
        (false, 0) => Message::new()
            .tool_use("a", "Bash", &echo("plain"))
            .tool_use("b", "Bash", &echo("denied"))
            .tool_use("c", "Glob", &json!({"pattern": "*"})),
        (false, 1) => Message::new().tool_use("d", "Agent", &helper).tool_use("e", "Bash", &echo("permitted")),
        (true, 0) => Message::new().tool_use("f", "Bash", &echo("helped")),
        _ => Message::of_text("done"),
    };
    message.into()
}

fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn counted(lines: Vec<String>) -> BTreeMap<String, u32> {
    lines.into_iter().fold(BTreeMap::new(), |mut counts, line| {
        *counts.entry(line).or_default() += 1;
        counts
    })
}

/// What hooks said that is durable, in the words of the script.
async fn decided(scheduler: &RunningScheduler, task: TaskId) -> Vec<String> {
    let mut stops: BTreeMap<String, u32> = BTreeMap::new();
    let mut decided = Vec::new();
    for recorded in scheduler.store.journal(task, 0, 10_000).await.unwrap() {
        let Event::HookDecided { step, event, call, .. } = recorded.event else { continue };
        let what = call.map_or_else(
            || {
                let stops = stops.entry(step.to_string()).or_default();
                *stops += 1;
                if *stops > 1 { "again".to_owned() } else { "first".to_owned() }
            },
            |call| call.to_string(),
        );
        decided.push(format!("{event} {step} {what}"));
    }
    decided
}

async fn run_with(fault: &str, model: &FakeModel) -> Option<()> {
    let config = format!(
        "models:\n  m: {{ provider: fake, model: claude-sonnet-4-6 }}\n\
         providers:\n  fake: {{ kind: anthropic, base_url: \"{}\", key: env:FAKE_KEY }}\n\
         effects: {{ Bash: once }}\nworker: {{ lease: 1s, slots: 4 }}\nhooks: {}\n\
         sandbox: {{ bash: {{ write: [\"{}\"] }} }}\n",
        model.base_url(),
        hooks(),
        std::env::temp_dir().display()
    );
    let files = [
        ("teamster.yaml", config.as_str()),
        ("pipelines/p.yaml", PIPELINE),
        ("agents/clerk.md", AGENT),
        ("agents/helper.md", HELPER),
        ("hook.py", SCRIPT),
    ];
    let scheduler = RunningScheduler::start(&files).await;
    let (log, asked) = (scheduler.project.path().join("effects.log"), scheduler.project.path().join("asked.log"));
    let task: TaskId = scheduler.submit(&json!({"pipeline": "p", "input": {"log": log}})).await.parse().unwrap();
    let mut workers = vec![WorkerProcess::start(&scheduler, Some(fault))];
    let started = Instant::now();
    // What was asked and is decided, when the first worker died.
    let (mut decided_before, mut asked_before) = (Vec::new(), BTreeMap::new());
    let run = loop {
        let journal = scheduler.store.journal(task, 0, 10_000).await.unwrap();
        let run = Run::fold(task, &journal).unwrap();
        assert!(started.elapsed() < PATIENCE, "{fault}: the task does not end: {:?}", run.head);
        if workers.len() == 1
            && let Some(status) = workers[0].ended()
        {
            assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "{fault}: {status}");
            decided_before = decided(&scheduler, task).await;
            asked_before = counted(lines(&asked));
            workers.push(WorkerProcess::start(&scheduler, None));
        }
        match &run.head.state {
            state if state.is_terminal() => break run,
            State::Waiting { wait, .. } => {
                for on in &wait.on {
                    match on {
                        WaitOn::Approval { approval } => {
                            let path = format!("/v1/approvals/{approval}");
                            let answer = scheduler.post(&path, &json!({"decision": "approve"})).await;
                            assert!([200, 202, 409].contains(&answer.status), "{fault}: {}", answer.text);
                        }
                        WaitOn::Outcome { call, .. } => {
                            let effect = match call.as_str() {
                                "a" => "changed",
                                "e" => "permitted",
                                _ => "helped",
                            };
                            let happened = lines(&log).contains(&effect.to_owned());
                            let body =
                                json!({"call": call, "happened": happened, "result": happened.then_some("told")});
                            scheduler.post(&format!("/v1/tasks/{task}/resolve"), &body).await;
                        }
                        _ => {}
                    }
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            _ => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
        }
    };
    assert!(matches!(run.head.state, State::Succeeded { .. }), "{fault}: {:?}", run.head.state);
    let mut effects = lines(&log);
    effects.sort_unstable();
    assert_eq!(effects, EFFECTS, "{fault}: each effect once, as hooks would have it");
    let asked_after = counted(lines(&asked));
    for what in &decided_before {
        assert_eq!(asked_after.get(what), asked_before.get(what), "{fault}: {what} was asked again");
    }
    let fired = workers.len() > 1;
    assert!(asked_after.values().all(|times| *times <= 1 + u32::from(fired)), "{fault}: {asked_after:?}");
    let mut all = decided(&scheduler, task).await;
    all.sort_unstable();
    let mut expected = vec![
        "PostToolUse work a",
        "PostToolUse work c",
        "PostToolUse work d",
        "PostToolUse work e",
        "PostToolUse work/1 f",
        "PreToolUse work a",
        "PreToolUse work b",
        "PreToolUse work c",
        "PreToolUse work d",
        "PreToolUse work e",
        "PreToolUse work/1 f",
        "Stop work again",
        "Stop work first",
        "SubagentStop work/1 first",
    ];
    expected.sort_unstable();
    assert_eq!(all, expected, "{fault}");
    // A request that is made again is made with the same bytes, remarks of hooks included.
    let of_run = log.display().to_string();
    let mut bodies: BTreeMap<(bool, usize), Vec<bytes::Bytes>> = BTreeMap::new();
    for request in model.requests() {
        let prompt = request.messages()[0]["content"].to_string();
        if prompt.contains(&of_run) {
            bodies.entry((prompt.contains(" helper"), request.turn())).or_default().push(request.body);
        }
    }
    for ((_, turn), bodies) in bodies {
        assert!(bodies.len() <= 2, "{fault}: only a call that was under way may be made again");
        assert!(bodies.windows(2).all(|pair| pair[0] == pair[1]), "{fault}: turn {turn} was asked in another way");
    }
    fired.then_some(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_killed_at_any_append_asks_no_hook_again_about_what_it_decided() {
    let model = FakeModel::answering(answer).await.unwrap();
    at_each_append(20, |fault| {
        let model = &model;
        async move { run_with(&fault, model).await }
    })
    .await;
    assert_eq!(model.violations(), Vec::<String>::new());
}
