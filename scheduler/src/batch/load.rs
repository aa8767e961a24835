//! Reads a batch and submits its rows in groups: one group is on its way to the
//! disk while the next one is read.

use std::collections::BTreeMap;
use std::sync::Arc;

use common::id::{BatchId, QueueName};
use common::pipeline::model::Pipeline;
use common::store::{Receipt, RejectedRow, Store, StoreError, Submission};
use tokio::task::JoinHandle;

use super::Row;
use super::key::{Keys, ROWS, canonical};
use crate::app::App;
use crate::private;
use crate::wire::{BatchReceipt, Complaint};
use common::submission::NewTask;

/// Rows that are submitted in one transaction.
const GROUP: usize = 500;
/// Bytes of input in one group.
const GROUP_BYTES: usize = 4 << 20;
/// Rejected rows that the answer names; the store keeps them all.
const REJECTIONS: usize = 1_000;

/// What all rows of a batch share.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) id: BatchId,
    pub(crate) pipeline: Arc<Pipeline>,
    pub(crate) queue: Option<QueueName>,
    pub(crate) priority: Option<u8>,
    pub(crate) labels: BTreeMap<String, String>,
}

/// Why a batch ended early. What was submitted before is durable.
#[derive(Debug)]
pub(crate) enum LoadError {
    Store(StoreError),
    TooManyRows,
}

/// A batch that is being read.
pub(crate) struct Loader {
    app: App,
    plan: Plan,
    keys: Keys,
    input_limit: usize,
    rows: u64,
    group: Group,
    under_way: Option<JoinHandle<Result<Vec<Receipt>, StoreError>>>,
    receipt: BatchReceipt,
}

#[derive(Default)]
struct Group {
    submissions: Vec<Submission>,
    rejections: Vec<RejectedRow>,
    bytes: usize,
}

impl Loader {
    pub(crate) fn new(app: App, plan: Plan, keys: Keys) -> Self {
        let input_limit = app.settings().config.limits.input.bytes();
        let receipt =
            BatchReceipt { id: plan.id.clone(), accepted: 0, duplicates: 0, rejected: 0, rejections: Vec::new() };
        Self { app, plan, keys, input_limit, rows: 0, group: Group::default(), under_way: None, receipt }
    }

    /// Rows that are durable so far, as tasks or as rejected.
    pub(crate) fn durable(&self) -> u64 {
        self.receipt.accepted + self.receipt.duplicates + self.receipt.rejected
    }

    /// Takes the next rows.
    pub(crate) async fn take(&mut self, rows: &mut Vec<Row>) -> Result<(), LoadError> {
        for Row { line, input } in rows.drain(..) {
            self.rows += 1;
            if self.rows > ROWS {
                return Err(LoadError::TooManyRows);
            }
            let made = input.map_err(|reason| private::text(&self.app, reason));
            match made.and_then(|input| self.submission(line, input)) {
                Ok((submission, bytes)) => {
                    self.group.submissions.push(submission);
                    self.group.bytes += bytes;
                }
                Err(reason) => self.group.rejections.push(RejectedRow { line, reason }),
            }
            let group = &self.group;
            if group.submissions.len() + group.rejections.len() >= GROUP || group.bytes >= GROUP_BYTES {
                self.send().await?;
            }
        }
        Ok(())
    }

    fn submission(&mut self, line: u64, input: serde_json::Value) -> Result<(Submission, usize), String> {
        let text = canonical(&input);
        if text.len() > self.input_limit {
            return Err(format!(
                "the input has {} bytes; at most {} are allowed (limits.input)",
                text.len(),
                self.input_limit
            ));
        }
        // Keys are made of what is kept: nothing private is in them, or can be guessed from their digests.
        let key = match private::value(&self.app, &input) {
            Some(sealed) => self.keys.next(&sealed, &canonical(&sealed)),
            None => self.keys.next(&input, &text),
        };
        let key = key.map_err(|reason| private::text(&self.app, reason))?;
        let plan = &self.plan;
        let new = NewTask {
            input,
            key: Some(key),
            queue: plan.queue.clone(),
            priority: plan.priority,
            labels: plan.labels.clone(),
            batch: Some((plan.id.clone(), line)),
            ..NewTask::default()
        };
        let submission = self.app.submission(&plan.pipeline, new).map_err(|complaints| reason(&complaints))?;
        Ok((submission, text.len()))
    }

    /// Sends the group on its way, after the one before has arrived.
    async fn send(&mut self) -> Result<(), LoadError> {
        self.arrive().await?;
        let Group { submissions, rejections, .. } = std::mem::take(&mut self.group);
        if !rejections.is_empty() {
            let count = rejections.len();
            let room = REJECTIONS.saturating_sub(self.receipt.rejections.len());
            let named: Vec<_> = rejections.iter().take(room).cloned().collect();
            self.app.store().reject_rows(&self.plan.id, rejections).await.map_err(LoadError::Store)?;
            self.receipt.rejected += count as u64;
            self.receipt.rejections.extend(named);
        }
        if !submissions.is_empty() {
            let store: Arc<dyn Store> = self.app.shared_store();
            self.under_way = Some(tokio::spawn(async move { store.submit(submissions).await }));
        }
        Ok(())
    }

    /// Waits for the group that is on its way.
    async fn arrive(&mut self) -> Result<(), LoadError> {
        let Some(under_way) = self.under_way.take() else { return Ok(()) };
        let receipts = match under_way.await {
            Ok(submitted) => submitted.map_err(LoadError::Store)?,
            Err(error) => {
                return Err(LoadError::Store(StoreError::Unavailable(format!("a submit broke off: {error}"))));
            }
        };
        let created = receipts.iter().filter(|receipt| receipt.created).count() as u64;
        self.receipt.accepted += created;
        self.receipt.duplicates += receipts.len() as u64 - created;
        Ok(())
    }

    /// Everything has been read: when this answers, all of it is durable.
    pub(crate) async fn finish(&mut self) -> Result<BatchReceipt, LoadError> {
        self.send().await?;
        self.arrive().await?;
        self.app.store().close_batch(&self.plan.id).await.map_err(LoadError::Store)?;
        Ok(self.receipt.clone())
    }

    /// The rest cannot be read: what has been read is submitted still.
    pub(crate) async fn settle(&mut self) -> Result<(), LoadError> {
        self.send().await?;
        self.arrive().await
    }
}

fn reason(complaints: &[Complaint]) -> String {
    let texts: Vec<String> = complaints.iter().map(|c| format!("{}: {}", c.pointer, c.message)).collect();
    texts.join("; ")
}
