//! Redis for tests: a shared server, private ones, three nodes as a cluster,
//! and a master and its replica under the watch of sentinels.

pub mod cluster;
pub mod sentinel;

use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::certificate::Certificate;
use super::place::{named, unique_name, with_parameter};
use super::port::Port;
use super::process::{Ending, Process, find, run};

/// When writes reach the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Persistence {
    /// Before each answer (`appendfsync always`).
    #[default]
    Always,
    /// Once a second (`appendfsync everysec`).
    EverySecond,
    /// Never.
    None,
}

/// How a private server is set up. The default is what `teamster doctor` has nothing to say against.
#[derive(Debug, Clone)]
pub struct Options {
    /// When writes reach the disk.
    pub persistence: Persistence,
    /// `maxmemory-policy`.
    pub eviction: &'static str,
    /// TLS only, with a certificate of the server's own: see [`Server::certificate`].
    pub tls: bool,
    /// More settings, by name and value as in `redis.conf`; the words of a value are set apart by one space.
    pub settings: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Self { persistence: Persistence::default(), eviction: "noeviction", tls: false, settings: Vec::new() }
    }
}

/// A server of a test's own. It goes with the value, and with the process however that ends.
#[derive(Debug)]
pub struct Server {
    /// `None` while it is down. Before the folder: it must not write any more when that goes.
    process: Option<Process>,
    folder: TempDir,
    port: Port,
    arguments: Vec<String>,
    certificate: Option<Certificate>,
}

/// The URL of an empty place in the shared server, with a prefix for keys that no other test has.
///
/// # Panics
/// When the server cannot be started.
pub fn place() -> String {
    static SHARED: LazyLock<Result<Server>> =
        LazyLock::new(|| Server::try_start(&Options { persistence: Persistence::EverySecond, ..Options::default() }));
    let url = named("TEAMSTER_TEST_REDIS").unwrap_or_else(|| match &*SHARED {
        Ok(server) => server.url(),
        Err(error) => panic!("{error:#}"),
    });
    with_parameter(&url, "prefix", &unique_name())
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
        let (folder, port) = (folder()?, Port::claim());
        let number = port.number().to_string();
        let certificate = options.tls.then(|| Certificate::make(folder.path())).transpose()?;
        let mut settings: Vec<(&str, String)> = vec![("save", String::new())];
        match &certificate {
            None => settings.push(("port", number)),
            Some(files) => settings.extend([
                ("port", "0".to_owned()),
                ("tls-port", number),
                ("tls-auth-clients", "no".to_owned()),
                ("tls-ca-cert-file", text(&files.authority)),
                ("tls-cert-file", text(&files.certificate)),
                ("tls-key-file", text(&files.key)),
            ]),
        }
        let (append_only, sync) = match options.persistence {
            Persistence::Always => ("yes", "always"),
            Persistence::EverySecond => ("yes", "everysec"),
            Persistence::None => ("no", "no"),
        };
        settings.push(("appendonly", append_only.to_owned()));
        settings.push(("appendfsync", sync.to_owned()));
        settings.push(("maxmemory-policy", options.eviction.to_owned()));
        let mut arguments: Vec<String> =
            settings.into_iter().flat_map(|(name, value)| [format!("--{name}"), value]).collect();
        for (name, value) in &options.settings {
            arguments.push(format!("--{name}"));
            arguments.extend(value.split(' ').map(str::to_owned));
        }
        Self::launch(folder, port, arguments, certificate)
    }

    /// Starts what the arguments after the common ones say.
    fn launch(folder: TempDir, port: Port, arguments: Vec<String>, certificate: Option<Certificate>) -> Result<Self> {
        let mut server = Self { process: None, folder, port, arguments, certificate };
        server.try_restart()?;
        Ok(server)
    }

    fn try_restart(&mut self) -> Result<()> {
        let mut command = Command::new(find("redis-server", &[], "redis-server")?);
        command.args(&self.arguments).args(["--bind", "127.0.0.1", "--dir", &text(self.folder.path())]);
        let mut process = Process::start(self.folder.path(), Ending::Kill, &command).context("Redis")?;
        process.until_ready(|| self.cli(&["ping"]).is_ok_and(|answer| answer.trim() == "PONG")).context("Redis")?;
        self.process = Some(process);
        Ok(())
    }

    /// `redis://127.0.0.1:PORT/0`, or `rediss:` with TLS.
    pub fn url(&self) -> String {
        let scheme = if self.certificate.is_some() { "rediss" } else { "redis" };
        format!("{scheme}://{}/0", self.address())
    }

    /// `127.0.0.1:PORT`
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port.number())
    }

    /// The files of its TLS, if it has any: clients must trust the authority.
    pub fn certificate(&self) -> Option<&Certificate> {
        self.certificate.as_ref()
    }

    /// Runs one command through `redis-cli` and answers what that printed. Blocks.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn cli(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new(find("redis-cli", &[], "redis-tools")?);
        command.args(["-h", "127.0.0.1", "-p", &self.port.number().to_string()]);
        if let Some(files) = &self.certificate {
            command.arg("--tls").arg("--cacert").arg(&files.authority);
        }
        run(command.args(words))
    }

    /// Kills it (SIGKILL), as a crash would. Nothing happens if it is down.
    ///
    /// # Panics
    /// When it does not end.
    pub fn kill(&mut self) {
        self.end("KILL");
    }

    /// Stops it in an orderly way. Nothing happens if it is down.
    ///
    /// # Panics
    /// When it does not end.
    pub fn stop(&mut self) {
        self.end("TERM");
    }

    fn end(&mut self, signal: &str) {
        if let Some(process) = self.process.take() {
            process.end(signal).unwrap_or_else(|error| panic!("Redis: {error:#}"));
        }
    }

    /// What it has written to disk, by name of the file.
    ///
    /// # Panics
    /// When it cannot be read.
    pub fn files(&self) -> Vec<(String, Vec<u8>)> {
        fn read(folder: &Path, files: &mut Vec<(String, Vec<u8>)>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    read(&path, files);
                } else {
                    files.push((path.display().to_string(), std::fs::read(&path).unwrap()));
                }
            }
        }
        let mut files = Vec::new();
        read(self.folder.path(), &mut files);
        files
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

fn folder() -> Result<TempDir> {
    tempfile::Builder::new().prefix("teamster-redis-").tempdir().context("no folder for Redis")
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
