//! Taking tasks, claiming named ones, renewing leases.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::try_join_all;

use super::RedisStore;
use super::reply::{self, Reply};
use super::scripts::{Args, PEEK, RENEW, TAKE};
use super::stored::{self, Stored, Stretch};
use crate::clock::Timestamp;
use crate::id::{LeaseToken, QueueName, TaskId, WorkerId};
use crate::store::{Claim, ClaimTasks, Renew, Renewal, StoreError, Take};
use crate::task::Head;

/// The most tasks that one call leases: their journals come back in one answer.
const MOST: usize = 1_000;
/// The most bytes of journals that one call leases, once it has one.
const BYTES: usize = 64 << 20;
/// Leases that are renewed in one call to the server.
const RENEWED: usize = 2_000;

/// From which queue a partition may give how many.
type Quotas = Vec<(String, usize)>;

impl RedisStore {
    /// Takes ready tasks. The queues take turns: within a queue priority rules, but no queue starves another.
    pub(super) async fn take_ready(&self, request: Take) -> Result<Vec<Claim>, StoreError> {
        let max = request.max.min(MOST);
        if max == 0 {
            return Ok(Vec::new());
        }
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut queues: Vec<String> = Vec::with_capacity(request.queues.len());
        for queue in &request.queues {
            if !queues.iter().any(|known| known == queue.as_str()) {
                queues.push(queue.as_str().to_owned());
            }
        }
        let start = if queues.is_empty() { 0 } else { first % queues.len() };
        queues.rotate_left(start);
        if self.keys.count() == 1 && !queues.is_empty() {
            let quotas = queues.into_iter().map(|queue| (queue, max)).collect();
            return self.lease(0, quotas, &[], max, request.lease, &request.worker).await.map(in_order);
        }
        // Looks into all partitions and takes what is first among all of them.
        // Those named have been turned already.
        let turn = if queues.is_empty() { first } else { 0 };
        let plan = share(self.peek(&queues, max).await?, turn, max);
        let calls = plan.into_iter().map(|(partition, quotas)| {
            let wanted = quotas.iter().map(|(_, quota)| quota).sum();
            self.lease(partition, quotas, &[], wanted, request.lease, &request.worker)
        });
        Ok(in_order(try_join_all(calls).await?.into_iter().flatten().collect()))
    }

    /// Leases those of the named tasks that can be.
    pub(super) async fn claim_named(&self, request: ClaimTasks) -> Result<Vec<Claim>, StoreError> {
        let mut tasks = request.tasks;
        tasks.truncate(MOST);
        if self.keys.count() > 1 && !tasks.is_empty() {
            tasks = self.without_paused(tasks).await?;
        }
        let by_partition = self.by_partition(&tasks);
        let calls = by_partition.iter().map(|(partition, tasks)| {
            self.lease(*partition, Vec::new(), tasks, tasks.len(), request.lease, &request.worker)
        });
        let mut claims: HashMap<TaskId, Claim> =
            try_join_all(calls).await?.into_iter().flatten().map(|(_, claim)| (claim.task, claim)).collect();
        Ok(tasks.iter().filter_map(|task| claims.remove(task)).collect())
    }

    /// Only partition 0 knows which queues are paused.
    async fn without_paused(&self, tasks: Vec<TaskId>) -> Result<Vec<TaskId>, StoreError> {
        let paused = self.paused().await?;
        if paused.is_empty() {
            return Ok(tasks);
        }
        let mut kept = Vec::with_capacity(tasks.len());
        for (partition, tasks) in self.by_partition(&tasks) {
            let records = self.records(partition, &tasks).await?;
            let free = tasks
                .iter()
                .zip(records)
                .filter(|(_, record)| record.as_ref().is_some_and(|record| !paused.contains(record.queue.as_str())));
            kept.extend(free.map(|(task, _)| *task));
        }
        Ok(tasks.into_iter().filter(|task| kept.contains(task)).collect())
    }

    /// What stands first in the queues of each partition, without those that are paused.
    pub(super) async fn peek(&self, queues: &[String], max: usize) -> Result<Vec<Waiting>, StoreError> {
        let mut args = Args::default();
        args.push(self.clock.argument());
        args.number(max);
        for queue in queues {
            args.push(queue);
        }
        let args = &args;
        let looks = (0..self.keys.count()).map(|partition| async move {
            let mut reply = PEEK.call(&self.link, self.keys.partition(partition), &[args]).await?;
            self.clock.heard(reply.time()?);
            let paused: HashSet<String> = reply.list().into_iter().map(reply::text).collect();
            let mut waiting = Vec::new();
            for (place, value) in reply.list().into_iter().enumerate() {
                // Partitions do not number all queues alike.
                let place = if queues.is_empty() { 0 } else { place };
                let mut parts = Reply::new(value);
                let queue = reply::text(parts.next());
                let mut found = Reply::new(parts.next());
                while !found.is_empty() {
                    let (task, score) = (found.task()?, found.integer()?);
                    waiting.push(Waiting { place, queue: queue.clone(), score, task, partition });
                }
            }
            Ok::<_, StoreError>((paused, waiting))
        });
        let looks = try_join_all(looks).await?;
        let paused: HashSet<&String> = looks.iter().flat_map(|(paused, _)| paused).collect();
        let mut waiting: Vec<Waiting> = looks.iter().flat_map(|(_, waiting)| waiting).cloned().collect();
        waiting.retain(|one| !paused.contains(&one.queue));
        Ok(waiting)
    }

