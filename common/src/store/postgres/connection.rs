//! Connections: how one is made and set up, and the pool for everything that is
//! not a group of writes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, Notification, Row, Statement};

use super::address::Address;
use super::fault::{Fault, chain};
use super::tls::Connector;
use crate::store::StoreError;

/// The server gives a statement up after so long.
const STATEMENT: &str = "30s";
/// The server gives waiting for a row up after so long.
const LOCK: &str = "10s";
/// The server ends a transaction of which it hears nothing for so long.
const IDLE: &str = "60s";
/// Without an answer for so long the connection is given up: longer than the server's own limits.
const ANSWER: Duration = Duration::from_secs(40);
/// Connections for reads and rare writes.
const POOL: usize = 4;
/// How long a caller waits for one of them.
const WAIT: Duration = Duration::from_secs(30);
/// The class of the advisory locks that give each connection a slot of its own: "TMSL".
const SLOT_CLASS: i32 = 0x544D_534C;
/// Slots that are given out.
const SLOTS: i32 = 256;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The same few statements, again and again: planned once, by the indexes that were made for them, whatever the
    /// statistics say of a table that was empty a minute ago.
    Writing,
    /// Everything else.
    General,
}

/// A connection that is set up.
pub(super) struct Connection {
    client: Client,
    statements: Mutex<HashMap<&'static str, Statement>>,
    slot: i32,
}

/// The parameters of a statement.
pub(super) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

impl Connection {
    /// Makes one. `heard` gets the notifications that come in on it.
    pub(super) async fn open(
        address: &Address,
        connector: &Connector,
        purpose: Purpose,
        heard: Option<mpsc::Sender<Notification>>,
    ) -> Result<Self, Fault> {
        Self::set_up(address, connector, purpose, heard).await.map_err(Fault::while_connecting)
    }

    async fn set_up(
        address: &Address,
        connector: &Connector,
        purpose: Purpose,
        heard: Option<mpsc::Sender<Notification>>,
    ) -> Result<Self, Fault> {
        let connecting = address.config.connect(connector.clone());
        let (client, mut driver) = tokio::time::timeout(ANSWER, connecting)
            .await
            .map_err(|_| Fault::Unavailable("connecting took too long".to_owned()))??;
        // Ends when the client is dropped or the server goes away.
        tokio::spawn(async move {
            loop {
                match std::future::poll_fn(|cx| driver.poll_message(cx)).await {
                    Some(Ok(AsyncMessage::Notification(notification))) => {
                        if let Some(heard) = &heard {
                            // A full queue is a bell that rings already.
                            let _ = heard.try_send(notification);
                        }
                    }
                    Some(Ok(AsyncMessage::Notice(notice))) => tracing::debug!(%notice, "Postgres says"),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return tracing::debug!(error = chain(&error), "a connection ended"),
                    None => return,
                }
            }
        });
        let mut connection = Self { client, statements: Mutex::default(), slot: 0 };
        let schema = &address.schema;
        let mut settings = format!(
            "SET search_path TO \"{schema}\"; SET statement_timeout = '{STATEMENT}'; SET lock_timeout = '{LOCK}'; \
             SET idle_in_transaction_session_timeout = '{IDLE}'; SET client_min_messages = warning; \
             SET default_transaction_isolation = 'read committed'; SET jit = off;"
        );
        if purpose == Purpose::Writing {
            settings.push_str(
                "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_bitmapscan = off; \
                 SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_material = off",
            );
        }
        connection.batch(&settings).await?;
        // Sums are kept in a row for each slot, so that two writers never wait for each other's.
        let slot = connection
            .query(
                "SELECT s FROM generate_series(0, $2::int - 1) s WHERE pg_try_advisory_lock($1::int, s) LIMIT 1",
                &[&SLOT_CLASS, &SLOTS],
            )
            .await?;
        connection.slot = match slot.first() {
            Some(row) => row.try_get(0)?,
            // All are taken: sharing one costs waiting, and is as right.
            None => 0,
        };
        Ok(connection)
    }

    /// Where its sums are kept.
    pub(super) fn slot(&self) -> i32 {
        self.slot
    }

