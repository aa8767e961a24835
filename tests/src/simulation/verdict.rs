//! What must hold when a history is over.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use common::id::{Digest, StepKey};
use common::journal::{Effect, Event, Recorded};
use common::pipeline::model::Trigger;
use common::store::Filter;
use common::task::{Head, StateName, Wait, WaitOn};

use super::scene::{QUEUE_DEPTH, Scene};
use super::stage::TICK;
use super::world::Deed;
use crate::invariants::{self, Seen};

/// Events that no task of these pipelines needs, however bad the weather.
const MOST_EVENTS: usize = 120;
/// How often a task may go back to sleep for its timers: more is a worker that does not believe the store's clock.
const MOST_NAPS: usize = 10;

/// Checks everything; what is broken is noted. Answers with a digest of all journals.
pub(super) fn check(scene: &Scene) -> String {
    let truth = &scene.truth;
    let heads = match truth.ask("look", async |store| store.list(Filter::default(), None, 1_000).await) {
        Ok(page) => page.tasks,
        Err(error) => {
            truth.violation(format!("tasks cannot be listed: {error}"));
            return String::new();
        }
    };
    let mut history = String::new();
    let listed: HashSet<_> = heads.iter().map(|head| head.id).collect();
    for task in truth.accepted() {
        if !listed.contains(&task) {
            truth.violation(format!("I1: task {task} was accepted and is not there"));
        }
    }
    for head in &heads {
        truth.count(&format!("end/{}", head.state.name()));
        let journal = truth.journal(head.id);
        history.push_str(&serde_json::to_string(&journal).unwrap_or_default());
        let mut wrong = invariants::of_journal(head, &journal);
        wrong.extend(invariants::of_end(head));
        wrong.extend(invariants::of_effects(&journal, &seen(&journal, scene.world.deeds_of(head.id))));
        wrong.extend(of_length(&journal));
        for what in wrong {
            truth.violation(format!("task {} ({}): {what}", head.id, head.pipeline));
        }
    }
    check_deeds(scene);
    check_keys(scene);
    check_broker(scene);
    check_schedule(scene, &heads);
    check_counters(scene, &heads);
    Digest::of(history.as_bytes()).as_str().to_owned()
}

/// What was done for a task, by the step that its journal names.
fn seen(journal: &[Recorded], deeds: Vec<Deed>) -> BTreeMap<StepKey, Seen> {
    let steps: BTreeMap<&str, &StepKey> = journal
        .iter()
        .filter_map(|recorded| match &recorded.event {
            Event::CallIntended { step, call } => Some((call.key.as_str(), step)),
            _ => None,
        })
        .collect();
    let mut seen: BTreeMap<StepKey, Seen> = BTreeMap::new();
    // That nothing happens without an intent is seen when it happens.
    for deed in deeds {
        if let Some(step) = steps.get(deed.key.as_str()) {
            seen.entry((*step).clone()).or_default().keys.push(deed.key);
        }
    }
    seen
}

/// I7, and the store's time.
fn of_length(journal: &[Recorded]) -> Vec<String> {
    let mut wrong = Vec::new();
    if journal.len() > MOST_EVENTS {
        wrong.push(format!("I7: it has {} events", journal.len()));
    }
    let timers = |wait: &Wait| wait.on.iter().all(|on| matches!(on, WaitOn::Timer { .. }));
    let naps = journal.iter().filter(|r| matches!(&r.event, Event::Parked { wait } if timers(wait))).count();
    if naps > MOST_NAPS {
        wrong.push(format!("I7: it goes to sleep {naps} times"));
    }
    if journal.windows(2).any(|pair| pair[1].at < pair[0].at) {
        wrong.push("the store's time went back".to_owned());
    }
    wrong
}

