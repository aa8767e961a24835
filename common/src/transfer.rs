//! Moving tasks between stores: a text of one JSON document a line, which any
//! store can write and any other can read. Journals go as they are; nothing is
//! lost if a move breaks off, and the same lines again change nothing.
//!
//! The source keeps what it has. Whoever moves a fleet stops its workers first:
//! a task that runs there and goes on here runs twice.

use std::collections::HashSet;

use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::id::{BatchId, Digest, PipelineName, QueueName, TaskId};
use crate::store::{BatchRowState, Cursor, Definition, Filter, OpenBatch, RejectedRow, Store, StoreError, Transcript};

/// The version of the format. The first had no hashes.
const VERSION: u32 = 2;
/// Heads that are read at once.
const PAGE: usize = 200;
/// Journals that are read at the same time.
const READERS: usize = 8;
/// Events that are read at once.
const EVENTS: usize = 10_000;
/// Tasks that go into the target at once.
const GROUP: usize = 100;
/// Bytes of journal after which a group goes into the target.
const GROUP_BYTES: usize = 4 << 20;

/// A line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Line {
    /// The first: what this is.
    TeamsterExport {
        /// The version of the format.
        version: u32,
    },
    /// A definition that a task is pinned to, or that is current.
    Definition {
        /// The pipeline.
        name: PipelineName,
        /// The digest of the body.
        digest: Digest,
        /// The definition with everything that it refers to.
        body: String,
        /// Whether new tasks get it.
        current: bool,
    },
    /// A queue that is paused.
    PausedQueue {
        /// Its name.
        name: QueueName,
    },
    /// A batch, before its first task.
    Batch {
        /// Its id.
        id: BatchId,
        /// The pipeline that its rows are for.
        pipeline: PipelineName,
        /// Whether all of its rows have been read.
        closed: bool,
        /// Rows that made no task.
        rejected: Vec<RejectedRow>,
    },
    /// A task.
    Task(Transcript),
    /// The last: how much there was, so that a text that was cut off is noticed.
    End {
        /// Tasks.
        tasks: u64,
    },
}

/// Why a move broke off, by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// Mend the text: what is wrong stands in this line.
    #[error("line {line}: {why}")]
    Text {
        /// Its number, from 1.
        line: u64,
        /// What is wrong.
        why: String,
    },
    /// See [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The text cannot be written.
    #[error("the text cannot be written: {0}")]
    Write(#[from] std::io::Error),
}

/// Writes all tasks that match, newest first, with what they refer to. Answers with how many there were.
///
/// # Errors
/// The store's, and those of `write`.
pub async fn export(
    store: &dyn Store,
    filter: Filter,
    mut write: impl FnMut(&Line) -> std::io::Result<()>,
) -> Result<u64, TransferError> {
    write(&Line::TeamsterExport { version: VERSION })?;
    let current = store.definitions().await?;
    let mut definitions = HashSet::new();
    for definition in current {
        definitions.insert(definition.digest.clone());
        write(&line_of(definition, true))?;
    }
    for queue in store.queues().await?.into_iter().filter(|queue| queue.paused) {
        write(&Line::PausedQueue { name: queue.name })?;
    }
    let mut batches = HashSet::new();
    let (mut tasks, mut after): (u64, Option<Cursor>) = (0, None);
    loop {
        let page = store.list(filter.clone(), after, PAGE).await?;
        for head in &page.tasks {
            if definitions.insert(head.digest.clone())
                && let Some(definition) = store.definition(&head.digest).await?
            {
                write(&line_of(definition, false))?;
            }
            if let Some(id) = &head.batch
                && batches.insert(id.clone())
                && let Some(batch) = batch(store, id).await?
            {
                write(&batch)?;
            }
        }
        let tasks_of_page: Vec<TaskId> = page.tasks.iter().map(|head| head.id).collect();
        let mut transcripts = stream::iter(tasks_of_page).map(|task| transcript(store, task)).buffered(READERS);
        while let Some(transcript) = transcripts.try_next().await? {
            // Retention may have removed it between the two readings.
            if !transcript.journal.is_empty() {
                write(&Line::Task(transcript))?;
                tasks += 1;
            }
        }
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    write(&Line::End { tasks })?;
    Ok(tasks)
}

fn line_of(definition: Definition, current: bool) -> Line {
    let Definition { name, digest, body } = definition;
    Line::Definition { name, digest, body: body.to_string(), current }
}

async fn transcript(store: &dyn Store, id: TaskId) -> Result<Transcript, StoreError> {
    // Before the journal, which may grow meanwhile and then has more than this says.
    let seal = store.seal(id).await?;
    let mut journal = Vec::new();
    loop {
        let more = store.journal(id, journal.len() as u64, EVENTS).await?;
        let last = more.len() < EVENTS;
        journal.extend(more);
        if last {
            break;
        }
    }
    let mut hashes = Vec::with_capacity(journal.len());
    while hashes.len() < journal.len() {
        let more = store.chain(id, hashes.len() as u64, EVENTS.min(journal.len() - hashes.len())).await?;
        if more.is_empty() {
            break;
        }
        hashes.extend(more.into_iter().map(|chained| chained.hash));
    }
    Ok(Transcript { id, journal, hashes, seal })
}

async fn batch(store: &dyn Store, id: &BatchId) -> Result<Option<Line>, StoreError> {
    let Some(status) = store.batch(id).await? else { return Ok(None) };
    let mut rejected = Vec::new();
    let mut after = 0;
    loop {
        let rows = store.batch_rows(id, after, EVENTS).await?;
        let Some(last) = rows.last() else { break };
        after = last.line;
        rejected.extend(rows.into_iter().filter_map(|row| match row.state {
            BatchRowState::Rejected(reason) => Some(RejectedRow { line: row.line, reason }),
            BatchRowState::Task(_) | BatchRowState::Removed(_) => None,
        }));
    }
    Ok(Some(Line::Batch { id: status.id, pipeline: status.pipeline, closed: status.closed, rejected }))
}

/// What an import has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// Tasks that are new here.
    pub tasks: u64,
    /// Tasks that were here already.
    pub known: u64,
    /// Definitions that are new here.
    pub definitions: u64,
    /// Batches.
    pub batches: u64,
}

