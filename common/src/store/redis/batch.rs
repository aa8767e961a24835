//! Batches: what became of each row of a file. What a batch is stands in its own
//! partition; its rows and their counts stand where their tasks are.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures::future::try_join_all;

use super::RedisStore;
use super::desk::Desk;
use super::due::Agenda;
use super::keys::named;
use super::record::{digit, millis};
use super::reply::{self, Reply};
use super::scripts::{Args, REJECT, ask};
use crate::clock::Timestamp;
use crate::id::{BatchId, PipelineName, TaskId};
use crate::store::{BatchRow, BatchRowState, BatchStatus, OpenBatch, RejectedRow, StoreError};
use crate::task::StateName;

/// Rejected rows that a status names.
const REJECTIONS: usize = 100;
/// The longest reason that is kept, in bytes.
const REASON: usize = 4096;
/// The most rows that one read answers with.
const MOST: usize = 10_000;
/// How long a batch that is old enough but has tasks that are kept is left alone.
const LATER: Duration = Duration::from_secs(60);

/// What is said of a batch that was not opened.
pub(super) fn unknown(batch: &BatchId) -> StoreError {
    StoreError::Refused(format!("there is no batch {batch}; open it first"))
}

/// A row as it is kept.
#[derive(Debug, Clone)]
enum Row {
    Task(TaskId),
    Rejected(String),
}

impl RedisStore {
    fn batch_key(&self, kind: &str, batch: &BatchId) -> Vec<u8> {
        self.keys.key(self.keys.of_batch(batch), &named(kind, batch.as_str()))
    }

    /// Whether a batch was opened.
    pub(super) async fn batch_exists(&self, batch: &BatchId) -> Result<bool, StoreError> {
        let mut command = redis::cmd("HEXISTS");
        command.arg(self.batch_key("b", batch)).arg("pipeline");
        Ok(reply::integer(&ask(&self.link, &command).await?)? == 1)
    }

    /// Opens a batch, or finds it open.
    pub(super) async fn open_a_batch(&self, batch: &OpenBatch) -> Result<(), StoreError> {
        let key = self.batch_key("b", &batch.id);
        let mut created = redis::cmd("HSETNX");
        created.arg(&key).arg("created_at").arg(millis(self.clock.now()));
        ask(&self.link, &created).await?;
        let mut opened = redis::cmd("HSETNX");
        opened.arg(&key).arg("pipeline").arg(batch.pipeline.as_str());
        if reply::integer(&ask(&self.link, &opened).await?)? == 1 {
            return Ok(());
        }
        let mut command = redis::cmd("HGET");
        command.arg(&key).arg("pipeline");
        let pipeline = reply::text(ask(&self.link, &command).await?);
        if pipeline == batch.pipeline.as_str() {
            return Ok(());
        }
        Err(StoreError::Refused(format!(
            "batch {} is for pipeline {pipeline}, not {}; use another id",
            batch.id, batch.pipeline
        )))
    }

    /// Notes rows that made no task. A line that was noted before stays as it is.
    pub(super) async fn reject(&self, batch: &BatchId, rows: &[RejectedRow]) -> Result<(), StoreError> {
        let limit = self.options.limits.submissions;
        if rows.len() > limit {
            return Err(StoreError::Refused(format!(
                "{} rejected rows in one call; at most {limit} are allowed (limits.submissions)",
                rows.len()
            )));
        }
        let mut args = Args::default();
        args.push(self.clock.argument());
        args.push(batch.as_str());
        for row in rows {
            let mut end = row.reason.len().min(REASON);
            while !row.reason.is_char_boundary(end) {
                end -= 1;
            }
            args.number(row.line);
            args.push_both(&row.line.to_be_bytes(), row.reason.get(..end).unwrap_or_default().as_bytes());
        }
        let home = self.keys.of_batch(batch);
        let mut reply = REJECT.call(&self.link, self.keys.partition(home), &[&args]).await?;
        self.clock.heard(reply.time()?);
        if reply.integer()? == 1 { Ok(()) } else { Err(unknown(batch)) }
    }

    /// Closes a batch.
    pub(super) async fn close_a_batch(&self, batch: &BatchId) -> Result<(), StoreError> {
        let mut command = redis::cmd("HMGET");
        command.arg(self.batch_key("b", batch)).arg("pipeline").arg("created_at");
        let mut header = Reply::new(ask(&self.link, &command).await?);
        if header.bytes().is_empty() {
            return Err(unknown(batch));
        }
        // In the index first: a crash in between leaves a batch that is looked at too early, not one that stays.
        let mut over = redis::cmd("ZADD");
        over.arg(self.keys.key(self.keys.of_batch(batch), b"over"))
            .arg("NX")
            .arg(header.integer()?)
            .arg(batch.as_str());
        ask(&self.link, &over).await?;
        let mut closed = redis::cmd("HSET");
        closed.arg(self.batch_key("b", batch)).arg("closed").arg(1);
        ask(&self.link, &closed).await.map(drop)
    }

