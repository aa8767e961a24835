//! Tools of MCP servers that are started as programs and spoken to over stdio.
//!
//! A worker process starts each server at most once, when it is first needed,
//! and all tasks share it. A server is not trusted: its output is bounded, what
//! it says of its own effects is ignored, and when it dies, hangs or breaks the
//! protocol, its whole process group is killed and it is started anew at the
//! next use, after ever longer pauses if that does not help.
//!
//! | what happens | the call |
//! |---|---|
//! | a result, with or without `isError` | answered |
//! | a JSON-RPC error | `Failed`: `invalid_request` or `tool` |
//! | the server cannot be started or does not shake hands | `Failed`: it was not sent |
//! | an answer larger than allowed | `Failed`, `limit` |
//! | no answer in time, a dead server, garbage on stdout | `Lost`: it may have happened |

mod connection;
mod content;
mod lines;
mod server;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use common::config::McpServer;
use common::failure::{Failure, FailureClass};
use common::journal::Effect;
use sandbox::Sandbox;
use serde_json::{Map, Value};

use super::{Tool, ToolAnswer, ToolCall, ToolError, ToolSpec};
use server::Server;

/// The longest name that a model can call a tool by.
const NAME: usize = 128;
/// Bytes of a description that are handed to the model.
const DESCRIPTION: usize = 16 << 10;
/// The largest input schema, in bytes; a tool with a larger one is left out.
const SCHEMA: usize = 256 << 10;

/// All MCP servers of an installation, by name.
#[derive(Debug, Default)]
pub struct McpServers {
    servers: BTreeMap<String, Arc<Server>>,
}

impl McpServers {
    /// Starts nothing yet. Servers will run in `directory`; `answer_limit` is
    /// the most that one answer may have, in bytes of JSON.
    pub fn new(servers: BTreeMap<String, (McpServer, Sandbox)>, directory: &Path, answer_limit: usize) -> Self {
        let servers = servers
            .into_iter()
            .map(|(name, (config, sandbox))| {
                let server = Server::new(name.clone(), config, sandbox, directory.to_owned(), answer_limit);
                (name, Arc::new(server))
            })
            .collect();
        Self { servers }
    }

    /// The names of all servers.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.servers.keys().map(String::as_str)
    }

    /// The tools of one server, which is started if it does not run.
    ///
    /// # Errors
    /// `configuration` if there is no such server or it cannot be started, or
    /// what kept it from listing its tools.
    pub async fn tools(&self, name: &str) -> Result<Vec<Arc<dyn Tool>>, Failure> {
        let server = self.servers.get(name).ok_or_else(|| {
            let message = format!("there is no MCP server {name:?}; add it under `mcp_servers:` in teamster.yaml");
            Failure::new(FailureClass::Configuration, message)
        })?;
        let connection = server.connection().await?;
        let tools = connection.tools().iter().filter_map(|tool| McpTool::new(server, tool));
        Ok(tools.map(|tool| Arc::new(tool) as Arc<dyn Tool>).collect())
    }

    /// Stops every server: closes its stdin, waits briefly, kills its process group.
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
        let connection = self.server.connection().await.map_err(ToolError::Failed)?;
        let timeout = call.context.timeout.min(self.server.timeout());
        let result = connection
            .call(connection::Request {
                tool: self.remote.clone(),
                arguments,
                key: call.key,
                traceparent: call.context.traceparent,
                timeout,
            })
            .await?;
        self.server.worked();
        Ok(content::answer(result, call.context.output_limit))
    }
}
