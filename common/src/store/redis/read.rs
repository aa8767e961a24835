//! Reading tasks: one, or those that match a filter, newest first.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::try_join_all;

use super::RedisStore;
use super::change::listed_in;
use super::desk::Desk;
use super::keys;
use super::record::Record;
use super::reply;
use super::scripts::ask;
use super::stored::Found;
use crate::id::TaskId;
use crate::store::{Cursor, Filter, Page, StoreError};
use crate::task::{Head, State, StateName};

/// The most tasks on a page.
const PAGE: usize = 1_000;
/// Tasks that one call looks at before it answers with what it has found so far.
const LOOKED_AT: usize = 20_000;

impl RedisStore {
    /// A task without its journal.
    pub(super) async fn head_of(&self, task: TaskId) -> Result<Option<Head>, StoreError> {
        let mut desk = Desk::new();
        self.load(&[task], &mut desk).await?;
        Ok(desk.remove(&task).and_then(Found::head))
    }

    /// Tasks that match, newest first. A page may have fewer than it could, where few of many match.
    pub(super) async fn list_tasks(
        &self,
        filter: &Filter,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let limit = limit.min(PAGE);
        let mut page = Page::default();
        if limit == 0 {
            return Ok(page);
        }
        let sets = self.sets(filter);
        let mut after = after.map(|Cursor(task)| task);
        let mut looked_at = 0;
        // One more than fits tells whether there is a next page.
        let mut step = limit + 1;
        loop {
            let ids = self.ids(&sets, after, step).await?;
            let Some(last) = ids.last().copied() else { return Ok(page) };
            let end = ids.len() < step;
            for head in self.matching(filter, &ids).await? {
                if page.tasks.len() == limit {
                    page.next = page.tasks.last().map(|head| Cursor(head.id));
                    return Ok(page);
                }
                page.tasks.push(head);
            }
            if end {
                return Ok(page);
            }
            looked_at += ids.len();
            if looked_at >= LOOKED_AT {
                page.next = Some(Cursor(last));
                return Ok(page);
            }
            (after, step) = (Some(last), PAGE);
        }
    }

    /// The sorted sets in which all tasks are that can match.
    fn sets(&self, filter: &Filter) -> Vec<Vec<u8>> {
        if let Some(parent) = filter.parent {
            return vec![self.keys.key(self.keys.of_task(parent), &keys::of(b'c', parent))];
        }
        let mut names: BTreeSet<&str> = if filter.awaiting_approval {
            ["ask"].into()
        } else if filter.dead_reason.is_some() {
            ["failed"].into()
        } else if filter.states.is_empty() {
            StateName::ALL.into_iter().map(listed_in).collect()
        } else {
            filter.states.iter().copied().map(listed_in).collect()
        };
        if filter.awaiting_approval && filter.dead_reason.is_some() {
            names.clear(); // A question lapses with its task.
        }
        let partitions = 0..self.keys.count();
        partitions.flat_map(|p| names.iter().map(move |name| self.keys.key(p, name.as_bytes()))).collect()
    }

    /// The newest ids before another in some sorted sets.
    async fn ids(&self, sets: &[Vec<u8>], before: Option<TaskId>, limit: usize) -> Result<Vec<TaskId>, StoreError> {
        let from = before.map_or(b"+".to_vec(), |task| [b"(", task.as_uuid().as_bytes().as_slice()].concat());
        let looks = sets.iter().map(|set| {
            let mut command = redis::cmd("ZREVRANGEBYLEX");
            command.arg(set).arg(&from).arg("-").arg("LIMIT").arg(0).arg(limit);
            async move {
                let ids = reply::list(ask(&self.link, &command).await?);
                ids.into_iter().map(|id| reply::task(&reply::bytes(id))).collect::<Result<Vec<_>, _>>()
            }
        });
        let mut ids: Vec<TaskId> = try_join_all(looks).await?.into_iter().flatten().collect();
        ids.sort_unstable_by(|a, b| b.cmp(a));
        // A task that moved between two looks may have been seen in both.
        ids.dedup();
        ids.truncate(limit);
        Ok(ids)
    }

    /// The heads of those that match, in the same order.
    async fn matching(&self, filter: &Filter, ids: &[TaskId]) -> Result<Vec<Head>, StoreError> {
        let mut wanted = ids.to_vec();
        if !filter.states.is_empty() || filter.queue.is_some() {
            let mut fits: BTreeMap<TaskId, bool> = BTreeMap::new();
            for (partition, tasks) in self.by_partition(ids) {
                let records = self.records(partition, &tasks).await?;
                fits.extend(
                    tasks.into_iter().zip(records.iter().map(|r| r.as_ref().is_some_and(|r| may_match(filter, r)))),
                );
            }
            wanted.retain(|task| fits.get(task).copied().unwrap_or(false));
        }
        let mut desk = Desk::new();
        self.load(&wanted, &mut desk).await?;
        let heads = wanted.into_iter().filter_map(|task| desk.remove(&task).and_then(Found::head));
        Ok(heads.filter(|head| matches(filter, head)).collect())
    }
}

/// What a record says already.
fn may_match(filter: &Filter, record: &Record) -> bool {
    (filter.states.is_empty() || filter.states.contains(&record.state))
        && filter.queue.as_ref().is_none_or(|queue| *queue == record.queue)
}

fn matches(filter: &Filter, head: &Head) -> bool {
    let dead_for = |reason| matches!(&head.state, State::Dead { reason: of, .. } if *of == reason);
    (filter.states.is_empty() || filter.states.contains(&head.state.name()))
        && filter.queue.as_ref().is_none_or(|queue| *queue == head.queue)
        && filter.pipeline.as_ref().is_none_or(|pipeline| *pipeline == head.pipeline)
        && filter.parent.is_none_or(|parent| head.parent.as_ref().is_some_and(|of| of.task == parent))
        && filter.labels.iter().all(|(name, value)| head.labels.get(name) == Some(value))
        && filter.dead_reason.is_none_or(dead_for)
        && (!filter.awaiting_approval || !head.open_approvals.is_empty())
}
