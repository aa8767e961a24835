//! A server that runs elsewhere, over streamable HTTP (the transport of MCP
//! 2025-03-26 and later).
//!
//! Each message is a POST. The answer comes as JSON or as a stream of events,
//! in between which the server may tell and ask other things. Where a stream
//! breaks, it is taken up behind the last event that had an id. Nothing else is
//! tried again, with two exceptions in which the server did not take the
//! message: a token that it does not accept is renewed once, and a session
//! that it does not know ends the connection, so that the next one has a new one.
//!
//! | what comes back | the message |
//! |---|---|
//! | a JSON-RPC answer, whatever the status | answered |
//! | no connection; a refusal by the table of `worker::http` | did not happen |
//! | 404, or a 400 that is about no message, in a session | did not happen: no session |
//! | an answer larger than allowed | was answered, in a way that cannot be used |
//! | a broken stream that cannot be taken up, a 5xx, no answer | nobody knows |

mod endpoint;
mod events;
mod exchange;
mod token;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use common::failure::FailureClass;
use reqwest::header::HeaderValue;
use rmcp::RoleClient;
use rmcp::model::{ClientNotification, JsonRpcMessage, RequestId};
use rmcp::service::{RxJsonRpcMessage, TxJsonRpcMessage};
use rmcp::transport::Transport;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::connection::{GRACE, Link, Unanswered};
use super::lines;
use super::observed::{End, Observed};
pub(super) use endpoint::Endpoint;
pub(super) use token::Tokens;

/// Messages from the server that wait to be taken up.
const WAITING: usize = 64;
/// How long a message that has no answer may take.
const NOTICE: Duration = Duration::from_secs(10);
/// How much longer than its caller an exchange may take: only so that none is forgotten.
const OVERTIME: Duration = Duration::from_secs(5);

type Incoming = RxJsonRpcMessage<RoleClient>;
type Outgoing = TxJsonRpcMessage<RoleClient>;

/// The transport of one connection.
pub(super) struct HttpTransport {
    line: Arc<Line>,
    incoming: mpsc::Receiver<Incoming>,
    /// When the transport is gone, so is all that it started.
    _gone: DropGuard,
}

/// What the exchanges of one connection share.
#[derive(Debug)]
struct Line {
    name: String,
    endpoint: Arc<Endpoint>,
    answer_limit: usize,
    timeout: Duration,
    session: Mutex<Session>,
    in_flight: Mutex<HashMap<RequestId, CancellationToken>>,
    to_client: mpsc::Sender<Incoming>,
    observed: Arc<Observed>,
    stop: CancellationToken,
}

/// What the server and we agreed on.
#[derive(Debug, Default, Clone)]
struct Session {
    /// Its id, if the server gave one.
    id: Option<HeaderValue>,
    /// The version of the protocol.
    version: Option<HeaderValue>,
}

/// The way to a server; nothing is sent yet.
pub(super) fn connect(
    name: &str,
    endpoint: Arc<Endpoint>,
    answer_limit: usize,
    timeout: Duration,
) -> (HttpTransport, Link) {
    let (to_client, incoming) = mpsc::channel(WAITING);
    let (observed, stop, gone) = (Arc::new(Observed::default()), CancellationToken::new(), CancellationToken::new());
    let supervisor = {
        let (observed, gone) = (Arc::clone(&observed), gone.clone());
        tokio::spawn(async move {
            gone.cancelled().await;
            observed.ended(End::Output(lines::End::Unheard));
        })
    };
    let line = Line {
        name: name.to_owned(),
        endpoint,
        answer_limit,
        timeout,
        session: Mutex::default(),
        in_flight: Mutex::default(),
        to_client,
        observed: Arc::clone(&observed),
        stop: stop.clone(),
    };
    let transport = HttpTransport { line: Arc::new(line), incoming, _gone: gone.drop_guard() };
    (transport, Link::new(observed, stop, supervisor))
}

impl Transport<RoleClient> for HttpTransport {
    type Error = Unanswered;

    fn send(&mut self, message: Outgoing) -> impl Future<Output = Result<(), Unanswered>> + Send + 'static {
        let line = Arc::clone(&self.line);
        async move { line.send(message).await }
    }

    async fn receive(&mut self) -> Option<Incoming> {
        tokio::select! {
            biased;
            message = self.incoming.recv() => message,
            () = self.line.stop.cancelled() => None,
        }
    }

    async fn close(&mut self) -> Result<(), Unanswered> {
        self.line.stop.cancel();
        self.line.end_session().await;
        Ok(())
    }
}

impl Line {
    async fn send(self: Arc<Self>, message: Outgoing) -> Result<(), Unanswered> {
        match &message {
            JsonRpcMessage::Request(request) => {
                let flight = Flight::begin(Arc::clone(&self), request.id.clone());
                let exchange = tokio::time::timeout(self.timeout + OVERTIME, self.exchange(&request.id, &message));
                tokio::select! {
                    answered = exchange => answered.unwrap_or_else(|_| Err(Self::unheard("nothing came"))),
                    () = flight.abandoned.cancelled() => Err(Self::unheard("the call was given up")),
                    () = self.stop.cancelled() => Err(Self::unheard("the connection was closed")),
                }
            }
            JsonRpcMessage::Notification(notification) => {
                if let ClientNotification::CancelledNotification(cancelled) = &notification.notification
                    && let Some(id) = &cancelled.params.request_id
                {
                    self.abandon(id);
                }
                self.notify(&message).await?;
                if matches!(notification.notification, ClientNotification::InitializedNotification(_)) {
                    tokio::spawn(Arc::clone(&self).listen());
                }
                Ok(())
            }
            JsonRpcMessage::Response(_) | JsonRpcMessage::Error(_) => self.notify(&message).await,
        }
    }

    /// Sends what has no answer.
    async fn notify(&self, message: &Outgoing) -> Result<(), Unanswered> {
        let posted = tokio::time::timeout(NOTICE, self.post_notice(message));
        posted.await.unwrap_or_else(|_| Err(Self::unheard("a notification was not taken")))
    }

    fn unheard(why: &str) -> Unanswered {
        Unanswered::lost(FailureClass::Timeout, why)
    }

    fn session(&self) -> Session {
        self.session.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn agree(&self, agree: impl FnOnce(&mut Session)) {
        agree(&mut self.session.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn abandon(&self, id: &RequestId) {
        if let Some(abandoned) = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner).get(id) {
            abandoned.cancel();
        }
    }

    /// The server does not know the session any more, or us: the next connection begins anew.
    fn session_ended(&self) {
        self.agree(|session| session.id = None);
        self.observed.ended(End::Session);
    }

    async fn end_session(&self) {
        let session = self.session();
        if session.id.is_some()
            && let Ok(Err(error)) = tokio::time::timeout(GRACE, self.endpoint.delete(&session)).await
        {
            tracing::debug!(server = %self.name, %error, "the session of an MCP server was not ended");
        }
    }
}

/// A request that is under way.
struct Flight {
    line: Arc<Line>,
    id: RequestId,
    abandoned: CancellationToken,
}

impl Flight {
    fn begin(line: Arc<Line>, id: RequestId) -> Self {
        let abandoned = CancellationToken::new();
        line.in_flight.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), abandoned.clone());
        Self { line, id, abandoned }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.line.in_flight.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}
