//! Trimming: the call in which a task ends removes some of the oldest when more
//! is kept than retention allows and the sweep is too slow for it. When far more
//! is kept, the call waits for that: what ends is then no faster than what goes,
//! and the memory stays bounded however busy the schedulers are.

use std::time::Duration;

use redis::Value;
use tokio::time::{Instant, sleep, timeout};

use super::RedisStore;
use super::change::Class;
use super::group::{self, Kept};
use super::reply;
use super::retention::Line;
use super::scripts::ask;
use crate::store::{Keep, StoreError};

/// Tasks that one trimming removes at most.
const TRIMMED: usize = 256;
/// The least that may be kept beyond what retention allows before anybody trims, in tasks and in bytes.
const TASKS: u64 = 1_024;
const BYTES: u64 = 1 << 20;
/// How long a call waits at most because far too much is kept.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks whether another process is done with removing.
const PAUSE: Duration = Duration::from_millis(10);
/// How long who removes keeps the others from it. A holder that dies in between holds them up for no longer.
const ALONE: Duration = Duration::from_millis(500);

/// How much of what is done is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Excess {
    /// What the sweep deals with in time.
    None,
    Some,
    /// So much that who adds to it has to wait.
    Far,
}

impl RedisStore {
    /// After a task ended in a partition of which `kept` is said.
    pub(super) async fn trim(&self, partition: usize, kept: [Kept; 2]) {
        for (class, kept) in Class::ALL.into_iter().zip(kept) {
            let share = share(self.keep(class), self.keys.count());
            let found = excess(share, kept);
            if found == Excess::None {
                continue;
            }
            if let Err(error) = self.trim_class(partition, class, share, found).await {
                tracing::warn!(%error, "what is finished could not be removed in time; the sweep will do it");
            }
        }
    }

    async fn trim_class(&self, partition: usize, class: Class, share: Keep, found: Excess) -> Result<(), StoreError> {
        let until = Instant::now() + if found == Excess::Far { PATIENCE } else { Duration::ZERO };
        // One at a time is enough of a process too.
        let Ok(Ok(_turn)) = timeout(until.duration_since(Instant::now()), self.trimming.acquire()).await else {
            return Ok(());
        };
        while !self.begin_removal(partition).await? {
            if Instant::now() >= until {
                return Ok(());
            }
            sleep(PAUSE).await;
        }
        let trimmed = self.remove_some(partition, class, share).await;
        self.end_removal(partition).await?;
        trimmed
    }

    async fn remove_some(&self, partition: usize, class: Class, share: Keep) -> Result<(), StoreError> {
        // As it is now: others may have removed a lot while this one waited.
        let mut counters = redis::cmd("HMGET");
        counters.arg(self.keys.key(partition, b"n")).arg("f").arg("F").arg("d").arg("D");
        let counters = reply::list(ask(&self.link, &counters).await?);
        let Some([finished, dead]) = group::kept(&counters) else { return Ok(()) };
        let kept = match class {
            Class::Finished => finished,
            Class::Dead => dead,
        };
        if excess(share, kept) == Excess::None {
            return Ok(());
        }
        let mut oldest = redis::cmd("LRANGE");
        oldest.arg(self.keys.key(partition, class.names().0)).arg(0).arg(TRIMMED - 1);
        let oldest = reply::list(ask(&self.link, &oldest).await?);
        let line = Line { in_order: oldest.into_iter().map(reply::bytes).collect(), by_time: Vec::new() };
        self.retain_class(class, share, kept, std::iter::once((partition, &line)), TRIMMED).await.map(drop)
    }

    /// Whether nobody else removes in this partition right now. Two who did would plan for the same tasks, all but one
    /// in vain: this saves work, and nothing rests upon it.
    pub(super) async fn begin_removal(&self, partition: usize) -> Result<bool, StoreError> {
        let mut command = redis::cmd("SET");
        let millis = u64::try_from(ALONE.as_millis()).unwrap_or(u64::MAX);
        command.arg(self.keys.key(partition, b"removing")).arg(1).arg("NX").arg("PX").arg(millis);
        Ok(ask(&self.link, &command).await? != Value::Nil)
    }

    /// Lets others remove.
    pub(super) async fn end_removal(&self, partition: usize) -> Result<(), StoreError> {
        let mut command = redis::cmd("DEL");
        command.arg(self.keys.key(partition, b"removing"));
        ask(&self.link, &command).await.map(drop)
    }
}

/// What a partition may keep. Ages are for the sweep.
fn share(keep: Keep, partitions: usize) -> Keep {
    let parts = u64::try_from(partitions).unwrap_or(1).max(1);
    Keep { count: keep.count.map(|count| count / parts), bytes: keep.bytes.map(|bytes| bytes / parts), age: None }
}

fn excess(share: Keep, kept: Kept) -> Excess {
    let of = |limit: Option<u64>, kept: u64, least: u64| {
        let Some(limit) = limit else { return Excess::None };
        let (over, slack) = (kept.saturating_sub(limit), (limit / 32).max(least));
        if over <= slack {
            Excess::None
        } else if over < 2 * slack {
            Excess::Some
        } else {
            Excess::Far
        }
    };
    of(share.count, kept.tasks, TASKS).max(of(share.bytes, kept.bytes, BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_finishes_waits_only_when_far_too_much_is_kept() {
        let keep = Keep { count: Some(64_000), bytes: Some(64 << 20), age: None };
        let of = |tasks, bytes| excess(share(keep, 2), Kept { tasks, bytes });
        assert_eq!(of(32_000, 32 << 20), Excess::None);
        assert_eq!(of(33_024, 0), Excess::None);
        assert_eq!(of(33_025, 0), Excess::Some);
        assert_eq!(of(34_048, 0), Excess::Far);
        assert_eq!(of(0, (33 << 20) + 1), Excess::Some);
        assert_eq!(of(33_025, 40 << 20), Excess::Far);
    }

    #[test]
    fn what_has_no_limit_has_no_excess() {
        let keep = Keep { count: None, bytes: None, age: None };
        assert_eq!(excess(share(keep, 1), Kept { tasks: u64::MAX, bytes: u64::MAX }), Excess::None);
        let all = Keep { count: Some(u64::MAX), ..keep };
        assert_eq!(excess(share(all, 1), Kept { tasks: u64::MAX, bytes: 0 }), Excess::None);
    }
}