    /// Whether the server is gone, as far as is known.
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Prepares statements, so that later each of them is sent at the first poll, and all of them in order.
    pub(super) async fn warm(&self, statements: &[&'static str]) -> Result<(), Fault> {
        futures::future::try_join_all(statements.iter().map(|statement| self.prepared(statement))).await.map(drop)
    }

    async fn prepared(&self, sql: &'static str) -> Result<Statement, Fault> {
        let known = self.statements.lock().unwrap_or_else(PoisonError::into_inner).get(sql).cloned();
        if let Some(statement) = known {
            return Ok(statement);
        }
        let statement = answered(self.client.prepare(sql)).await?;
        self.statements.lock().unwrap_or_else(PoisonError::into_inner).insert(sql, statement.clone());
        Ok(statement)
    }

    /// Rows of a statement that is prepared once.
    pub(super) async fn query(&self, sql: &'static str, params: Params<'_>) -> Result<Vec<Row>, Fault> {
        let statement = self.prepared(sql).await?;
        answered(self.client.query(&statement, params)).await
    }

    /// Rows of a statement that is made for the occasion.
    pub(super) async fn query_once(
        &self,
        sql: &str,
        params: &[(&(dyn ToSql + Sync), tokio_postgres::types::Type)],
    ) -> Result<Vec<Row>, Fault> {
        answered(self.client.query_typed(sql, params)).await
    }

    /// Does a statement that is prepared once, and says how many rows it changed.
    pub(super) async fn execute(&self, sql: &'static str, params: Params<'_>) -> Result<u64, Fault> {
        let statement = self.prepared(sql).await?;
        answered(self.client.execute(&statement, params)).await
    }

    /// Does statements without parameters.
    pub(super) async fn batch(&self, sql: &str) -> Result<(), Fault> {
        answered(self.client.batch_execute(sql)).await
    }
}

/// Every wait has an end, also when the network swallows packets.
async fn answered<T>(answer: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, Fault> {
    match tokio::time::timeout(ANSWER, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Fault::Lost(format!("Postgres gave no answer within {} s", ANSWER.as_secs()))),
    }
}

/// Connections that are lent to one caller at a time.
pub(super) struct Pool {
    address: Arc<Address>,
    connector: Connector,
    idle: Mutex<Vec<Connection>>,
    room: Semaphore,
}

/// A connection on loan. It goes back when it is dropped, unless it is in the
/// middle of something: then it is closed, and the server undoes what was begun.
pub(super) struct Loan<'p> {
    pool: &'p Pool,
    connection: Option<Connection>,
    clean: std::sync::atomic::AtomicBool,
    _permit: SemaphorePermit<'p>,
}

impl Pool {
    pub(super) fn new(address: Arc<Address>, connector: Connector) -> Self {
        Self { address, connector, idle: Mutex::default(), room: Semaphore::new(POOL) }
    }

    /// Lends a connection; makes one if none is idle.
    pub(super) async fn lend(&self) -> Result<Loan<'_>, Fault> {
        let permit = tokio::time::timeout(WAIT, self.room.acquire())
            .await
            .map_err(|_| Fault::Unavailable("all connections are busy; try again".to_owned()))?
            .map_err(|_| Fault::Unavailable("the store is closed".to_owned()))?;
        let idle = self.pop();
        let connection = match idle {
            Some(connection) => connection,
            None => Connection::open(&self.address, &self.connector, Purpose::General, None).await?,
        };
        let clean = std::sync::atomic::AtomicBool::new(true);
        Ok(Loan { pool: self, connection: Some(connection), clean, _permit: permit })
    }

    fn pop(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|connection| !connection.is_closed());
        idle.pop()
    }
}

impl Loan<'_> {
    /// The connection.
    pub(super) fn connection(&self) -> Result<&Connection, Fault> {
        self.connection.as_ref().ok_or_else(|| Fault::Unavailable("the connection was given back".to_owned()))
    }

    /// A transaction begins (false) or has ended (true).
    pub(super) fn set_clean(&self, clean: bool) {
        self.clean.store(clean, std::sync::atomic::Ordering::Relaxed);
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take()
            && self.clean.load(std::sync::atomic::Ordering::Relaxed)
            && !connection.is_closed()
        {
            self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        }
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Damaged(why) => Self::Damaged(why),
            StoreError::Unavailable(why) | StoreError::Refused(why) => Self::Unavailable(why),
        }
    }
}
