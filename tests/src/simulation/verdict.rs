//! What must hold when a history is over.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use common::id::Digest;
use common::journal::{CallResult, Effect, Event, Recorded, Run, StepOutcome};
use common::pipeline::model::Trigger;
use common::store::Filter;
use common::task::{Head, StateName, Wait, WaitOn};

use super::scene::{QUEUE_DEPTH, Scene};
use super::stage::TICK;

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
        if let Err(why) = check_task(head, &journal) {
            truth.violation(format!("task {} ({}): {why}", head.id, head.pipeline));
        }
    }
    check_effects(scene);
    check_keys(scene);
    check_schedule(scene, &heads);
    check_counters(scene, &heads);
    Digest::of(history.as_bytes()).as_str().to_owned()
}

fn check_task(head: &Head, journal: &[Recorded]) -> Result<(), String> {
    if !head.state.is_terminal() {
        return Err(format!("I1: it is {:?}", head.state));
    }
    let folded = Head::fold(head.id, journal).map_err(|illegal| format!("I4: {illegal}"))?;
    let run = Run::fold(head.id, journal).map_err(|illegal| format!("I4: {illegal}"))?;
    if *head != folded || run.head != folded {
        return Err("I4: its head is not the fold of its journal".to_owned());
    }
    if journal.len() > MOST_EVENTS {
        return Err(format!("I7: it has {} events", journal.len()));
    }
    let timers = |wait: &Wait| wait.on.iter().all(|on| matches!(on, WaitOn::Timer { .. }));
    let naps = journal.iter().filter(|r| matches!(&r.event, Event::Parked { wait } if timers(wait))).count();
    if naps > MOST_NAPS {
        return Err(format!("I7: it goes to sleep {naps} times"));
    }
    if journal.windows(2).any(|pair| pair[1].at < pair[0].at) {
        return Err("the store's time went back".to_owned());
    }
    let (mut steps, mut calls, mut decided) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for recorded in journal {
        let once = match &recorded.event {
            Event::StepFinished { step, outcome: StepOutcome::Succeeded { .. } } => steps.insert(step.to_string()),
            Event::CallFinished { step, call, result: CallResult::Done { is_error: false, .. }, .. } => {
                calls.insert((step.to_string(), call.to_string()))
            }
            Event::ApprovalDecided { approval, .. } => decided.insert(*approval),
            _ => true,
        };
        if !once {
            return Err(format!("I3: event {} says again what was said: {}", recorded.seq, recorded.event.kind()));
        }
    }
    Ok(())
}

/// I5: `once` once, one key for all repetitions of a call, and no older attempt after a newer one.
fn check_effects(scene: &Scene) {
    let deeds = scene.world.deeds();
    let mut keys: BTreeMap<_, BTreeSet<&str>> = BTreeMap::new();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut epochs: BTreeMap<&str, u32> = BTreeMap::new();
    for deed in deeds.iter() {
        let count = counts.entry(&deed.key).or_default();
        *count += 1;
        if deed.effect == Effect::Once && *count == 2 {
            scene
                .truth
                .violation(format!("I5: the call {} of task {} of class once happened twice", deed.mark, deed.task));
        }
        let epoch = epochs.insert(&deed.key, deed.epoch).unwrap_or(0);
        if epoch > deed.epoch {
            scene
                .truth
                .violation(format!("I2: attempt {} of task {} acted after attempt {epoch}", deed.epoch, deed.task));
        }
        // What an agent's model calls has no mark of its own.
        if deed.mark.contains(|c: char| c.is_ascii_lowercase()) && !deed.mark.contains(' ') {
            keys.entry((deed.task, deed.mark.as_str(), format!("{:?}", deed.effect))).or_default().insert(&deed.key);
        }
    }
    for ((task, mark, _), keys) in keys {
        if keys.len() > 1 {
            scene.truth.violation(format!("I5: the call {mark} of task {task} went out under {} keys", keys.len()));
        }
    }
}

/// I6: the same key is the same task.
fn check_keys(scene: &Scene) {
    for (key, tasks) in scene.truth.keys() {
        if tasks.len() > 1 {
            scene.truth.violation(format!("I6: the key {key} has {} tasks", tasks.len()));
        }
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
