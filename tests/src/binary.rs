//! The `teamster` program as users run it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Where the program is: `TEAMSTER_BIN`, or where `cargo build` puts it.
///
/// # Errors
/// When it is not there: `tests/run` builds it first.
pub fn teamster() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("TEAMSTER_BIN") {
        return Ok(path.into());
    }
    // The test itself is target/PROFILE/deps/integration-HASH.
    let test = std::env::current_exe().context("this test does not know where it is")?;
    let profile = test.parent().and_then(Path::parent).context("this test is not below a target directory")?;
    let program = profile.join(format!("teamster{}", std::env::consts::EXE_SUFFIX));
    if !program.is_file() {
        bail!("{} is not there; build it with `cargo build -p teamster`, or set TEAMSTER_BIN", program.display());
    }
    Ok(program)
}

/// A command that sees nothing of the user's own installation.
///
/// # Errors
/// As [`teamster`].
pub fn command(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(teamster()?);
    for name in ["STORE", "BROKER", "DIR", "API", "TOKEN", "REHEARSE", "FAULT", "LOG_FORMAT"] {
        command.env_remove(format!("TEAMSTER_{name}"));
    }
    command.env_remove("RUST_LOG").env_remove("ANTHROPIC_API_KEY").stdin(Stdio::null()).args(arguments);
    Ok(command)
}

/// Starts one that says as JSON where it listens: `http://…`.
///
/// # Errors
/// When it cannot be started, or says something else.
pub fn start(command: &mut Command) -> Result<(Child, String)> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().context("teamster cannot be run")?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("its standard output")?).read_line(&mut line)?;
    let said: Value = serde_json::from_str(&line).with_context(|| format!("it said {line:?}"))?;
    let address = said["listening"].as_str().with_context(|| format!("it said {said}"))?.to_owned();
    Ok((child, address))
}

/// Runs it to its end.
///
/// # Errors
/// When it cannot be run.
pub fn run(arguments: &[&str]) -> Result<Output> {
    command(arguments)?.output().context("teamster cannot be run")
}
