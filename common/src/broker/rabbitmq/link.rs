//! One supervised connection: it is made again, with growing pauses, for as
//! long as somebody wants it.
//!
//! The client library's own recovery is not used: it gives up after a number of
//! tries, and does not mend channels that the server closed.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use lapin::tcp::{AMQPUriTcpExt, RustlsConnector};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Channel, Connection, ConnectionProperties, Event};
use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;

use super::address::Address;
use crate::broker::{BrokerError, BrokerOptions};
use crate::retry::{Backoff, Jitter};
use crate::span::Span;

/// How often a connection is looked at, beside what it tells by itself.
const LOOK: Duration = Duration::from_millis(250);
/// A connection or channel that lasted so long was good: the next pause is the shortest again.
const GOOD: Duration = Duration::from_secs(10);

/// How a connection is.
#[derive(Debug, Clone)]
enum State {
    /// The first try is under way.
    Connecting,
    /// It is there.
    Up(Arc<Connection>),
    /// It is not there, and is tried again.
    Down(String),
}

/// How connections are protected.
#[derive(Debug, Clone)]
pub(super) struct Tls(RustlsConnector);

impl Tls {
    /// As the address says, if it does.
    ///
    /// # Errors
    /// [`BrokerError::Misconfigured`] if the certificates of those who are trusted cannot be read.
    pub(super) fn of(address: &Address) -> Result<Option<Self>, BrokerError> {
        if !address.is_protected() {
            return Ok(None);
        }
        let config = crate::tls::verifying(address.ca.as_deref())
            .map_err(|why| BrokerError::Misconfigured(format!("broker {}, TLS: {why}", address.shown())))?;
        Ok(Some(Self(config.into())))
    }
}

/// How to get to the server, and what for.
struct Way {
    address: Address,
    tls: Option<Tls>,
    purpose: &'static str,
}

/// A connection that mends itself. It ends with the value.
#[derive(Debug)]
pub(super) struct Link {
    state: watch::Receiver<State>,
    suspicion: Arc<Notify>,
    patience: Duration,
    _supervisor: AbortOnDropHandle<()>,
}

/// The pauses between tries: they grow while nothing lasts.
#[derive(Debug)]
pub(super) struct Pauses {
    options: BrokerOptions,
    failed: u32,
}

impl Pauses {
    pub(super) fn new(options: &BrokerOptions) -> Self {
        Self { options: options.clone(), failed: 0 }
    }

    /// The next pause, after something that lasted so long.
    pub(super) fn after(&mut self, lasted: Duration) -> Duration {
        self.failed = if lasted >= GOOD { 1 } else { self.failed.saturating_add(1) };
        let backoff = Backoff {
            initial: Span::clamped(Duration::from_millis(100)),
            factor: 2.0,
            max: Span::from_secs(5),
            jitter: Jitter::Equal,
        };
        backoff.wait(self.failed, self.options.entropy.unit())
    }
}

impl Link {
    /// Begins to connect, with TLS if there is a connector for it. `purpose` is how the server's own tools name the
    /// connection.
    pub(super) fn start(address: &Address, tls: Option<&Tls>, purpose: &'static str, options: &BrokerOptions) -> Self {
        let (sender, state) = watch::channel(State::Connecting);
        let suspicion = Arc::new(Notify::new());
        let way = Way { address: address.clone(), tls: tls.cloned(), purpose };
        let supervisor = supervise(way, options.clone(), sender, Arc::clone(&suspicion));
        Self {
            state,
            suspicion,
            patience: options.patience,
            _supervisor: AbortOnDropHandle::new(tokio::spawn(supervisor)),
        }
    }

    /// The connection; while the first try is under way, this waits for it.
    pub(super) async fn connection(&self) -> Result<Arc<Connection>, BrokerError> {
        let mut state = self.state.clone();
        let known = state.wait_for(|state| !matches!(state, State::Connecting)).await;
        match known.as_deref() {
            Ok(State::Up(connection)) => Ok(Arc::clone(connection)),
            Ok(State::Down(why)) => Err(BrokerError::Unavailable(why.clone())),
            _ => Err(BrokerError::Unavailable("it is being closed".to_owned())),
        }
    }

