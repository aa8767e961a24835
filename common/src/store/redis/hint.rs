//! The outbox, where there is a broker: which ready tasks it may not know of.

use std::collections::BTreeMap;
use std::time::Duration;

use super::RedisStore;
use super::reply::{self, Reply};
use super::scripts::{Args, SENT, UNSENT};
use super::stored;
use crate::store::{Hint, StoreError};

/// The most hints that one call gives or forgets.
const MOST: usize = 1_000;

impl RedisStore {
    /// Hints that have been kept for at least `age`; they wait anew then.
    pub(super) async fn unsent_hints(&self, age: Duration, limit: usize) -> Result<Vec<Hint>, StoreError> {
        let mut hints = Vec::new();
        if self.options.doorbell.is_none() {
            return Ok(hints);
        }
        let limit = limit.min(MOST);
        for partition in 0..self.keys.count() {
            if hints.len() >= limit {
                break;
            }
            let mut args = Args::default();
            args.push(self.clock.argument());
            args.number(age.as_millis().min(1 << 52));
            args.number(limit - hints.len());
            let mut reply = UNSENT.call(&self.link, self.keys.partition(partition), &[&args]).await?;
            self.clock.heard(reply.time()?);
            let mut found = Reply::new(reply.next());
            while !found.is_empty() {
                let (task, record) = (found.task()?, stored::record(&found.bytes())?);
                hints.push(Hint { task, version: record.version, queue: record.queue, priority: record.priority });
            }
        }
        Ok(hints)
    }

    /// The broker has these: they need not be kept any more.
    pub(super) async fn forget_hints(&self, hints: &[Hint]) -> Result<(), StoreError> {
        let mut by_partition: BTreeMap<usize, Vec<&Hint>> = BTreeMap::new();
        for hint in hints {
            by_partition.entry(self.keys.of_task(hint.task)).or_default().push(hint);
        }
        for (partition, hints) in by_partition {
            for hints in hints.chunks(MOST) {
                let mut args = Args::default();
                args.push(self.clock.argument());
                for hint in hints {
                    let version = u32::try_from(hint.version).map_err(|_| reply::damaged("a version"))?;
                    args.push_both(hint.task.as_uuid().as_bytes(), &version.to_be_bytes());
                }
                let mut reply = SENT.call(&self.link, self.keys.partition(partition), &[&args]).await?;
                self.clock.heard(reply.time()?);
            }
        }
        Ok(())
    }
}
