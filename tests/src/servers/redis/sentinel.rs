//! A master with one replica, and sentinels that make the replica the master when that is gone.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::super::port::Port;
use super::{Options, Server, folder, text};

/// What the sentinels call the master.
pub const MASTER: &str = "teamster";

/// The longest that they may take to find each other, or to agree on a new master.
const PATIENCE: Duration = Duration::from_secs(60);

/// A master, its replica and the sentinels over them.
#[derive(Debug)]
pub struct Sentinels {
    /// Who is the master at the start.
    pub master: Server,
    /// Who copies it.
    pub replica: Server,
    /// Those who watch both; most of them must agree that the master is gone.
    pub sentinels: Vec<Server>,
}

impl Sentinels {
    /// Starts all and waits until every sentinel knows of both servers and of the other sentinels.
    ///
    /// # Panics
    /// When that fails.
    pub fn start(options: &Options, sentinels: usize) -> Self {
        Self::try_start(options, sentinels).unwrap_or_else(|error| panic!("{error:#}"))
    }

    fn try_start(options: &Options, count: usize) -> Result<Self> {
        let master = Server::try_start(options)?;
        let mut following = options.clone();
        let address = format!("127.0.0.1 {}", master.port.number());
        following.settings.push(("replicaof".to_owned(), address));
        let replica = Server::try_start(&following)?;
        until("the replica follows", || says(&replica, &["info", "replication"], "master_link_status:up"))?;
        let sentinels = (0..count).map(|_| sentinel(&master, count / 2 + 1)).collect::<Result<_>>()?;
        let all = Self { master, replica, sentinels };
        until("every sentinel knows all", || all.sentinels.iter().all(|sentinel| knows(sentinel, count - 1)))?;
        Ok(all)
    }

    /// Where the sentinels are: `127.0.0.1:PORT` of each.
    pub fn addresses(&self) -> Vec<String> {
        self.sentinels.iter().map(Server::address).collect()
    }

    /// Where the master is, as the first sentinel that answers says: `127.0.0.1:PORT`.
    ///
    /// # Panics
    /// When none answers.
    pub fn master_address(&self) -> String {
        let asked = ["sentinel", "get-master-addr-by-name", MASTER];
        let answer = self.sentinels.iter().find_map(|sentinel| sentinel.cli(&asked).ok());
        answer.expect("no sentinel answers").split_whitespace().collect::<Vec<_>>().join(":")
    }

    /// Waits until the sentinels name this server as the master.
    ///
    /// # Panics
    /// When it does not come to that.
    pub fn until_master(&self, server: &Server) {
        let address = server.address();
        until("the sentinels name the new master", || self.master_address() == address).unwrap();
        until("it knows", || says(server, &["info", "replication"], "role:master")).unwrap();
    }
}

fn sentinel(master: &Server, quorum: usize) -> Result<Server> {
    let (folder, port) = (folder()?, Port::claim());
    let file = folder.path().join("sentinel.conf");
    let lines = [
        format!("port {}", port.number()),
        format!("sentinel monitor {MASTER} 127.0.0.1 {} {quorum}", master.port.number()),
        format!("sentinel down-after-milliseconds {MASTER} 1000"),
        format!("sentinel failover-timeout {MASTER} 5000"),
    ];
    std::fs::write(&file, lines.join("\n") + "\n")?;
    Server::launch(folder, port, vec![text(&file), "--sentinel".to_owned()], None).context("a sentinel")
}

fn knows(sentinel: &Server, others: usize) -> bool {
    let Ok(answer) = sentinel.cli(&["sentinel", "master", MASTER]) else { return false };
    let words: Vec<&str> = answer.lines().collect();
    let value = |name: &str| words.windows(2).find(|pair| pair[0] == name).map(|pair| pair[1]);
    value("flags") == Some("master")
        && value("num-slaves") == Some("1")
        && value("num-other-sentinels") == Some(others.to_string().as_str())
}

fn says(server: &Server, command: &[&str], line: &str) -> bool {
    server.cli(command).is_ok_and(|answer| answer.lines().any(|said| said.trim() == line))
}

fn until(what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
    let started = Instant::now();
    while !holds() {
        ensure!(started.elapsed() < PATIENCE, "Redis: it does not come to this within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
