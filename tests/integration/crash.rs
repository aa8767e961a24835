//! The real program, killed by `SIGKILL` at each journal append in turn, of a task with
//! a model batch, parallel subagents, a permission, a hook, a summary of its conversation, a
//! budget that stops it, and places: every
//! accepted task comes to its end, no answered model call is made again, and no
//! effect of class `once` happens twice.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path as UrlPath, State as Shared};
use axum::http::HeaderMap;
use axum::routing::post;
use common::id::TaskId;
use common::journal::{Event, Run};
use common::store::Store;
use common::task::{State, WaitOn};
use futures::StreamExt;
use rustix::process::Signal;
use serde_json::{Value, json};
use suite::binary;
use suite::fakes::model::{Api, FakeModel, Message, Reply, Request};
use suite::fixtures::kill::at_each_append;
use suite::fixtures::process::{PATIENCE, SchedulerProcess, WorkerProcess, until};
use suite::fixtures::scheduler::RunningScheduler;

const PIPELINE: &str = r#"
name: crash
budget: { usd: 0.024 }
concurrency: { key: "{{ input.log }}" }
retry: { attempts: 3, backoff: { initial: 10ms, jitter: none } }
steps:
  - id: note
    run: { command: [sh, -c, 'echo note >> "$1"; echo noted', sh, "{{ input.log }}"], effect: once }
  - id: sort
    agent: sorter
    prompt: "log={{ input.log }} sort"
    batch: { max_wait: 1h }
    limits: { max_tokens: 1000 }
  - id: think
    agent: thinker
    prompt: "log={{ input.log }}"
    compaction: { at: 0.8, keep_turns: 1 }
    limits: { max_tokens: 1000 }
    output: { type: object, required: [score] }
  - id: nap
    sleep: 10ms
  - id: crm
    http: { method: POST, url: "{{ input.crm }}", json: "{{ steps.think.output }}", effect: keyed }
  - id: last
    set: "{{ steps.crm.output.status }}"
"#;
const THINKER: &str =
    "---\nname: thinker\ndescription: thinks\ntools: Glob, Bash, Agent(helper)\nmodel: fake\n---\nThink.\n";
const SORTER: &str = "---\nname: sorter\ndescription: sorts\ntools: []\nmodel: fake\n---\nSort.\n";
const HELPER: &str = "---\nname: helper\ndescription: helps\ntools: Bash\n---\nHelp.\n";
/// The agents at work, as steps of the journal, with the turns that each takes.
const AGENTS: [(&str, usize); 4] = [("sort", 1), ("think", 4), ("think/1", 2), ("think/2", 2)];
/// The turn of the thinker in which it has read too much, and before the next of which a summary is made.
const FULL: usize = 2;
/// Who asks for the summary, beside [`AGENTS`].
const SUMMARY: &str = "summary";
/// What each effect of class `once` writes.
const EFFECTS: [&str; 4] = ["bash", "first", "note", "second"];

fn config(model: &FakeModel) -> String {
    format!(
        "models:\n  fake: {{ provider: fake, model: claude-sonnet-4-6, context_window: 10000 }}\n\
         providers:\n  fake: {{ kind: anthropic, base_url: \"{}\", key: env:FAKE_KEY, batches: {{ linger: 50ms, poll: 50ms, min_wait: 1s }} }}\n\
         rate_limits: {{ one: {{ model: fake, at_once: 1 }} }}\n\
         hooks: {{ PreToolUse: [{{ matcher: Glob, hooks: [{{ type: command, command: 'true' }}] }}] }}\n\
         effects: {{ Bash: once }}\npermissions: {{ ask: ['Bash(echo second:*)'] }}\nworker: {{ lease: 1s, slots: 4 }}\n\
         sandbox: {{ bash: {{ write: [\"{}\"] }} }}\n",
        model.base_url(),
        // Where the project is, and in it the log of effects.
        std::env::temp_dir().display()
    )
}

