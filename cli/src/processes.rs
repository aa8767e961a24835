//! Schedulers and workers as processes of their own, for commands that show or
//! measure a fleet: started from this very binary, killed at will, and always
//! taken along when the command ends.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// How long a process may take to listen.
const START: Duration = Duration::from_secs(20);
/// How long a process may take to end by itself.
const END: Duration = Duration::from_secs(15);

/// What all of them are started with.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub(crate) project: PathBuf,
    pub(crate) logs: PathBuf,
    pub(crate) store: String,
    pub(crate) broker: Option<String>,
    /// What they log, as `RUST_LOG` says it.
    pub(crate) log_filter: &'static str,
    pub(crate) env: Vec<(String, String)>,
}

/// A process.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    /// Where it listens.
    pub(crate) address: String,
    /// What it logs, a JSON object a line.
    pub(crate) log: PathBuf,
}

impl Process {
    /// Starts `teamster COMMAND…` and waits until it listens.
    pub(crate) async fn start(setting: &Setting, name: &str, command: &[&str]) -> Result<Self> {
        let program = std::env::current_exe().context("this program does not know where it is")?;
        let log = setting.logs.join(format!("{name}.log"));
        let file = std::fs::File::create(&log).with_context(|| format!("{} cannot be written", log.display()))?;
        let mut process = Command::new(program);
        process
            .args(command)
            .args(["--json", "--log-format", "json", "--stop-with-stdin", "--store", &setting.store, "--dir"])
            .arg(&setting.project)
            // Nothing of the user's own installation, and no token that would let a review be posted.
            .env_remove("TEAMSTER_API")
            .env_remove("TEAMSTER_BROKER")
            .env_remove("TEAMSTER_REHEARSE")
            .env_remove("TEAMSTER_FAULT")
            .env_remove("GITHUB_TOKEN")
            .env("RUST_LOG", setting.log_filter)
            .envs(setting.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(file)
            // Ctrl-C is for the command, which ends its processes itself.
            .process_group(0)
            .kill_on_drop(true);
        if let Some(broker) = &setting.broker {
            process.args(["--broker", broker]);
        }
        let mut child = process.spawn().with_context(|| format!("the {name} cannot be started"))?;
        let stdout = child.stdout.take().context("a process without stdout")?;
        let mut lines = BufReader::new(stdout).lines();
        let first = tokio::time::timeout(START, lines.next_line()).await;
        let address = match first {
            Ok(Ok(Some(line))) => {
                let ready: Value = serde_json::from_str(&line).with_context(|| format!("the {name} said {line:?}"))?;
                ready["listening"].as_str().with_context(|| format!("the {name} said {line:?}"))?.to_owned()
            }
            _ => bail!("the {name} did not start; the end of its log:\n{}", tail(&log)),
        };
        Ok(Self { name: name.to_owned(), child, address, log })
    }

    /// Its process id, while it runs.
    pub(crate) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// SIGKILL: it cannot flush, close or hand over anything.
    pub(crate) async fn kill(&mut self) -> Result<ExitStatus> {
        self.child.start_kill().with_context(|| format!("the {} cannot be killed", self.name))?;
        Ok(self.child.wait().await?)
    }

    /// SIGTERM, and patience.
    pub(crate) async fn end(mut self) -> Result<()> {
        let pid = self.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            kill_process(pid, Signal::TERM).with_context(|| format!("the {} cannot be told to end", self.name))?;
        }
        match tokio::time::timeout(END, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => bail!("the {} ended with {status}; the end of its log:\n{}", self.name, tail(&self.log)),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => {
                self.kill().await?;
                bail!("the {} did not end within {} s and was killed", self.name, END.as_secs())
            }
        }
    }

    /// Fails if it is no longer there.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the {} has ended: {status}; the end of its log:\n{}", self.name, tail(&self.log)),
        }
    }
}

/// The last lines of a log.
fn tail(log: &Path) -> String {
    let text = std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}