    /// The counts of a batch in each partition.
    async fn batch_counts(&self, batch: &BatchId) -> Result<Vec<HashMap<String, String>>, StoreError> {
        let counts = (0..self.keys.count()).map(|partition| async move {
            let mut command = redis::cmd("HGETALL");
            command.arg(self.keys.key(partition, &named("bn", batch.as_str())));
            let mut fields = Reply::new(ask(&self.link, &command).await?);
            let mut counts = HashMap::new();
            while !fields.is_empty() {
                counts.insert(reply::text(fields.next()), reply::text(fields.next()));
            }
            Ok::<_, StoreError>(counts)
        });
        try_join_all(counts).await
    }

    /// How far a batch is: its own tasks by their sums, those that existed before one by one.
    pub(super) async fn batch_status(&self, batch: &BatchId) -> Result<Option<BatchStatus>, StoreError> {
        let mut command = redis::cmd("HMGET");
        command.arg(self.batch_key("b", batch)).arg("pipeline").arg("created_at").arg("closed");
        let mut header = Reply::new(ask(&self.link, &command).await?);
        let pipeline = reply::text(header.next());
        if pipeline.is_empty() {
            return Ok(None);
        }
        let pipeline = PipelineName::new(pipeline).map_err(|error| StoreError::Damaged(error.to_string()))?;
        let (created_at, closed) = (header.time()?, reply::counter(&header.next()) == 1);
        let mut tasks: BTreeMap<StateName, u64> = BTreeMap::new();
        let (mut duplicates, mut cost_usd) = (0, 0.0);
        for counts in self.batch_counts(batch).await? {
            let number = |name: &str| counts.get(name).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
            for state in StateName::ALL {
                let count = number(&char::from(digit(state)).to_string());
                if count > 0 {
                    *tasks.entry(state).or_default() += count;
                }
            }
            duplicates += number("u");
            cost_usd += counts.get("c").and_then(|cost| cost.parse::<f64>().ok()).unwrap_or(0.0);
        }
        if duplicates > 0 {
            // A task counts once, however many rows of the batch lead to it.
            for partition in 0..self.keys.count() {
                let mut members = redis::cmd("SMEMBERS");
                members.arg(self.keys.key(partition, &named("bd", batch.as_str())));
                let before = reply::list(ask(&self.link, &members).await?).into_iter();
                let before = before.map(|id| reply::task(&reply::bytes(id))).collect::<Result<Vec<_>, _>>()?;
                for record in self.records(partition, &before).await?.into_iter().flatten() {
                    if record.extra.batch.as_ref() != Some(batch) {
                        *tasks.entry(record.state).or_default() += 1;
                        cost_usd += record.cost_usd;
                    }
                }
            }
        }
        let rejected = self.batch_key("bx", batch);
        let mut count = redis::cmd("ZCARD");
        count.arg(&rejected);
        let mut first = redis::cmd("ZRANGE");
        first.arg(&rejected).arg(0).arg(REJECTIONS - 1);
        let rejections = reply::list(ask(&self.link, &first).await?).into_iter().map(|member| {
            let (line, reason) = rejection(&reply::bytes(member))?;
            Ok::<_, StoreError>(RejectedRow { line, reason })
        });
        Ok(Some(BatchStatus {
            id: batch.clone(),
            pipeline,
            created_at,
            closed,
            tasks,
            duplicates,
            rejected: reply::counter(&ask(&self.link, &count).await?),
            rejections: rejections.collect::<Result<_, _>>()?,
            cost_usd,
        }))
    }

