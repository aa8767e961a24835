//! The people: clients who submit, another system that publishes tasks to the
//! broker, one who decides what is asked, and one who pauses queues.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use common::clock::Clock;
use common::id::{GroupKey, IdempotencyKey, QueueName, StepId, TaskId};
use common::journal::{ApprovalDecision, Event};
use common::pipeline::replay;
use common::store::{Filter, SignalError, Store, StoreError};
use common::submission::{NewTask, submission};
use common::task::{Head, Signal, StateName};
use serde_json::{Value, json};

use super::broker::{Message, Server};
use super::cast::{Connection, beside};
use super::chance::Chance;
use super::process::Process;
use super::scene::Scene;
use super::stage::QUEUES;
use super::weather::Sabotage;

/// What somebody wants.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    pipeline: &'static str,
    key: IdempotencyKey,
    input: Value,
    priority: Option<u8>,
    /// How long after the submit it shall begin.
    delay: Option<Duration>,
    group: Option<GroupKey>,
}

/// What is wanted in a history.
pub(super) fn wishes(chance: &Chance) -> Vec<Wish> {
    let kinds = ["plain", "charge", "charge", "ask", "fan", "family", "think", "brittle"];
    let count = 4 + chance.below(4);
    let wish = |n| {
        let list: Vec<u64> = (0..=chance.below(4)).collect();
        Wish {
            pipeline: chance.one_of(&kinds),
            key: IdempotencyKey::new(format!("wish-{n}")).expect("a key"),
            input: json!({"n": n, "list": list}),
            priority: chance.one_in(2).then(|| u8::try_from(chance.below(10)).unwrap_or(4)),
            delay: chance.one_in(4).then(|| chance.millis(1..4_000)),
            group: chance.one_in(4).then(|| GroupKey::new(format!("group-{}", chance.below(2))).expect("a group")),
        }
    };
    (0..count).map(wish).collect()
}

/// Submits all wishes, as another client does at the same time, and each until it is accepted.
pub(super) async fn client(scene: Arc<Scene>, number: usize) {
    let process = Process::start(scene.seed, &format!("client-{number}"), false);
    let Connection { store, passing, .. } = Connection::of(&scene, &process);
    beside(passing, submit_all(&scene, &*store, &process.chance)).await;
}

async fn submit_all(scene: &Scene, store: &dyn Store, chance: &Chance) {
    for wish in &scene.wishes {
        tokio::time::sleep(chance.millis(0..900)).await;
        loop {
            let now = scene.truth.clock.now();
            let new = NewTask {
                input: wish.input.clone(),
                key: Some(wish.key.clone()),
                priority: wish.priority,
                run_at: wish.delay.map(|delay| now.plus(delay)),
                supersede: wish.group.clone(),
                ..NewTask::default()
            };
            let id = TaskId::new(now, chance.entropy().bytes());
            let submission = submission(&scene.pipeline(wish.pipeline), new, id, None).expect("a good input");
            match store.submit(vec![submission]).await {
                Ok(_) => break,
                Err(StoreError::Unavailable(_)) => tokio::time::sleep(chance.millis(20..400)).await,
                Err(error) => return scene.truth.violation(format!("a submit was refused: {error}")),
            }
        }
    }
}

/// A message that another system publishes to the broker.
#[derive(Debug, Clone)]
pub(super) struct Letter {
    pub(super) message: Message,
    /// The key of the task that it asks for; none if it never can become one.
    pub(super) key: Option<String>,
}

/// What another system publishes in a history.
pub(super) fn letters(chance: &Chance) -> Vec<Letter> {
    let letter = |n: u64| {
        let id = format!("letter-{n}");
        let bad =
            [json!({"pipeline": "nobody's"}), json!({"pipeline": "nowhere"}), json!({"pipeline": "plain", "n": n})];
        let (body, key) = match chance.below(6) {
            0 => (chance.one_of(&bad.each_ref()).clone(), None),
            // Its id is its key.
            1 | 2 => (json!({"pipeline": "plain", "input": {"n": n, "list": [n]}}), Some(id.clone())),
            _ => {
                let key = format!("order-{n}");
                let body = json!({"pipeline": "plain", "input": {"n": n, "list": []}, "idempotency_key": key});
                (body, Some(key))
            }
        };
        let message = Message { body: body.to_string().into_bytes(), id: Some(id) };
        Letter { message, key: key.map(|key| format!("plain/{key}")) }
    };
    (0..=chance.below(4)).map(letter).collect()
}

/// Publishes its messages, each until that is confirmed.
pub(super) async fn stranger(scene: Arc<Scene>, broker: Arc<Server>) {
    let chance = Chance::of(scene.seed, "stranger");
    for letter in &scene.letters {
        tokio::time::sleep(chance.millis(0..2_000)).await;
        while !broker.post(letter.message.clone()) || (scene.is_stormy() && chance.one_in(5)) {
            scene.truth.count("fault/message unconfirmed");
            tokio::time::sleep(chance.millis(20..400)).await;
        }
    }
}

