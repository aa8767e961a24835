//! Tasks that come from another store, with their journals: all or none.

use std::collections::{BTreeSet, HashSet};

use uuid::Uuid;

use super::blob;
use super::connection::Connection;
use super::fault::{Fault, Stop};
use super::submit::{BATCHES, IDS, KEYS};
use super::transaction::{Rings, Transaction};
use super::write::Created;
use crate::clock::Timestamp;
use crate::id::TaskId;
use crate::journal::{Event, Recorded, Reference};
use crate::store::book::Entry;
use crate::store::{StoreError, StoreOptions, Transcript, ledger};

/// Puts them here; says which are new.
pub(super) async fn restore(
    connection: &Connection,
    options: &StoreOptions,
    tasks: &[Transcript],
) -> Result<(Vec<bool>, Rings), Stop<StoreError>> {
    let most = options.limits.submissions;
    if tasks.len() > most {
        return Err(refuse(format!(
            "{} tasks in one call; at most {most} are allowed (limits.submissions)",
            tasks.len()
        )));
    }
    let mut tx = Transaction::begin(connection, options).await?;
    let mut known = present(connection, tasks).await?;
    let batches = batches(connection, tasks).await?;
    let mut new = Vec::with_capacity(tasks.len());
    for Transcript { id, journal } in tasks {
        let is_new = known.insert(*id);
        new.push(is_new);
        if is_new {
            tx.created.push(created(*id, journal, tx.now, &batches)?);
        }
    }
    check_keys(connection, &tx.created).await?;
    tx.kept_blobs = blob::kept(connection, tx.created.iter().flat_map(|created| &created.blobs)).await?;
    if !tx.created.iter().all(|created| tx.keeps(&created.blobs)) {
        return Err(Stop::Refused(blob::gone()));
    }
    Ok((new, tx.commit().await?))
}

fn refuse(why: String) -> Stop<StoreError> {
    Stop::Refused(StoreError::Refused(why))
}

/// Which of them are here.
async fn present(connection: &Connection, tasks: &[Transcript]) -> Result<HashSet<TaskId>, Fault> {
    let ids: Vec<Uuid> = tasks.iter().map(|task| task.id.as_uuid()).collect();
    let mut known = HashSet::new();
    for row in connection.query(IDS, &[&ids]).await? {
        known.insert(TaskId::from_uuid(row.try_get(0)?));
    }
    Ok(known)
}

/// Which of their batches are here: a row leads to its task where there is a batch to lead from.
async fn batches(connection: &Connection, tasks: &[Transcript]) -> Result<HashSet<String>, Fault> {
    let named: BTreeSet<&str> = tasks
        .iter()
        .filter_map(|task| match task.journal.first().map(|first| &first.event) {
            Some(Event::Submitted(submitted)) => submitted.batch.as_ref().map(AsRef::as_ref),
            _ => None,
        })
        .collect();
    let named: Vec<&str> = named.into_iter().collect();
    let mut found = HashSet::new();
    for row in connection.query(BATCHES, &[&named]).await? {
        found.insert(row.try_get(0)?);
    }
    Ok(found)
}

fn created(
    id: TaskId,
    journal: &[Recorded],
    now: Timestamp,
    batches: &HashSet<String>,
) -> Result<Created, Stop<StoreError>> {
    let illegal = |why: &dyn std::fmt::Display| refuse(format!("task {id} cannot be restored: {why}"));
    let (head, added) = ledger::restore(id, journal, now).map_err(|why| illegal(&why))?;
    let mut events = Vec::with_capacity(journal.len() + added.len());
    let mut blobs = Vec::new();
    for Recorded { seq, at, event } in journal.iter().chain(&added) {
        let encoded = serde_json::to_string(event).map_err(|why| illegal(&why))?;
        blobs.extend(Reference::in_event(event, &encoded));
        events.push((*seq, *at, encoded));
    }
    let bytes = events.iter().map(|(_, _, event)| event.len() as u64).sum();
    let Some(Event::Submitted(submitted)) = journal.first().map(|first| &first.event) else {
        return Err(illegal(&"its journal does not start with submitted"));
    };
    let batch = submitted.line.and(submitted.batch.as_ref()).map(ToString::to_string);
    Ok(Created {
        entry: Entry::open(head, bytes),
        events,
        blobs,
        batch: batch.filter(|batch| batches.contains(batch)),
        supersede: submitted.supersede.as_ref().map(ToString::to_string),
    })
}

/// A key leads to one task: what is here already is not pushed aside.
async fn check_keys(connection: &Connection, created: &[Created]) -> Result<(), Stop<StoreError>> {
    let mut keys = BTreeSet::new();
    for Created { entry, .. } in created {
        if let Some(key) = &entry.head.key
            && !keys.insert((entry.head.pipeline.as_str(), key.as_str()))
        {
            return Err(refuse(format!("two of the tasks have the key {key} of pipeline {}", entry.head.pipeline)));
        }
    }
    let (pipelines, names): (Vec<&str>, Vec<&str>) = keys.into_iter().unzip();
    let taken = connection.query(KEYS, &[&pipelines, &names]).await?;
    let Some(row) = taken.first() else { return Ok(()) };
    let (pipeline, key): (&str, &str) = (row.try_get(0).map_err(Fault::from)?, row.try_get(1).map_err(Fault::from)?);
    let owner = TaskId::from_uuid(row.try_get(2).map_err(Fault::from)?);
    Err(refuse(format!("the key {key} of pipeline {pipeline} belongs to task {owner} here; remove that one first")))
}