/// A model that looks around, runs a command with a side effect, has two others do the same at once, and answers.
fn answer(request: &Request) -> Reply {
    let (speaker, log, turn) = (speaker(request), log_of(request), turn(request));
    let echo = |what: &str| json!({"command": format!("echo {what} >> '{log}'")});
    let helper = |which: &str| json!({"description": "help me", "prompt": format!("log={log} {which}"), "subagent_type": "helper"});
    let message = match (speaker, turn) {
        (SUMMARY, _) => Message::of_text("looked, wrote, had help"),
        ("think", 0) => Message::new().text("let me look").tool_use("toolu_a", "Glob", &json!({"pattern": "*"})),
        ("think", 1) => Message::new().tool_use("toolu_b", "Bash", &echo("bash")),
        ("think", 2) => {
            let both = Message::new().tool_use("toolu_c", "Agent", &helper("first"));
            both.tool_use("toolu_d", "Agent", &helper("second")).having_read(9_000)
        }
        ("think", _) => Message::of_text("{\"score\": 7}"),
        ("think/1", 0) => Message::new().tool_use("toolu_e", "Bash", &echo("first")),
        ("think/2", 0) => Message::new().tool_use("toolu_f", "Bash", &echo("second")),
        _ => Message::of_text("done"),
    };
    message.into()
}

/// The words of the first message.
fn prompt(request: &Request) -> Vec<&str> {
    let prompt = &request.messages()[0]["content"];
    prompt.as_str().or_else(|| prompt[0]["text"].as_str()).unwrap().split(' ').collect()
}

/// The log that the prompt names: it tells one run from another.
fn log_of(request: &Request) -> String {
    prompt(request)[0].strip_prefix("log=").unwrap().to_owned()
}

/// Which agent asks, as a step of the journal.
fn speaker(request: &Request) -> &'static str {
    match prompt(request).get(1) {
        Some(&"sort") => "sort",
        Some(&"first") => "think/1",
        Some(&"second") => "think/2",
        _ if request.json["tool_choice"]["type"] == "none" => SUMMARY,
        _ => "think",
    }
}

/// The number of the turn that is asked for; what a summary stands for counts too.
fn turn(request: &Request) -> usize {
    if speaker(request) == "think" && request.json["messages"].to_string().contains("<summary>") {
        return FULL + 1;
    }
    request.turn()
}

/// How often each idempotency key was seen, by run.
type Contacts = Arc<Mutex<BTreeMap<String, BTreeMap<String, u32>>>>;

async fn crm() -> (String, Contacts) {
    let contacts = Contacts::default();
    let write = |Shared(contacts): Shared<Contacts>, UrlPath(run): UrlPath<String>, headers: HeaderMap| async move {
        let key = headers["idempotency-key"].to_str().unwrap().to_owned();
        *contacts.lock().unwrap().entry(run).or_default().entry(key).or_default() += 1;
        "{}"
    };
    let app = Router::new().route("/{run}", post(write)).with_state(Arc::clone(&contacts));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    (format!("http://{address}"), contacts)
}

fn lines(log: &Path) -> Vec<String> {
    std::fs::read_to_string(log).unwrap_or_default().lines().map(str::to_owned).collect()
}

async fn fold(store: &dyn Store, task: TaskId) -> Run {
    Run::fold(task, &store.journal(task, 0, 100_000).await.unwrap()).unwrap()
}

/// How many answers of the model to each agent are durable.
async fn turns(store: &dyn Store, task: TaskId) -> BTreeMap<String, usize> {
    let mut turns = BTreeMap::new();
    for recorded in store.journal(task, 0, 100_000).await.unwrap() {
        match recorded.event {
            Event::TurnFinished { step, .. } => *turns.entry(step.to_string()).or_default() += 1,
            // A summary is asked for in the conversation as it is, with so many turns.
            Event::Compacted { .. } => drop(turns.insert(SUMMARY.to_owned(), FULL + 2)),
            _ => {}
        }
    }
    turns
}

