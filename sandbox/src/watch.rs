//! Counts the processes of a program, where nothing in the kernel bounds them.
//!
//! A stopgap: a program that multiplies faster than it is looked at, or whose
//! processes lose their parents and leave the group between two looks, outruns it.

use std::collections::BTreeSet;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// How often what appears while processes are stopped is looked for again.
const ROUNDS: usize = 20;

/// A watch over one program.
#[derive(Debug)]
pub struct Watch {
    leader: i32,
    limit: u32,
    /// Members that were seen; who loses its parent and leaves the group stays one.
    known: BTreeSet<Identity>,
}

/// A process, told from one that gets the same number later by when it was started.
type Identity = (i32, u64);

/// What is known of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    identity: Identity,
    parent: i32,
    group: i32,
    threads: u32,
}

impl Watch {
    pub(crate) fn new(leader: i32, limit: u32) -> Self {
        Self { leader, limit, known: BTreeSet::new() }
    }

    /// Looks once, and kills the program if it has too many processes and threads. Answers whether it did.
    /// Reads a file for each process of the machine: not for an asynchronous thread.
    pub fn tick(&mut self) -> bool {
        if self.look() <= self.limit {
            return false;
        }
        self.kill();
        true
    }

    /// Kills all members that are known or can be found. They are stopped first:
    /// the children of a process that has ended could not be told any more.
    pub fn kill(&mut self) {
        for _ in 0..ROUNDS {
            let before = self.known.clone();
            self.look();
            self.signal(Signal::STOP);
            if self.known.is_subset(&before) {
                break;
            }
        }
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        // ESRCH, for those that have ended meanwhile.
        if let Some(leader) = Pid::from_raw(self.leader)
            && self.known.iter().any(|(id, _)| *id == self.leader)
        {
            let _ = kill_process_group(leader, signal);
        }
        for id in self.known.iter().filter_map(|(id, _)| Pid::from_raw(*id)) {
            let _ = kill_process(id, signal);
        }
    }

    /// Finds the members, and counts their threads.
    fn look(&mut self) -> u32 {
        let entries = census();
        let (known, tasks) = members(self.leader, &self.known, &entries);
        self.known = known;
        tasks
    }
}

/// The members of a program among all processes: its group, who was a member
/// before, and their descendants. And how many threads these have.
fn members(leader: i32, known: &BTreeSet<Identity>, entries: &[Entry]) -> (BTreeSet<Identity>, u32) {
    let mut found: BTreeSet<Identity> = entries
        .iter()
        .filter(|entry| entry.group == leader || entry.identity.0 == leader || known.contains(&entry.identity))
        .map(|entry| entry.identity)
        .collect();
    loop {
        let parents: BTreeSet<i32> = found.iter().map(|(id, _)| *id).collect();
        let before = found.len();
        found.extend(entries.iter().filter(|entry| parents.contains(&entry.parent)).map(|entry| entry.identity));
        if found.len() == before {
            break;
        }
    }
    let tasks = entries.iter().filter(|entry| found.contains(&entry.identity)).map(|entry| entry.threads).sum();
    (found, tasks)
}

/// All processes that live.
fn census() -> Vec<Entry> {
    let numbers = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    ids.filter_map(|id| Entry::parse(&std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?)).collect()
}

/// How many processes and threads this user has.
pub(crate) fn tasks_of_this_user() -> u64 {
    use std::os::unix::fs::MetadataExt;
    let user = rustix::process::getuid().as_raw();
    let entries = census();
    let own = entries
        .iter()
        .filter(|entry| std::fs::metadata(format!("/proc/{}", entry.identity.0)).is_ok_and(|it| it.uid() == user));
    own.map(|entry| u64::from(entry.threads)).sum()
}

impl Entry {
    /// From `/proc/ID/stat`, as `proc_pid_stat(5)` has it; none for what has ended.
    fn parse(stat: &str) -> Option<Self> {
        let (id, rest) = stat.split_once(" (")?;
        // The name may contain anything, also `)`.
        let (_, rest) = rest.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3).copied();
        if matches!(field(3)?, "Z" | "X") {
            return None;
        }
        Some(Self {
            identity: (id.parse().ok()?, field(22)?.parse().ok()?),
            parent: field(4)?.parse().ok()?,
            group: field(5)?.parse().ok()?,
            threads: field(20)?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn entry(id: i32, parent: i32, group: i32) -> Entry {
        Entry { identity: (id, 1), parent, group, threads: 1 }
    }

    #[test]
    fn members_are_the_group_its_descendants_and_who_was_one_before() {
        let all = [
            entry(10, 1, 10),
            entry(11, 10, 10),
            entry(12, 11, 12), // left the group
            entry(13, 1, 13),  // left it and lost its parent
            entry(14, 13, 14),
            entry(20, 1, 20), // a stranger
        ];
        let (found, tasks) = members(10, &BTreeSet::from([(13, 1), (99, 1)]), &all);
        assert_eq!(found.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [10, 11, 12, 13, 14]);
        assert_eq!(tasks, 5);
        let (found, _) = members(10, &BTreeSet::from([(13, 0)]), &all);
        assert!(!found.contains(&(13, 1)), "another process with the number of one that was");
    }

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let stat = "42 (a) b (c) S 7 8 9 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 3 0 555 1000 100 18446744073709551615";
        assert_eq!(Entry::parse(stat), Some(Entry { identity: (42, 555), parent: 7, group: 8, threads: 3 }));
        assert_eq!(Entry::parse(&stat.replace(" S ", " Z ")), None);
        for nonsense in ["", "42", "42 (x", "42 (x) S 1"] {
            assert_eq!(Entry::parse(nonsense), None);
        }
    }

    #[test]
    fn this_process_is_among_those_of_its_user() {
        assert!(tasks_of_this_user() >= 1);
        assert!(census().iter().any(|entry| u32::try_from(entry.identity.0) == Ok(std::process::id())));
    }
}