    async fn lease(
        &self,
        partition: usize,
        quotas: Quotas,
        tasks: &[TaskId],
        max: usize,
        lease: Duration,
        worker: &WorkerId,
    ) -> Result<Vec<(i64, Claim)>, StoreError> {
        let mut args = Args::default();
        args.push(self.clock.argument());
        args.number(lease.as_millis().min(1 << 52));
        args.push(serde_json::to_string(worker).map_err(|error| StoreError::Refused(error.to_string()))?);
        args.number(max);
        args.number(BYTES);
        args.push(if tasks.is_empty() { "T" } else { "C" });
        args.number(quotas.len() + tasks.len());
        for (queue, quota) in &quotas {
            args.push(queue);
            args.number(quota);
        }
        for task in tasks {
            args.push(task.as_uuid().as_bytes());
        }
        for _ in 0..max {
            let right: [u8; 24] = self.options.entropy.bytes();
            args.push(right);
        }
        let mut reply = TAKE.call(&self.link, self.keys.partition(partition), &[&args]).await?;
        self.clock.heard(reply.time()?);
        let expires = reply.time()?;
        let mut claims = Vec::new();
        for value in reply.list() {
            let mut parts = Reply::new(value);
            let (task, score) = (parts.task()?, parts.integer().unwrap_or(0));
            match self.claimed(task, parts.list(), expires) {
                Ok(claim) => claims.push((score, claim)),
                Err(why) => {
                    tracing::warn!(%task, why, "a task was leased that cannot be read");
                    self.give_up(task).await?;
                }
            }
        }
        Ok(claims)
    }

    /// A claim from what the script says of a task: its record, and its journal.
    fn claimed(&self, task: TaskId, parts: Vec<redis::Value>, expires: Timestamp) -> Result<Claim, String> {
        let mut parts = parts.into_iter();
        let record = parts.next().map(reply::bytes).unwrap_or_default();
        let record = stored::record(&record).map_err(|error| error.to_string())?;
        let Stretch { events: journal, hash } = stored::events(task, 1, &stored::elements(parts))?;
        let head = Head::fold(task, &journal).map_err(|illegal| illegal.to_string())?;
        let token = record.lease.map(|lease| lease.token).ok_or("it has no lease")?;
        // What was kept or has children is loaded when it is needed: a fresh lease has neither, as a rule.
        if record.kept == 0 && !record.extra.family {
            let stored: Stored = stored::assemble(record, head, None, hash);
            self.cache().put(task, stored);
        } else {
            self.cache().pop(&task);
        }
        Ok(Claim { task, token, expires, journal })
    }

    /// Renews leases; those that are not held, or whose time is over, are lost.
    pub(super) async fn renew_leases(&self, request: &Renew) -> Result<Vec<Renewal>, StoreError> {
        let mut by_partition: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, (task, _)) in request.leases.iter().enumerate() {
            by_partition.entry(self.keys.of_task(*task)).or_default().push(index);
        }
        let length = request.lease.as_millis().min(1 << 52);
        let chunks =
            by_partition.iter().flat_map(|(partition, all)| all.chunks(RENEWED).map(|some| (*partition, some)));
        let calls = chunks.map(|(partition, indexes)| async move {
            let leases: Vec<(TaskId, LeaseToken)> =
                indexes.iter().filter_map(|index| request.leases.get(*index).copied()).collect();
            let mut args = Args::default();
            args.push(self.clock.argument());
            args.number(length);
            for (task, token) in &leases {
                args.push_both(task.as_uuid().as_bytes(), token.as_bytes());
            }
            let mut reply = RENEW.call(&self.link, self.keys.partition(partition), &[&args]).await?;
            self.clock.heard(reply.time()?);
            let expires = reply.time()?;
            let answers = reply.list();
            Ok::<_, StoreError>((indexes, leases, answers, expires))
        });
        let mut renewals = vec![Renewal::Lost; request.leases.len()];
        for (indexes, leases, answers, expires) in try_join_all(calls).await? {
            for ((index, (task, token)), answer) in indexes.iter().zip(leases).zip(&answers) {
                let answer = reply::integer(answer)?;
                self.extend(task, token, (answer > 0).then_some(expires));
                if let Some(renewal) = renewals.get_mut(*index)
                    && answer > 0
                {
                    *renewal = Renewal::Renewed { expires, signals: answer == 2 };
                }
            }
        }
        Ok(renewals)
    }

    /// Keeps in mind until when a lease holds, or that it is lost.
    fn extend(&self, task: TaskId, token: LeaseToken, until: Option<Timestamp>) {
        let mut cache = self.cache();
        let Some(stored) = cache.peek_mut(&task) else { return };
        let Some(lease) = stored.entry.lease.as_mut().filter(|lease| lease.token == token) else { return };
        match until {
            Some(until) => lease.expires = until,
            None => {
                cache.pop(&task);
            }
        }
    }
}

