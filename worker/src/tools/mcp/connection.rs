//! One running server and the connection to it.
//!
//! A supervising task owns the process: it pumps its output, drains its stderr
//! and, when the connection ends on either side, makes sure that the process
//! group is dead and its leader reaped. Dropping the connection ends that task.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use common::failure::{Failure, FailureClass};
use rmcp::RoleClient;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ClientCapabilities, ClientConfig, ClientRequest,
    ErrorCode, Implementation, MetaObject, PaginatedRequestParams, PingRequest, RequestMetaObject, Tool,
};
use rmcp::service::{RunningService, ServiceError, ServiceExt};
use rmcp::transport::async_rw::AsyncRwTransport;
use sandbox::Sandbox;
use serde_json::{Map, Value};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::lines::{self, End, TOO_LARGE};
use crate::process::{self, Running};
use crate::tools::ToolError;

/// How long a server may take to end after its stdin was closed.
const GRACE: Duration = Duration::from_secs(2);
/// How long a server may take to answer a ping after it let a call time out.
const PING: Duration = Duration::from_secs(5);
/// Bytes of the last lines on stderr that are kept for messages.
const LAST_WORDS: usize = 2000;
/// Pages of tools that are asked for.
const PAGES: usize = 50;
/// Tools that a server may have.
const TOOLS: usize = 1000;
/// Bytes between the pump and the protocol.
const PIPE: usize = 64 << 10;

/// What is needed to start a server.
#[derive(Debug, Clone)]
pub(super) struct Launch {
    pub(super) name: String,
    pub(super) command: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) sandbox: Sandbox,
    pub(super) timeout: Duration,
    pub(super) answer_limit: usize,
}

/// A call of a tool.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) tool: String,
    pub(super) arguments: Map<String, Value>,
    pub(super) key: String,
    pub(super) traceparent: Option<String>,
    pub(super) timeout: Duration,
}

/// A server that runs and has shaken hands.
#[derive(Debug)]
pub(super) struct Connection {
    name: String,
    client: RunningService<RoleClient, ClientConfig>,
    tools: Vec<Tool>,
    observed: Arc<Observed>,
    stop: CancellationToken,
    _stop_on_drop: DropGuard,
    supervisor: Mutex<Option<JoinHandle<()>>>,
}

/// What was seen of a server, for messages.
#[derive(Debug, Default)]
struct Observed(Mutex<Observations>);

#[derive(Debug, Default, Clone)]
struct Observations {
    /// Lines on stdout that were no JSON, and the last of them.
    strays: u64,
    last_stray: String,
    /// The end of stderr.
    last_words: String,
    ended: Option<(End, Instant)>,
}

