//! Putting tasks here with the journals that they had in another store: all or none.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use futures::join;
use uuid::Uuid;

use super::blob;
use super::connection::Connection;
use super::fault::{Fault, Stop};
use super::submit::{BATCHES, DEPTHS, IDS, KEYS, check_depth};
use super::transaction::{Rings, Transaction};
use super::value::{integer, natural};
use super::write::Created;
use crate::id::{BatchId, IdempotencyKey, PipelineName, QueueName, TaskId};
use crate::store::intake::{Arrival, Moved};
use crate::store::{StoreError, StoreOptions};
use crate::task::StateName;

/// What is here already.
struct Here {
    ids: HashSet<TaskId>,
    keys: HashMap<(PipelineName, IdempotencyKey), TaskId>,
    batches: HashSet<BatchId>,
    depths: BTreeMap<QueueName, u64>,
}

/// Writes those that are not here yet; says which these are.
pub(super) async fn restore(
    connection: &Connection,
    options: &StoreOptions,
    moved: &[Moved],
) -> Result<(Vec<bool>, Rings), Stop<StoreError>> {
    let mut tx = Transaction::begin(connection, options).await?;
    let mut here = Here::ask(connection, moved).await?;
    let mut new_in_queue: BTreeMap<&QueueName, u64> = BTreeMap::new();
    let mut answers = Vec::with_capacity(moved.len());
    for moved in moved {
        let is_new = here.ids.insert(moved.id);
        answers.push(is_new);
        let Some(submitted) = moved.submitted().filter(|_| is_new) else { continue };
        if let Some(key) = &submitted.key
            && let Some(other) = here.keys.insert((submitted.pipeline.clone(), key.clone()), moved.id)
        {
            return Err(refuse(format!(
                "task {} cannot come here: task {other} of pipeline {} has its idempotency key {key}",
                moved.id, submitted.pipeline
            )));
        }
        let row = match (submitted.line, &submitted.batch) {
            (Some(line), Some(batch)) if here.batches.contains(batch) => Some((line, batch)),
            _ => None,
        };
        let created = created(&tx, moved, row.map(|(_, batch)| batch))?;
        if matches!(created.entry.state(), StateName::Ready | StateName::Scheduled) {
            *new_in_queue.entry(&submitted.queue).or_default() += 1;
        }
        if let Some((line, batch)) = row {
            tx.rows.batches.push(batch.to_string());
            tx.rows.lines.push(integer(line));
            tx.rows.tasks.push(moved.id.as_uuid());
            tx.rows.duplicates.push(false);
        }
        tx.created.push(created);
    }
    tx.kept_blobs = blob::kept(connection, tx.created.iter().flat_map(|created| &created.blobs)).await?;
    if !tx.created.iter().all(|created| tx.keeps(&created.blobs)) {
        return Err(Stop::Refused(blob::gone()));
    }
    check_depth(&here.depths, new_in_queue, options.limits.queue_depth).map_err(Stop::Refused)?;
    Ok((answers, tx.commit().await?))
}

fn refuse(why: String) -> Stop<StoreError> {
    Stop::Refused(StoreError::Refused(why))
}

impl Here {
    /// Asks, in one flush.
    async fn ask(connection: &Connection, moved: &[Moved]) -> Result<Self, Fault> {
        let ids: Vec<Uuid> = moved.iter().map(|moved| moved.id.as_uuid()).collect();
        let submitted = || moved.iter().filter_map(Moved::submitted);
        let keys = submitted().filter_map(|s| s.key.as_ref().map(|key| (s.pipeline.as_str(), key.as_str())));
        let (pipelines, keys): (Vec<&str>, Vec<&str>) = keys.unzip();
        let unique = |names: BTreeSet<&str>| names.into_iter().map(str::to_owned).collect::<Vec<_>>();
        let queues = unique(submitted().map(|s| s.queue.as_str()).collect());
        let batches = unique(submitted().filter_map(|s| s.batch.as_ref().map(BatchId::as_str)).collect());
        let (known, taken, open, depths) = join!(
            async { connection.query(IDS, &[&ids]).await },
            async { connection.query(KEYS, &[&pipelines, &keys]).await },
            async { connection.query(BATCHES, &[&batches]).await },
            async { connection.query(DEPTHS, &[&queues]).await },
        );
        let mut here =
            Self { ids: HashSet::new(), keys: HashMap::new(), batches: HashSet::new(), depths: BTreeMap::new() };
        for row in known? {
            here.ids.insert(TaskId::from_uuid(row.try_get(0)?));
        }
        for row in taken? {
            if let (Ok(pipeline), Ok(key)) =
                (PipelineName::new(row.try_get::<_, &str>(0)?), IdempotencyKey::new(row.try_get::<_, &str>(1)?))
            {
                here.keys.insert((pipeline, key), TaskId::from_uuid(row.try_get(2)?));
            }
        }
        for row in open? {
            here.batches.extend(BatchId::new(row.try_get::<_, &str>(0)?).ok());
        }
        for row in depths? {
            if let Ok(queue) = QueueName::new(row.try_get::<_, &str>(0)?) {
                here.depths.insert(queue, natural(row.try_get(1)?));
            }
        }
        Ok(here)
    }
}

fn created(tx: &Transaction<'_>, moved: &Moved, batch: Option<&BatchId>) -> Result<Created, Stop<StoreError>> {
    let Arrival { entry, journal, seal } = moved.settle(tx.now, tx.options.seal.as_deref()).map_err(Stop::Refused)?;
    Ok(Created {
        entry,
        events: journal,
        seal,
        blobs: moved.blobs.clone(),
        batch: batch.map(ToString::to_string),
        supersede: moved.submitted().and_then(|s| s.supersede.as_ref()).map(ToString::to_string),
    })
}
