//! A connection to a server, over whichever transport: the handshake, the list
//! of tools, calls, and what is made of their failures.
//!
//! What runs behind a connection (a process, a stream of events) ends with it:
//! dropping the connection ends it too.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use common::config::{McpIdentity, McpVersion};
use common::failure::{Failure, FailureClass};
use rmcp::RoleClient;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ClientRequest, ErrorCode, MetaObject, PingRequest,
    RequestMetaObject, Tool,
};
use rmcp::service::ServiceError;
use rmcp::transport::{DynamicTransportError, Transport};
use serde_json::{Map, Value};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::handshake::{Client, list_tools, shake_hands};
use super::http::{self, Endpoint};
use super::lines::{self, TOO_LARGE};
use super::observed::{End, Observed};
use super::stdio::{self, Program};
use crate::tools::ToolError;

/// How long a server may take to end when it was told to.
pub(super) const GRACE: Duration = Duration::from_secs(2);
/// How long a server may take to answer a ping after it let a call time out.
const PING: Duration = Duration::from_secs(5);

/// What is needed to connect to a server.
#[derive(Debug, Clone)]
pub(super) struct Launch {
    pub(super) name: String,
    pub(super) place: Place,
    /// The versions of the protocol that may be spoken, the newest first.
    pub(super) versions: Vec<McpVersion>,
    /// What the server must say that it is.
    pub(super) identity: Option<McpIdentity>,
    pub(super) timeout: Duration,
    pub(super) answer_limit: usize,
}

/// Where a server is.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// A program, and the directory that it runs in.
    Program(Program, PathBuf),
    /// A URL.
    Endpoint(Arc<Endpoint>),
}

/// A call of a tool.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) tool: String,
    pub(super) arguments: Map<String, Value>,
    pub(super) key: String,
    pub(super) traceparent: Option<String>,
    pub(super) timeout: Duration,
}

/// Why a message to a server was not answered.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Unanswered {
    /// The server refused it, for it does not know the session: it did not happen, and a new session may take it.
    #[error(transparent)]
    NoSession(Failure),
    /// Anything else.
    #[error(transparent)]
    Tool(#[from] ToolError),
}

impl Unanswered {
    /// That it did not happen.
    pub(super) fn failed(class: FailureClass, message: impl Into<String>) -> Self {
        Self::Tool(ToolError::Failed(Failure::new(class, message)))
    }

    /// That nobody knows whether it happened.
    pub(super) fn lost(class: FailureClass, message: impl Into<String>) -> Self {
        Self::Tool(ToolError::Lost(Failure::new(class, message)))
    }

    /// For whoever does not try another session.
    pub(super) fn into_tool_error(self) -> ToolError {
        match self {
            Self::NoSession(failure) => ToolError::Failed(failure),
            Self::Tool(error) => error,
        }
    }

    /// Says what it is about.
    fn about(self, what: &str) -> Self {
        let about = |failure: Failure| Failure { message: format!("{what}: {}", failure.message), ..failure };
        match self {
            Self::NoSession(failure) => Self::NoSession(about(failure)),
            Self::Tool(ToolError::Failed(failure)) => Self::Tool(ToolError::Failed(about(failure))),
            Self::Tool(ToolError::Lost(failure)) => Self::Tool(ToolError::Lost(about(failure))),
        }
    }

    /// What went wrong, whether or not it happened.
    pub(super) fn into_failure(self) -> Failure {
        match self.into_tool_error() {
            ToolError::Failed(failure) | ToolError::Lost(failure) => failure,
        }
    }
}

/// What runs behind a connection, whatever the transport.
#[derive(Debug)]
pub(super) struct Link {
    observed: Arc<Observed>,
    stop: CancellationToken,
    _stop_on_drop: DropGuard,
    supervisor: Mutex<Option<JoinHandle<()>>>,
}

impl Link {
    /// `supervisor` ends soon after `stop` is cancelled, when all is cleared away.
    pub(super) fn new(observed: Arc<Observed>, stop: CancellationToken, supervisor: JoinHandle<()>) -> Self {
        let supervisor = Mutex::new(Some(supervisor));
        Self { observed, _stop_on_drop: stop.clone().drop_guard(), stop, supervisor }
    }