/// Says what became of a call of unknown outcome, as a person would who looks at the log.
async fn resolve(scheduler: &RunningScheduler, task: TaskId, run: &Run, log: &Path) {
    for (step, call) in &run.head.unknown_outcomes {
        let effect = match (step.to_string().as_str(), call.as_str()) {
            ("note", _) => "note",
            (_, "toolu_e") => "first",
            (_, "toolu_f") => "second",
            _ => "bash",
        };
        let written = lines(log).contains(&effect.to_owned());
        let (happened, result) = if written { ("yes", "\"told by a person\"") } else { ("no", "null") };
        let (id, api) = (task.to_string(), format!("http://{}", scheduler.address));
        let mut arguments = vec!["tasks", "resolve", &id, "--call", call.as_str(), "--happened", happened];
        if written {
            arguments.extend(["--result", result]);
        }
        let arguments: Vec<String> = arguments.into_iter().chain(["--api", &api]).map(str::to_owned).collect();
        let output = tokio::task::spawn_blocking(move || {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            binary::run(&arguments).unwrap()
        });
        let output = output.await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// What a run came to in which the fault came.
#[derive(Debug)]
struct Survived {
    /// Whether a person was asked what happened.
    asked: bool,
}

async fn run_with(fault: &str, model: &FakeModel, crm: &str, contacts: &Contacts) -> Option<Survived> {
    let config = config(model);
    let files = [
        ("teamster.yaml", config.as_str()),
        ("pipelines/crash.yaml", PIPELINE),
        ("agents/thinker.md", THINKER),
        ("agents/helper.md", HELPER),
        ("agents/sorter.md", SORTER),
    ];
    let scheduler = RunningScheduler::start(&files).await;
    let log: PathBuf = scheduler.project.path().join("effects.log");
    let name = fault.replace(':', "-");
    let input = json!({"log": log, "crm": format!("{crm}/{name}")});
    let task: TaskId = scheduler.submit(&json!({"pipeline": "crash", "input": input})).await.parse().unwrap();
    let mut workers = vec![WorkerProcess::start(&scheduler, Some(fault))];
    let started = Instant::now();
    let mut asked = false;
    let asked_for = || -> Vec<Request> {
        let log = log.display().to_string();
        let of_run = |request: &Request| request.api == Api::Messages && log_of(request) == log;
        model.requests().into_iter().filter(of_run).collect()
    };
    // What was asked for, and what of it is durable, when the first worker died.
    let (mut requests_before, mut turns_before) = (0, BTreeMap::new());
    let run = loop {
        assert!(
            started.elapsed() < PATIENCE,
            "{fault}: the task does not end: {:?}",
            fold(&*scheduler.store, task).await.head
        );
        if workers.len() == 1
            && let Some(status) = workers[0].ended()
        {
            assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "{fault}: {status}");
            (requests_before, turns_before) = (asked_for().len(), turns(&*scheduler.store, task).await);
            workers.push(WorkerProcess::start(&scheduler, None));
        }
        let run = fold(&*scheduler.store, task).await;
        match &run.head.state {
            state if state.is_terminal() => break run,
            State::Waiting { .. } if !run.head.open_approvals.is_empty() => {
                for approval in &run.head.open_approvals {
                    // Refused if it was decided since: the decision stands.
                    let path = format!("/v1/approvals/{approval}");
                    let answer = scheduler.post(&path, &json!({"decision": "approve"})).await;
                    assert!([200, 202, 409].contains(&answer.status), "{fault}: {}", answer.text);
                }
            }
            State::Waiting { wait, .. } if wait.on.iter().any(|on| matches!(on, WaitOn::Budget { .. })) => {
                let answer = scheduler.post(&format!("/v1/tasks/{task}/raise"), &json!({"usd": 1.0})).await;
                assert!([200, 202].contains(&answer.status), "{fault}: {}", answer.text);
            }
            State::Waiting { wait, .. } if wait.on.iter().any(|on| matches!(on, WaitOn::Outcome { .. })) => {
                asked = true;
                resolve(&scheduler, task, &run, &log).await;
            }
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    assert!(matches!(run.head.state, State::Succeeded { .. }), "{fault}: {:?}", run.head.state);
    assert_eq!(run.output, Some(json!(200)), "{fault}");
    let mut effects = lines(&log);
    effects.sort_unstable();
    assert_eq!(effects, EFFECTS, "{fault}: an effect of class once happened twice or never");

    assert_eq!(Some(run.head), scheduler.store.head(task).await.unwrap(), "{fault}: the head is not the fold");

    let journal = scheduler.store.journal(task, 0, 100_000).await.unwrap();
    let asked_for_permission =
        journal.iter().filter(|recorded| matches!(recorded.event, Event::ApprovalRequested { .. })).count();
    assert_eq!(asked_for_permission, 1, "{fault}: a person was asked for the same thing again");
    let of_kind = |kind: &str| journal.iter().filter(|recorded| recorded.event.kind() == kind).count();
    assert_eq!(of_kind("hook_decided"), 1, "{fault}: a hook was asked for the same thing again");
    assert_eq!(of_kind("budget_raised"), 1, "{fault}: the budget stopped it once");
    let meters = scheduler.store.meters("rate ", 100).await.unwrap();
    assert!(meters.iter().all(|meter| meter.used == 0), "{fault}: places are left over: {meters:?}");
    assert_eq!(of_kind("compacted"), 1, "{fault}: it was summarised once");
    let batches = model.batches();
    let mark = format!("log={} ", log.display());
    let sorted = batches
        .iter()
        .flat_map(|batch| &batch.requests)
        .filter(|request| request["params"]["messages"][0].to_string().contains(&mark));
    assert_eq!(sorted.count(), 1, "{fault}: what went out in a batch was sent again");
    let mut turns = turns(&*scheduler.store, task).await;
    turns.remove(SUMMARY);
    assert_eq!(turns, AGENTS.map(|(agent, turns)| (agent.to_owned(), turns)).into(), "{fault}");
    let requests = asked_for();
    let was_durable =
        |request: &&Request| turns_before.get(speaker(request)).is_some_and(|turns| turn(request) < *turns);
    let again = requests[requests_before..].iter().find(was_durable);
    assert!(again.is_none(), "{fault}: a turn was asked for again whose answer was durable");
    let turns = AGENTS.iter().flat_map(|(agent, turns)| (0..*turns).map(move |turn| (*agent, turn)));
    for (agent, number) in turns.chain([(SUMMARY, FULL + 1)]) {
        let of_turn = |request: &&Request| speaker(request) == agent && turn(request) == number;
        let bodies: Vec<_> = requests.iter().filter(of_turn).map(|request| &request.body).collect();
        assert!(bodies.len() <= 2, "{fault}: only a call that was under way may be made again");
        assert!(
            bodies.windows(2).all(|pair| pair[0] == pair[1]),
            "{fault}: {agent} asked turn {number} in another way"
        );
    }
    let contacts = contacts.lock().unwrap().get(&name).cloned().unwrap_or_default();
    assert_eq!(contacts.len(), 1, "{fault}: a repeated request carries the same key: {contacts:?}");
    (workers.len() > 1).then_some(Survived { asked })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_killed_at_any_append_loses_nothing_and_repeats_nothing() {
    let model = FakeModel::answering(answer).await.unwrap();
    let (crm, contacts) = crm().await;
    let survived = at_each_append(20, |fault| {
        let (model, crm, contacts) = (&model, &crm, &contacts);
        async move { run_with(&fault, model, crm, contacts).await }
    })
    .await;
    let asked = survived.iter().filter(|run| run.asked).count();
    assert!(asked >= 2, "calls of class once were cut short, and a person was asked");
    assert_eq!(model.violations(), Vec::<String>::new());
}

/// A pipeline of many short steps with an effect each.
fn long_pipeline() -> String {
    let steps: String = (0..12)
        .map(|n| format!("  - {{ id: s{n}, run: {{ command: [sh, -c, 'sleep 0.1; echo {n} >> \"$1\"', sh, '{{{{ input.log }}}}'], effect: once }} }}\n"))
        .collect();
    format!("name: long\nsteps:\n{steps}")
}

async fn long_task(lease: &str) -> (RunningScheduler, PathBuf, TaskId) {
    let (config, pipeline) = (format!("worker: {{ lease: {lease} }}\n"), long_pipeline());
    let files = [("teamster.yaml", config.as_str()), ("pipelines/long.yaml", pipeline.as_str())];
    let scheduler = RunningScheduler::start(&files).await;
    let log = scheduler.project.path().join("effects.log");
    let task = scheduler.submit(&json!({"pipeline": "long", "input": {"log": log}})).await.parse().unwrap();
    (scheduler, log, task)
}

fn whole_log() -> Vec<String> {
    (0..12).map(|n| n.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_worker_hands_its_task_over_at_the_next_checkpoint() {
    let (scheduler, log, task) = long_task("8s").await;
    let mut first = WorkerProcess::start(&scheduler, None);
    until("three steps are done", async || lines(&log).len() >= 3).await;
    first.signal(Signal::TERM);
    assert!(first.until_ended().await.success(), "a drained worker ends well");
    let run = fold(&*scheduler.store, task).await;
    assert!(matches!(run.head.state, State::Ready { .. }), "{:?}", run.head.state);
    let _second = WorkerProcess::start(&scheduler, None);
    until("the task is done", async || fold(&*scheduler.store, task).await.head.state.is_terminal()).await;
    let journal = scheduler.store.journal(task, 0, 10_000).await.unwrap();
    assert!(journal.iter().any(|recorded| matches!(recorded.event, Event::Released { .. })));
    assert!(!journal.iter().any(|recorded| matches!(recorded.event, Event::LeaseExpired { .. })));
    assert_eq!(lines(&log), whole_log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_sigterm_stops_at_once() {
    let nap = "name: nap\nsteps:\n  \
               - { id: a, run: { command: [sh, -c, 'echo up > \"$1\"; sleep 60', sh, '{{ input.log }}'], effect: read } }\n";
    let scheduler = RunningScheduler::start(&[("pipelines/nap.yaml", nap)]).await;
    let log = scheduler.project.path().join("effects.log");
    scheduler.submit(&json!({"pipeline": "nap", "input": {"log": log}})).await;
    let mut worker = WorkerProcess::start(&scheduler, None);
    until("the program runs", async || lines(&log) == ["up"]).await;
    worker.signal(Signal::TERM);
    until("it drains", async || worker.said("drains")).await;
    assert!(worker.ended().is_none(), "a drain waits for what is under way");
    let asked = Instant::now();
    worker.signal(Signal::TERM);
    worker.until_ended().await;
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_slept_past_its_lease_writes_nothing_more() {
    let (scheduler, log, task) = long_task("1s").await;
    let sleeper = WorkerProcess::start(&scheduler, None);
    until("two steps are done", async || lines(&log).len() >= 2).await;
    sleeper.freeze().await;
    until("its lease is over", async || {
        let journal = scheduler.store.journal(task, 0, 10_000).await.unwrap();
        journal.iter().any(|recorded| matches!(recorded.event, Event::LeaseExpired { .. }))
    })
    .await;
    let _second = WorkerProcess::start(&scheduler, None);
    let mut woken = false;
    until("the task is done", async || {
        let run = fold(&*scheduler.store, task).await;
        if !woken && run.head.attempts > 1 {
            // The zombie wakes while another worker holds its task.
            sleeper.signal(Signal::CONT);
            woken = true;
        }
        if !run.head.unknown_outcomes.is_empty() && matches!(run.head.state, State::Waiting { .. }) {
            for (step, call) in &run.head.unknown_outcomes {
                let number = step.to_string().trim_start_matches('s').to_owned();
                let happened = lines(&log).contains(&number);
                let body = json!({"call": call, "happened": happened, "result": happened.then_some("told")});
                scheduler.post(&format!("/v1/tasks/{task}/resolve"), &body).await;
            }
        }
        run.head.state.is_terminal()
    })
    .await;
    assert!(woken);
    let run = fold(&*scheduler.store, task).await;
    assert!(matches!(run.head.state, State::Succeeded { .. }), "{:?}", run.head.state);
    assert_eq!(lines(&log), whole_log(), "nothing is done twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_comes_after_the_lease_is_written_by_nobody() {
    let answer = Arc::new(tokio::sync::Notify::new());
    let held = Arc::clone(&answer);
    let model = FakeModel::answering(move |request| match request.number {
        0 => Reply::Held(Message::of_text("too late"), Arc::clone(&held)),
        _ => Message::of_text("in time").into(),
    });
    let model = model.await.unwrap();
    // One slot: who does another task has let go of this one.
    let config = config(&model).replace("slots: 4", "slots: 1");
    let pipeline = "name: think\nsteps:\n  - { id: think, agent: thinker, prompt: go }\n";
    let files = [
        ("teamster.yaml", &*config),
        ("pipelines/think.yaml", pipeline),
        ("agents/thinker.md", THINKER),
        ("agents/helper.md", HELPER),
    ];
    let scheduler = RunningScheduler::start(&files).await;
    let submission = json!({"pipeline": "think", "input": {}});
    let done = async |task: TaskId| {
        until("the task is done", async || fold(&*scheduler.store, task).await.head.state.is_terminal()).await;
        fold(&*scheduler.store, task).await.output
    };
    let task: TaskId = scheduler.submit(&submission).await.parse().unwrap();
    let zombie = WorkerProcess::start(&scheduler, None);
    model.received(1).await.unwrap();
    zombie.freeze().await;
    let mut other = WorkerProcess::start(&scheduler, None);
    assert_eq!(done(task).await, Some(json!("in time")));
    let journal = scheduler.store.journal(task, 0, 10_000).await.unwrap();
    other.signal(Signal::TERM);
    other.until_ended().await;
    answer.notify_one();
    zombie.signal(Signal::CONT);
    let next: TaskId = scheduler.submit(&submission).await.parse().unwrap();
    assert_eq!(done(next).await, Some(json!("in time")), "the zombie goes on with other tasks");
    assert_eq!(scheduler.store.journal(task, 0, 10_000).await.unwrap(), journal, "the zombie wrote");
    let bodies: Vec<_> = model.requests().into_iter().map(|request| request.body).collect();
    assert_eq!((bodies.len(), &bodies[0]), (3, &bodies[1]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_cut_short_by_a_kill_of_the_scheduler_can_be_posted_again_without_duplicates() {
    const ROWS: usize = 3_000;
    let project = suite::project::ProjectDir::new(&[(
        "pipelines/row.yaml",
        "name: row\nsteps:\n  - { id: a, set: '{{ input.n }}' }\n",
    )]);
    let rows: Vec<String> = (0..ROWS).map(|n| format!("{{\"n\": {n}}}\n")).collect();
    let client = reqwest::Client::new();
    let post = |address: &str, body: reqwest::Body| {
        let url = format!("{address}/v1/batches?pipeline=row");
        client.post(url).header("content-type", "application/x-ndjson").body(body).send()
    };
    let mut scheduler = SchedulerProcess::start(project.path());
    // The second half of the body never comes: the scheduler is killed while it waits for it.
    let (half, rest) = (rows[..ROWS / 2].concat(), futures::stream::pending::<Result<String, std::io::Error>>());
    let body = futures::stream::once(async move { Ok(half) }).chain(rest);
    let posting = tokio::spawn(post(&scheduler.address, reqwest::Body::wrap_stream(body)));
    let some = format!("{}/v1/tasks?limit=1000", scheduler.address);
    until("some rows are tasks", async || {
        let answer = client.get(&some).send().await.unwrap().text().await.unwrap();
        serde_json::from_str::<Value>(&answer).unwrap()["tasks"].as_array().is_some_and(|tasks| tasks.len() >= 500)
    })
    .await;
    scheduler.kill();
    assert!(posting.await.unwrap().is_err(), "nobody was told that the batch is accepted");
    let scheduler = SchedulerProcess::start(project.path());
    let answer = post(&scheduler.address, rows.concat().into()).await.unwrap();
    let report: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    let number = |key: &str| usize::try_from(report[key].as_u64().unwrap()).unwrap();
    assert_eq!(number("accepted") + number("duplicates"), ROWS, "{report}");
    assert!(number("duplicates") >= 500, "{report}");
    let again = post(&scheduler.address, rows.concat().into()).await.unwrap();
    let report: Value = serde_json::from_str(&again.text().await.unwrap()).unwrap();
    assert_eq!((report["accepted"].as_u64(), report["duplicates"].as_u64()), (Some(0), Some(ROWS as u64)), "{report}");
}