/// What this world knows better than a journal: a call of class `once` has happened once (the person never errs),
/// and no older attempt acts after a newer one.
fn check_deeds(scene: &Scene) {
    let mut once: BTreeSet<&str> = BTreeSet::new();
    let mut epochs: BTreeMap<&str, u32> = BTreeMap::new();
    for deed in scene.world.deeds().iter() {
        if deed.effect == Effect::Once && !once.insert(&deed.key) {
            let Deed { mark, task, .. } = deed;
            scene.truth.violation(format!("I5: the call {mark} of task {task} of class once happened twice"));
        }
        let epoch = epochs.insert(&deed.key, deed.epoch).unwrap_or(0);
        if epoch > deed.epoch {
            scene
                .truth
                .violation(format!("I2: attempt {} of task {} acted after attempt {epoch}", deed.epoch, deed.task));
        }
    }
}

/// I6: the same key is the same task.
fn check_keys(scene: &Scene) {
    for (key, tasks) in scene.truth.keys() {
        if let Some(wrong) = invariants::of_answers(&key, &tasks) {
            scene.truth.violation(wrong);
        }
    }
}

/// I1 for what came through the broker.
fn check_broker(scene: &Scene) {
    let Some(broker) = &scene.broker else { return };
    let (good, bad): (Vec<_>, Vec<_>) = scene.letters.iter().partition(|letter| letter.key.is_some());
    let keys = scene.truth.keys();
    for key in good.iter().filter_map(|letter| letter.key.as_ref()).filter(|key| !keys.contains_key(*key)) {
        scene.truth.violation(format!("I1: the message of key {key} was accepted by the broker and made no task"));
    }
    for wrong in broker.check(&good, &bad) {
        scene.truth.violation(wrong);
    }
}

/// Each time of the schedule has one task.
fn check_schedule(scene: &Scene, heads: &[Head]) {
    let pipeline = scene.pipeline(TICK);
    let Some(Trigger::Schedule(schedule)) = pipeline.triggers.first() else {
        return scene.truth.violation("there is no schedule".to_owned());
    };
    for (name, from) in scene.truth.schedules() {
        let served = scene.truth.ask("look", async |store| store.schedule(&name).await);
        let Ok(Some(until)) = served else { continue };
        let expected: BTreeSet<String> = scheduler::cron::ticks(schedule, from, until)
            .unwrap_or_default()
            .iter()
            .map(|tick| format!("cron:{name}:{tick}"))
            .collect();
        let found: Vec<String> = heads.iter().filter_map(|head| head.key.as_ref()).map(ToString::to_string).collect();
        let found: Vec<String> = found.into_iter().filter(|key| key.starts_with(&format!("cron:{name}:"))).collect();
        let different: BTreeSet<String> = found.iter().cloned().collect();
        if different.len() != found.len() || !expected.is_subset(&different) {
            scene.truth.violation(format!("the schedule {name} has the tasks {found:?}, not {expected:?}"));
        }
        scene.truth.count("schedule/served");
    }
}

/// I4 and I7: the figures are what counting gives, and nothing is left over.
fn check_counters(scene: &Scene, heads: &[Head]) {
    let truth = &scene.truth;
    let mut counted: BTreeMap<(String, StateName), u64> = BTreeMap::new();
    for head in heads.iter().filter(|head| head.state.name() == StateName::Dead) {
        *counted.entry((head.queue.to_string(), StateName::Dead)).or_default() += 1;
    }
    let mut told = BTreeMap::new();
    for queue in truth.ask("look", async |store| store.queues().await).unwrap_or_default() {
        for (state, count) in queue.depth.into_iter().filter(|(_, count)| *count > 0) {
            told.insert((queue.name.to_string(), state), count);
        }
    }
    if told != counted {
        truth.violation(format!("I4: the queues say {told:?}, counting says {counted:?}"));
    }
    if heads.len() as u64 > QUEUE_DEPTH * 10 {
        truth.violation(format!("I7: there are {} tasks", heads.len()));
    }
    match truth.kept_signals() {
        Ok(0) => {}
        other => truth.violation(format!("I4: signals are left for tasks that nobody holds: {other:?}")),
    }
    let hints = truth.ask("look", async |store| store.unsent(std::time::Duration::ZERO, 1_000).await);
    match hints {
        Ok(hints) if hints.is_empty() => {}
        other => truth.violation(format!("I4: hints are left for tasks that are done: {other:?}")),
    }
}