    async fn end(&self) {
        self.stop.cancel();
        let supervisor = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(supervisor) = supervisor {
            let _ = tokio::time::timeout(GRACE + PING, supervisor).await;
        }
    }
}

/// A server that runs and has shaken hands.
#[derive(Debug)]
pub(super) struct Connection {
    name: String,
    client: Client,
    tools: Mutex<Arc<[Tool]>>,
    timeout: Duration,
    link: Link,
}

impl Connection {
    /// Starts the server or goes to where it is, shakes hands and lists its tools.
    pub(super) async fn open(launch: &Launch) -> Result<Self, Failure> {
        match &launch.place {
            Place::Program(program, directory) => {
                let (transport, link) = stdio::start(&launch.name, program, directory, launch.answer_limit).await?;
                Self::over(launch, transport, link).await
            }
            Place::Endpoint(endpoint) => {
                let (transport, link) =
                    http::connect(&launch.name, Arc::clone(endpoint), launch.answer_limit, launch.timeout);
                Self::over(launch, transport, link).await
            }
        }
    }

    async fn over(
        launch: &Launch,
        transport: impl Transport<RoleClient> + 'static,
        link: Link,
    ) -> Result<Self, Failure> {
        let failure = match tokio::time::timeout(launch.timeout, shake_hands(launch, transport)).await {
            Ok(Ok((client, tools))) => {
                let (name, tools) = (launch.name.clone(), Mutex::new(tools));
                return Ok(Self { name, client, tools, timeout: launch.timeout, link });
            }
            Ok(Err(failure)) => failure,
            Err(_) => {
                let message = format!("no answer within {} s", launch.timeout.as_secs_f64());
                Failure::new(FailureClass::Timeout, message)
            }
        };
        // The supervisor has seen the last of the server before it is spoken of.
        link.end().await;
        let hints = match &launch.place {
            Place::Program(..) => link.observed.get().hints(),
            Place::Endpoint(_) => String::new(),
        };
        let message = format!("MCP server {} cannot be used: {}{hints}", launch.name, failure.message);
        Err(Failure { message, ..failure })
    }

