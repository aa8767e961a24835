//! The way into the sandbox: all that is needed is made before the fork, and the
//! child applies it with system calls alone, between fork and exec.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;

use common::config::SandboxPolicy;
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr, Scope,
    path_beneath_rules,
};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs};
use seccompiler::BpfProgram;

use crate::abilities::{Abilities, ProcessBound};
use crate::cgroup::Cgroup;
use crate::places::Places;
use crate::{filter, kernel, watch};

/// The newest version of landlock that this program knows; older kernels do what they can.
const LANDLOCK: ABI = ABI::V7;

/// The capabilities that programs keep which may write everywhere, if the worker has them: to work on files and users
/// as root does. None that looks into other processes, which the kernel lets pass where landlock would not
/// (`may_access_mm` in kernel/fork.c, for `CAP_PERFMON`), and none over the machine.
const FILES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::NET_BIND_SERVICE);

/// What the child applies to itself, in this order.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Where it writes itself into its cgroup.
    cgroup: Option<File>,
    limits: Vec<(Resource, Rlimit)>,
    ruleset: Option<OwnedFd>,
    capabilities: CapabilitySet,
    filter: Option<BpfProgram>,
}

impl Entry {
    /// Makes everything that the child will need.
    pub(crate) fn prepare(
        policy: &SandboxPolicy,
        abilities: &Abilities,
        places: &Places,
        cgroup: Option<&Cgroup>,
    ) -> io::Result<Self> {
        Ok(Self {
            cgroup: cgroup.map(Cgroup::door).transpose()?,
            limits: limits(policy, abilities),
            ruleset: if abilities.landlock > 0 { ruleset(policy, places)? } else { None },
            capabilities: if policy.writes_everywhere() { FILES } else { CapabilitySet::empty() },
            filter: if abilities.seccomp { Some(filter::build(policy.network)?) } else { None },
        })
    }

    /// Has a command's child enter.
    pub(crate) fn install(self, command: &mut Command) {
        kernel::before_exec(command, move || self.enter());
    }

    /// Runs in the child. System calls only; what they need is owned by `self`.
    fn enter(&self) -> io::Result<()> {
        if let Some(mut door) = self.cgroup.as_ref() {
            // 0 is whoever writes.
            io::Write::write_all(&mut door, b"0")?;
        }
        // Should the machine run out of memory, this goes before the worker. A machine that does not know it is none less
        // confined.
        let _ = rustix::fs::open(c"/proc/self/oom_score_adj", OFlags::WRONLY, Mode::empty())
            .and_then(|file| rustix::io::write(file, b"1000"));
        for (resource, limit) in &self.limits {
            setrlimit(*resource, *limit)?;
        }
        match kernel::close_others_at_exec() {
            // Before Linux 5.11; the worker opens its own descriptors so that they close.
            Err(error) if [libc::ENOSYS, libc::EINVAL].map(Some).contains(&error.raw_os_error()) => {}
            other => other?,
        }
        set_no_new_privs(true)?;
        if let Some(ruleset) = &self.ruleset {
            kernel::landlock_restrict_self(ruleset.as_fd())?;
        }
        let CapabilitySets { effective, permitted, .. } = capabilities(None)?;
        let kept = CapabilitySets {
            effective: effective & self.capabilities,
            permitted: permitted & self.capabilities,
            inheritable: CapabilitySet::empty(),
        };
        set_capabilities(None, kept)?;
        if let Some(filter) = &self.filter {
            seccompiler::apply_filter(filter).map_err(|error| match error {
                seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error) => error,
                _ => Errno::INVAL.into(),
            })?;
        }
        Ok(())
    }
}

/// The limits of each of its processes; never above those of the worker.
fn limits(policy: &SandboxPolicy, abilities: &Abilities) -> Vec<(Resource, Rlimit)> {
    let processes = policy.processes.filter(|_| abilities.processes == ProcessBound::User);
    // The kernel counts what the user has in all.
    let processes = processes.map(|allowance| watch::tasks_of_this_user() + u64::from(allowance));
    let limits = [
        (Resource::Core, Some(0)),
        // Private memory that can be written. The address space would be no measure: run times reserve a lot of it.
        (Resource::Data, policy.memory),
        (Resource::Cpu, policy.cpu.map(|time| time.as_secs().max(1))),
        (Resource::Fsize, policy.file_size),
        (Resource::Nofile, policy.open_files.map(u64::from)),
        (Resource::Nproc, processes),
    ];
    let with_limit = limits.into_iter().filter_map(|(resource, limit)| Some((resource, limit?)));
    with_limit
        .map(|(resource, limit)| {
            let most = getrlimit(resource).maximum.map_or(limit, |most| most.min(limit));
            (resource, Rlimit { current: Some(most), maximum: Some(most) })
        })
        .collect()
}

/// Landlock's rules. Also for who may read and write everywhere: processes
/// outside of the rules can be neither traced nor sent signals.
fn ruleset(policy: &SandboxPolicy, places: &Places) -> io::Result<Option<OwnedFd>> {
    let scope = if policy.network { Scope::Signal.into() } else { Scope::from_all(LANDLOCK) };
    let build = || {
        let mut rules = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(LANDLOCK))?
            .scope(scope)?;
        if !policy.network {
            rules = rules.handle_access(AccessNet::from_all(LANDLOCK))?;
        }
        rules
            .create()?
            .add_rules(path_beneath_rules(&places.read, AccessFs::from_read(LANDLOCK)))?
            .add_rules(path_beneath_rules(&places.write, AccessFs::from_all(LANDLOCK)))
    };
    build().map(Into::into).map_err(io::Error::other)
}
