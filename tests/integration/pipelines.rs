//! Pipelines on a real scheduler, store and worker: children, fan-outs, time
//! limits, waiting, cancellation and replay.

use std::time::{Duration, Instant};

use common::failure::FailureClass;
use common::id::TaskId;
use common::journal::{Event, Run};
use common::task::{DeadReason, State, StateName};
use serde_json::{Value, json};
use suite::fixtures::process::until;
use suite::fixtures::scheduler::RunningScheduler;

async fn fold(scheduler: &RunningScheduler, task: TaskId) -> Run {
    Run::fold(task, &scheduler.store.journal(task, 0, 100_000).await.unwrap()).unwrap()
}

async fn submit(scheduler: &RunningScheduler, pipeline: &str, input: Value) -> TaskId {
    scheduler.submit(&json!({"pipeline": pipeline, "input": input})).await.parse().unwrap()
}

/// Submits a task, and waits until it is done.
async fn done(scheduler: &RunningScheduler, pipeline: &str, input: Value) -> Run {
    let task = submit(scheduler, pipeline, input).await;
    until("the task is done", async || fold(scheduler, task).await.head.state.is_terminal()).await;
    fold(scheduler, task).await
}

const CHILD: &str = "\
name: child
steps:
  - { id: pause, sleep: 20ms }
  - { id: check, if: input.n == 13, run: { command: [sh, -c, 'exit 3'] } }
