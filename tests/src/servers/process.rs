//! A server's process and the watchdog over it.
//!
//! A test process may be killed at any moment, and statics are never dropped,
//! so destructors alone would leave servers behind. Each server is therefore
//! the child of a small shell, which waits for it and reads its own standard
//! input: a line is a signal to send, and end of file means that the test's
//! end of the pipe is closed, by `drop` or because the kernel closed it with
//! the process. Then the watchdog ends the server and removes its folder. It
//! has a process group of its own, so that Ctrl-C in a terminal reaches it
//! only through that pipe. Signals go to a child that the watchdog has not
//! yet reaped, so a process id is never one that was given to another.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The longest that a server may take to start or to end, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(90);

/// How often a server that is starting is asked whether it is there.
const POLL: Duration = Duration::from_millis(20);

const WATCHDOG: &str = r#"
folder=$1 ending=$2
shift 2
cd "$folder" || exit 1
exec 3<&0
"$@" </dev/null 3<&- & server=$!
# The kernel sends it to a group that loses its last relative outside while a member is
# stopped: as when the test process ends at the moment of a crash below.
trap '' HUP

# With its children, all at once, as when the machine crashes.
crash() {
    kill -s STOP "$server"
    for child in $(cat "/proc/$server/task/$server/children" 2>/dev/null); do kill -s KILL "$child"; done
    kill -s KILL "$server"
}

{
    while read -r signal; do
        case $signal in KILL) crash ;; *) kill -s "$signal" "$server" ;; esac
    done
    touch abandoned
    case $ending in KILL) ;; *)
        kill -s "$ending" "$server"
        for _ in 1 2 3 4 5 6 7 8 9 10; do kill -0 "$server" || exit; sleep 0.2; done ;;
    esac
    crash
} <&3 3<&- 2>/dev/null & guard=$!

exec 3<&-
wait "$server"
status=$?
kill -s KILL "$guard"
wait "$guard"
if [ -e abandoned ]; then cd / && rm -rf "$folder"; fi
exit "$status"
"#;

/// How a server ends that nobody needs any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// At once: it leaves nothing outside of its folder.
    Kill,
    /// With SIGQUIT first: it would leave shared memory behind.
    Quit,
}

/// A server that runs.
#[derive(Debug)]
pub(super) struct Process {
    watchdog: Child,
    /// `None` once there is nothing more to say.
    signals: Option<ChildStdin>,
    log: PathBuf,
}

impl Process {
    /// Starts a server whose working folder and home of all its files is `folder`; what it says
    /// goes to `server.log` in there.
    pub(super) fn start(folder: &Path, ending: Ending, server: &Command) -> Result<Self> {
        let log = folder.join("server.log");
        let file = OpenOptions::new().create(true).append(true).open(&log)?;
        let mut command = Command::new("sh");
        command.args(["-c", WATCHDOG, "watchdog"]).arg(folder);
        command.arg(match ending {
            Ending::Kill => "KILL",
            Ending::Quit => "QUIT",
        });
        command.arg(server.get_program()).args(server.get_args());
        for (name, value) in server.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.stdin(Stdio::piped()).stdout(File::try_clone(&file)?).stderr(file).process_group(0);
        let mut watchdog = command.spawn().context("sh cannot be started")?;
        let signals = watchdog.stdin.take();
        Ok(Self { watchdog, signals, log })
    }

    /// Asks until the server is ready. An error when it ends before, with what it said last.
    pub(super) fn until_ready(&mut self, mut is_ready: impl FnMut() -> bool) -> Result<()> {
        let started = Instant::now();
        while !is_ready() {
            if let Some(status) = self.watchdog.try_wait()? {
                bail!("it ended with {status} instead of starting; its last words:\n{}", self.last_words());
            }
            if started.elapsed() > PATIENCE {
                bail!("it was not ready within {PATIENCE:?}; its last words:\n{}", self.last_words());
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Sends a signal and waits until the server is gone; its folder stays.
    pub(super) fn end(mut self, signal: &str) -> Result<()> {
        if let Some(pipe) = &mut self.signals {
            pipe.write_all(format!("{signal}\n").as_bytes()).context("its watchdog is gone")?;
        }
        let started = Instant::now();
        while self.watchdog.try_wait()?.is_none() {
            if started.elapsed() > PATIENCE {
                bail!("it did not end within {PATIENCE:?} after SIG{signal}; its last words:\n{}", self.last_words());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.signals.take());
        // The watchdog bounds the wait: it kills what does not end.
        let _ = self.watchdog.wait();
    }
}

/// Runs a tool to its end and answers what it printed; an error with what it complained about.
pub(super) fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("{name} cannot be run; is it installed?"))?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("{name} failed with {}: {}{}", output.status, printed, complaint);
    }
    Ok(printed)
}

/// The program of this name: in one of these folders, or in `PATH`.
///
/// An error names the package, as Debian calls it, that has it.
pub(super) fn find(name: &str, folders: &[PathBuf], package: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let everywhere = folders.iter().cloned().chain(std::env::split_paths(&path));
    everywhere.map(|folder| folder.join(name)).find(|program| program.is_file()).with_context(|| {
        format!("{name} is not installed: run tests/install-servers, or install the package {package} of your system")
    })
}