    /// The connection, however long that takes.
    pub(super) async fn up(&self) -> Arc<Connection> {
        let mut state = self.state.clone();
        loop {
            if let State::Up(connection) = &*state.borrow_and_update() {
                return Arc::clone(connection);
            }
            if state.changed().await.is_err() {
                // The supervisor has ended, and so will whoever waits here.
                std::future::pending::<()>().await;
            }
        }
    }

    /// A new channel of the connection. A connection on which the server opens none is given up.
    pub(super) async fn channel(&self) -> Result<Channel, BrokerError> {
        let connection = self.connection().await?;
        let opened = self.answer(connection.create_channel()).await;
        if opened.is_err() {
            self.suspicion.notify_one();
        }
        opened
    }

    /// The answer to a request, within the patience. One that does not come says
    /// nothing of the connection: a queue may be without a leader, and the others well.
    pub(super) async fn answer<T>(&self, request: impl Future<Output = lapin::Result<T>>) -> Result<T, BrokerError> {
        self.within(async { request.await.map_err(|error| BrokerError::Unavailable(error.to_string())) }).await
    }

    /// Several answers, all within the patience, as in [`Link::answer`].
    pub(super) async fn within<T>(
        &self,
        requests: impl Future<Output = Result<T, BrokerError>>,
    ) -> Result<T, BrokerError> {
        let Ok(answer) = tokio::time::timeout(self.patience, requests).await else {
            return Err(BrokerError::Unavailable(format!("no answer within {} s", self.patience.as_secs_f32())));
        };
        answer
    }

    /// Why it is down, if it is, or that the server takes nothing on it.
    pub(super) fn trouble(&self) -> Option<String> {
        match &*self.state.borrow() {
            State::Connecting => Some("it is being connected to".to_owned()),
            State::Up(connection) if connection.status().blocked() => {
                Some("the server takes no messages at the moment (memory or disk alarm)".to_owned())
            }
            State::Up(_) => None,
            State::Down(why) => Some(why.clone()),
        }
    }
}

async fn supervise(way: Way, options: BrokerOptions, state: watch::Sender<State>, suspicion: Arc<Notify>) {
    let mut pauses = Pauses::new(&options);
    let Way { address, purpose, .. } = &way;
    loop {
        let tried = Instant::now();
        let why = match tokio::time::timeout(options.patience, connect(&way, options.patience)).await {
            Ok(Ok(connection)) => {
                let connection = Arc::new(connection);
                tracing::info!(broker = address.shown(), purpose, "connected to the broker");
                state.send_replace(State::Up(Arc::clone(&connection)));
                let why = lost(&connection, &suspicion).await;
                tracing::warn!(broker = address.shown(), purpose, why, "the connection to the broker is lost");
                why
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no connection within {} s", options.patience.as_secs_f32()),
        };
        tracing::debug!(broker = address.shown(), purpose, why, "no connection to the broker");
        state.send_replace(State::Down(format!("{}: {why}", address.shown())));
        tokio::time::sleep(pauses.after(tried.elapsed())).await;
    }
}

/// Connects once. The client's own thread waits for the transport, whoever else has given up waiting: so that has an
/// end of its own.
async fn connect(way: &Way, patience: Duration) -> lapin::Result<Connection> {
    let name = format!("teamster {}", way.purpose);
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let tls = way.tls.clone();
    let transport = async move |uri: AMQPUri, runtime| {
        let plain = AMQPUri { scheme: AMQPScheme::AMQP, ..uri };
        let opening = async {
            let stream = plain.connect_async(&runtime).await?;
            match &tls {
                Some(Tls(connector)) => stream.into_rustls(connector, &plain.authority.host).await,
                None => Ok(stream),
            }
        };
        let opened = tokio::time::timeout(patience, opening).await;
        Ok(opened.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??)
    };
    Connection::connector(way.address.uri.clone(), lapin::runtime::default_runtime()?, transport, properties).await
}

/// Waits until a connection is lost, and says why.
async fn lost(connection: &Connection, suspicion: &Notify) -> String {
    let mut events = std::pin::pin!(connection.events_listener());
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Event::Error(error)) if !connection.status().connected() => return error.to_string(),
                Some(_) => {}
                None => return "it was closed".to_owned(),
            },
            () = suspicion.notified() => return "the server opens no channel".to_owned(),
            () = tokio::time::sleep(LOOK) => {}
        }
        if !connection.status().connected() {
            return "it was closed".to_owned();
        }
    }
}
