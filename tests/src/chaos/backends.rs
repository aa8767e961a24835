//! The servers of a scenario, and the proxies between them and the fleet.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Scenario, StoreKind};
use crate::faults::proxy::Proxy;
use crate::servers::{postgres, rabbitmq, redis};

/// How long a consumer may hold a message: shorter than some tasks run.
const CONSUMER_TIMEOUT: Duration = Duration::from_secs(3);

/// The server of the truth.
#[derive(Debug)]
enum Truth {
    Sqlite(tempfile::TempDir),
    Redis(Box<redis::Server>),
    Postgres(Box<postgres::Server>),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Backends {
    truth: Truth,
    broker: Option<Arc<Mutex<rabbitmq::Server>>>,
    /// A restart of the broker that is under way: it takes longer than one of a store.
    restarting: Option<tokio::task::JoinHandle<()>>,
    store_proxy: Option<Proxy>,
    broker_proxy: Option<Proxy>,
}

/// Servers block their thread until they are there.
fn blocking<T>(work: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(work)
}

fn lock(server: &Mutex<rabbitmq::Server>) -> MutexGuard<'_, rabbitmq::Server> {
    server.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Backends {
    pub(super) async fn start(scenario: &Scenario) -> Self {
        let truth = blocking(|| match scenario.store {
            StoreKind::Sqlite => Truth::Sqlite(tempfile::tempdir().expect("a temporary directory")),
            StoreKind::Redis => Truth::Redis(Box::new(redis::Server::start(&redis::Options::default()))),
            StoreKind::Postgres => Truth::Postgres(Box::new(postgres::Server::start(&postgres::Options::default()))),
        });
        let options = rabbitmq::Options { consumer_timeout: Some(CONSUMER_TIMEOUT), ..rabbitmq::Options::default() };
        let broker = scenario.broker.then(|| blocking(|| rabbitmq::Server::start(options)));
        let store_proxy = match &truth {
            Truth::Sqlite(_) => None,
            Truth::Redis(server) => Some(Proxy::start(&server.address()).await),
            Truth::Postgres(server) => Some(Proxy::start(&server.address()).await),
        };
        let broker_proxy = match broker.as_ref().map(rabbitmq::Server::address) {
            Some(address) => Some(Proxy::start(&address).await),
            None => None,
        };
        let broker = broker.map(|server| Arc::new(Mutex::new(server)));
        Self { truth, broker, restarting: None, store_proxy, broker_proxy }
    }

    /// The store, for those who check it.
    pub(super) fn direct_url(&self) -> String {
        match &self.truth {
            Truth::Sqlite(folder) => format!("sqlite:{}", folder.path().join("teamster.db").display()),
            Truth::Redis(server) => server.url(),
            Truth::Postgres(server) => server.url(),
        }
    }

    /// The store as the fleet sees it: through the proxy.
    pub(super) fn store_url(&self) -> String {
        let direct = self.direct_url();
        self.store_proxy.as_ref().map_or_else(|| direct.clone(), |proxy| proxy.through(&direct))
    }

    /// The broker as the fleet sees it.
    pub(super) fn broker_url(&self) -> Option<String> {
        let url = lock(self.broker.as_ref()?).url();
        Some(self.broker_proxy.as_ref()?.through(&url))
    }

    /// Between the fleet and the store.
    pub(super) fn store_proxy(&self) -> &Proxy {
        self.store_proxy.as_ref().expect("only a store with a server has faults of the network")
    }

    /// Between the fleet and the broker.
    pub(super) fn broker_proxy(&self) -> &Proxy {
        self.broker_proxy.as_ref().expect("only a scenario with a broker has its faults")
    }

    pub(super) fn kill_store(&mut self) {
        blocking(|| match &mut self.truth {
            Truth::Sqlite(_) => {}
            Truth::Redis(server) => server.kill(),
            Truth::Postgres(server) => server.kill(),
        });
    }

    pub(super) fn restart_store(&mut self) {
        blocking(|| match &mut self.truth {
            Truth::Sqlite(_) => {}
            Truth::Redis(server) => server.restart(),
            Truth::Postgres(server) => server.restart(),
        });
    }

    /// Kills the broker, and starts it again while other things happen. It may have lost queues that it declared a
    /// moment ago.
    pub(super) async fn restart_broker(&mut self) {
        self.settle().await;
        let Some(server) = self.broker.clone() else { return };
        self.restarting = Some(tokio::task::spawn_blocking(move || {
            let mut server = lock(&server);
            server.kill();
            server.restart();
        }));
    }

    /// Waits until the broker is there again.
    pub(super) async fn settle(&mut self) {
        if let Some(restarting) = self.restarting.take() {
            restarting.await.expect("the broker comes back");
        }
    }

    /// Throws away all hints that wait; how many queues there were.
    pub(super) fn purge(&self) -> u64 {
        let Some(server) = &self.broker else { return 0 };
        // A queue that a crash has left without a leader cannot be purged: then nothing is thrown away.
        let purge_all = "Queues = rabbit_amqqueue:list(), [rabbit_amqqueue:purge(Queue) || Queue <- Queues], \
                         io:format(\"~b~n\", [length(Queues)]).";
        let said = blocking(|| lock(server).ctl(&["eval", purge_all])).unwrap_or_default();
        said.lines().find_map(|line| line.trim().parse().ok()).unwrap_or(0)
    }

    /// The server of the store, where its memory is of interest.
    pub(super) fn redis(&self) -> Option<&redis::Server> {
        match &self.truth {
            Truth::Redis(server) => Some(server),
            _ => None,
        }
    }
}
