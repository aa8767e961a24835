//! What is not a task: definitions, paused queues, schedules, and the health
//! check. All but the last stands in partition 0.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::future::try_join_all;

use super::RedisStore;
use super::keys::counter;
use super::record::{millis, ready_since};
use super::reply::{self, Reply};
use super::scripts::ask;
use super::unit::Unit;
use crate::clock::Timestamp;
use crate::id::{Digest, PipelineName, QueueName};
use crate::store::{Definition, Queue, StoreError};
use crate::task::StateName;

impl RedisStore {
    /// Keeps definitions and makes them current, all or none.
    pub(super) async fn apply_definitions(&self, definitions: &[Definition]) -> Result<(), StoreError> {
        let mut unit = Unit::default();
        for definition in definitions {
            let body = format!("{}\n{}", definition.name, definition.body).into_bytes();
            let digest = definition.digest.as_str().as_bytes().to_vec();
            unit.command("HSET", b"definitions".to_vec(), [digest.clone(), body]);
            unit.command("HSET", b"current".to_vec(), [definition.name.as_str().as_bytes().to_vec(), digest]);
        }
        if unit.is_empty() {
            return Ok(());
        }
        self.groups.commit(0, unit).await.map(drop)
    }

    /// A definition by its digest.
    pub(super) async fn definition_of(&self, digest: &Digest) -> Result<Option<Definition>, StoreError> {
        let mut command = redis::cmd("HGET");
        command.arg(self.keys.key(0, b"definitions")).arg(digest.as_str());
        let kept = reply::text(ask(&self.link, &command).await?);
        if kept.is_empty() {
            return Ok(None);
        }
        let (name, body) = kept.split_once('\n').ok_or_else(|| reply::damaged("a definition"))?;
        let name = PipelineName::new(name).map_err(|error| StoreError::Damaged(format!("a definition: {error}")))?;
        Ok(Some(Definition { name, digest: digest.clone(), body: Arc::from(body) }))
    }

    /// The current definition of a pipeline.
    pub(super) async fn current_of(&self, pipeline: &PipelineName) -> Result<Option<Definition>, StoreError> {
        let mut command = redis::cmd("HGET");
        command.arg(self.keys.key(0, b"current")).arg(pipeline.as_str());
        let digest = reply::text(ask(&self.link, &command).await?);
        if digest.is_empty() {
            return Ok(None);
        }
        self.definition_of(&parse(digest)?).await
    }

    /// All current definitions, by name.
    pub(super) async fn all_definitions(&self) -> Result<Vec<Definition>, StoreError> {
        let mut command = redis::cmd("HGETALL");
        command.arg(self.keys.key(0, b"current"));
        let mut pairs = Reply::new(ask(&self.link, &command).await?);
        let mut current = BTreeMap::new();
        while !pairs.is_empty() {
            current.insert(reply::text(pairs.next()), parse(reply::text(pairs.next()))?);
        }
        let definitions = try_join_all(current.values().map(|digest| self.definition_of(digest))).await?;
        Ok(definitions.into_iter().flatten().collect())
    }

    /// Every queue that has tasks or is paused, by name.
    pub(super) async fn all_queues(&self) -> Result<Vec<Queue>, StoreError> {
        let mut depths: BTreeMap<String, BTreeMap<StateName, u64>> = BTreeMap::new();
        for partition in 0..self.keys.count() {
            let mut command = redis::cmd("HGETALL");
            command.arg(self.keys.key(partition, b"n"));
            let mut pairs = Reply::new(ask(&self.link, &command).await?);
            while !pairs.is_empty() {
                let (field, tasks) = (reply::text(pairs.next()), reply::counter(&pairs.next()));
                let found = StateName::ALL
                    .into_iter()
                    .find(|state| field.len() > 1 && counter(*state, "").first() == field.as_bytes().first());
                if let (Some(state), Some(queue)) = (found, field.get(1..)) {
                    *depths.entry(queue.to_owned()).or_default().entry(state).or_default() += tasks;
                }
            }
        }
        let paused = self.paused().await?;
        let names: BTreeSet<&String> = depths.keys().chain(&paused).collect();
        let mut queues = Vec::with_capacity(names.len());
        for name in names {
            let mut depth = depths.get(name).cloned().unwrap_or_default();
            depth.retain(|state, tasks| *tasks > 0 && !matches!(state, StateName::Succeeded | StateName::Cancelled));
            let oldest_ready =
                if depth.contains_key(&StateName::Ready) { self.oldest_ready(name).await? } else { None };
            let paused = paused.contains(name);
            let name = QueueName::new(name.clone()).map_err(|error| StoreError::Damaged(error.to_string()))?;
            queues.push(Queue { name, paused, depth, oldest_ready });
        }
        Ok(queues)
    }

