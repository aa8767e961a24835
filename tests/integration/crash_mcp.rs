//! A real MCP server's side effect, and a worker that is killed around it.

use common::id::TaskId;
use common::journal::{Event, Run};
use common::store::Store;
use common::task::State;
use serde_json::json;
use suite::fakes::mcp::{from_npm, program};
use suite::fixtures::process::{WorkerProcess, until};
use suite::fixtures::scheduler::RunningScheduler;

const PIPELINE: &str = r#"
name: remember
steps:
  - id: create
    tool: mcp__memory__create_entities
    with: { entities: [{ name: "{{ input.name }}", entityType: lead, observations: [] }] }
  - id: last
    set: "{{ steps.create.status }}"
"#;

async fn fold(store: &dyn Store, task: TaskId) -> Run {
    Run::fold(task, &store.journal(task, 0, 10_000).await.unwrap()).unwrap()
}

/// Runs it with a fault in the first worker; a person says what the file shows.
async fn survive(fault: &str) -> (bool, usize) {
    let memory = tempfile::tempdir().unwrap();
    let file = memory.path().join("memory.json");
    let command = serde_json::to_string(&program(&mut from_npm("server-memory", &[])).command).unwrap();
    let config = format!(
        "worker: {{ lease: 1s }}\nmcp_servers:\n  memory: {{ command: {command}, env: {{ MEMORY_FILE_PATH: '{}' }} }}\n",
        file.display()
    );
    let scheduler = RunningScheduler::start(&[("teamster.yaml", &config), ("pipelines/remember.yaml", PIPELINE)]).await;
    let input = json!({"pipeline": "remember", "input": {"name": "Ada"}});
    let task: TaskId = scheduler.submit(&input).await.parse().unwrap();
    let mut first = WorkerProcess::start(&scheduler, Some(fault));
    assert!(!first.until_ended().await.success(), "{fault}: the worker kills itself");
    let written = || std::fs::read_to_string(&file).unwrap_or_default().matches("\"Ada\"").count();
    let before = written();
    let _second = WorkerProcess::start(&scheduler, None);
    let mut asked = 0;
    until("the task is done", async || {
        let run = fold(&*scheduler.store, task).await;
        if let (State::Waiting { .. }, Some((step, call))) = (&run.head.state, run.head.unknown_outcomes.first()) {
            assert_eq!(written(), before, "{fault}: the call was repeated before anybody was asked");
            asked += 1;
            let happened = before > 0;
            let body = json!({"call": call, "step": step, "happened": happened, "result": happened.then_some("made")});
            scheduler.post(&format!("/v1/tasks/{task}/resolve"), &body).await;
        }
        run.head.state.is_terminal()
    })
    .await;
    let run = fold(&*scheduler.store, task).await;
    assert!(matches!(run.head.state, State::Succeeded { .. }), "{fault}: {:?}", run.head.state);
    assert_eq!(written(), 1, "{fault}: the entity is there once");
    let journal = scheduler.store.journal(task, 0, 10_000).await.unwrap();
    let unknown = journal.iter().filter(|recorded| matches!(recorded.event, Event::OutcomeUnknown { .. })).count();
    assert_eq!(unknown, asked, "{fault}");
    (before > 0, asked)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_mcp_server_was_told_is_not_told_again_after_a_kill() {
    // Killed after the intent: the call was not made. Killed before the receipt: it was.
    let (after_intent, before_receipt) = tokio::join!(survive("after_append:1"), survive("before_append:2"));
    assert_eq!(after_intent, (false, 1), "nobody knows, and a person is asked");
    assert_eq!(before_receipt, (true, 1), "it happened, nobody knows, and a person is asked");
}
