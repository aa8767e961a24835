//! Joining: requests of this process that come at about the same time are written
//! down together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::clock::Clock;
use common::failure::{Failure, FailureClass};
use common::id::{EntryId, WorkerId};
use common::store::StoreError;
use tokio::sync::{mpsc, oneshot, watch};

use super::documents::Documents;
use super::tray::{ROOM, TRAYS, Waiting};

/// The most requests that wait to be written down.
const QUEUE: usize = 4_096;
/// The most that are written at once.
const MOST: usize = 1_000;
/// How long the first waits for others.
const GATHER: Duration = Duration::from_millis(20);
/// How long it may take in all.
const PATIENCE: Duration = Duration::from_secs(30);

/// All trays of a provider are full: nothing more waits for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full {
    /// How many requests wait.
    pub waiting: u64,
}

struct Join {
    provider: String,
    entry: EntryId,
    done: oneshot::Sender<Result<Result<(), Full>, String>>,
}

/// Where requests come in.
#[derive(Debug)]
pub(super) struct Joining {
    joins: mpsc::Sender<Join>,
}

/// Where they are taken out.
#[derive(Debug)]
pub struct Inbox {
    joins: mpsc::Receiver<Join>,
    clock: Arc<dyn Clock>,
    joined: watch::Sender<()>,
}

impl Joining {
    pub(super) fn new(clock: Arc<dyn Clock>) -> (Self, Inbox) {
        let (sender, joins) = mpsc::channel(QUEUE);
        (Self { joins: sender }, Inbox { joins, clock, joined: watch::Sender::new(()) })
    }

    pub(super) async fn join(&self, provider: &str, entry: EntryId) -> Result<Result<(), Full>, Failure> {
        let unavailable = |why: &str| Failure::new(FailureClass::Unavailable, format!("no model batch: {why}"));
        let (done, answer) = oneshot::channel();
        let exchange = async {
            let join = Join { provider: provider.to_owned(), entry, done };
            self.joins.send(join).await.map_err(|_| unavailable("the worker ends"))?;
            answer.await.map_err(|_| unavailable("the worker ends"))?.map_err(|why| unavailable(&why))
        };
        let late = |_| Err(unavailable("the store is slow"));
        tokio::time::timeout(PATIENCE, exchange).await.unwrap_or_else(late)
    }
}

impl Inbox {
    /// Changes when requests of this process have come to wait.
    pub(super) fn joined(&self) -> watch::Receiver<()> {
        self.joined.subscribe()
    }

    /// Writes down what comes in. Does not end while anybody may come.
    pub(super) async fn run(mut self, documents: &Documents, worker: &WorkerId) {
        // Each process has a tray that it tries first.
        let first = blake3::hash(worker.as_str().as_bytes()).as_bytes()[0] as usize % TRAYS;
        let mut joins = Vec::new();
        while self.joins.recv_many(&mut joins, MOST).await > 0 {
            tokio::time::sleep(GATHER).await;
            while joins.len() < MOST {
                let Ok(join) = self.joins.try_recv() else { break };
                joins.push(join);
            }
            let mut by_provider: BTreeMap<String, Vec<Join>> = BTreeMap::new();
            for join in joins.drain(..) {
                by_provider.entry(join.provider.clone()).or_default().push(join);
            }
            for (provider, joins) in by_provider {
                let at = self.clock.now();
                let new = joins.iter().map(|join| Waiting { id: join.entry.clone(), at, back: None }).collect();
                let beyond = put(documents, &provider, first, new).await;
                for join in joins {
                    let answer = match &beyond {
                        Ok(beyond) if beyond.iter().any(|entry| entry.id == join.entry) => {
                            Ok(Err(Full { waiting: (ROOM * TRAYS) as u64 }))
                        }
                        Ok(_) => Ok(Ok(())),
                        Err(error) => Err(error.to_string()),
                    };
                    // Who does not wait any more asks again.
                    let _ = join.done.send(answer);
                }
                self.joined.send_replace(());
            }
        }
    }
}

/// Puts requests into the first trays that have room; those for which none has.
async fn put(
    documents: &Documents,
    provider: &str,
    first: usize,
    mut new: Vec<Waiting>,
) -> Result<Vec<Waiting>, StoreError> {
    for number in 0..TRAYS {
        if new.is_empty() {
            break;
        }
        new = documents.change_tray(provider, (first + number) % TRAYS, |tray| tray.add(new.clone())).await?;
    }
    Ok(new)
}