    /// Rows of a batch after a line, in order.
    pub(super) async fn rows_of_batch(
        &self,
        batch: &BatchId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<BatchRow>, StoreError> {
        let limit = limit.min(MOST);
        let mut rows: BTreeMap<u64, Row> = BTreeMap::new();
        if limit == 0 {
            return Ok(Vec::new());
        }
        let after = format!("({after}");
        let range = |key: Vec<u8>| {
            let mut command = redis::cmd("ZRANGEBYSCORE");
            command.arg(key).arg(&after).arg("+inf").arg("LIMIT").arg(0).arg(limit);
            command
        };
        for partition in 0..self.keys.count() {
            let command = range(self.keys.key(partition, &named("br", batch.as_str())));
            for member in reply::list(ask(&self.link, &command).await?) {
                let member = reply::bytes(member);
                let (Some(task), Some(line)) = (member.get(1..17), member.last_chunk::<8>()) else {
                    return Err(reply::damaged("a row of a batch"));
                };
                rows.entry(u64::from_be_bytes(*line)).or_insert(Row::Task(reply::task(task)?));
            }
        }
        for member in reply::list(ask(&self.link, &range(self.batch_key("bx", batch))).await?) {
            let (line, reason) = rejection(&reply::bytes(member))?;
            rows.entry(line).or_insert(Row::Rejected(reason));
        }
        let rows: Vec<(u64, Row)> = rows.into_iter().take(limit).collect();
        let tasks: Vec<TaskId> = rows
            .iter()
            .filter_map(|(_, row)| match row {
                Row::Task(task) => Some(*task),
                Row::Rejected(_) => None,
            })
            .collect();
        let mut desk = Desk::new();
        self.load(&tasks, &mut desk).await?;
        let row = |(line, row)| {
            let state = match row {
                Row::Rejected(reason) => BatchRowState::Rejected(reason),
                Row::Task(task) => match desk.get(&task).cloned().and_then(super::stored::Found::head) {
                    Some(head) => BatchRowState::Task(Box::new(head)),
                    None => BatchRowState::Removed(task),
                },
            };
            BatchRow { line, state }
        };
        Ok(rows.into_iter().map(row).collect())
    }

    /// Removes up to `room` rows of batches that are over: closed, as old as `age`, and without a task that is kept.
    /// Answers with when to look again.
    pub(super) async fn forget_batches(
        &self,
        agendas: &[Agenda],
        age: Duration,
        mut room: usize,
    ) -> Result<Option<Timestamp>, StoreError> {
        let now = self.clock.now();
        let mut closed: Vec<&(String, Timestamp)> = agendas.iter().flat_map(|agenda| &agenda.batches).collect();
        closed.sort_unstable_by_key(|(_, at)| *at);
        let mut next = None;
        for (name, at) in closed {
            let ends = at.plus(age);
            if ends > now {
                return Ok([next, Some(ends)].into_iter().flatten().min());
            }
            if room == 0 {
                return Ok(Some(now));
            }
            let batch = BatchId::new(name.clone()).map_err(|error| StoreError::Damaged(error.to_string()))?;
            let again = match self.forget_batch(&batch, &mut room).await? {
                Forgotten::Whole => now,
                Forgotten::Part => return Ok(Some(now)),
                Forgotten::Kept => {
                    let again = now.plus(LATER);
                    self.stand_later(&batch, millis(again).saturating_sub(millis(ends).saturating_sub(millis(*at))))
                        .await?;
                    again
                }
            };
            next = [next, Some(again)].into_iter().flatten().min();
        }
        Ok(next)
    }

    /// Has a batch looked at as if it were of that time.
    async fn stand_later(&self, batch: &BatchId, at: i64) -> Result<(), StoreError> {
        let mut later = redis::cmd("ZADD");
        later.arg(self.keys.key(self.keys.of_batch(batch), b"over")).arg("XX").arg(at).arg(batch.as_str());
        ask(&self.link, &later).await.map(drop)
    }

    /// Removes a batch of which no task is kept, or as many of its rows as there is room for.
    async fn forget_batch(&self, batch: &BatchId, room: &mut usize) -> Result<Forgotten, StoreError> {
        let name = batch.as_str();
        let counts = self.batch_counts(batch).await?;
        if counts.iter().any(|counts| counts.get("t").is_some_and(|tasks| tasks != "0")) {
            return Ok(Forgotten::Kept);
        }
        let rows = (0..self.keys.count()).map(|partition| self.keys.key(partition, &named("br", name)));
        for key in rows.chain([self.batch_key("bx", batch)]) {
            if *room == 0 {
                return Ok(Forgotten::Part);
            }
            let mut command = redis::cmd("ZREMRANGEBYRANK");
            command.arg(key).arg(0).arg(*room - 1);
            let removed = reply::counter(&ask(&self.link, &command).await?);
            *room = room.saturating_sub(usize::try_from(removed).unwrap_or(usize::MAX));
        }
        if *room == 0 {
            return Ok(Forgotten::Part);
        }
        for partition in 0..self.keys.count() {
            let mut command = redis::cmd("UNLINK");
            command.arg(self.keys.key(partition, &named("bn", name))).arg(self.keys.key(partition, &named("bd", name)));
            ask(&self.link, &command).await?;
        }
        let mut header = redis::cmd("UNLINK");
        header.arg(self.batch_key("b", batch));
        ask(&self.link, &header).await?;
        let mut gone = redis::cmd("ZREM");
        gone.arg(self.keys.key(self.keys.of_batch(batch), b"over")).arg(name);
        ask(&self.link, &gone).await?;
        Ok(Forgotten::Whole)
    }
}

/// What became of a batch that is old enough to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Forgotten {
    Whole,
    /// There was no room for all of its rows.
    Part,
    /// Tasks of it are kept.
    Kept,
}

/// A rejected row: its line, then its reason.
fn rejection(member: &[u8]) -> Result<(u64, String), StoreError> {
    let (line, reason) = member.split_first_chunk::<8>().ok_or_else(|| reply::damaged("a rejected row"))?;
    Ok((u64::from_be_bytes(*line), String::from_utf8_lossy(reason).into_owned()))
}
