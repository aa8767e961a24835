//! Postgres for tests: a shared server and private ones.
//!
//! Postgres refuses to run as root, so where the tests do, it runs as the
//! user `postgres` that its package makes. `initdb` takes seconds: its result
//! is kept below `target/test-servers` and copied for each server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::certificate::Certificate;
use super::place::{named, unique_name, with_parameter};
use super::port::Port;
use super::process::{Ending, Process, find, run};
use crate::fakes::mcp::installed;

/// The superuser of each server; it needs no password.
const USER: &str = "teamster";

/// Who runs it where the tests run as root.
const SYSTEM_USER: &str = "postgres";

const PACKAGE: &str = "postgresql";

/// The longest that the memory of a killed server may be in use after it.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a private server is set up. The default loses nothing that it confirmed.
#[derive(Debug, Clone)]
pub struct Options {
    /// `fsync`: whether writes reach the disk at all before they are confirmed.
    pub fsync: bool,
    /// `synchronous_commit`: whether a commit waits for that.
    pub synchronous_commit: bool,
    /// `ssl`, with a certificate of the server's own: see [`Server::certificate`]. It goes without, too.
    pub tls: bool,
    /// More settings, by name and value as in `postgresql.conf`.
    pub settings: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Self { fsync: true, synchronous_commit: true, tls: false, settings: Vec::new() }
    }
}

/// A server of a test's own. It goes with the value, and with the process however that ends.
#[derive(Debug)]
pub struct Server {
    /// `None` while it is down. Before the folder: it must not write any more when that goes.
    process: Option<Process>,
    folder: TempDir,
    port: Port,
    settings: Vec<String>,
    certificate: Option<Certificate>,
}

/// The URL of an empty place in the shared server: a schema that no other test has, and that does not exist yet.
///
/// # Panics
/// When the server cannot be started.
pub fn place() -> String {
    static SHARED: LazyLock<Result<Server>> = LazyLock::new(|| Server::try_start(&Options::default()));
    let url = named("TEAMSTER_TEST_POSTGRES").unwrap_or_else(|| match &*SHARED {
        Ok(server) => server.url(),
        Err(error) => panic!("{error:#}"),
    });
    with_parameter(&url, "schema", &unique_name())
}

impl Server {
    /// Starts one and waits until it answers.
    ///
    /// # Panics
    /// When that fails.
    pub fn start(options: &Options) -> Self {
        Self::try_start(options).unwrap_or_else(|error| panic!("{error:#}"))
    }

    fn try_start(options: &Options) -> Result<Self> {
        let folder = folder()?;
        copy(&template()?, &folder.path().join("data"))?;
        let on = |value: bool| if value { "on" } else { "off" };
        let mut settings = vec![
            format!("fsync={}", on(options.fsync)),
            format!("synchronous_commit={}", on(options.synchronous_commit)),
            "listen_addresses=127.0.0.1".to_owned(),
            // Each test has connections of its own.
            "max_connections=300".to_owned(),
            "shared_buffers=32MB".to_owned(),
            "max_wal_size=256MB".to_owned(),
            // In the data folder instead of /dev/shm, so that a killed server leaves nothing there.
            "dynamic_shared_memory_type=mmap".to_owned(),
        ];
        settings.extend(options.settings.iter().map(|(name, value)| format!("{name}={value}")));
        let certificate = options.tls.then(|| Certificate::make(folder.path())).transpose()?;
        if let Some(files) = &certificate {
            hand_over(&files.key)?;
            settings.push("ssl=on".to_owned());
            settings.push(format!("ssl_cert_file={}", files.certificate.display()));
            settings.push(format!("ssl_key_file={}", files.key.display()));
        }
        let mut server = Self { process: None, folder, port: Port::claim(), settings, certificate };
        server.try_restart()?;
        Ok(server)
    }

    fn try_restart(&mut self) -> Result<()> {
        let started = Instant::now();
        loop {
            match self.launch() {
                Ok(process) => {
                    self.process = Some(process);
                    return Ok(());
                }
                // The processes that served the killed one's connections end on their own.
                Err(error) if is_lingering(&error) && started.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(error) => return Err(error.context("Postgres")),
            }
        }
    }

    fn launch(&self) -> Result<Process> {
        let folder = self.folder.path();
        let mut command = as_system_user(&program("postgres")?);
        command.arg("-D").arg(folder.join("data")).arg("-k").arg(folder).arg("-p").arg(self.port.number().to_string());
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        let is_ready = program("pg_isready")?;
        let port = self.port.number().to_string();
        let mut process = Process::start(folder, Ending::Quit, &command)?;
        process.until_ready(|| {
            let mut ask = Command::new(&is_ready);
            run(ask.args(["-q", "-h", "127.0.0.1", "-p", &port, "-d", "postgres", "-U", USER])).is_ok()
        })?;
        Ok(process)
    }

