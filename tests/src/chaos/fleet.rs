//! Schedulers and workers as processes, each started again when it has ended, as
//! whoever runs a fleet would have it done.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::backends::Backends;
use crate::binary;
use crate::servers::port::Port;

/// How long the fleet may take to be up, with empty caches on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// The end of a log that is shown when something went wrong, in lines.
const LAST_WORDS: usize = 15;

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Scheduler,
    Worker,
}

impl Role {
    const fn command(self) -> &'static str {
        match self {
            Self::Scheduler => "scheduler",
            Self::Worker => "worker",
        }
    }
}

/// A place in the fleet, and the process that fills it now.
#[derive(Debug)]
struct Member {
    role: Role,
    /// A killed scheduler comes back at its address.
    port: Port,
    log: PathBuf,
    /// Where in the log the words of the process begin that runs now.
    said_before: u64,
    child: Option<Child>,
    /// Not before this, after it was killed.
    starts_at: Instant,
    /// Until then it is stopped.
    stopped_until: Option<Instant>,
    struck: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Fleet {
    members: Vec<Member>,
    arguments: Vec<String>,
    counts: BTreeMap<&'static str, u64>,
}

impl Fleet {
    /// Two schedulers and three workers.
    pub(super) fn start(project: &Path, backends: &Backends) -> Result<Self> {
        Self::with(project, backends, 2, 3)
    }

    pub(super) fn with(project: &Path, backends: &Backends, schedulers: usize, workers: usize) -> Result<Self> {
        let mut arguments = vec!["--dir".to_owned(), project.display().to_string()];
        arguments.extend(["--store".to_owned(), backends.store_url()]);
        if let Some(broker) = backends.broker_url() {
            arguments.extend(["--broker".to_owned(), broker]);
        }
        let roles = std::iter::repeat_n(Role::Scheduler, schedulers).chain(std::iter::repeat_n(Role::Worker, workers));
        let members = roles.enumerate().map(|(number, role)| Member {
            role,
            port: Port::claim(),
            log: project.join(format!("{}-{number}.log", role.command())),
            said_before: 0,
            child: None,
            starts_at: Instant::now(),
            stopped_until: None,
            struck: false,
        });
        let mut fleet = Self { members: members.collect(), arguments, counts: BTreeMap::new() };
        // The first one makes the place; two at once are another test.
        fleet.members[0].start(&fleet.arguments)?;
        Ok(fleet)
    }

