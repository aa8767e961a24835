//! Confines the programs that a worker starts: what they may read and write,
//! whether they reach the network, what they may use up.
//!
//! A [`Sandbox`] is a policy of the operator with what this kernel can do. It
//! prepares everything before a program is started; the child itself only makes
//! system calls, between fork and exec. It fails closed: where a step that the
//! kernel should be able to do fails, the program does not start. This crate
//! knows nothing of tasks, and starts nothing by itself.
//!
//! | what | by |
//! |---|---|
//! | files, tracing and signals outside of itself | landlock |
//! | sockets, and calls that no confined program needs | a seccomp filter |
//! | processes and threads | a cgroup; else the limit of the user; else a [`Watch`] |
//! | memory, processor time, size and number of files, core dumps | resource limits |
//! | more privileges | `no_new_privs`, and few capabilities: none for who may not write everywhere |
//! | descriptors of the worker | closed |
//!
//! Not confined: mode, owner and times of files that belong to the worker's user
//! (landlock has no right for them); the names and command lines of other
//! processes; how many files are written; memory that processes share, but by a
//! cgroup of version 2 with the controller for memory. Where memory runs out all
//! the same, the kernel ends programs before the worker.

mod abilities;
mod cgroup;
#[cfg(target_os = "linux")]
mod entry;
#[cfg(target_os = "linux")]
mod filter;
#[cfg(target_os = "linux")]
mod kernel;
#[cfg(target_os = "linux")]
mod places;
mod watch;

use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use common::config::{SandboxMode, SandboxPolicy};
use tempfile::TempDir;

pub use abilities::{Abilities, ProcessBound, Shortcoming};
pub use watch::Watch;

use cgroup::Cgroup;

/// A policy, and what of it can be enforced here.
#[derive(Debug, Clone)]
pub struct Sandbox {
    policy: Arc<SandboxPolicy>,
    abilities: Arc<Abilities>,
}

/// The policy asks for what the kernel cannot do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the sandbox is required, and this machine cannot do all of it: {0}")]
pub struct Unenforceable(String);

/// What holds a program that was started. Dropping it kills what is left of the program, as far as it is known.
#[derive(Debug, Default)]
pub struct Confinement {
    cgroup: Option<Cgroup>,
    /// How many processes a watch has to allow.
    watched: Option<u32>,
    _tmp: Option<TempDir>,
}

impl Sandbox {
    /// A sandbox for programs of one kind.
    ///
    /// # Errors
    /// When the policy requires what cannot be done.
    pub fn new(policy: SandboxPolicy, abilities: Arc<Abilities>) -> Result<Self, Unenforceable> {
        let missing = abilities.shortcomings();
        if policy.mode == SandboxMode::Require && !missing.is_empty() {
            let said: Vec<String> = missing.iter().map(|what| format!("{}: {}", what.subject, what.said)).collect();
            return Err(Unenforceable(said.join("; ")));
        }
        Ok(Self { policy: Arc::new(policy), abilities })
    }

    /// Whether programs are confined at all.
    pub fn is_off(&self) -> bool {
        self.policy.mode == SandboxMode::Off
    }

    /// Whether programs may open sockets.
    pub fn allows_network(&self) -> bool {
        self.is_off() || self.policy.network
    }

    /// Prepares a command that will run in `cwd`, so that it starts confined. Its
    /// `TMPDIR` becomes a directory of its own, which goes with the confinement.
    ///
    /// # Errors
    /// When it cannot be confined as this machine should be able to; then it must not be started.
    pub fn enter(&self, command: &mut Command, cwd: &Path) -> io::Result<Confinement> {
        if self.is_off() {
            return Ok(Confinement::default());
        }
        let tmp = if self.policy.writes_everywhere() {
            None
        } else {
            let tmp = tempfile::Builder::new().prefix("teamster-").tempdir()?;
            command.env("TMPDIR", tmp.path());
            Some(tmp)
        };
        let (cgroup, watched) = match (&self.abilities.processes, self.policy.processes) {
            (ProcessBound::Cgroup(base), Some(processes)) => {
                (Some(Cgroup::create(base, processes, self.policy.memory)?), None)
            }
            (ProcessBound::Watch, limit) => (None, limit),
            _ => (None, None),
        };
        #[cfg(target_os = "linux")]
        {
            let places = places::Places::of(&self.policy, cwd, tmp.as_ref().map(TempDir::path));
            entry::Entry::prepare(&self.policy, &self.abilities, &places, cgroup.as_ref())?.install(command);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = cwd;
        Ok(Confinement { cgroup, watched, _tmp: tmp })
    }
}

impl Confinement {
    /// Kills what is left of the program. Complete where it has a cgroup; else its process group has to do.
    pub fn kill(&self) {
        if let Some(cgroup) = &self.cgroup {
            cgroup.kill();
        }
    }

    /// A watch over the program, whose leader this process is, where nothing better bounds it.
    pub fn watch(&self, leader: i32) -> Option<Watch> {
        self.watched.map(|limit| Watch::new(leader, limit))
    }
}