    /// `postgres://USER@127.0.0.1:PORT/postgres`
    pub fn url(&self) -> String {
        format!("postgres://{USER}@{}/postgres", self.address())
    }

    /// The files of its TLS, if it has any: clients must trust the authority.
    pub fn certificate(&self) -> Option<&Certificate> {
        self.certificate.as_ref()
    }

    /// `127.0.0.1:PORT`
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port.number())
    }

    /// Kills it with all its processes (SIGKILL), as a crash would. Nothing happens if it is down.
    ///
    /// # Panics
    /// When it does not end.
    pub fn kill(&mut self) {
        self.end("KILL");
    }

    /// Stops it in an orderly way, without waiting for its clients ("fast"). Nothing happens if it is down.
    ///
    /// # Panics
    /// When it does not end.
    pub fn stop(&mut self) {
        self.end("INT");
    }

    fn end(&mut self, signal: &str) {
        if let Some(process) = self.process.take() {
            process.end(signal).unwrap_or_else(|error| panic!("Postgres: {error:#}"));
        }
    }

    /// Starts it again, on the same port with the same data folder, and waits until it answers.
    ///
    /// # Panics
    /// When that fails.
    pub fn restart(&mut self) {
        self.stop();
        self.try_restart().unwrap_or_else(|error| panic!("{error:#}"));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.process.is_none() {
            remove_shared_memory(&self.folder.path().join("data"));
        }
    }
}

/// A killed server leaves a few bytes of System V memory that its next start would take up:
/// the seventh line of `postmaster.pid` names them.
fn remove_shared_memory(data: &Path) {
    let file = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    if let Some(id) = file.lines().nth(6).and_then(|line| line.split_whitespace().nth(1)) {
        let _ = run(Command::new("ipcrm").args(["-m", id]));
    }
}

fn is_lingering(error: &anyhow::Error) -> bool {
    let text = format!("{error:#}");
    text.contains("pre-existing shared memory block") || text.contains("lock file \"postmaster.pid\" already exists")
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A command that runs as somebody whom Postgres accepts.
fn as_system_user(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", SYSTEM_USER, "--regid", SYSTEM_USER, "--init-groups", "--"]).arg(program);
    command
}

/// A new folder that belongs to who runs the server.
fn folder() -> Result<TempDir> {
    let folder = tempfile::Builder::new().prefix("teamster-postgres-").tempdir().context("no folder for Postgres")?;
    hand_over(folder.path())?;
    Ok(folder)
}

/// Gives a file to who runs the server.
fn hand_over(path: &Path) -> Result<()> {
    if is_root() {
        run(Command::new("chown").arg(format!("{SYSTEM_USER}:{SYSTEM_USER}")).arg(path))?;
    }
    Ok(())
}

/// One of its programs, of the newest version that is installed: Debian keeps most of them out of `PATH`.
fn program(name: &str) -> Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, programs)| programs.join("postgres").is_file())
        .collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    let folders: Vec<PathBuf> = versions.into_iter().map(|(_, programs)| programs).collect();
    find(name, &folders, PACKAGE)
}

/// A data folder as `initdb` makes it, made once for each version and user.
fn template() -> Result<PathBuf> {
    static MAKING: Mutex<()> = Mutex::new(());
    let initdb = program("initdb")?;
    let version = run(Command::new(&initdb).arg("--version"))?;
    let version: String = version.chars().filter(|c| c.is_ascii_digit() || *c == '.').collect();
    let user = rustix::process::geteuid().as_raw();
    let template = installed().join(format!("postgres-{version}-{user}"));
    let _alone = MAKING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if template.join("PG_VERSION").is_file() {
        return Ok(template);
    }
    // Where its user may write; then beside the place it goes to; then under its name, at once,
    // so that test processes that run at the same time see all of it or nothing.
    let made = folder()?;
    let data = made.path().join("data");
    let mut command = as_system_user(&initdb);
    command.arg("-D").arg(&data).args(["-U", USER, "--auth=trust", "--encoding=UTF8", "--locale=C"]);
    run(&mut command).context("Postgres: initdb")?;
    fs::create_dir_all(installed())?;
    let beside = installed().join(format!("postgres-{}", unique_name()));
    copy(&data, &beside)?;
    if let Err(error) = fs::rename(&beside, &template) {
        let _ = fs::remove_dir_all(&beside);
        if !template.join("PG_VERSION").is_file() {
            bail!("{} cannot be made: {error}", template.display());
        }
    }
    Ok(template)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp").arg("-a").arg(from).arg(to)).map(drop)
}