    /// Since when the oldest task of a queue has been ready: one look for each priority.
    async fn oldest_ready(&self, queue: &str) -> Result<Option<Timestamp>, StoreError> {
        let partitions = 0..self.keys.count();
        let looks = partitions.flat_map(|partition| (0..=9_u8).map(move |priority| (partition, priority)));
        let looks = looks.map(|(partition, priority)| async move {
            let from = super::record::ready_score(priority, Timestamp::from_millis(0));
            let to = super::record::ready_score(priority, Timestamp::from_millis(i64::MAX));
            let mut command = redis::cmd("ZRANGEBYSCORE");
            command.arg(self.keys.key(partition, &super::keys::named("q", queue)));
            command.arg(from).arg(to).arg("WITHSCORES").arg("LIMIT").arg(0).arg(1);
            let mut first = Reply::new(ask(&self.link, &command).await?);
            if first.is_empty() {
                return Ok(None);
            }
            first.next();
            Ok::<_, StoreError>(Some(ready_since(first.integer()?)))
        });
        Ok(try_join_all(looks).await?.into_iter().flatten().min())
    }

    /// Pauses or resumes a queue.
    pub(super) async fn set_paused(&self, queue: &QueueName, paused: bool) -> Result<(), StoreError> {
        let mut command = redis::cmd(if paused { "SADD" } else { "SREM" });
        command.arg(self.keys.key(0, b"paused")).arg(queue.as_str());
        ask(&self.link, &command).await?;
        if !paused {
            let mut ring = redis::cmd("PUBLISH");
            ring.arg(self.keys.channel()).arg(queue.as_str());
            ask(&self.link, &ring).await?;
        }
        Ok(())
    }

    /// Up to when a schedule has been served.
    pub(super) async fn served(&self, name: &str) -> Result<Option<Timestamp>, StoreError> {
        let mut command = redis::cmd("ZSCORE");
        command.arg(self.keys.key(0, b"schedules")).arg(name);
        match ask(&self.link, &command).await? {
            redis::Value::Nil => Ok(None),
            score => Ok(Some(Timestamp::from_millis(reply::integer(&score)?))),
        }
    }

    /// Notes up to when a schedule has been served; never moves backwards.
    pub(super) async fn note_served(&self, name: &str, until: Timestamp) -> Result<(), StoreError> {
        let mut command = redis::cmd("ZADD");
        command.arg(self.keys.key(0, b"schedules")).arg("GT").arg(millis(until)).arg(name);
        ask(&self.link, &command).await.map(drop)
    }

    /// A small write to every partition.
    pub(super) async fn check_writes(&self) -> Result<(), StoreError> {
        let now = self.clock.argument();
        let writes = (0..self.keys.count()).map(|partition| {
            let mut command = redis::cmd("SET");
            command.arg(self.keys.key(partition, b"health")).arg(&now);
            async move { ask(&self.link, &command).await }
        });
        try_join_all(writes).await.map(drop)
    }
}

fn parse(digest: String) -> Result<Digest, StoreError> {
    Digest::try_from(digest).map_err(|error| StoreError::Damaged(format!("a definition: {error}")))
}