/// Reads a text into a store, line by line.
#[derive(Debug)]
pub struct Import<'s> {
    store: &'s dyn Store,
    group: Vec<Transcript>,
    bytes: usize,
    lines: u64,
    read: u64,
    ended: bool,
    imported: Imported,
}

impl<'s> Import<'s> {
    /// Into this store.
    pub fn new(store: &'s dyn Store) -> Self {
        Self { store, group: Vec::new(), bytes: 0, lines: 0, read: 0, ended: false, imported: Imported::default() }
    }

    /// What has been done so far.
    pub fn imported(&self) -> Imported {
        self.imported
    }

    /// Takes the next line.
    ///
    /// # Errors
    /// [`TransferError::Text`] if the line is none of this format, or stands in the wrong place.
    pub async fn line(&mut self, text: &str) -> Result<(), TransferError> {
        self.lines += 1;
        let number = self.lines;
        let wrong = |why: String| Err(TransferError::Text { line: number, why });
        let line: Line = match serde_json::from_str(text) {
            Ok(line) => line,
            Err(error) => return wrong(format!("this is no line of an export: {error}")),
        };
        if self.ended {
            return wrong("there is more after the end".to_owned());
        }
        match (number, &line) {
            (1, Line::TeamsterExport { version: 1..=VERSION }) => return Ok(()),
            (1, Line::TeamsterExport { version }) => {
                return wrong(format!("version {version} of the format is not known here; use a newer program"));
            }
            (1, _) | (_, Line::TeamsterExport { .. }) => {
                return wrong("an export starts with {\"teamster_export\": …}, once".to_owned());
            }
            _ => {}
        }
        match line {
            Line::TeamsterExport { .. } => {}
            Line::Definition { name, digest, body, current } => {
                if Digest::of(body.as_bytes()) != digest {
                    return wrong(format!("the body of pipeline {name} does not have the digest that is given"));
                }
                self.define(Definition { name, digest, body: body.into() }, current).await?;
            }
            Line::PausedQueue { name } => self.store.pause(name, true).await?,
            Line::Batch { id, pipeline, closed, rejected } => {
                self.store.open_batch(OpenBatch { id: id.clone(), pipeline }).await?;
                for rows in rejected.chunks(GROUP) {
                    self.store.reject_rows(&id, rows.to_vec()).await?;
                }
                if closed {
                    self.store.close_batch(&id).await?;
                }
                self.imported.batches += 1;
            }
            Line::Task(transcript) => {
                self.read += 1;
                self.bytes += text.len();
                self.group.push(transcript);
                if self.group.len() >= GROUP || self.bytes >= GROUP_BYTES {
                    self.write().await?;
                }
            }
            Line::End { tasks } => {
                self.write().await?;
                if tasks != self.read {
                    return wrong(format!("the export had {tasks} tasks, and {} were read", self.read));
                }
                self.ended = true;
            }
        }
        Ok(())
    }

    /// Says that there are no more lines.
    ///
    /// # Errors
    /// [`TransferError::Text`] if the last line is not the end of an export. What was read is in the store.
    pub async fn finish(mut self) -> Result<Imported, TransferError> {
        self.write().await?;
        if self.ended {
            return Ok(self.imported);
        }
        let why = "the text ends in the middle; what was read is in the store: export again and import all of it";
        Err(TransferError::Text { line: self.lines, why: why.to_owned() })
    }

    /// A pipeline that has a current definition here keeps it.
    async fn define(&mut self, definition: Definition, current: bool) -> Result<(), StoreError> {
        let before = self.store.current(&definition.name).await?;
        if self.store.definition(&definition.digest).await?.is_none() {
            self.imported.definitions += 1;
        } else if before.is_some() || !current {
            return Ok(());
        }
        self.store.apply(vec![definition]).await?;
        match before {
            Some(before) => self.store.apply(vec![before]).await,
            None => Ok(()),
        }
    }

    async fn write(&mut self) -> Result<(), StoreError> {
        if self.group.is_empty() {
            return Ok(());
        }
        self.bytes = 0;
        for new in self.store.restore(std::mem::take(&mut self.group)).await? {
            *if new { &mut self.imported.tasks } else { &mut self.imported.known } += 1;
        }
        Ok(())
    }
}