/// Pauses queues now and then, until the weather is clear; resumes each.
pub(super) async fn operator(scene: Arc<Scene>) {
    let process = Process::start(scene.seed, "operator", false);
    let Connection { store, passing, .. } = Connection::of(&scene, &process);
    let chance = &process.chance;
    let pausing = async {
        loop {
            tokio::time::sleep(chance.millis(500..8_000)).await;
            if !scene.is_stormy() {
                return;
            }
            let queue = QueueName::new(chance.one_of(&QUEUES)).expect("a name");
            if store.pause(queue.clone(), true).await.is_ok() {
                scene.truth.count("person/pause");
            }
            tokio::time::sleep(chance.millis(100..4_000)).await;
            while store.pause(queue.clone(), false).await.is_err() {
                tokio::time::sleep(chance.millis(20..400)).await;
            }
        }
    };
    beside(passing, pausing).await;
}

/// Decides what is asked, sometimes twice; says what became of calls; stops and wakes tasks; sends some of those
/// that ended badly on their way again.
pub(super) async fn person(scene: Arc<Scene>) {
    let process = Process::start(scene.seed, "person", false);
    let Connection { store, passing, .. } = Connection::of(&scene, &process);
    beside(passing, look_around(&scene, &*store, &process.chance)).await;
}

async fn look_around(scene: &Scene, store: &dyn Store, chance: &Chance) {
    let mut replayed = HashSet::new();
    loop {
        tokio::time::sleep(chance.millis(150..700)).await;
        let Ok(page) = store.list(Filter::default(), None, 1_000).await else { continue };
        for head in page.tasks {
            for signal in answers(scene, chance, &head, &mut replayed) {
                for _ in 0..=u64::from(chance.one_in(4)) {
                    match store.signal(head.id, signal.clone()).await {
                        Ok(_) => scene.truth.count(&format!("person/{} taken", name(&signal))),
                        Err(SignalError::Refused(_)) => {
                            scene.truth.count(&format!("person/{} refused", name(&signal)));
                        }
                        Err(SignalError::Store(StoreError::Unavailable(_))) => {}
                        Err(error) => scene.truth.violation(format!("a person was not heard: {error}")),
                    }
                }
            }
        }
    }
}

const fn name(signal: &Signal) -> &'static str {
    match signal {
        Signal::Cancel { .. } => "cancel",
        Signal::Wake => "wake",
        Signal::Unhalt => "unhalt",
        Signal::Room => "room",
        Signal::Raise { .. } => "raise",
        Signal::Decide { .. } => "decision",
        Signal::Resolve { .. } => "outcome",
        Signal::ChildFinished { .. } => "child",
        Signal::Replay { .. } => "replay",
        Signal::ModelAnswered { .. } => "answer of a model batch",
        Signal::ModelFailed { .. } => "failure in a model batch",
        Signal::Seal { .. } => "private values",
    }
}

fn answers(scene: &Scene, chance: &Chance, head: &Head, replayed: &mut HashSet<TaskId>) -> Vec<Signal> {
    let by = || "ann".to_owned();
    let mut signals = Vec::new();
    for approval in &head.open_approvals {
        if chance.one_in(2) {
            let decision = ApprovalDecision { approved: !chance.one_in(4), by: by(), comment: None, edits: None };
            signals.push(Signal::Decide { approval: *approval, decision });
        }
    }
    if !head.unknown_outcomes.is_empty() {
        let journal = scene.truth.journal(head.id);
        for (step, call) in &head.unknown_outcomes {
            // The newest: a replay that reset the step gave its calls new keys.
            let key = journal.iter().rev().find_map(|recorded| match &recorded.event {
                Event::CallIntended { step: s, call: c } if s == step && c.call == *call => Some(c.key.clone()),
                _ => None,
            });
            let lies = scene.weather.sabotage == Sabotage::Person;
            let happened = key.filter(|_| !lies).and_then(|key| scene.world.happened(&key));
            signals.push(Signal::Resolve { step: step.clone(), call: call.clone(), by: by(), happened });
        }
    }
    // Not when all others think that it is over.
    let may_replay = |times| scene.is_stormy() && head.parent.is_none() && chance.one_in(times);
    match head.state.name() {
        StateName::Dead if may_replay(2) && replayed.insert(head.id) => {
            signals.push(again(scene, chance, head));
        }
        StateName::Cancelled if may_replay(6) && replayed.insert(head.id) => {
            signals.push(again(scene, chance, head));
        }
        StateName::Scheduled | StateName::Ready | StateName::Waiting | StateName::Running
            if scene.is_stormy() && chance.one_in(60) =>
        {
            signals.push(Signal::Cancel { by: by(), reason: "enough".to_owned() });
        }
        StateName::Scheduled | StateName::Waiting if scene.is_stormy() && chance.one_in(20) => {
            signals.push(Signal::Wake);
        }
        _ => {}
    }
    signals
}

/// A replay: from where it stopped, or from some step, or with another input.
fn again(scene: &Scene, chance: &Chance, head: &Head) -> Signal {
    let pipeline = scene.pipeline(head.pipeline.as_str());
    let steps: Vec<&StepId> = pipeline.steps.iter().map(|step| &step.id).collect();
    let from = chance.one_in(2).then(|| chance.one_of(&steps));
    let reset = replay::reset(&pipeline, from).expect("a step of the pipeline");
    let input = chance.one_in(3).then(|| json!({"n": chance.below(100), "list": [1, 2]}));
    Signal::Replay { by: "ann".to_owned(), reset, input, sealed: common::journal::SealedValues::default() }
}
