//! What this machine can do to confine programs, and what it means where it cannot.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use common::store::{Finding, Severity};

use crate::cgroup;

/// The version of landlock that confines signals, and with it all that is asked of it.
const LANDLOCK_SIGNALS: u32 = 6;
/// The version of landlock that confines truncating files.
const LANDLOCK_TRUNCATE: u32 = 3;

/// What the kernel can do, for this process and those that it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abilities {
    /// The version of landlock's interface; 0 where there is none.
    pub landlock: u32,
    /// Whether system calls can be filtered.
    pub seccomp: bool,
    /// What bounds the number of processes.
    pub processes: ProcessBound,
}

/// What bounds the number of processes that a program has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcessBound {
    /// A cgroup of its own, below this one. It also finds every process in the end, whatever it did to hide.
    Cgroup(PathBuf),
    /// `RLIMIT_NPROC`: what the user has at the program's start, and the program's allowance on top.
    User,
    /// Nothing in the kernel: the program's processes are counted from time to time.
    Watch,
}

/// Something that cannot be confined here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortcoming {
    /// What is not confined.
    pub subject: &'static str,
    /// What a program can do that it should not.
    pub said: &'static str,
    /// What to do about it.
    pub advice: &'static str,
}

impl Abilities {
    /// What there is here, looked up once a process.
    pub fn here() -> Arc<Self> {
        static HERE: OnceLock<Arc<Abilities>> = OnceLock::new();
        Arc::clone(HERE.get_or_init(|| Arc::new(Self::probe())))
    }

    /// Kills programs that a worker left here which is gone, as far as their cgroups tell.
    pub fn clear_leftovers(&self) {
        if let ProcessBound::Cgroup(base) = &self.processes {
            cgroup::clear_leftovers(base);
        }
    }

    /// What cannot be confined, in words for a person.
    pub fn shortcomings(&self) -> Vec<Shortcoming> {
        let mut missing = Vec::new();
        let mut note = |subject, said, advice| missing.push(Shortcoming { subject, said, advice });
        if self.landlock == 0 {
            note(
                "files",
                "a program reads and writes whatever the worker's user can, and can look into the worker itself",
                "use Linux 5.13 or newer with landlock enabled (lsm=landlock,…), or run workers in a container that \
                 holds nothing else",
            );
        } else if self.landlock < LANDLOCK_TRUNCATE {
            note("files", "a program can empty files that it may not write", "use Linux 6.2 or newer");
        }
        if self.landlock < LANDLOCK_SIGNALS {
            note("signals", "a program can end the worker and other processes of its user", "use Linux 6.12 or newer");
        }
        if !self.seccomp {
            note(
                "network",
                "a program can open sockets although it may not",
                "use Linux on x86-64 or AArch64 with seccomp filters, or cut the worker's network off",
            );
        }
        if self.processes == ProcessBound::Watch {
            note(
                "processes",
                "they are only counted ten times a second, which a program that multiplies fast outruns",
                "run the worker as another user than root, or give it a cgroup that it may write, with the \
                 controller pids",
            );
        }
        missing
    }

    /// What is confined here and what is not.
    pub fn findings(&self) -> Vec<Finding> {
        let missing = self.shortcomings();
        let held: [(&str, String); 4] = [
            ("files", format!("landlock, version {}", self.landlock)),
            ("signals", "landlock".to_owned()),
            ("network", "seccomp".to_owned()),
            (
                "processes",
                match &self.processes {
                    ProcessBound::Cgroup(base) => format!("a cgroup for each program below {}", base.display()),
                    ProcessBound::User => {
                        "the limit of the worker's user; a program that detaches itself outlives its call".to_owned()
                    }
                    ProcessBound::Watch => String::new(),
                },
            ),
        ];
        let good = held.into_iter().filter(|(subject, _)| missing.iter().all(|lack| lack.subject != *subject));
        let good = good.map(|(subject, by)| Finding {
            severity: Severity::Good,
            subject: format!("sandbox, {subject}"),
            said: format!("confined by {by}"),
            advice: None,
        });
        let lacking = missing.iter().map(|lack| Finding {
            severity: Severity::Warning,
            subject: format!("sandbox, {}", lack.subject),
            said: lack.said.to_owned(),
            advice: Some(lack.advice.to_owned()),
        });
        good.chain(lacking).collect()
    }

    #[cfg(target_os = "linux")]
    fn probe() -> Self {
        let exempt = rustix::process::getuid().is_root();
        let processes = match cgroup::usable_base() {
            Some(base) => ProcessBound::Cgroup(base),
            None if exempt => ProcessBound::Watch,
            None => ProcessBound::User,
        };
        Self { landlock: crate::kernel::landlock_version(), seccomp: crate::filter::is_available(), processes }
    }

    #[cfg(not(target_os = "linux"))]
    fn probe() -> Self {
        Self { landlock: 0, seccomp: false, processes: ProcessBound::Watch }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_ability_that_is_missing_is_said_and_nothing_else() {
        let all = Abilities { landlock: 7, seccomp: true, processes: ProcessBound::User };
        let subjects =
            |abilities: &Abilities| abilities.shortcomings().iter().map(|lack| lack.subject).collect::<Vec<_>>();
        assert!(subjects(&all).is_empty());
        assert_eq!(subjects(&Abilities { landlock: 0, ..all.clone() }), ["files", "signals"]);
        assert_eq!(subjects(&Abilities { landlock: 2, ..all.clone() }), ["files", "signals"]);
        assert_eq!(subjects(&Abilities { landlock: 4, ..all.clone() }), ["signals"]);
        assert_eq!(subjects(&Abilities { seccomp: false, ..all.clone() }), ["network"]);
        assert_eq!(subjects(&Abilities { processes: ProcessBound::Watch, ..all.clone() }), ["processes"]);
        for abilities in [&all, &Abilities { landlock: 0, ..all.clone() }] {
            assert_eq!(abilities.findings().len(), 4, "each subject is spoken of once");
        }
    }
}
