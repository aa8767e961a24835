//! The people: clients who submit, and one who decides what is asked.

use std::collections::HashSet;
use std::sync::Arc;

use common::clock::Clock;
use common::id::{IdempotencyKey, TaskId};
use common::journal::{ApprovalDecision, Event};
use common::store::{Filter, SignalError, Store, StoreError};
use common::submission::{NewTask, submission};
use common::task::{Head, Signal, StateName};
use serde_json::{Value, json};

use super::chance::Chance;
use super::faulty::{Faulty, Process, Sabotage};
use super::scene::Scene;

/// What somebody wants.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    pipeline: &'static str,
    key: IdempotencyKey,
    input: Value,
}

/// What is wanted in a history.
pub(super) fn wishes(chance: &Chance) -> Vec<Wish> {
    let kinds = ["plain", "charge", "charge", "ask", "fan", "family", "think"];
    let count = 4 + chance.below(4);
    let wish = |n| {
        let list: Vec<u64> = (0..=chance.below(4)).collect();
        let kind = usize::try_from(chance.below(kinds.len() as u64)).unwrap_or(0);
        Wish {
            pipeline: kinds[kind],
            key: IdempotencyKey::new(format!("wish-{n}")).expect("a key"),
            input: json!({"n": n, "list": list}),
        }
    };
    (0..count).map(wish).collect()
}

/// Submits all wishes, as another client does at the same time, and each until it is accepted.
pub(super) async fn client(scene: Arc<Scene>, number: usize) {
    let process = Process::start(scene.seed, &format!("client-{number}"), false);
    let (store, chance) = (Faulty::new(&scene.truth, &process, scene.weather), &process.chance);
    for wish in &scene.wishes {
        tokio::time::sleep(chance.millis(0..900)).await;
        loop {
            let new = NewTask { input: wish.input.clone(), key: Some(wish.key.clone()), ..NewTask::default() };
            let id = TaskId::new(scene.truth.clock.now(), chance.entropy().bytes());
            let submission = submission(&scene.pipeline(wish.pipeline), new, id).expect("a good input");
            match store.submit(vec![submission]).await {
                Ok(_) => break,
                Err(StoreError::Unavailable(_)) => tokio::time::sleep(chance.millis(20..400)).await,
                Err(error) => return scene.truth.violation(format!("a submit was refused: {error}")),
            }
        }
    }
}

/// Decides what is asked, sometimes twice; says what became of calls; sends some dead letters on their way again.
pub(super) async fn person(scene: Arc<Scene>) {
    let process = Process::start(scene.seed, "person", false);
    let store = Faulty::new(&scene.truth, &process, scene.weather);
    let chance = &process.chance;
    let mut replayed = HashSet::new();
    loop {
        tokio::time::sleep(chance.millis(150..700)).await;
        let Ok(page) = store.list(Filter::default(), None, 1_000).await else { continue };
        for head in page.tasks {
            for signal in answers(&scene, chance, &head, &mut replayed) {
                for _ in 0..=u64::from(chance.one_in(4)) {
                    match store.signal(head.id, signal.clone()).await {
                        Ok(_) => scene.truth.count("person/word taken"),
                        Err(SignalError::Refused(_)) => scene.truth.count("person/word refused"),
                        Err(SignalError::Store(StoreError::Unavailable(_))) => {}
                        Err(error) => scene.truth.violation(format!("a person was not heard: {error}")),
                    }
                }
            }
        }
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
            let key = journal.iter().find_map(|recorded| match &recorded.event {
                Event::CallIntended { step: s, call: c } if s == step && c.call == *call => Some(c.key.clone()),
                _ => None,
            });
            let lies = scene.weather.sabotage == Sabotage::Person;
            let happened = key.filter(|_| !lies).and_then(|key| scene.world.happened(&key));
            signals.push(Signal::Resolve { step: step.clone(), call: call.clone(), by: by(), happened });
        }
    }
    match head.state.name() {
        StateName::Dead if head.parent.is_none() && chance.one_in(3) && replayed.insert(head.id) => {
            signals.push(Signal::Replay { by: by(), reset: Vec::new(), input: None });
        }
        StateName::Waiting | StateName::Running if scene.is_stormy() && chance.one_in(60) => {
            signals.push(Signal::Cancel { by: by(), reason: "enough".to_owned() });
        }
        _ => {}
    }
    signals
}