output: \"{{ input.n * 10 }}\"
";
const PARENT: &str = "\
name: parent
steps:
  - { id: each, foreach: input.list, max_parallel: 3, pipeline: child, input: { n: \"{{ item }}\" } }
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn children_run_as_tasks_of_their_own_and_come_back_in_order() {
    let scheduler =
        RunningScheduler::start(&[("pipelines/child.yaml", CHILD), ("pipelines/parent.yaml", PARENT)]).await;
    let worker = scheduler.worker();
    let run = done(&scheduler, "parent", json!({"list": [5, 4, 3, 2, 1]})).await;
    assert_eq!(run.output, Some(json!([50, 40, 30, 20, 10])));
    let children = scheduler.get("/v1/tasks?pipeline=child&limit=100").await.json();
    assert_eq!(children["tasks"].as_array().unwrap().len(), 5);

    let run = done(&scheduler, "parent", json!({"list": [1, 13]})).await;
    let State::Dead { reason: DeadReason::Failed, error, .. } = &run.head.state else { panic!("{:?}", run.head.state) };
    assert_eq!(error.class, FailureClass::Child);
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_parent_cancels_its_children() {
    let nap = "name: child\nsteps:\n  - { id: nap, sleep: 1h }\n";
    let scheduler = RunningScheduler::start(&[("pipelines/child.yaml", nap), ("pipelines/parent.yaml", PARENT)]).await;
    let worker = scheduler.worker();
    let task = submit(&scheduler, "parent", json!({"list": [1, 2]})).await;
    let waiting = async |pipeline: &str| {
        let page = scheduler.get(&format!("/v1/tasks?pipeline={pipeline}&state=waiting")).await.json();
        page["tasks"].as_array().unwrap().len()
    };
    until("all three wait", async || (waiting("child").await, waiting("parent").await) == (2, 1)).await;
    scheduler.post(&format!("/v1/tasks/{task}/cancel"), &json!({"reason": "enough"})).await;
    assert_eq!(waiting("child").await, 0, "in the same step");
    let State::Cancelled { reason, .. } = fold(&scheduler, task).await.head.state else { panic!("not cancelled") };
    assert_eq!(reason, "enough");
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_task_is_cancelled_with_the_program_that_it_runs() {
    let pipeline = "name: long\nsteps:\n  - { id: a, run: { command: [sleep, '600'], effect: read } }\n";
    let scheduler =
        RunningScheduler::start(&[("teamster.yaml", "worker: { lease: 1s }\n"), ("pipelines/long.yaml", pipeline)])
            .await;
    let worker = scheduler.worker();
    let task = submit(&scheduler, "long", json!({})).await;
    until("it runs", async || fold(&scheduler, task).await.head.state.name() == StateName::Running).await;
    let asked = Instant::now();
    scheduler.post(&format!("/v1/tasks/{task}/cancel"), &json!({})).await;
    until("it is cancelled", async || fold(&scheduler, task).await.head.state.name() == StateName::Cancelled).await;
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_takes_too_long_is_cut_off() {
    let step = "name: step\nretry: { attempts: 2, backoff: { initial: 10ms, jitter: none } }\nsteps:\n  \
                - { id: a, timeout: 200ms, run: { command: [sleep, '600'], effect: keyed } }\n";
    let task = "name: task\ntimeout: 500ms\nsteps:\n  - { id: a, run: { command: [sleep, '600'], effect: read } }\n";
    let scheduler = RunningScheduler::start(&[("pipelines/step.yaml", step), ("pipelines/task.yaml", task)]).await;
    let worker = scheduler.worker();
    let run = done(&scheduler, "step", json!({})).await;
    let State::Dead { reason: DeadReason::Failed, error, .. } = &run.head.state else { panic!("{:?}", run.head.state) };
    assert_eq!(error.class, FailureClass::Timeout);
    let journal = scheduler.store.journal(run.head.id, 0, 1_000).await.unwrap();
    let retries = journal.iter().filter(|recorded| matches!(recorded.event, Event::StepRetrying { .. })).count();
    assert_eq!(retries, 1, "a timeout is transient, and the step may be tried twice");
    let run = done(&scheduler, "task", json!({})).await;
    assert!(matches!(run.head.state, State::Dead { reason: DeadReason::Timeout, .. }), "{:?}", run.head.state);
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_task_holds_no_slot_and_survives_a_restart() {
    let nap = "name: nap\nsteps:\n  - { id: nap, sleep: 700ms }\n  - { id: after, set: rested }\n";
    let quick = "name: quick\nsteps:\n  - { id: a, set: 1 }\n";
    let files =
        [("teamster.yaml", "worker: { slots: 1 }\n"), ("pipelines/nap.yaml", nap), ("pipelines/quick.yaml", quick)];
    let scheduler = RunningScheduler::start(&files).await;
    let worker = scheduler.worker();
    let sleeper = submit(&scheduler, "nap", json!({})).await;
    until("it sleeps", async || fold(&scheduler, sleeper).await.head.state.name() == StateName::Waiting).await;
    done(&scheduler, "quick", json!({})).await;
    assert_eq!(fold(&scheduler, sleeper).await.head.state.name(), StateName::Waiting, "the only slot was free");
    worker.drain().await;
    let worker = scheduler.worker();
    until("it wakes", async || fold(&scheduler, sleeper).await.head.state.is_terminal()).await;
    assert_eq!(fold(&scheduler, sleeper).await.output, Some(json!("rested")));
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_is_replayed_from_where_it_failed() {
    let pipeline = "\
name: flaky
retry: { attempts: 1 }
steps:
  - { id: first, run: { command: [sh, -c, 'echo first >> \"$1\"', sh, \"{{ input.log }}\"], effect: once } }
  - { id: second, run: { command: [sh, -c, 'test -e \"$1\"', sh, \"{{ input.gate }}\"], effect: read } }
";
    let scheduler = RunningScheduler::start(&[("pipelines/flaky.yaml", pipeline)]).await;
    let worker = scheduler.worker();
    let (log, gate) = (scheduler.project.path().join("log"), scheduler.project.path().join("gate"));
    let run = done(&scheduler, "flaky", json!({"log": log, "gate": gate})).await;
    let State::Dead { step, .. } = &run.head.state else { panic!("{:?}", run.head.state) };
    assert_eq!(step.as_ref().map(ToString::to_string).as_deref(), Some("second"));
    std::fs::write(&gate, "").unwrap();
    let task = run.head.id;
    let answer = scheduler.post(&format!("/v1/dead-letters/{task}/replay"), &json!({})).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    until("it is done", async || fold(&scheduler, task).await.head.state.name() == StateName::Succeeded).await;
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "first\n", "what was done stays done");
    worker.drain().await;
}
