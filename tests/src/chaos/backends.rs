//! The servers of a scenario, and the proxies between them and the fleet.

use std::sync::atomic::{AtomicU32, Ordering};
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
    broker: Option<rabbitmq::Server>,
    store_proxy: Option<Proxy>,
    broker_proxy: Option<Proxy>,
}

/// Servers block their thread until they are there.
fn blocking<T>(work: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(work)
}

impl Backends {
    pub(super) async fn start(scenario: &Scenario) -> Self {
        let truth = blocking(|| match scenario.store {
            StoreKind::Sqlite => Truth::Sqlite(tempfile::tempdir().expect("a temporary directory")),
            StoreKind::Redis => Truth::Redis(Box::new(redis::Server::start(&redis::Options::default()))),
            StoreKind::Postgres => Truth::Postgres(Box::new(postgres::Server::start(&postgres::Options::default()))),
        });
        let options = rabbitmq::Options { consumer_timeout: Some(CONSUMER_TIMEOUT) };
        let broker = scenario.broker.then(|| blocking(|| rabbitmq::Server::start(options)));
        let store_proxy = match &truth {
            Truth::Sqlite(_) => None,
            Truth::Redis(server) => Some(Proxy::start(&server.address()).await),
            Truth::Postgres(server) => Some(Proxy::start(&server.address()).await),
        };
        let broker_proxy = match &broker {
            Some(server) => Some(Proxy::start(&server.address()).await),
            None => None,
        };
        Self { truth, broker, store_proxy, broker_proxy }
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
        Some(self.broker_proxy.as_ref()?.through(&self.broker.as_ref()?.url()))
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

    /// Kills the broker, and starts it again. It may have lost queues that it declared a moment ago.
    pub(super) fn restart_broker(&mut self) {
        if let Some(server) = &mut self.broker {
            blocking(|| {
                server.kill();
                server.restart();
            });
        }
    }

    /// Throws away all hints that wait; how many queues there were.
    pub(super) fn purge(&self) -> u32 {
        let purged = AtomicU32::new(0);
        if let Some(server) = &self.broker {
            blocking(|| {
                // A queue that a crash has left without a leader cannot be purged.
                let purge_all = "[rabbit_amqqueue:purge(Queue) || Queue <- rabbit_amqqueue:list()], \
                                 io:format(\"~b\", [length(rabbit_amqqueue:list())]).";
                if let Ok(said) = server.ctl(&["eval", purge_all]) {
                    let queues = said.trim().trim_end_matches("ok").trim().parse().unwrap_or(0);
                    purged.fetch_add(queues, Ordering::Relaxed);
                }
            });
        }
        purged.into_inner()
    }

    /// The process id of the store's server, where its memory is of interest.
    pub(super) fn redis(&self) -> Option<&redis::Server> {
        match &self.truth {
            Truth::Redis(server) => Some(server),
            _ => None,
        }
    }
}
