//! Programs: started in a process group of their own with a scrubbed
//! environment, read with bounds, and never left behind.
//!
//! `Bash`, `run` steps and MCP servers start programs here and nowhere else,
//! each in the sandbox of its kind. Whatever way a program ends (by itself, at
//! its timeout, because the future that waits for it is dropped), its whole
//! process group is killed and its leader is reaped. A process that leaves the
//! group (`setsid`) is found where programs have cgroups, and else escapes this.

mod capture;
mod environment;
mod group;
mod watch;

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use common::failure::{Failure, FailureClass};
use sandbox::{Confinement, Sandbox};
use tokio::io::{AsyncRead, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio_util::task::AbortOnDropHandle;

pub use capture::Captured;
pub use environment::environment;
pub use group::ProcessGroup;

/// How long the pipes of a program that has ended are read on: longer waits
/// can only be for a process that left the group and kept them open.
const DRAIN: Duration = Duration::from_millis(500);

/// A program to run.
#[derive(Debug, Clone)]
pub struct Program {
    /// The program and its arguments; the program is looked up in `PATH` of `env`.
    pub argv: Vec<String>,
    /// Where it runs.
    pub cwd: PathBuf,
    /// All of its environment, but for what the sandbox adds; see [`environment`].
    pub env: Vec<(String, String)>,
    /// What it may do.
    pub sandbox: Sandbox,
    /// What it reads on stdin; nothing at all for `None`.
    pub stdin: Option<Vec<u8>>,
    /// How long it may take.
    pub timeout: Duration,
    /// How much of stdout, and of stderr, is kept, in bytes.
    pub output_limit: usize,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this exit code.
    Exited(i32),
    /// By this signal, which was not ours; 0 if how it ended cannot be told.
    Signalled(i32),
    /// It was killed, because it took longer than it may.
    TimedOut,
}

/// What a program left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramOutcome {
    /// How it ended.
    pub ended: Ended,
    /// What it wrote on stdout.
    pub stdout: Captured,
    /// What it wrote on stderr.
    pub stderr: Captured,
}

/// A program that runs. Dropping it kills its process group.
#[derive(Debug)]
pub struct Running {
    /// The pipe to its stdin.
    pub stdin: Option<ChildStdin>,
    /// The pipe from its stdout.
    pub stdout: Option<ChildStdout>,
    /// The pipe from its stderr.
    pub stderr: Option<ChildStderr>,
    /// Before `child`: the group is killed while its leader, not yet reaped, keeps its number taken.
    group: ProcessGroup,
    _watch: Option<AbortOnDropHandle<()>>,
    /// After the group: it has less to look for then.
    confinement: Confinement,
    child: Child,
}

impl Running {
    /// Waits until the leader has ended, and kills what is left of its group.
    /// Safe to drop and call again.
    pub async fn wait(&mut self) -> std::io::Result<Ended> {
        use std::os::unix::process::ExitStatusExt;
        let status = self.child.wait().await?;
        self.group.kill();
        self.confinement.kill();
        Ok(match status.code() {
            Some(code) => Ended::Exited(code),
            None => Ended::Signalled(status.signal().unwrap_or(0)),
        })
    }

    /// Kills the whole group and waits until its leader is reaped.
    pub async fn kill(&mut self) -> std::io::Result<()> {
        self.group.kill();
        self.confinement.kill();
        self.child.wait().await.map(drop)
    }

    /// The process id of the leader, which is also the id of the group.
    pub fn id(&self) -> i32 {
        self.group.id()
    }
}

/// Starts a program with pipes for stdout and stderr, and for stdin if `with_stdin`.
///
/// # Errors
/// `configuration` if it cannot be started, `unavailable` if it cannot be confined as it should.
pub async fn start(
    argv: Vec<String>,
    cwd: PathBuf,
    env: Vec<(String, String)>,
    with_stdin: bool,
    sandbox: Sandbox,
) -> Result<Running, Failure> {
    // Entering a cgroup takes milliseconds. Whoever does not wait for the end of this drops what was started, and kills it.
    let starting = tokio::task::spawn_blocking(move || start_now(&argv, &cwd, &env, with_stdin, &sandbox));
    starting.await.unwrap_or_else(|error| {
        Err(Failure::new(FailureClass::Internal, format!("starting a program broke down: {error}")))
    })
}

