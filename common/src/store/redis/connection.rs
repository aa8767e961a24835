//! The connection to the server: made when it is needed, shared by all callers,
//! made anew when it was lost or when its server is no longer the master.
//!
//! Commands that block the server's side of a connection never go here. Every
//! write of the store may be repeated, so a command whose answer was lost is.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection, PubSub};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, RedisError, RedisFuture, RetryMethod, ServerErrorKind,
    TlsCertificates, TlsMode, Value,
};
use secrecy::ExposeSecret;

use super::address::{Address, Kind, Trust};
use crate::store::StoreError;

/// How long a new connection may take.
const CONNECT: Duration = Duration::from_secs(3);
/// How long an answer may take: longer than the largest submit takes on a slow machine.
const ANSWER: Duration = Duration::from_secs(20);
/// How often a command is tried again, and the first pause; each is twice as long as the one before.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(25);

/// See the module.
pub(super) struct Link {
    address: Address,
    certificates: Option<TlsCertificates>,
    open: Mutex<Option<Open>>,
    /// One makes a connection, the others wait for it.
    connecting: tokio::sync::Semaphore,
}

/// A connection, and which one it is.
#[derive(Clone)]
struct Open {
    number: u64,
    connection: Connection,
}

#[derive(Clone)]
enum Connection {
    Server(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Connection {
    fn send<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Server(connection) => connection.req_packed_command(command),
            Self::Cluster(connection) => connection.req_packed_command(command),
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("address", &self.address.to_string()).finish_non_exhaustive()
    }
}

impl Link {
    /// A link that connects when it is first used.
    ///
    /// # Errors
    /// [`StoreError::Refused`] if the certificates cannot be read.
    pub(super) fn new(address: Address) -> Result<Self, StoreError> {
        let certificates = match &address.tls {
            Some(Trust::File(file)) => {
                let root = std::fs::read(file).map_err(|error| {
                    StoreError::Refused(format!("store {address}: cannot read ca {}: {error}", file.display()))
                })?;
                Some(TlsCertificates { client_tls: None, root_cert: Some(root) })
            }
            _ => None,
        };
        Ok(Self { address, certificates, open: Mutex::default(), connecting: tokio::sync::Semaphore::new(1) })
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// Runs a command; tries again where that can help.
    pub(super) async fn run(&self, command: &Cmd) -> Result<Value, RedisError> {
        let mut pause = PAUSE;
        let mut tries = 0;
        loop {
            let error = match self.attempt(command).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            tries += 1;
            if tries >= TRIES || !can_be_repeated(&error) {
                return Err(error);
            }
            tracing::debug!(%error, store = %self.address, tries, "a command is sent again");
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    async fn attempt(&self, command: &Cmd) -> Result<Value, RedisError> {
        let mut open = self.connection().await?;
        let answer = open.connection.send(command).await.and_then(Value::extract_error);
        if let Err(error) = &answer
            && matches!(open.connection, Connection::Server(_))
            && wants_another_connection(error)
        {
            self.forget(open.number);
        }
        answer
    }

    fn current(&self) -> Option<Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn forget(&self, number: u64) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.as_ref().is_some_and(|open| open.number == number) {
            *open = None;
        }
    }

    async fn connection(&self) -> Result<Open, RedisError> {
        if let Some(open) = self.current() {
            return Ok(open);
        }
        let _turn = self.connecting.acquire().await;
        if let Some(open) = self.current() {
            return Ok(open);
        }
        let connection = self.connect().await?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = Open { number: unique(), connection };
        *open = Some(fresh.clone());
        Ok(fresh)
    }

    async fn connect(&self) -> Result<Connection, RedisError> {
        if self.address.kind == Kind::Cluster {
            let mut builder = ClusterClient::builder(self.address.servers()?)
                .connection_timeout(CONNECT)
                .response_timeout(ANSWER)
                .retries(TRIES);
            if let Some(certificates) = &self.certificates {
                builder = builder.certs(certificates.clone());
            }
            let cluster = tokio::time::timeout(CONNECT * 3, builder.build()?.get_async_connection()).await;
            return Ok(Connection::Cluster(cluster.map_err(|_| slow())??));
        }
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(Some(ANSWER));
        let client = self.client().await?;
        Ok(Connection::Server(client.get_multiplexed_async_connection_with_config(&config).await?))
    }

    /// The server to talk to: the one there is, the master that sentinels name, or a node of the cluster.
    async fn client(&self) -> Result<Client, RedisError> {
        let Kind::Sentinel(master) = &self.address.kind else {
            let mut last = RedisError::from((ErrorKind::InvalidClientConfig, "no host"));
            for server in self.address.servers()? {
                let made = match &self.certificates {
                    Some(certificates) => Client::build_with_tls(server, certificates.clone()),
                    None => Client::open(server),
                };
                match made {
                    Ok(client) if self.address.hosts.len() == 1 => return Ok(client),
                    Ok(client) => match client.get_multiplexed_async_connection().await {
                        Ok(_) => return Ok(client),
                        Err(error) => last = error,
                    },
                    Err(error) => last = error,
                }
            }
            return Err(last);
        };
        let hosts = self.address.hosts.iter().map(|(host, port)| self.address.host(host, *port));
        let mut builder = SentinelClientBuilder::new(hosts, master, SentinelServerType::Master)?
            .set_client_to_redis_db(self.address.database);
        if self.address.tls.is_some() {
            builder =
                builder.set_client_to_redis_tls_mode(TlsMode::Secure).set_client_to_sentinel_tls_mode(TlsMode::Secure);
        }
        if let Some(certificates) = &self.certificates {
            builder = builder
                .set_client_to_redis_certificates(certificates.clone())
                .set_client_to_sentinel_certificates(certificates.clone());
        }
        if let Some(user) = &self.address.user {
            builder = builder.set_client_to_redis_username(user);
        }
        if let Some(password) = &self.address.password {
            builder = builder.set_client_to_redis_password(password.expose_secret());
        }
        let mut sentinels = builder.build()?;
        tokio::time::timeout(CONNECT * 3, sentinels.async_get_client()).await.map_err(|_| slow())?
    }

    /// A connection of its own for messages.
    pub(super) async fn subscribe(&self, channel: &str) -> Result<PubSub, RedisError> {
        let listen = async {
            let mut messages = self.client().await?.get_async_pubsub().await?;
            messages.subscribe(channel).await?;
            Ok(messages)
        };
        tokio::time::timeout(CONNECT * 3, listen).await.map_err(|_| slow())?
    }

    /// What a caller does next upon an error of the server.
    pub(super) fn classify(&self, error: &RedisError) -> StoreError {
        let at = &self.address;
        let unavailable = |advice: &str| StoreError::Unavailable(format!("Redis at {at}: {error}{advice}"));
        match (error.kind(), error.code().unwrap_or_default()) {
            (_, "OOM") => unavailable(
                "; its memory is full (maxmemory): give it more, or keep less of what is finished (retention)",
            ),
            (_, "MISCONF") => unavailable("; it cannot write to its disk and takes no writes until it can"),
            (_, "NOREPLICAS") => unavailable("; it has fewer replicas than min-replicas-to-write asks for"),
            (_, "BUSY") => unavailable("; another script holds it up"),
            (_, "NOAUTH" | "WRONGPASS") | (ErrorKind::AuthenticationFailed, _) => {
                StoreError::Refused(format!("Redis at {at}: {error}; check user and password in the URL"))
            }
            (ErrorKind::Server(ServerErrorKind::NoPerm), _) => StoreError::Refused(format!(
                "Redis at {at}: {error}; the user of the store needs all commands on its keys ({}:*) and its channel",
                at.prefix
            )),
            (_, "WRONGTYPE") => StoreError::Damaged(format!(
                "Redis at {at}: {error}; another program writes to keys that begin with {}: (?prefix=NAME gives \
                 the store others)",
                at.prefix
            )),
            (
                ErrorKind::Server(
                    ServerErrorKind::BusyLoading
                    | ServerErrorKind::ClusterDown
                    | ServerErrorKind::MasterDown
                    | ServerErrorKind::TryAgain
                    | ServerErrorKind::ReadOnly
                    | ServerErrorKind::Moved
                    | ServerErrorKind::Ask,
                )
                | ErrorKind::Io
                | ErrorKind::ClusterConnectionNotFound
                | ErrorKind::MasterNameNotFoundBySentinel
                | ErrorKind::NoValidReplicasFoundBySentinel,
                _,
            ) => unavailable(""),
            (ErrorKind::InvalidClientConfig, _) => StoreError::Refused(format!("Redis at {at}: {error}")),
            _ if can_be_repeated(error) => unavailable(""),
            _ => StoreError::Refused(format!("Redis at {at}: {error}")),
        }
    }
}

fn slow() -> RedisError {
    std::io::Error::new(std::io::ErrorKind::TimedOut, "the server did not answer in time").into()
}

fn unique() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// Whether the same command may be answered otherwise a little later.
fn can_be_repeated(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_timeout()
        || error.is_connection_dropped()
        || error.is_cluster_error()
        || matches!(
            error.kind(),
            ErrorKind::Server(ServerErrorKind::BusyLoading | ServerErrorKind::MasterDown | ServerErrorKind::ReadOnly)
                | ErrorKind::MasterNameNotFoundBySentinel
                | ErrorKind::ClusterConnectionNotFound
        )
}

/// Whether the connection is of no more use: it is broken, or its server is no longer the master.
fn wants_another_connection(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_timeout()
        || error.is_connection_dropped()
        || matches!(error.retry_method(), RetryMethod::Reconnect | RetryMethod::ReconnectFromInitialConnections)
        || matches!(
            error.kind(),
            ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown) | ErrorKind::Parse
        )
}
