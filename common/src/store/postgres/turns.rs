//! Who gets which ready task when several callers take from several queues: the
//! queues take turns; within a queue, the order in which it gives its tasks. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{QueueName, TaskId};

/// What a caller wants.
#[derive(Debug, Clone)]
pub(super) struct Demand {
    /// From these, each once; the first one begins.
    pub(super) queues: Vec<QueueName>,
    /// At most so many.
    pub(super) max: usize,
}

/// What has been found in the queues so far.
#[derive(Debug, Default)]
pub(super) struct Stock {
    found: BTreeMap<QueueName, Vec<TaskId>>,
    /// Queues that have no more.
    dry: BTreeSet<QueueName>,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Find so many tasks in all of each queue, and ask again.
    Find(BTreeMap<QueueName, usize>),
    /// Each caller gets these.
    Give(Vec<Vec<TaskId>>),
}

impl Demand {
    /// The queues in the order of a caller's turn: the one at `first` begins.
    pub(super) fn new(queues: &[QueueName], max: usize, first: usize) -> Self {
        let mut different: Vec<QueueName> = Vec::with_capacity(queues.len());
        for queue in queues {
            if !different.contains(queue) {
                different.push(queue.clone());
            }
        }
        if !different.is_empty() {
            let start = first % different.len();
            different.rotate_left(start);
        }
        Self { queues: different, max }
    }
}

impl Stock {
    /// A queue was asked for so many tasks in all, and gave these.
    pub(super) fn put(&mut self, queue: QueueName, asked: usize, tasks: Vec<TaskId>) {
        if tasks.len() < asked {
            self.dry.insert(queue.clone());
        }
        self.found.insert(queue, tasks);
    }

    /// Shares what there is, or says what is missing for that.
    pub(super) fn turn(&self, demands: &[Demand]) -> Turn {
        let mut used: BTreeMap<&QueueName, usize> = BTreeMap::new();
        let mut missing: BTreeMap<QueueName, usize> = BTreeMap::new();
        let mut given = Vec::with_capacity(demands.len());
        for demand in demands {
            given.push(self.serve(demand, &mut used, &mut missing));
        }
        if missing.is_empty() {
            return Turn::Give(given);
        }
        let has = |queue: &QueueName| self.found.get(queue).map_or(0, Vec::len);
        Turn::Find(missing.into_iter().map(|(queue, more)| (queue.clone(), has(&queue) + more)).collect())
    }

    /// Serves one caller. Queues that may have more than was found are noted with how many.
    fn serve<'d>(
        &self,
        demand: &'d Demand,
        used: &mut BTreeMap<&'d QueueName, usize>,
        missing: &mut BTreeMap<QueueName, usize>,
    ) -> Vec<TaskId> {
        let mut got = Vec::new();
        let mut queues: Vec<&QueueName> = demand.queues.iter().collect();
        while got.len() < demand.max && !queues.is_empty() {
            let share = (demand.max - got.len()).div_ceil(queues.len());
            let mut more = Vec::with_capacity(queues.len());
            for queue in queues {
                let wanted = share.min(demand.max - got.len());
                if wanted == 0 {
                    break;
                }
                let next = used.entry(queue).or_default();
                let found = self.found.get(queue).map_or(&[] as &[TaskId], Vec::as_slice);
                let tasks = found.iter().skip(*next).take(wanted).copied();
                let before = got.len();
                got.extend(tasks);
                *next += got.len() - before;
                let lacking = wanted - (got.len() - before);
                if lacking == 0 {
                    more.push(queue);
                } else if !self.dry.contains(queue) {
                    *missing.entry(queue.clone()).or_default() += lacking;
                }
            }
            queues = more;
        }
        got
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::clock::Timestamp;

    fn queue(name: &str) -> QueueName {
        QueueName::new(name).unwrap()
    }

    fn task(number: u8) -> TaskId {
        TaskId::new(Timestamp::from_millis(1), [number; 10])
    }

    /// Takes from queues that hold so many tasks, as a store would; answers with how many each caller got of each.
    fn take(stored: &[(&str, u8)], demands: &[Demand]) -> Vec<BTreeMap<String, usize>> {
        let all: BTreeMap<QueueName, Vec<TaskId>> = (1..)
            .zip(stored)
            .map(|(n, (name, count))| (queue(name), (0..*count).map(|i| task(n * 50 + i)).collect()))
            .collect();
        let mut stock = Stock::default();
        for _ in 0..10 {
            match stock.turn(demands) {
                Turn::Find(wanted) => {
                    for (name, count) in wanted {
                        let tasks = all.get(&name).cloned().unwrap_or_default();
                        stock.put(name, count, tasks.into_iter().take(count).collect());
                    }
                }
                Turn::Give(given) => {
                    let of = |id: &TaskId| all.iter().find(|(_, ids)| ids.contains(id)).unwrap().0.to_string();
                    let count = |ids: &Vec<TaskId>| {
                        let mut counts = BTreeMap::new();
                        for id in ids {
                            *counts.entry(of(id)).or_default() += 1;
                        }
                        counts
                    };
                    let different: BTreeSet<_> = given.iter().flatten().collect();
                    assert_eq!(different.len(), given.iter().flatten().count(), "a task is given once");
                    return given.iter().map(count).collect();
                }
            }
        }
        panic!("it never ends");
    }

    fn demand(names: &[&str], max: usize) -> Demand {
        Demand::new(&names.iter().map(|name| queue(name)).collect::<Vec<_>>(), max, 0)
    }

    #[test]
    fn queues_share_evenly() {
        let got = take(&[("a", 20), ("b", 20), ("c", 20)], &[demand(&["a", "b", "c"], 12)]);
        assert!(got[0].values().all(|count| *count == 4), "{got:?}");
    }

    #[test]
    fn what_one_queue_does_not_use_another_gets() {
        let got = take(&[("a", 1), ("b", 20), ("c", 0)], &[demand(&["a", "b", "c"], 12)]);
        assert_eq!(got[0], BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 11)]));
    }

    #[test]
    fn callers_never_get_the_same_task() {
        let got = take(&[("a", 10)], &[demand(&["a"], 7), demand(&["a"], 7), demand(&["a"], 7)]);
        assert_eq!(got.iter().map(|counts| counts.values().sum::<usize>()).collect::<Vec<_>>(), [7, 3, 0]);
    }

    #[test]
    fn who_wants_nothing_gets_nothing() {
        assert!(take(&[("a", 10)], &[demand(&["a"], 0), demand(&[], 5)]).iter().all(BTreeMap::is_empty));
    }

    #[test]
    fn the_turn_moves_on() {
        let queues = [queue("a"), queue("b"), queue("a")];
        assert_eq!(Demand::new(&queues, 1, 1).queues, [queue("b"), queue("a")]);
        assert_eq!(Demand::new(&queues, 1, 2).queues, [queue("a"), queue("b")]);
    }
}
