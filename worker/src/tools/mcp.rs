//! Tools of MCP servers: programs that are started and spoken to over stdio,
//! or servers elsewhere, over streamable HTTP (`http`).
//!
//! A worker process connects to each server at most once, when it is first
//! needed, and all tasks share the connection. A server is not trusted: its
//! output is bounded, what it says of its own effects is ignored, and when it
//! dies, hangs or breaks the protocol, its whole process group is killed, or its
//! session left, and it is connected to anew at the next use, after ever longer
//! pauses if that does not help.
//!
//! | what happens | the call |
//! |---|---|
//! | a result, with or without `isError` | answered |
//! | a JSON-RPC error | `Failed`: `invalid_request` or `tool` |
//! | the server cannot be started or reached, or does not shake hands | `Failed`: it was not sent |
//! | an answer larger than allowed | `Failed`, `limit` |
//! | no answer in time, a dead server, garbage on stdout, a broken stream | `Lost`: it may have happened |
//! | a session that the server does not know | made once more in a new one: it did not happen |

mod connection;
mod content;
mod handshake;
mod http;
mod lines;
mod listener;
mod observed;
mod server;
mod stdio;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use common::clock::Clock;
use common::config::{McpServer, Sandbox};
use common::failure::{Failure, FailureClass};
use common::journal::Effect;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::{Tool, ToolAnswer, ToolCall, ToolError, ToolSpec};
use crate::http::HttpClient;
use connection::Unanswered;
use server::Server;

/// The longest name that a model can call a tool by.
const NAME: usize = 128;
/// Bytes of a description that are handed to the model.
const DESCRIPTION: usize = 16 << 10;
/// The largest input schema, in bytes; a tool with a larger one is left out.
const SCHEMA: usize = 256 << 10;

/// Where and how servers are reached.
#[derive(Debug, Clone)]
pub struct McpOptions {
    /// Where programs run.
    pub directory: PathBuf,
    /// How they are confined.
    pub sandbox: Sandbox,
    /// The most that one answer may have, in bytes of JSON.
    pub answer_limit: usize,
    /// For servers elsewhere.
    pub http: HttpClient,
    /// By which access tokens expire.
    pub clock: Arc<dyn Clock>,
}

/// All MCP servers of an installation, by name.
#[derive(Debug, Default)]
pub struct McpServers {
    servers: BTreeMap<String, Arc<Server>>,
}

impl McpServers {
    /// Starts nothing and connects to nothing yet.
    ///
    /// # Errors
    /// `configuration` if a program is to be confined as this machine cannot.
    pub fn new(servers: &BTreeMap<String, McpServer>, options: &McpOptions) -> Result<Self, Failure> {
        let server = |(name, config): (&String, &McpServer)| {
            Ok((name.clone(), Arc::new(Server::new(name.clone(), config.clone(), options.clone())?)))
        };
        Ok(Self { servers: servers.iter().map(server).collect::<Result<_, Failure>>()? })
    }

    /// The names of all servers.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.servers.keys().map(String::as_str)
    }

    /// The tools of one server that its configuration lets through. It is started
    /// or connected to if need be.
    ///
    /// # Errors
    /// `configuration` if there is no such server, it cannot be started or is not
    /// the one that is pinned, or what kept it from listing its tools.
    pub async fn tools(&self, name: &str) -> Result<Vec<Arc<dyn Tool>>, Failure> {
        let server = self.servers.get(name).ok_or_else(|| {
            let message = format!("there is no MCP server {name:?}; add it under `mcp_servers:` in teamster.yaml");
            Failure::new(FailureClass::Configuration, message)
        })?;
        let connection = server.connection().await?;
        let listed = match connection.tools().await {
            // To list them again may end in the news that the session is gone.
            Err(_) if connection.ended_at().is_some() => server.connection().await?.tools().await,
            listed => listed,
        }?;
        let offered = listed.iter().filter(|tool| server.offers(&tool.name));
        let tools = offered.filter_map(|tool| McpTool::new(server, tool));
        Ok(tools.map(|tool| Arc::new(tool) as Arc<dyn Tool>).collect())
    }

    /// Stops every server: closes its stdin, waits briefly, kills its process group; or ends its session.
    pub async fn shutdown(&self) {
        futures::future::join_all(self.servers.values().map(|server| server.stop())).await;
    }
}

/// One tool of a server.
#[derive(Debug)]
struct McpTool {
    server: Arc<Server>,
    /// The name as the server knows it.
    remote: String,
    spec: ToolSpec,
}

impl McpTool {
    /// `None`, with a warning, if a model cannot be offered the tool.
    fn new(server: &Arc<Server>, tool: &rmcp::model::Tool) -> Option<Self> {
        let name = format!("mcp__{}__{}", server.name(), tool.name);
        let schema = Value::Object((*tool.input_schema).clone());
        let callable = name.len() <= NAME && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if !callable || schema.to_string().len() > SCHEMA {
            let why = if callable { "its input schema is too large" } else { "models cannot call such a name" };
            tracing::warn!(server = server.name(), tool = %tool.name, why, "left out a tool of an MCP server");
            return None;
        }
        let description = super::cut(tool.description.as_deref().unwrap_or_default().to_owned(), DESCRIPTION);
        let spec = ToolSpec { name, description, input_schema: schema };
        Some(Self { server: Arc::clone(server), remote: tool.name.to_string(), spec })
    }
}

#[async_trait]
impl Tool for McpTool {
    fn reaches_out(&self) -> bool {
        true
    }

    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn effect(&self, _arguments: &Value) -> Effect {
        self.server.effect(&self.remote)
    }

    async fn call(&self, call: ToolCall) -> Result<ToolAnswer, ToolError> {
        let arguments = match call.arguments {
            Value::Object(arguments) => arguments,
            Value::Null => Map::new(),
            other => {
                let message = format!("the arguments of {} must be an object, not {other}", self.spec.name);
                return Err(ToolError::Failed(Failure::new(FailureClass::InvalidRequest, message)));
            }
        };
        let deadline = Instant::now() + call.context.timeout.min(self.server.timeout());
        let mut request = connection::Request {
            tool: self.remote.clone(),
            arguments,
            key: call.key,
            traceparent: call.context.traceparent,
            timeout: call.context.timeout.min(self.server.timeout()),
        };
        let connection = self.server.connection().await.map_err(ToolError::Failed)?;
        let result = match connection.call(request.clone()).await {
            // It was refused, so it did not happen, whatever its effect class.
            Err(Unanswered::NoSession(_)) => {
                drop(connection);
                let connection = self.server.connection().await.map_err(ToolError::Failed)?;
                request.timeout = deadline.saturating_duration_since(Instant::now());
                connection.call(request).await
            }
            answered => answered,
        };
        let result = result.map_err(Unanswered::into_tool_error)?;
        self.server.worked();
        Ok(content::answer(result, call.context.output_limit))
    }
}
