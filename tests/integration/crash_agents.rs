//! The real program, killed by `SIGKILL` at each journal append of a task whose agent
//! has a session, is repeated, is given another model and has its conversation
//! summarised: the same end as without, and nothing that was paid for is paid again.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use common::id::TaskId;
use common::journal::{Event, Recorded, Run};
use common::store::Store;
use common::task::State;
use rustix::process::Signal;
use serde_json::json;
use suite::fakes::model::{FakeModel, Message, Reply, Request};
use suite::fixtures::kill::at_each_append;
use suite::fixtures::process::{PATIENCE, WorkerProcess};
use suite::fixtures::scheduler::RunningScheduler;

const PIPELINE: &str = r#"
name: crash
retry: { attempts: 3, backoff: { initial: 10ms, jitter: none } }
steps:
  - id: loop
    repeat: { until: steps.verify.output.ok, max: 3 }
    steps:
      - id: work
        agent: worker
        prompt: "run={{ input.run }} round={{ round }}"
        session: "{{ input.run }}"
        compaction: { at: 0.8, keep_turns: 1 }
      - id: verify
        set: { ok: "{{ round == 2 }}", work: "{{ steps.work.output }}" }
"#;
const AGENT: &str = "---\nname: worker\ndescription: works\ntools: Glob\nmodel: big\n---\nWork.\n";
const BIG: &str = "claude-sonnet-4-6";
/// Answers that are paid for in a run without faults: two turns, a summary, and the end of each round.
const PAID: usize = 5;

fn config(model: &FakeModel) -> String {
    format!(
        "models:\n  big: {{ provider: fake, model: {BIG}, context_window: 10000, fallback: {{ models: [small], tries: 1 }} }}\n  \
         small: {{ provider: fake, model: claude-haiku-4-5 }}\nproviders:\n  fake: {{ kind: anthropic, base_url: \"{}\", \
         key: env:FAKE_KEY }}\nworker: {{ lease: 1s, slots: 4 }}\n",
        model.base_url()
    )
}

/// Whether the model that is asked is overloaded: the big one, once its conversation was summarised.
fn is_overloaded(request: &Request) -> bool {
    let text = request.json["messages"].to_string();
    text.contains("<summary>") && !text.contains("round=2") && request.json["model"] == BIG
}

fn answer(request: &Request) -> Reply {
    if is_overloaded(request) {
        return Reply::error(529, "overloaded_error", "Overloaded");
    }
    let text = request.json["messages"].to_string();
    let look = |id: &str| Message::new().tool_use(id, "Glob", &json!({"pattern": "*"}));
    let message = if request.json["tool_choice"]["type"] == "none" {
        Message::of_text("looked twice")
    } else if text.contains("round=2") {
        Message::of_text("second").having_read(500)
    } else if text.contains("<summary>") {
        Message::of_text("first").having_read(500)
    } else if request.turn() == 0 {
        look("toolu_1").having_read(1_000)
    } else {
        look("toolu_2").having_read(9_000)
    };
    message.into()
}

/// How many answers that were paid for a journal holds.
fn paid(journal: &[Recorded]) -> usize {
    let is_paid = |event: &Event| matches!(event, Event::TurnFinished { .. } | Event::Compacted { .. });
    journal.iter().filter(|recorded| is_paid(&recorded.event)).count()
}

async fn journal(store: &dyn Store, task: TaskId) -> Vec<Recorded> {
    store.journal(task, 0, 100_000).await.unwrap()
}

/// Nothing if the end came before the fault did.
async fn run_with(fault: &str, model: &FakeModel) -> Option<()> {
    let config = config(model);
    let files = [("teamster.yaml", &*config), ("pipelines/crash.yaml", PIPELINE), ("agents/worker.md", AGENT)];
    let scheduler = RunningScheduler::start(&files).await;
    let name = fault.replace(':', "-");
    let task: TaskId = scheduler.submit(&json!({"pipeline": "crash", "input": {"run": name}})).await.parse().unwrap();
    let asked = || -> Vec<Request> {
        let mark = format!("run={name} ");
        let of_run = |request: &Request| request.json["messages"].to_string().contains(&mark);
        model.requests().into_iter().filter(of_run).filter(|request| !is_overloaded(request)).collect()
    };
    let mut workers = vec![WorkerProcess::start(&scheduler, Some(fault))];
    let started = std::time::Instant::now();
    let mut lost = 0;
    let store = &*scheduler.store;
    let events = loop {
        let events = journal(store, task).await;
        assert!(started.elapsed() < PATIENCE, "{fault}: the task does not end: {:?}", events.last());
        if workers.len() == 1
            && let Some(status) = workers[0].ended()
        {
            assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "{fault}: {status}");
            lost = asked().len() - paid(&journal(store, task).await);
            workers.push(WorkerProcess::start(&scheduler, None));
        }
        if Run::fold(task, &events).unwrap().head.state.is_terminal() {
            break events;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let run = Run::fold(task, &events).unwrap();
    assert!(matches!(run.head.state, State::Succeeded { .. }), "{fault}: {:?}", run.head.state);
    assert_eq!(run.output, Some(json!({"ok": true, "work": "second"})), "{fault}");
    let count = |kind: &str| events.iter().filter(|recorded| recorded.event.kind() == kind).count();
    let counts = ["turn_finished", "compacted", "model_changed", "round_started", "session_saved"].map(count);
    assert_eq!(counts, [4, 1, 1, 2, 2], "{fault}");
    assert!(lost <= 1, "{fault}: at most the call under way is lost, not {lost}");
    let requests = asked();
    assert_eq!(requests.len(), PAID + lost, "{fault}: an answer that was durable was paid for again");
    let mut bodies: Vec<_> = requests.iter().map(|request| &request.body).collect();
    bodies.sort_unstable();
    bodies.dedup();
    assert_eq!(bodies.len(), PAID, "{fault}: what is asked again is asked in the same words");
    assert_eq!(Some(run.head), store.head(task).await.unwrap(), "{fault}: the head is the fold");
    (workers.len() > 1).then_some(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_killed_at_any_append_pays_for_nothing_twice() {
    let model = FakeModel::answering(answer).await.unwrap();
    at_each_append(12, |fault| {
        let model = &model;
        async move { run_with(&fault, model).await }
    })
    .await;
    assert_eq!(model.violations(), Vec::<String>::new());
}
