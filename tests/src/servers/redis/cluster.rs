//! Three masters that share the slots, without replicas.

use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::super::port::Port;
use super::super::process::{find, run};
use super::{Options, Persistence, Server};

const NODES: usize = 3;

/// The longest that the nodes may take to agree.
const PATIENCE: Duration = Duration::from_secs(60);

/// Three nodes that know each other and hold all slots.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes: each may be killed and started again.
    pub nodes: Vec<Server>,
    /// The nodes' ports for talking to each other.
    _buses: Vec<Port>,
}

/// The shared cluster of this test process. Tests keep apart in it by prefixes:
/// see [`unique_name`](super::super::place::unique_name).
///
/// # Panics
/// When it cannot be started.
pub fn shared() -> &'static Cluster {
    static SHARED: LazyLock<Result<Cluster>> = LazyLock::new(|| Cluster::try_start(Persistence::EverySecond));
    match &*SHARED {
        Ok(cluster) => cluster,
        Err(error) => panic!("{error:#}"),
    }
}

impl Cluster {
    /// Starts one and waits until every node says that the cluster is whole.
    ///
    /// # Panics
    /// When that fails.
    pub fn start(persistence: Persistence) -> Self {
        Self::try_start(persistence).unwrap_or_else(|error| panic!("{error:#}"))
    }

    fn try_start(persistence: Persistence) -> Result<Self> {
        let buses: Vec<Port> = (0..NODES).map(|_| Port::claim()).collect();
        let nodes = buses.iter().map(|bus| {
            let settings = [
                ("cluster-enabled", "yes"),
                ("cluster-port", &bus.number().to_string()),
                ("cluster-node-timeout", "2000"),
            ];
            let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
            Server::try_start(&Options { persistence, settings, ..Options::default() })
        });
        let cluster = Self { nodes: nodes.collect::<Result<_>>()?, _buses: buses };
        let mut create = Command::new(find("redis-cli", &[], "redis-tools")?);
        create.args(["--cluster", "create"]).args(cluster.nodes.iter().map(Server::address));
        run(create.args(["--cluster-replicas", "0", "--cluster-yes"])).context("the Redis cluster")?;
        cluster.try_until_whole()?;
        Ok(cluster)
    }

    /// Waits until every node says that the cluster is whole.
    ///
    /// # Panics
    /// When it does not come to that.
    pub fn until_whole(&self) {
        self.try_until_whole().unwrap_or_else(|error| panic!("{error:#}"));
    }

    fn try_until_whole(&self) -> Result<()> {
        let started = Instant::now();
        while !self.nodes.iter().all(is_whole) {
            ensure!(started.elapsed() < PATIENCE, "the Redis cluster is not whole within {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Where the nodes are: `127.0.0.1:PORT` of each.
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(Server::address).collect()
    }

    /// A URL of each node.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Server::url).collect()
    }
}

/// Whether a node sees all slots served and all masters.
fn is_whole(node: &Server) -> bool {
    let Ok(info) = node.cli(&["cluster", "info"]) else { return false };
    ["cluster_state:ok", "cluster_slots_ok:16384", "cluster_known_nodes:3", "cluster_size:3"]
        .iter()
        .all(|line| info.lines().any(|said| said.trim() == *line))
}