    /// Waits until every process listens.
    pub(super) async fn until_up(&mut self) -> Result<()> {
        let started = Instant::now();
        let first = |fleet: &Self| fleet.members.first().is_some_and(Member::is_up);
        while !first(self) {
            self.patient(started, "the first scheduler")?;
            if let Some(status) = self.members[0].ended()? {
                bail!("the first scheduler ended with {status}:\n{}", self.last_words());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        while !self.members.iter().all(Member::is_up) {
            self.patient(started, "the fleet")?;
            self.tick()?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    fn patient(&self, started: Instant, who: &str) -> Result<()> {
        if started.elapsed() > PATIENCE {
            bail!("{who} is not up after {PATIENCE:?}:\n{}", self.last_words());
        }
        Ok(())
    }

    /// The addresses of the schedulers.
    pub(super) fn addresses(&self) -> Vec<String> {
        let schedulers = self.members.iter().filter(|member| member.role == Role::Scheduler);
        schedulers.map(|member| format!("http://127.0.0.1:{}", member.port.number())).collect()
    }

    /// Starts who has ended and wakes up who has slept long enough.
    ///
    /// # Errors
    /// When a process was up and ended by itself: none may.
    pub(super) fn tick(&mut self) -> Result<()> {
        for number in 0..self.members.len() {
            let member = &mut self.members[number];
            if member.stopped_until.is_some_and(|until| until <= Instant::now()) {
                member.stopped_until = None;
                member.signal(Signal::CONT);
            }
            if let Some(status) = member.ended()? {
                if !member.struck && member.is_up() {
                    let words = member.last_words();
                    bail!("a {} ended by itself with {status}:\n{words}", member.role.command());
                }
                let kind = if member.struck { "processes killed" } else { "starts that found no store" };
                *self.counts.entry(kind).or_default() += 1;
                member.child = None;
                member.starts_at = member.starts_at.max(Instant::now() + Duration::from_millis(100));
            }
            if member.child.is_none() && member.starts_at <= Instant::now() {
                member.start(&self.arguments)?;
            }
        }
        Ok(())
    }

    /// Waits, and keeps the fleet running.
    pub(super) async fn wait(&mut self, time: Duration) -> Result<()> {
        let started = Instant::now();
        while started.elapsed() < time {
            self.tick()?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Kills one of those who run; another one starts after a while.
    pub(super) fn kill(&mut self, role: Role, which: usize, down: Duration) -> bool {
        let Some(member) = self.pick(role, which) else { return false };
        member.struck = true;
        member.starts_at = Instant::now() + down;
        member.signal(Signal::KILL);
        true
    }

    /// Stops one of those who run for a while.
    pub(super) fn freeze(&mut self, role: Role, which: usize, time: Duration) -> bool {
        let Some(member) = self.pick(role, which) else { return false };
        member.signal(Signal::STOP);
        member.stopped_until = Some(Instant::now() + time);
        true
    }

    fn pick(&mut self, role: Role, which: usize) -> Option<&mut Member> {
        let able = |member: &&mut Member| {
            member.role == role && !member.struck && member.stopped_until.is_none() && member.is_up()
        };
        let mut able: Vec<&mut Member> = self.members.iter_mut().filter(able).collect();
        if able.is_empty() {
            return None;
        }
        let index = which % able.len();
        Some(able.swap_remove(index))
    }

    /// The resident memory of each process that runs, in bytes.
    pub(super) fn memory(&self) -> Vec<(String, u64)> {
        let running = self.members.iter().enumerate().filter_map(|(number, member)| {
            let id = member.child.as_ref()?.id();
            Some((format!("{} {number}", member.role.command()), resident(id)?))
        });
        running.collect()
    }

    /// What each process said last.
    pub(super) fn last_words(&self) -> String {
        let words = self.members.iter().map(|member| format!("--- {}\n{}", member.log.display(), member.last_words()));
        words.collect::<Vec<_>>().join("\n")
    }

    /// Ends all; what happened to them.
    pub(super) fn stop(mut self) -> super::Counts {
        std::mem::take(&mut self.counts).into_iter().map(|(kind, count)| (kind.to_owned(), count)).collect()
    }
}

/// The resident memory of a process, in bytes.
pub(super) fn resident(id: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}

impl Member {
    fn start(&mut self, arguments: &[String]) -> Result<()> {
        self.said_before = std::fs::metadata(&self.log).map_or(0, |log| log.len());
        let log: File = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let listen = format!("127.0.0.1:{}", self.port.number());
        let mut command: Command = binary::command(&[self.role.command(), "--json", "--listen", &listen])?;
        if self.role == Role::Scheduler {
            command.arg("--apply");
        }
        // It ends with the test, however that ends.
        command.arg("--stop-with-stdin").args(arguments).stdin(Stdio::piped());
        command.stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().context("the program cannot be started")?);
        self.struck = false;
        Ok(())
    }

    /// Whether the process of now has said that it listens.
    fn is_up(&self) -> bool {
        self.child.is_some() && self.words().contains("\"listening\"")
    }

    fn words(&self) -> String {
        let all = std::fs::read(&self.log).unwrap_or_default();
        let from = usize::try_from(self.said_before).unwrap_or(0).min(all.len());
        String::from_utf8_lossy(&all[from..]).into_owned()
    }

    fn last_words(&self) -> String {
        let words = self.words();
        let lines: Vec<&str> = words.lines().collect();
        lines[lines.len().saturating_sub(LAST_WORDS)..].join("\n")
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let status = child.try_wait()?;
        if let Some(status) = status
            && status.core_dumped()
        {
            bail!("a {} crashed: {status}", self.role.command());
        }
        Ok(status)
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            // A child that was not waited for keeps its id.
            let _ = kill_process(Pid::from_child(child), signal);
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