/// A task that stands in a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Waiting {
    /// Which of the queues asked for it is in.
    pub(super) place: usize,
    pub(super) queue: String,
    pub(super) score: i64,
    pub(super) task: TaskId,
    pub(super) partition: usize,
}

/// Which partition gives how many of each queue, so that all together are those that come first.
fn share(mut waiting: Vec<Waiting>, first: usize, max: usize) -> BTreeMap<usize, Quotas> {
    waiting.sort_by(|a, b| (a.place, &a.queue, a.score, a.task).cmp(&(b.place, &b.queue, b.score, b.task)));
    let mut queues: Vec<std::collections::VecDeque<Waiting>> = Vec::new();
    for one in waiting {
        match queues.last_mut() {
            Some(queue) if queue.back().is_some_and(|last| last.queue == one.queue) => queue.push_back(one),
            _ => queues.push([one].into()),
        }
    }
    if !queues.is_empty() {
        let start = first % queues.len();
        queues.rotate_left(start);
    }
    let mut plan: BTreeMap<usize, Quotas> = BTreeMap::new();
    let mut left = max;
    while left > 0 && !queues.is_empty() {
        let fair = left.div_ceil(queues.len());
        for queue in &mut queues {
            for one in queue.drain(..fair.min(left).min(queue.len())).collect::<Vec<_>>() {
                left -= 1;
                let quotas = plan.entry(one.partition).or_default();
                match quotas.iter_mut().find(|(name, _)| *name == one.queue) {
                    Some((_, quota)) => *quota += 1,
                    None => quotas.push((one.queue, 1)),
                }
            }
        }
        queues.retain(|queue| !queue.is_empty());
    }
    plan
}

/// Claims by priority and age, queue by queue as they came.
fn in_order(mut claims: Vec<(i64, Claim)>) -> Vec<Claim> {
    claims.sort_by_key(|(score, claim)| (*score, claim.task));
    claims.into_iter().map(|(_, claim)| claim).collect()
}

impl RedisStore {
    /// The queues that are paused.
    pub(super) async fn paused(&self) -> Result<HashSet<String>, StoreError> {
        let mut command = redis::cmd("SMEMBERS");
        command.arg(self.keys.key(0, b"paused"));
        let names = reply::list(super::scripts::ask(&self.link, &command).await?);
        Ok(names.into_iter().map(reply::text).collect())
    }

    /// Whether something is ready in one of these queues (in any, if none is named).
    pub(super) async fn any_ready(&self, queues: &[QueueName]) -> Result<bool, StoreError> {
        let names: Vec<String> = queues.iter().map(|queue| queue.as_str().to_owned()).collect();
        Ok(!self.peek(&names, 1).await?.is_empty())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn waiting(queue: &str, place: usize, score: i64, partition: usize) -> Waiting {
        let task = TaskId::from_bytes([u8::try_from(score).unwrap(); 16]);
        Waiting { place, queue: queue.to_owned(), score, task, partition }
    }

    #[test]
    fn the_first_of_all_partitions_are_taken() {
        let all = vec![waiting("q", 0, 3, 0), waiting("q", 0, 1, 1), waiting("q", 0, 2, 1), waiting("q", 0, 4, 0)];
        let plan = share(all, 0, 3);
        assert_eq!(plan, BTreeMap::from([(0, vec![("q".to_owned(), 1)]), (1, vec![("q".to_owned(), 2)])]));
    }

    #[test]
    fn queues_get_equal_shares_and_what_others_leave() {
        let mut all: Vec<_> = (0..9).map(|n| waiting("a", 0, n, 0)).collect();
        all.push(waiting("b", 1, 1, 0));
        let plan = share(all, 0, 6);
        assert_eq!(plan, BTreeMap::from([(0, vec![("a".to_owned(), 5), ("b".to_owned(), 1)])]));
    }

    #[test]
    fn a_lease_without_end_stays_within_what_scripts_can_count() {
        assert_eq!(super::super::record::millis(Timestamp::from_millis(i64::MAX)), 1 << 52);
    }
}