impl Observed {
    fn get(&self) -> Observations {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, note: impl FnOnce(&mut Observations)) {
        note(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Observations {
    /// What speaks for the failure beside its own words.
    fn hints(&self) -> String {
        let mut hints = String::new();
        if let Some((end, _)) = &self.ended {
            let _ = write!(hints, ": {end}");
        }
        if self.strays > 0 {
            let _ = write!(hints, "; its stdout has lines that are no JSON-RPC, such as {:?}", self.last_stray);
        }
        if !self.last_words.is_empty() {
            let _ = write!(hints, "; its stderr ends with {:?}", self.last_words.trim_end());
        }
        hints
    }
}

impl Connection {
    /// Starts the server, shakes hands and lists its tools.
    pub(super) async fn open(launch: &Launch, directory: &Path) -> Result<Self, Failure> {
        let Launch { command, env, sandbox, .. } = launch.clone();
        let started = process::start(command, directory.to_owned(), env, true, sandbox).await;
        let mut running = started.map_err(|failure| Failure {
            message: format!("MCP server {}: {}", launch.name, failure.message),
            ..failure
        })?;
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (running.stdin.take(), running.stdout.take(), running.stderr.take())
        else {
            return Err(Failure::new(FailureClass::Internal, "a program was started without its pipes"));
        };
        let observed = Arc::new(Observed::default());
        let (to_client, from_server) = tokio::io::duplex(PIPE);
        let token = CancellationToken::new();
        let stop_on_drop = token.clone().drop_guard();
        let pump = {
            let (observed, limit) = (Arc::clone(&observed), launch.answer_limit);
            async move {
                let stray = |line: &[u8]| {
                    let shown: String = String::from_utf8_lossy(line).trim_end().chars().take(120).collect();
                    observed.note(|seen| {
                        seen.strays += 1;
                        seen.last_stray = shown;
                    });
                };
                lines::pump(stdout, to_client, limit, stray).await
            }
        };
        let drain = drain(stderr, launch.name.clone(), Arc::clone(&observed));
        let supervisor = tokio::spawn(supervise(running, pump, drain, token.clone(), Arc::clone(&observed)));

        let identity = ClientConfig::new(
            ClientCapabilities::default(),
            Implementation::new("teamster", env!("CARGO_PKG_VERSION")),
        );
        // The pump bounds lines already; this bound is only a second net.
        let transport =
            AsyncRwTransport::new_client(from_server, stdin).with_max_line_length(launch.answer_limit + PIPE);
        let handshake = async {
            let client = identity.serve(transport).await.map_err(|error| error.to_string())?;
            let tools = list_tools(&client).await?;
            Ok::<_, String>((client, tools))
        };
        let (class, why) = match tokio::time::timeout(launch.timeout, handshake).await {
            Ok(Ok((client, tools))) => {
                return Ok(Self {
                    name: launch.name.clone(),
                    client,
                    tools,
                    observed,
                    stop: token,
                    _stop_on_drop: stop_on_drop,
                    supervisor: Mutex::new(Some(supervisor)),
                });
            }
            Ok(Err(why)) => (FailureClass::Protocol, why),
            Err(_) => (FailureClass::Timeout, format!("no answer within {} s", launch.timeout.as_secs_f64())),
        };
        // The supervisor has seen the last of the server before it is spoken of.
        drop(stop_on_drop);
        let _ = tokio::time::timeout(GRACE + PING, supervisor).await;
        let message = format!("MCP server {} did not start: {why}{}", launch.name, observed.get().hints());
        Err(Failure::new(class, message))
    }

    /// The tools that the server listed when it started.
    pub(super) fn tools(&self) -> &[Tool] {
        &self.tools
    }

    /// When it became of no more use, if it did.
    pub(super) fn ended_at(&self) -> Option<Instant> {
        let closed = self.client.is_closed() || self.client.peer().is_transport_closed();
        self.observed.get().ended.map(|(_, at)| at).or_else(|| closed.then(Instant::now))
    }

    /// Calls a tool.
    pub(super) async fn call(self: &Arc<Self>, request: Request) -> Result<CallToolResult, ToolError> {
        let strays_before = self.observed.get().strays;
        let mut params = CallToolRequestParams::new(request.tool).with_arguments(request.arguments);
        params.meta = Some(meta(request.key, request.traceparent));
        let answer = tokio::time::timeout(request.timeout, self.client.peer().call_tool_once(params)).await;
        let error = match answer {
            Ok(Ok(CallToolResponse::Complete(result))) => return Ok(*Box::new(result)),
            Ok(Ok(_)) => {
                let message =
                    format!("MCP server {} answers with a question or a task, which is not supported", self.name);
                return Err(ToolError::Failed(Failure::new(FailureClass::Protocol, message)));
            }
            Ok(Err(error)) => error,
            Err(_) => {
                tokio::spawn(close_if_hung(Arc::clone(self)));
                let seen = self.observed.get();
                let class = if seen.strays > strays_before { FailureClass::Protocol } else { FailureClass::Timeout };
                let message = format!(
                    "MCP server {} did not answer within {} s{}",
                    self.name,
                    request.timeout.as_secs_f64(),
                    seen.hints()
                );
                return Err(ToolError::Lost(Failure::new(class, message)));
            }
        };
        Err(self.classify(error).await)
    }

    async fn classify(&self, error: ServiceError) -> ToolError {
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
                ToolError::Failed(failure)
            }
            ServiceError::UnexpectedResponse => {
                let message = format!("MCP server {} answered with something that is no tool result", self.name);
                ToolError::Failed(Failure::new(FailureClass::Protocol, message))
            }
            error => {
                // The pipe is closed before the supervisor has seen the end: its words are worth the wait.
                let ended = async {
                    while self.observed.get().ended.is_none() {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                };
                let _ = tokio::time::timeout(Duration::from_secs(1), ended).await;
                let seen = self.observed.get();
                let class = match seen.ended.as_ref().map(|(end, _)| end) {
                    Some(End::Garbage) => FailureClass::Protocol,
                    Some(End::TooLarge(_)) => FailureClass::Limit,
                    _ => FailureClass::Connection,
                };
                let message = format!("the connection to MCP server {} broke ({error}){}", self.name, seen.hints());
                ToolError::Lost(Failure::new(class, message))
            }
        }
    }

    /// Closes the server's stdin, waits briefly, kills what is left.
    pub(super) async fn close(&self) {
        self.client.cancellation_token().cancel();
        self.stop.cancel();
        let supervisor = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(supervisor) = supervisor {
            let _ = tokio::time::timeout(GRACE + PING, supervisor).await;
        }
    }
}

/// A server that let a call time out may still be at work on it; one that does
/// not answer a ping is not.
async fn close_if_hung(connection: Arc<Connection>) {
    let ping = ClientRequest::PingRequest(PingRequest::default());
    let answer = tokio::time::timeout(PING, connection.client.peer().send_request(ping)).await;
    if answer.is_err() {
        tracing::warn!(server = %connection.name, "an MCP server hangs; it is stopped");
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

async fn list_tools(client: &RunningService<RoleClient, ClientConfig>) -> Result<Vec<Tool>, String> {
    let mut tools = Vec::new();
    let mut cursor = None;
    for _ in 0..PAGES {
        let page = PaginatedRequestParams::default().with_cursor(cursor.take());
        let page = client.peer().list_tools(Some(page)).await.map_err(|error| format!("tools/list: {error}"))?;
        tools.extend(page.tools);
        cursor = page.next_cursor;
        if cursor.is_none() || tools.len() > TOOLS {
            break;
        }
    }
    if cursor.is_some() || tools.len() > TOOLS {
        return Err(format!("it lists more than {TOOLS} tools, or has more than {PAGES} pages of them"));
    }
    Ok(tools)
}

/// Owns the process until it is dead.
async fn supervise(
    mut running: Running,
    pump: impl Future<Output = End>,
    drain: impl Future<Output = ()>,
    stop: CancellationToken,
    observed: Arc<Observed>,
) {
    tokio::pin!(drain);
    let mut drained = false;
    let end = {
        tokio::pin!(pump);
        loop {
            tokio::select! {
                end = &mut pump => break end,
                () = stop.cancelled() => break End::Unheard,
                () = &mut drain, if !drained => drained = true,
                // What was written before the end is still in the pipe.
                _ = running.wait() => break tokio::time::timeout(GRACE, pump).await.unwrap_or(End::Closed),
            }
        }
    };
    observed.note(|seen| seen.ended = Some((end, Instant::now())));
    // Stdin is closed by the protocol when its side ends, so a server that minds its manners is on its way out.
    let _ = tokio::time::timeout(GRACE, async {
        if !drained {
            drain.await;
        }
        running.wait().await
    })
    .await;
    let _ = running.kill().await;
}

async fn drain(stderr: impl AsyncRead + Unpin, server: String, observed: Arc<Observed>) {
    use tokio::io::AsyncReadExt;
    let mut stderr = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        // A line without end is taken in pieces.
        match (&mut stderr).take(8 << 10).read_until(b'\n', &mut line).await {
            Ok(1..) => {
                let text = String::from_utf8_lossy(&line);
                tracing::debug!(%server, line = text.trim_end(), "stderr of an MCP server");
                observed.note(|seen| {
                    seen.last_words.push_str(&text);
                    if let Some(excess) = seen.last_words.len().checked_sub(LAST_WORDS) {
                        let ends = excess..=seen.last_words.len();
                        let cut = ends.into_iter().find(|at| seen.last_words.is_char_boundary(*at)).unwrap_or(0);
                        seen.last_words.drain(..cut);
                    }
                });
            }
            _ => return,
        }
    }
}
