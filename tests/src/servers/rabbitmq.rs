//! `RabbitMQ` for tests: a shared broker and private ones.
//!
//! A broker is an Erlang node and the `epmd` that knows its port. Both are
//! started by the tests, with ports, a cookie and a home of their own, so
//! that nothing of the machine's own Erlang is seen or touched.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::certificate::Certificate;
use super::place::{named, unique_name, with_parameter};
use super::port::Port;
use super::process::{Ending, Process, find, run};

const NODE: &str = "teamster@localhost";
const PACKAGE: &str = "rabbitmq-server";

/// How a private broker is set up.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// `consumer_timeout`: how long a message may be held; looked at once a second. `None` for the
    /// default of half an hour, looked at once a minute.
    pub consumer_timeout: Option<Duration>,
    /// TLS too, on a port and with a certificate of the broker's own: see [`Server::tls_url`].
    pub tls: bool,
}

/// A broker of a test's own. It goes with the value, and with the process however that ends.
#[derive(Debug)]
pub struct Server {
    /// `None` while it is down. Before `epmd` and the folder, which it uses.
    process: Option<Process>,
    _epmd: Process,
    folder: TempDir,
    port: Port,
    distribution: Port,
    epmd_port: Port,
    tls: Option<(Port, Certificate)>,
}

/// The URL of an empty place in the shared broker, with a prefix for queues and exchanges that no other test has.
///
/// # Panics
/// When the broker cannot be started.
pub fn place() -> String {
    static SHARED: LazyLock<Result<Server>> = LazyLock::new(|| Server::try_start(Options::default()));
    let url = named("TEAMSTER_TEST_AMQP").unwrap_or_else(|| match &*SHARED {
        Ok(server) => server.url(),
        Err(error) => panic!("{error:#}"),
    });
    with_parameter(&url, "prefix", &unique_name())
}

impl Server {
    /// Starts one and waits until it answers, about five seconds.
    ///
    /// # Panics
    /// When that fails.
    pub fn start(options: Options) -> Self {
        Self::try_start(options).unwrap_or_else(|error| panic!("{error:#}"))
    }