fn start_now(
    argv: &[String],
    cwd: &std::path::Path,
    env: &[(String, String)],
    with_stdin: bool,
    sandbox: &Sandbox,
) -> Result<Running, Failure> {
    let Some((program, arguments)) = argv.split_first() else {
        return Err(Failure::new(FailureClass::Configuration, "the command is empty; name a program"));
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(cwd)
        .env_clear()
        .envs(env.iter().map(|(name, value)| (name, value)))
        .stdin(if with_stdin { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        // The group is killed by `ProcessGroup`; this has the runtime reap the leader.
        .kill_on_drop(true);
    let confinement = sandbox.enter(command.as_std_mut(), cwd).map_err(|error| {
        let message = format!("the program {program:?} cannot be confined and was not started: {error} (sandbox)");
        Failure::new(FailureClass::Unavailable, message)
    })?;
    let mut child = command.spawn().map_err(|error| cannot_start(program, cwd, &error))?;
    let group = ProcessGroup::of(&child)
        .ok_or_else(|| Failure::new(FailureClass::Internal, format!("{program} has no process id")))?;
    let watch = confinement.watch(group.id()).map(|watch| AbortOnDropHandle::new(tokio::spawn(watch::keep(watch))));
    Ok(Running {
        stdin: child.stdin.take(),
        stdout: child.stdout.take(),
        stderr: child.stderr.take(),
        group,
        _watch: watch,
        confinement,
        child,
    })
}

/// Runs a program to its end. Dropping the future kills it.
///
/// # Errors
/// `configuration` if it cannot be started: then nothing happened.
pub async fn run_program(program: Program) -> Result<ProgramOutcome, Failure> {
    let Program { argv, cwd, env, sandbox, stdin: input, timeout, output_limit } = program;
    let mut running = start(argv, cwd, env, input.is_some(), sandbox).await?;
    let (stdin, stdout, stderr) = (running.stdin.take(), running.stdout.take(), running.stderr.take());
    let mut out = Captured::new(output_limit);
    let mut err = Captured::new(output_limit);
    let ended = {
        let feed = feed(stdin, input.unwrap_or_default());
        let pipes = async { tokio::join!(feed, read(stdout, &mut out), read(stderr, &mut err)) };
        tokio::pin!(pipes);
        let mut pipes_done = false;
        let deadline = tokio::time::sleep(timeout);
        tokio::pin!(deadline);
        let ended = loop {
            tokio::select! {
                ended = running.wait() => break ended.unwrap_or(Ended::Signalled(0)),
                () = &mut deadline => {
                    let _ = running.kill().await;
                    break Ended::TimedOut;
                }
                _ = &mut pipes, if !pipes_done => pipes_done = true,
            }
        };
        if !pipes_done {
            // What was written before the end is still in the pipes.
            let _ = tokio::time::timeout(DRAIN, pipes).await;
        }
        ended
    };
    Ok(ProgramOutcome { ended, stdout: out, stderr: err })
}

async fn feed(stdin: Option<ChildStdin>, bytes: Vec<u8>) {
    if let Some(mut stdin) = stdin {
        // A program need not read what it is given: a broken pipe is no error.
        let _ = stdin.write_all(&bytes).await;
    }
}

async fn read(pipe: Option<impl AsyncRead + Unpin>, into: &mut Captured) {
    if let Some(pipe) = pipe {
        into.read_to_end(pipe).await;
    }
}

fn cannot_start(program: &str, cwd: &std::path::Path, error: &std::io::Error) -> Failure {
    let hint = match error.kind() {
        std::io::ErrorKind::NotFound if !cwd.is_dir() => {
            format!("its working directory {} does not exist", cwd.display())
        }
        std::io::ErrorKind::NotFound => {
            "there is no such program in PATH; install it or write its whole path".to_owned()
        }
        std::io::ErrorKind::PermissionDenied => {
            "it may not be executed; check its mode, and that its sandbox lets it be read (sandbox)".to_owned()
        }
        _ => error.to_string(),
    };
    Failure::new(FailureClass::Configuration, format!("the program {program:?} cannot be started: {hint}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// These tests are of starting and ending; there are others of what is confined.
    fn unconfined() -> Sandbox {
        let policy = common::config::Sandbox { mode: common::config::SandboxMode::Off, ..Default::default() }.bash();
        Sandbox::new(policy, sandbox::Abilities::here()).unwrap()
    }

    fn shell(script: &str, cwd: &std::path::Path) -> Program {
        Program {
            argv: vec!["sh".into(), "-c".into(), script.into()],
            cwd: cwd.into(),
            env: environment(cwd, []),
            sandbox: unconfined(),
            stdin: None,
            timeout: Duration::from_secs(20),
            output_limit: 1000,
        }
    }

    #[tokio::test]
    async fn a_program_is_given_its_stdin_and_leaves_output_and_exit_code() {
        let dir = tempfile::tempdir().unwrap();
        let program = Program { stdin: Some(b"hello".to_vec()), ..shell("cat; echo oops >&2; exit 3", dir.path()) };
        let outcome = run_program(program).await.unwrap();
        assert_eq!(outcome.ended, Ended::Exited(3));
        assert_eq!((outcome.stdout.text().as_str(), outcome.stderr.text().as_str()), ("hello", "oops\n"));
    }

    #[tokio::test]
    async fn a_program_that_reads_nothing_of_a_large_stdin_is_no_failure() {
        let dir = tempfile::tempdir().unwrap();
        let program = Program { stdin: Some(vec![b'x'; 1 << 20]), ..shell("exit 0", dir.path()) };
        assert_eq!(run_program(program).await.unwrap().ended, Ended::Exited(0));
    }

    #[tokio::test]
    async fn the_environment_is_only_what_was_given() {
        let dir = tempfile::tempdir().unwrap();
        let outcome = run_program(shell("env | cut -d= -f1 | sort | tr '\\n' ' '", dir.path())).await.unwrap();
        let names: Vec<String> = outcome.stdout.text().split_whitespace().map(str::to_owned).collect();
        // The shell itself sets PWD, SHLVL and _.
        let ours: Vec<&str> =
            names.iter().map(String::as_str).filter(|name| !["PWD", "OLDPWD", "SHLVL", "_"].contains(name)).collect();
        assert_eq!(ours, ["HOME", "LANG", "PATH", "TMPDIR"]);
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_a_configuration_failure_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let program = Program { argv: vec!["no-such-program-at-all".into()], ..shell("", dir.path()) };
        let failure = run_program(program).await.unwrap_err();
        assert_eq!(failure.class, FailureClass::Configuration);
        assert!(failure.message.contains("no-such-program-at-all"), "{failure}");
    }

    #[tokio::test]
    async fn a_process_left_in_the_background_does_not_keep_the_call_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let outcome = run_program(shell("sleep 1000 & echo started", dir.path())).await.unwrap();
        assert_eq!((outcome.ended, outcome.stdout.text().as_str()), (Ended::Exited(0), "started\n"));
    }

    #[tokio::test]
    async fn a_program_that_takes_too_long_is_killed_and_what_it_wrote_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let program = Program { timeout: Duration::from_millis(300), ..shell("echo early; sleep 1000", dir.path()) };
        let outcome = run_program(program).await.unwrap();
        assert_eq!((outcome.ended, outcome.stdout.text().as_str()), (Ended::TimedOut, "early\n"));
    }
}
