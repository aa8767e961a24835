//! The doorbell: tells those who wait in `ready` that something may be ready.
//!
//! Within the process a writer rings after its commit. Other processes are told
//! by NOTIFY, after the commit and on a connection of its own: a notification
//! inside of a transaction takes a lock of the whole server until the commit is
//! on disk, and so would let only one writer commit at a time. One that is lost
//! costs the time until those who wait look for themselves.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio_postgres::Notification;

use super::address::Address;
use super::connection::{Connection, Purpose};
use super::fault::Fault;
use super::tls::Connector;
use super::transaction::Rings;
use crate::id::QueueName;
use crate::store::StoreOptions;

/// The longest payload: Postgres allows 8,000 bytes.
const PAYLOAD: usize = 7_000;
/// Notifications are sent at most this often: what comes between goes into the next one.
const GAP: Duration = Duration::from_millis(2);
/// Notifications that may wait to be heard; one more says nothing new.
const HEARD: usize = 256;
/// The longest wait between two tries to connect.
const LONGEST: Duration = Duration::from_secs(5);

const NOTIFY: &str = "SELECT pg_notify($1::text, $2::text)";

/// Rings for all who wait.
#[derive(Default)]
pub(super) struct Bell {
    waiting: Mutex<Waiting>,
    /// Queues of which other processes have not heard yet.
    untold: Mutex<BTreeSet<QueueName>>,
    to_tell: Notify,
}

#[derive(Default)]
struct Waiting {
    number: u64,
    waiters: HashMap<u64, (Vec<QueueName>, Arc<Notify>)>,
}

impl Bell {
    /// After a commit: tells this process, the others, and the broker.
    pub(super) fn ring(&self, rings: Rings, options: &StoreOptions) {
        let Rings { queues, hints, facts } = rings;
        if let Some(witness) = &options.witness {
            witness.witness(&facts);
        }
        if let Some(doorbell) = &options.doorbell
            && !hints.is_empty()
        {
            doorbell.ring(hints);
        }
        if queues.is_empty() {
            return;
        }
        self.ring_here(Some(&queues));
        self.untold.lock().unwrap_or_else(PoisonError::into_inner).extend(queues);
        self.to_tell.notify_one();
    }

    /// For those who wait for one of these queues; for all, if none is named.
    fn ring_here(&self, queues: Option<&BTreeSet<QueueName>>) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for (wanted, notify) in waiting.waiters.values() {
            if queues.is_none_or(|queues| wanted.is_empty() || wanted.iter().any(|queue| queues.contains(queue))) {
                notify.notify_one();
            }
        }
    }

    /// What rings from now on is heard, until the answer is dropped.
    pub(super) fn listen(&self, queues: &[QueueName]) -> Listener<'_> {
        let notify = Arc::new(Notify::new());
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.number = waiting.number.wrapping_add(1);
        let number = waiting.number;
        waiting.waiters.insert(number, (queues.to_vec(), Arc::clone(&notify)));
        Listener { bell: self, number, notify }
    }

    /// Takes what other processes have not heard yet, as a payload; `*` for all queues.
    fn take_untold(&self) -> Option<String> {
        let queues = std::mem::take(&mut *self.untold.lock().unwrap_or_else(PoisonError::into_inner));
        if queues.is_empty() {
            return None;
        }
        let names: Vec<&str> = queues.iter().map(QueueName::as_str).collect();
        Some(names.join(" ")).map(|payload| if payload.len() > PAYLOAD { "*".to_owned() } else { payload })
    }

    /// A payload that came in.
    fn heard(&self, payload: &str) {
        let queues: Option<BTreeSet<QueueName>> = payload.split(' ').map(|name| QueueName::new(name).ok()).collect();
        self.ring_here(queues.as_ref());
    }
}

/// Someone who waits.
pub(super) struct Listener<'a> {
    bell: &'a Bell,
    number: u64,
    notify: Arc<Notify>,
}

impl Listener<'_> {
    /// Returns at the next ring, or one that was not waited for yet.
    pub(super) async fn rung(&self) {
        self.notify.notified().await;
    }
}

impl Drop for Listener<'_> {
    fn drop(&mut self) {
        let mut waiting = self.bell.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.waiters.remove(&self.number);
    }
}

/// The task that hears other processes, and tells them; ends when dropped.
pub(super) struct Messenger(tokio::task::JoinHandle<()>);

impl Messenger {
    pub(super) fn start(bell: &Arc<Bell>, address: Arc<Address>, connector: Connector) -> Self {
        let bell = Arc::downgrade(bell);
        Self(tokio::spawn(async move {
            let mut wait = GAP;
            while bell.strong_count() > 0 {
                match converse(&bell, &address, &connector).await {
                    Ok(()) => return,
                    Err((fault, connected)) => {
                        tracing::debug!(?fault, "no notifications from other processes; looking each second instead");
                        wait = if connected { GAP } else { (wait * 4).min(LONGEST) };
                        tokio::time::sleep(wait).await;
                    }
                }
            }
        }))
    }
}

impl Drop for Messenger {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The channel of a schema: it is named like it.
pub(super) fn channel(address: &Address) -> String {
    // An identifier has at most 63 bytes.
    format!("tmst_{}", address.schema.chars().take(58).collect::<String>())
}

/// Hears and tells until the connection breaks; says whether there was one. Ends well when nobody wants it any more.
async fn converse(bell: &Weak<Bell>, address: &Address, connector: &Connector) -> Result<(), (Fault, bool)> {
    let (sender, mut notifications) = mpsc::channel::<Notification>(HEARD);
    let connection =
        Connection::open(address, connector, Purpose::General, Some(sender)).await.map_err(|fault| (fault, false))?;
    let connected = |fault| (fault, true);
    let channel = channel(address);
    // A notification needs no disk: it tells of what is there already.
    connection.batch(&format!("SET synchronous_commit = off; LISTEN \"{channel}\"")).await.map_err(connected)?;
    let own = connection.query("SELECT pg_backend_pid()", &[]).await.map_err(connected)?;
    let own: i32 = own.first().map_or(Ok(0), |row| row.try_get(0)).map_err(|error| connected(error.into()))?;
    // Something may have been missed while there was no connection.
    if let Some(bell) = bell.upgrade() {
        bell.ring_here(None);
    }
    loop {
        let Some(strong) = bell.upgrade() else { return Ok(()) };
        tokio::select! {
            notification = notifications.recv() => match notification {
                Some(notification) if notification.process_id() == own => {}
                Some(notification) => strong.heard(notification.payload()),
                None => return Err(connected(Fault::Lost("the connection for notifications ended".to_owned()))),
            },
            () = strong.to_tell.notified() => {
                if let Some(payload) = strong.take_untold() {
                    connection.query(NOTIFY, &[&channel, &payload]).await.map_err(connected)?;
                    drop(strong);
                    tokio::time::sleep(GAP).await;
                }
            }
        }
    }
}
