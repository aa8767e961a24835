//! Groups of which only the newest task is wanted. The tasks of a group may lie
//! in any partition; a sorted set in the group's own partition puts them in
//! order. A submit writes a note with the task; the note goes when the older
//! tasks are cancelled. What a crash leaves in between, the sweep does.

use super::RedisStore;
use super::keys;
use super::record::{ShortDigest, millis};
use super::reply::{self, Reply};
use super::scripts::{Args, ELDER, ask};
use crate::clock::Timestamp;
use crate::id::TaskId;
use crate::store::{Signalled, StoreError, ledger};

impl RedisStore {
    /// Cancels the older tasks of a task's group (with `late`, if a newer one is there, the task itself), and forgets
    /// its note. Answers with those that are cancelled now.
    pub(super) async fn supersede(
        &self,
        task: TaskId,
        group: &ShortDigest,
        accepted: Timestamp,
        late: bool,
    ) -> Result<Vec<TaskId>, StoreError> {
        let home = self.keys.of_group(group);
        let mut args = Args::default();
        args.push(self.clock.argument());
        args.push(group);
        args.number(millis(accepted));
        args.push(task.as_uuid().as_bytes());
        let mut reply = ELDER.call(&self.link, self.keys.partition(home), &[&args]).await?;
        self.clock.heard(reply.time()?);
        let mut members = Reply::new(reply.next());
        let mut group_of = Vec::new();
        while !members.is_empty() {
            group_of.push((members.task()?, members.integer()?));
        }
        let (older, newest) = order(task, millis(accepted), late, &group_of);
        let (mut cancelled, mut asked) = (Vec::new(), Vec::new());
        for (older, newer) in older.iter().map(|older| (*older, task)).chain(newest.map(|newest| (task, newest))) {
            match self.tell(older, ledger::supersede(newer)).await? {
                Some(Signalled::Applied(_)) => cancelled.push(older),
                // Its holder was asked, and may hand it back instead: the next of the group asks again.
                Some(Signalled::Requested) => asked.push(older),
                None => {}
            }
        }
        let over: Vec<TaskId> = older.into_iter().filter(|older| !asked.contains(older)).collect();
        if !over.is_empty() {
            self.leave_group(group, &over).await?;
        }
        let mut forget = redis::cmd("HDEL");
        forget.arg(self.keys.key(self.keys.of_task(task), b"notes")).arg(task.as_uuid().as_bytes());
        ask(&self.link, &forget).await?;
        Ok(cancelled)
    }

    /// Puts a task into its group, and leaves the others alone.
    pub(super) async fn join_group(
        &self,
        task: TaskId,
        group: &ShortDigest,
        accepted: Timestamp,
    ) -> Result<(), StoreError> {
        let mut command = redis::cmd("ZADD");
        command.arg(self.keys.key(self.keys.of_group(group), &keys::of_group(group)));
        command.arg(millis(accepted)).arg(task.as_uuid().as_bytes());
        ask(&self.link, &command).await.map(drop)
    }

    /// Puts a task that is to go on its way again back into its group, which it left when it was cancelled. Before it
    /// does: one that then stays where it is, is dropped by the next of its group.
    pub(super) async fn rejoin_group(&self, task: TaskId) -> Result<(), StoreError> {
        let record = self.records(self.keys.of_task(task), &[task]).await?.pop().flatten();
        let Some(group) = record.and_then(|record| record.extra.group) else { return Ok(()) };
        match self.head_of(task).await? {
            Some(head) => self.join_group(task, &group, head.created_at).await,
            None => Ok(()),
        }
    }

    /// Takes tasks out of their group.
    pub(super) async fn leave_group(&self, group: &ShortDigest, tasks: &[TaskId]) -> Result<(), StoreError> {
        let mut command = redis::cmd("ZREM");
        command.arg(self.keys.key(self.keys.of_group(group), &keys::of_group(group)));
        for task in tasks {
            command.arg(task.as_uuid().as_bytes());
        }
        ask(&self.link, &command).await.map(drop)
    }

    /// Does what notes say that a crash left behind.
    pub(super) async fn serve_note(&self, task: &[u8], note: &[u8]) -> Result<(), StoreError> {
        let (Some(group), Some(accepted)) = (note.first_chunk::<16>(), note.last_chunk::<8>()) else {
            return Err(reply::damaged("a note of a group"));
        };
        let accepted = Timestamp::from_millis(i64::from_be_bytes(*accepted));
        self.supersede(reply::task(task)?, group, accepted, true).await.map(drop)
    }
}

/// Who of a group is older than a task; and the newest, if that is another. Of those accepted at the same time the one
/// that comes later into the group is the newer one, unless it is known to come late.
fn order(task: TaskId, accepted: i64, late: bool, group: &[(TaskId, i64)]) -> (Vec<TaskId>, Option<TaskId>) {
    let others = || group.iter().filter(|(other, _)| *other != task);
    let is_newer = |at: i64| at > accepted || (late && at == accepted);
    let newest = others().filter(|(_, at)| is_newer(*at)).max_by_key(|(_, at)| *at).map(|(other, _)| *other);
    (others().filter(|(_, at)| !is_newer(*at)).map(|(other, _)| *other).collect(), newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> TaskId {
        TaskId::from_bytes([number; 16])
    }

    #[test]
    fn the_newest_of_a_group_stays() {
        let group = [(id(1), 5), (id(2), 7), (id(3), 7)];
        assert_eq!(order(id(3), 7, false, &group), (vec![id(1), id(2)], None));
        assert_eq!(order(id(1), 5, false, &group), (vec![], Some(id(3))));
        assert_eq!(order(id(2), 7, true, &group), (vec![id(1)], Some(id(3))));
        assert_eq!(order(id(9), 1, false, &[]), (vec![], None));
    }
}