    /// The tools that the server listed last. Lists them again if it said that they have changed.
    pub(super) async fn tools(&self) -> Result<Arc<[Tool]>, Failure> {
        if self.client.service().take_changed() {
            let listed = tokio::time::timeout(self.timeout, list_tools(self.client.peer())).await;
            let listed = listed.unwrap_or_else(|_| {
                let message = format!("no answer within {} s", self.timeout.as_secs_f64());
                Err(Failure::new(FailureClass::Timeout, message))
            });
            match listed {
                Ok(tools) => *self.tools.lock().unwrap_or_else(PoisonError::into_inner) = tools,
                Err(failure) => {
                    self.client.service().put_changed();
                    let message = format!("MCP server {}: {}", self.name, failure.message);
                    return Err(Failure { message, ..failure });
                }
            }
        }
        Ok(Arc::clone(&self.tools.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// When it became of no more use, if it did.
    pub(super) fn ended_at(&self) -> Option<Instant> {
        let closed = self.client.is_closed() || self.client.peer().is_transport_closed();
        self.link.observed.get().ended.map(|(_, at)| at).or_else(|| closed.then(Instant::now))
    }

    /// Calls a tool.
    pub(super) async fn call(self: &Arc<Self>, request: Request) -> Result<CallToolResult, Unanswered> {
        let strays_before = self.link.observed.get().strays;
        let mut params = CallToolRequestParams::new(request.tool).with_arguments(request.arguments);
        params.meta = Some(meta(request.key, request.traceparent));
        let answer = tokio::time::timeout(request.timeout, self.client.peer().call_tool_once(params)).await;
        let error = match answer {
            Ok(Ok(CallToolResponse::Complete(result))) => return Ok(*Box::new(result)),
            Ok(Ok(_)) => {
                let message =
                    format!("MCP server {} answers with a question or a task, which is not supported", self.name);
                return Err(Unanswered::failed(FailureClass::Protocol, message));
            }
            Ok(Err(error)) => error,
            Err(_) => {
                tokio::spawn(close_if_hung(Arc::clone(self)));
                let seen = self.link.observed.get();
                let class = if seen.strays > strays_before { FailureClass::Protocol } else { FailureClass::Timeout };
                let message = format!(
                    "MCP server {} did not answer within {} s{}",
                    self.name,
                    request.timeout.as_secs_f64(),
                    seen.hints()
                );
                return Err(Unanswered::lost(class, message));
            }
        };
        Err(self.classify(error).await)
    }

    async fn classify(&self, error: ServiceError) -> Unanswered {
        match error {
            ServiceError::McpError(error) => {
                let class = match error.code {
                    ErrorCode(TOO_LARGE) => FailureClass::Limit,
                    ErrorCode::INVALID_PARAMS | ErrorCode::INVALID_REQUEST | ErrorCode::METHOD_NOT_FOUND => {
                        FailureClass::InvalidRequest
                    }
                    _ => FailureClass::Tool,
                };
                let mut failure = Failure::new(class, format!("MCP server {}: {}", self.name, error.message));
                if let Some(data) = error.data.filter(|data| data.to_string().len() <= 64 << 10) {
                    failure = failure.with_detail(data);
                }
                Unanswered::Tool(ToolError::Failed(failure))
            }
            ServiceError::UnexpectedResponse => {
                let message = format!("MCP server {} answered with something that is no tool result", self.name);
                Unanswered::failed(FailureClass::Protocol, message)
            }
            ServiceError::TransportSend(error) => match transport_error(error) {
                Ok(unanswered) => unanswered.about(&format!("MCP server {}", self.name)),
                Err(error) => self.broken(&error.to_string()).await,
            },
            error => self.broken(&error.to_string()).await,
        }
    }

    async fn broken(&self, error: &str) -> Unanswered {
        // The pipe is closed before the supervisor has seen the end: its words are worth the wait.
        let ended = async {
            while self.link.observed.get().ended.is_none() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), ended).await;
        let seen = self.link.observed.get();
        let class = match seen.ended.as_ref().map(|(end, _)| end) {
            Some(End::Output(lines::End::Garbage)) => FailureClass::Protocol,
            Some(End::Output(lines::End::TooLarge(_))) => FailureClass::Limit,
            _ => FailureClass::Connection,
        };
        let message = format!("the connection to MCP server {} broke ({error}){}", self.name, seen.hints());
        Unanswered::lost(class, message)
    }

    /// Tells the server that this is the end, waits briefly, and clears away what is left.
    pub(super) async fn close(&self) {
        self.client.cancellation_token().cancel();
        self.link.end().await;
    }
}

/// A server that let a call time out may still be at work on it; one that does
/// not answer a ping is not.
async fn close_if_hung(connection: Arc<Connection>) {
    let ping = ClientRequest::PingRequest(PingRequest::default());
    let answer = tokio::time::timeout(PING, connection.client.peer().send_request(ping)).await;
    if answer.is_err() {
        tracing::warn!(server = %connection.name, "an MCP server hangs; its connection is closed");
        connection.close().await;
    }
}

fn meta(key: String, traceparent: Option<String>) -> RequestMetaObject {
    let mut meta = Map::new();
    meta.insert("teamster/idempotency_key".to_owned(), Value::String(key));
    if let Some(traceparent) = traceparent {
        meta.insert("traceparent".to_owned(), Value::String(traceparent));
    }
    RequestMetaObject(MetaObject(meta))
}

/// Our own transport says precisely what went wrong; that of the library does not.
pub(super) fn transport_error(error: DynamicTransportError) -> Result<Unanswered, DynamicTransportError> {
    let DynamicTransportError { transport_name, transport_type_id, error, .. } = error;
    match error.downcast::<Unanswered>() {
        Ok(unanswered) => Ok(*unanswered),
        Err(error) => Err(DynamicTransportError::from_parts(transport_name, transport_type_id, error)),
    }
}
