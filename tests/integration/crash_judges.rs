//! The real program, killed by `SIGKILL` at each journal append of a task with a
//! judge that lets pass and one that does not: no verdict that is durable is asked
//! for or paid for again.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use common::id::TaskId;
use common::journal::{Event, Recorded, Run};
use common::task::State;
use rustix::process::Signal;
use serde_json::json;
use suite::fakes::model::{FakeModel, Message, Reply, Request};
use suite::fixtures::kill::at_each_append;
use suite::fixtures::process::{PATIENCE, WorkerProcess};
use suite::fixtures::scheduler::RunningScheduler;

use crate::judges::{is_judge, verdict};

/// Answers that are paid for in a run without faults: a judge of the input, the agent, a judge of the output; and the
/// same for the second step, whose second judge does not let it pass.
const PAID: usize = 6;

const PIPELINE: &str = "name: p\nretry: { attempts: 3, backoff: { initial: 10ms, jitter: none } }\nsteps:\n  \
    - { id: kind, agent: clerk, prompt: 'run={{ input.run }} kind', guards: [told, said] }\n  \
    - { id: rude, agent: clerk, prompt: 'run={{ input.run }} rude', guards: [told, said], on_error: continue }\n  \
    - { id: end, if: 'true', set: '{{ steps.rude.error.class }}' }\n";
const CLERK: &str = "---\nname: clerk\nmodel: m\ntools: Glob\n---\nWrite.\n";
const CENSOR: &str = "---\nname: censor\nmodel: m\n---\nLook for rudeness.\n";

fn answer(request: &Request) -> Reply {
    let text = request.json["messages"].to_string();
    if is_judge(request) {
        return verdict(text.contains("so rude"), "as it is").into();
    }
    // What is said names the run too: all that is asked of a run can be told from the rest.
    let said = text.split('"').find(|part| part.starts_with("run=")).unwrap_or_default();
    Message::of_text(&format!("{said}: so {}", said.rsplit(' ').next().unwrap_or_default())).into()
}

fn paid(journal: &[Recorded]) -> usize {
    journal.iter().filter(|recorded| matches!(recorded.event, Event::TurnFinished { .. })).count()
}

/// Nothing if the end came before the fault did.
async fn run_with(fault: &str, model: &FakeModel) -> Option<()> {
    let config = format!(
        "models:\n  m: {{ provider: fake, model: claude-sonnet-4-6 }}\nproviders:\n  fake: {{ kind: anthropic, base_url: \"{}\", \
         key: env:FAKE_KEY }}\nworker: {{ lease: 1s, slots: 4 }}\nguards:\n  told: {{ on: input, judge: censor }}\n  \
         said: {{ on: output, judge: censor }}\n",
        model.base_url()
    );
    let files = [
        ("teamster.yaml", config.as_str()),
        ("pipelines/p.yaml", PIPELINE),
        ("agents/clerk.md", CLERK),
        ("agents/censor.md", CENSOR),
    ];
    let scheduler = RunningScheduler::start(&files).await;
    let name = fault.replace(':', "-");
    let task: TaskId = scheduler.submit(&json!({"pipeline": "p", "input": {"run": name}})).await.parse().unwrap();
    let asked = || -> Vec<Request> {
        let mark = format!("run={name} ");
        model.requests().into_iter().filter(|r| r.json["messages"].to_string().contains(&mark)).collect()
    };
    let mut workers = vec![WorkerProcess::start(&scheduler, Some(fault))];
    let started = Instant::now();
    let mut lost = 0;
    let journal = loop {
        let journal = scheduler.store.journal(task, 0, 10_000).await.unwrap();
        assert!(started.elapsed() < PATIENCE, "{fault}: the task does not end: {:?}", journal.last());
        if workers.len() == 1
            && let Some(status) = workers[0].ended()
        {
            assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "{fault}: {status}");
            lost = asked().len() - paid(&scheduler.store.journal(task, 0, 10_000).await.unwrap());
            workers.push(WorkerProcess::start(&scheduler, None));
        }
        if Run::fold(task, &journal).unwrap().head.state.is_terminal() {
            break journal;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let run = Run::fold(task, &journal).unwrap();
    assert!(matches!(run.head.state, State::Succeeded { .. }), "{fault}: {:?}", run.head.state);
    assert_eq!(run.output, Some(json!("guard")), "{fault}");
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for recorded in &journal {
        *counts.entry(recorded.event.kind()).or_default() += 1;
    }
    let counts = ["judge_asked", "turn_finished", "guard_tripped"].map(|kind| counts.get(kind).copied().unwrap_or(0));
    assert_eq!(counts, [4, PAID, 1], "{fault}");
    assert!(lost <= 1, "{fault}: at most the call under way is lost, not {lost}");
    let requests = asked();
    assert_eq!(requests.len(), PAID + lost, "{fault}: an answer that was durable was paid for again");
    let mut bodies: Vec<_> = requests.iter().map(|request| &request.body).collect();
    bodies.sort_unstable();
    bodies.dedup();
    assert_eq!(bodies.len(), PAID, "{fault}: what is asked again is asked in the same words");
    (workers.len() > 1).then_some(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_judge_killed_at_any_append_is_asked_once_about_each_text() {
    let model = FakeModel::answering(answer).await.unwrap();
    at_each_append(12, |fault| {
        let model = &model;
        async move { run_with(&fault, model).await }
    })
    .await;
    assert_eq!(model.violations(), Vec::<String>::new());
}