    fn try_start(options: Options) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("teamster-rabbitmq-").tempdir()?;
        let (port, distribution, epmd_port) = (Port::claim(), Port::claim(), Port::claim());
        for part in ["epmd", "data", "log"] {
            fs::create_dir(folder.path().join(part))?;
        }
        let cookie = folder.path().join(".erlang.cookie");
        fs::write(&cookie, unique_name())?;
        fs::set_permissions(&cookie, fs::Permissions::from_mode(0o600))?;
        fs::write(folder.path().join("rabbitmq.conf"), "")?;
        fs::write(folder.path().join("enabled_plugins"), "[].")?;
        let tls = if options.tls { Some((Port::claim(), Certificate::make(folder.path())?)) } else { None };
        fs::write(folder.path().join("advanced.config"), config(port.number(), options, tls.as_ref()))?;
        let mut command = Command::new(find("epmd", &[], "erlang-base")?);
        command.args(["-address", "127.0.0.1", "-port", &epmd_port.number().to_string()]);
        let mut epmd = Process::start(&folder.path().join("epmd"), Ending::Kill, &command).context("epmd")?;
        epmd.until_ready(|| TcpStream::connect(("127.0.0.1", epmd_port.number())).is_ok()).context("epmd")?;
        let mut server = Self { process: None, _epmd: epmd, folder, port, distribution, epmd_port, tls };
        server.try_restart()?;
        Ok(server)
    }

    fn try_restart(&mut self) -> Result<()> {
        let command = self.command("rabbitmq-server")?;
        let mut process = Process::start(self.folder.path(), Ending::Kill, &command).context("RabbitMQ")?;
        process.until_ready(|| self.greets()).context("RabbitMQ")?;
        self.process = Some(process);
        Ok(())
    }

    /// Whether it answers the header of AMQP 0-9-1 with a method frame (`connection.start`):
    /// it listens only after everything else has started.
    fn greets(&self) -> bool {
        let greeting = || -> std::io::Result<u8> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port.number()))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(b"AMQP\x00\x00\x09\x01")?;
            let mut first = [0];
            stream.read_exact(&mut first)?;
            Ok(first[0])
        };
        greeting().is_ok_and(|first| first == 1)
    }

    /// One of its programs, told where this broker's things are and nothing of others.
    fn command(&self, name: &str) -> Result<Command> {
        // What Debian puts into PATH is a wrapper that insists on the user `rabbitmq`.
        let mut command = Command::new(find(name, &[PathBuf::from("/usr/lib/rabbitmq/bin")], PACKAGE)?);
        let inherited = std::env::vars_os().map(|(name, _)| name);
        for name in inherited.filter(|name| name.to_string_lossy().starts_with("RABBITMQ_")) {
            command.env_remove(name);
        }
        let folder = self.folder.path();
        command
            .env("HOME", folder)
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("ERL_EPMD_PORT", self.epmd_port.number().to_string())
            .env("ERL_CRASH_DUMP", "/dev/null")
            .env("RABBITMQ_CONF_ENV_FILE", folder.join("rabbitmq-env.conf"))
            .env("RABBITMQ_CONFIG_FILE", folder.join("rabbitmq.conf"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", folder.join("advanced.config"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("enabled_plugins"))
            .env("RABBITMQ_MNESIA_BASE", folder.join("data"))
            .env("RABBITMQ_LOG_BASE", folder.join("log"))
            .env("RABBITMQ_LOGS", "-")
            .env("RABBITMQ_PID_FILE", folder.join("pid"))
            .env("RABBITMQ_NODENAME", NODE)
            .env("RABBITMQ_NODE_PORT", self.port.number().to_string())
            .env("RABBITMQ_DIST_PORT", self.distribution.number().to_string())
            // One scheduler thread: less memory, and no busy machine when tests run side by side.
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+S 1:1 -kernel inet_dist_use_interface {127,0,0,1}")
            // The start script then becomes the server instead of its parent, so signals reach the server.
            .env("RUNNING_UNDER_SYSTEMD", "true");
        Ok(command)
    }

    /// `amqp://guest:guest@127.0.0.1:PORT/%2f`
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@{}/%2f", self.address())
    }

    /// `amqps://guest:guest@127.0.0.1:PORT/%2f`
    ///
    /// # Panics
    /// When it was started without TLS.
    pub fn tls_url(&self) -> String {
        format!("amqps://guest:guest@{}/%2f", self.tls_address())
    }

    /// `127.0.0.1:PORT`, where it speaks TLS.
    ///
    /// # Panics
    /// When it was started without TLS.
    pub fn tls_address(&self) -> String {
        let (port, _) = self.tls.as_ref().expect("a broker with TLS");
        format!("127.0.0.1:{}", port.number())
    }

    /// The files of its TLS, if it has any: clients must trust the authority.
    pub fn certificate(&self) -> Option<&Certificate> {
        self.tls.as_ref().map(|(_, certificate)| certificate)
    }

    /// `127.0.0.1:PORT`
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port.number())
    }

    /// Runs `rabbitmqctl` on this broker and answers what it printed. Blocks, about a second.
    ///
    /// # Errors
    /// When the command fails.
    pub fn ctl(&self, words: &[&str]) -> Result<String> {
        run(self.command("rabbitmqctl")?.args(["--quiet", "--node", NODE]).args(words))
    }

    /// Throws away all messages of a queue that nobody has taken yet.
    ///
    /// # Panics
    /// When there is no such queue, or the broker is down.
    pub fn purge(&self, queue: &str) {
        self.ctl(&["purge_queue", queue]).unwrap();
    }

    /// Closes all connections from the broker's side, with this reason.
    ///
    /// # Panics
    /// When the broker is down.
    pub fn close_connections(&self, reason: &str) {
        self.ctl(&["close_all_connections", reason]).unwrap();
    }

    /// The queues, and how many messages of each nobody has taken yet.
    ///
    /// # Panics
    /// When the broker is down.
    pub fn queues(&self) -> Vec<(String, u64)> {
        // `list_queues` shows what quorum queues said of themselves seconds ago; this asks them.
        let ask = r#"lists:foreach(fun(Queue) ->
            {resource, _, queue, Name} = amqqueue:get_name(Queue),
            {ok, Ready, _} = rabbit_amqqueue:stat(Queue),
            io:format("~ts\t~b~n", [Name, Ready])
        end, rabbit_amqqueue:list())."#;
        let table = self.ctl(&["eval", ask]).unwrap();
        let rows = table.lines().filter_map(|row| row.split_once('\t'));
        rows.map(|(name, ready)| (name.to_owned(), ready.parse().unwrap())).collect()
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
            process.end(signal).unwrap_or_else(|error| panic!("RabbitMQ: {error:#}"));
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

    /// Has it write down at once which quorum queues it has, as it does by itself seconds after they are declared.
    ///
    /// A broker that is killed before that takes the log of such a queue for a stranger's: the queue comes back
    /// empty, whatever was confirmed, and without a leader (<https://github.com/rabbitmq/rabbitmq-server/issues/10070>).
    ///
    /// # Panics
    /// When the broker is down.
    pub fn settle(&self) {
        self.ctl(&["eval", "[ok = dets:sync(Table) || Table <- dets:all()], ok."]).unwrap();
    }
}

/// Its settings as Erlang terms: `rabbitmq.conf` does not know all of them.
fn config(port: u16, options: Options, tls: Option<&(Port, Certificate)>) -> String {
    let timeout = options.consumer_timeout.map_or_else(String::new, |timeout| {
        // A channel looks at its timeouts at its tick.
        format!(", {{consumer_timeout, {}}}, {{channel_tick_interval, 1000}}", timeout.as_millis())
    });
    let tls = tls.map_or_else(String::new, |(port, files)| {
        let Certificate { authority, certificate, key } = files;
        let file = |name: &str, path: &Path| format!("{{{name}, \"{}\"}}", path.display());
        let files = [file("cacertfile", authority), file("certfile", certificate), file("keyfile", key)].join(", ");
        format!(", {{ssl_listeners, [{{\"127.0.0.1\", {}}}]}}, {{ssl_options, [{files}]}}", port.number())
    });
    format!(
        "[{{rabbit, [{{tcp_listeners, [{{\"127.0.0.1\", {port}}}]}}, {{disk_free_limit, 50000000}}, \
         {{log, [{{console, [{{enabled, true}}, {{level, warning}}]}}, {{file, [{{file, false}}]}}]}}{timeout}{tls}]}}, \
         {{ra, [{{wal_max_size_bytes, 33554432}}]}}].\n"
    )
}
