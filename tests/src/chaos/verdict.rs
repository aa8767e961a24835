//! What is left when all is over, against the invariants.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use common::journal::{Event, Recorded};
use common::store::{Cursor, Filter, Store, StoreOptions};
use common::task::{DeadReason, Head, State, StateName};

use super::Counts;
use super::load::Load;
use super::world::World;
use crate::fixtures::worker::entropy;
use crate::invariants;

/// Events of a journal that are read at once.
const PAGE: usize = 10_000;
/// How long one look at the store may take.
const LOOK: Duration = Duration::from_secs(20);
/// Violations that are shown.
const SHOWN: usize = 20;

/// Opens the store beside the fleet.
pub(super) async fn open(url: &str) -> Result<Arc<dyn Store>> {
    Ok(common::store::open(url, StoreOptions::new(entropy())).await?)
}

/// Some of the tasks that have not come to their end.
pub(super) async fn unfinished(url: &str) -> Result<Vec<Head>> {
    let states = StateName::ALL.into_iter().filter(|state| !state.is_terminal()).collect();
    let filter = Filter { states, ..Filter::default() };
    let looked = async { anyhow::Ok(open(url).await?.list(filter, None, 1_000).await?.tasks) };
    tokio::time::timeout(LOOK, looked).await?
}

/// Checks every task; counts what happened to them.
///
/// # Errors
/// All violations.
pub(super) async fn check(url: &str, load: &Load, world: &World) -> Result<Counts> {
    let store = open(url).await?;
    let mut heads = Vec::new();
    let mut after: Option<Cursor> = None;
    loop {
        let page = store.list(Filter::default(), after, 1_000).await?;
        heads.extend(page.tasks);
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    let by_id: BTreeMap<_, _> = heads.iter().map(|head| (head.id, head)).collect();
    let mut wrong = Vec::new();
    let mut counts = Counts::new();
    let accepted = load.accepted();
    for (key, tasks) in &accepted {
        wrong.extend(invariants::of_answers(key, tasks));
        let lost = tasks.iter().filter(|task| !by_id.contains_key(task));
        wrong.extend(lost.map(|task| format!("task {task} was accepted under key {key} and is not there")));
    }
    for head in &heads {
        let journal = store.journal(head.id, 0, PAGE).await?;
        let Some(name) = name_of(&journal) else {
            wrong.push(format!("task {} has no name in its input", head.id));
            continue;
        };
        let mut of_task = invariants::of_journal(head, &journal);
        of_task.extend(invariants::of_end(head));
        of_task.extend(invariants::of_effects(&journal, &world.seen(&name)));
        // Nobody cancels, and every step has enough tries: only a task whose workers were killed again and again may die.
        if !matches!(head.state, State::Succeeded { .. } | State::Dead { reason: DeadReason::Poison, .. }) {
            of_task.push(format!("it ended as {:?}", head.state));
        }
        wrong.extend(of_task.into_iter().map(|what| format!("task {} ({name}): {what}", head.id)));
        count(&mut counts, head, &journal);
    }
    counts.insert("keys accepted".to_owned(), accepted.len() as u64);
    let shown: Vec<&String> = wrong.iter().take(SHOWN).collect();
    ensure!(wrong.is_empty(), "{} violations: {shown:#?}", wrong.len());
    Ok(counts)
}

fn name_of(journal: &[Recorded]) -> Option<String> {
    match journal.first().map(|first| &first.event) {
        Some(Event::Submitted(submitted)) => Some(submitted.input["name"].as_str()?.to_owned()),
        _ => None,
    }
}

fn count(counts: &mut Counts, head: &Head, journal: &[Recorded]) {
    let mut add = |kind: &str, count: u64| *counts.entry(kind.to_owned()).or_default() += count;
    add("tasks", 1);
    add(&format!("tasks {}", head.state.name()), 1);
    for recorded in journal {
        match &recorded.event {
            Event::LeaseExpired { .. } => add("leases lost", 1),
            Event::StepRetrying { .. } => add("steps retried", 1),
            Event::OutcomeUnknown { .. } => add("outcomes unknown", 1),
            Event::Leased { .. } => add("attempts", 1),
            _ => {}
        }
    }
}
