//! A server by its name: connected to when needed, shared, and again with restraint.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use common::config::{McpEndpoint, McpProgram, McpServer, McpTransport, SecretOrText};
use common::failure::{Failure, FailureClass};
use common::journal::Effect;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use sandbox::Sandbox;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

use super::McpOptions;
use super::connection::{Connection, Launch, Place};
use super::http::{Endpoint, Tokens};
use super::stdio::Program;
use crate::process::environment;
use crate::tools::registry::confined;

/// How long the start and a call may take if the configuration does not say.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The pause after the second end in a row without a call that worked; it doubles with each.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

type Opening = Shared<BoxFuture<'static, Result<Arc<Connection>, NotOpened>>>;

/// A start that came to nothing.
#[derive(Debug, Clone)]
struct NotOpened {
    failure: Failure,
    at: Instant,
}

/// A configured server, running or not.
#[derive(Debug)]
pub(super) struct Server {
    name: String,
    config: McpServer,
    options: McpOptions,
    way: Way,
    state: Mutex<State>,
}

/// How it is reached, with what outlives connections.
#[derive(Debug)]
enum Way {
    /// A program, and how it is confined.
    Program(McpProgram, Sandbox),
    /// A URL, and the access tokens of a server that wants some.
    Endpoint(McpEndpoint, Option<Arc<Tokens>>),
}

#[derive(Debug, Default)]
struct State {
    /// The connection, or the start that is under way; all callers wait for the same one.
    opening: Option<Opening>,
    /// Starts since a call last worked.
    starts: u32,
    stopped: bool,
}

impl Server {
    /// # Errors
    /// `configuration` if its program is to be confined as this machine cannot.
    pub(super) fn new(name: String, config: McpServer, options: McpOptions) -> Result<Self, Failure> {
        let way = match config.transport.clone() {
            McpTransport::Stdio(program) => {
                let policy = options.sandbox.server(&program);
                Way::Program(program, confined(&format!("mcp_servers.{name}"), policy)?)
            }
            McpTransport::Http(endpoint) => {
                let tokens = endpoint.auth.clone().map(|auth| {
                    let (http, clock) = (options.http.clone(), Arc::clone(&options.clock));
                    Arc::new(Tokens::new(&name, &endpoint.url, auth.client_credentials, http, clock))
                });
                Way::Endpoint(endpoint, tokens)
            }
        };
        Ok(Self { name, config, options, way, state: Mutex::default() })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn timeout(&self) -> Duration {
        self.config.timeout.map_or(TIMEOUT, common::span::Span::get)
    }

    /// What repeating a tool may do, by the configuration alone.
    pub(super) fn effect(&self, tool: &str) -> Effect {
        let effects = &self.config.effects;
        effects.get(tool).or_else(|| effects.get("*")).copied().unwrap_or(Effect::Once)
    }

    /// Whether a tool of the server is one of those that there are here.
    pub(super) fn offers(&self, tool: &str) -> bool {
        self.config.offers(tool)
    }

    /// The connection; starts the server, or connects to it, if there is none.
    pub(super) async fn connection(&self) -> Result<Arc<Connection>, Failure> {
        let opening = self.opening()?;
        opening.await.map_err(|not_opened| not_opened.failure)
    }

    /// A call worked: the next end is the first in a row again.
    pub(super) fn worked(&self) {
        self.lock().starts = 0;
    }

    /// Stops it for good.
    pub(super) async fn stop(&self) {
        let opening = {
            let mut state = self.lock();
            state.stopped = true;
            state.opening.take()
        };
        if let Some(opening) = opening
            && let Ok(connection) = opening.await
        {
            connection.close().await;
        }
    }

    fn opening(&self) -> Result<Opening, Failure> {
        let mut state = self.lock();
        if state.stopped {
            return Err(Failure::new(FailureClass::Unavailable, "the worker is shutting down"));
        }
        if let Some(opening) = &state.opening {
            let (ended, class, last) = match opening.peek() {
                None => return Ok(opening.clone()),
                Some(Ok(connection)) => match connection.ended_at() {
                    None => return Ok(opening.clone()),
                    Some(at) => (at, FailureClass::Unavailable, String::new()),
                },
                Some(Err(NotOpened { failure, at })) => {
                    let class = if failure.class.is_transient() { FailureClass::Unavailable } else { failure.class };
                    (*at, class, format!(" The last time: {failure}"))
                }
            };
            let wait = pause(state.starts).saturating_sub(ended.elapsed());
            if !wait.is_zero() {
                let message = format!(
                    "MCP server {} ended {} times in a row; it is tried again in {:.1} s.{last}",
                    self.name,
                    state.starts,
                    wait.as_secs_f64()
                );
                return Err(Failure::new(class, message).with_retry_after(wait));
            }
        }
        let launch = self.launch()?;
        state.starts = state.starts.saturating_add(1);
        // A task of its own, so that the start does not end with the caller that happened to be the first.
        let start = tokio::spawn(async move { Connection::open(&launch).await.map(Arc::new) });
        let opening = start
            .map(|ended| {
                let opened = ended.unwrap_or_else(|error| {
                    Err(Failure::new(FailureClass::Internal, format!("starting an MCP server broke down: {error}")))
                });
                opened.map_err(|failure| NotOpened { failure, at: Instant::now() })
            })
            .boxed()
            .shared();
        state.opening = Some(opening.clone());
        Ok(opening)
    }

    fn launch(&self) -> Result<Launch, Failure> {
        let place = match &self.way {
            Way::Program(program, sandbox) => {
                let configured = self.resolved("env", &program.env)?;
                let exposed = |(name, value): (String, SecretString)| (name, value.expose_secret().to_owned());
                let configured: Vec<(String, String)> = configured.into_iter().map(exposed).collect();
                // The operator chose the program, and package runners keep their cache at home.
                let home = std::env::var_os("HOME").map_or_else(|| self.options.directory.clone(), PathBuf::from);
                let env = environment(&home, configured);
                let program = Program { command: program.command.clone(), env, sandbox: sandbox.clone() };
                Place::Program(program, self.options.directory.clone())
            }
            Way::Endpoint(endpoint, tokens) => {
                let headers = self.resolved("headers", &endpoint.headers)?;
                let endpoint = Endpoint::new(&self.options.http, &endpoint.url, headers, tokens.clone());
                Place::Endpoint(Arc::new(endpoint.map_err(|failure| Failure {
                    message: format!("MCP server {}: {}", self.name, failure.message),
                    ..failure
                })?))
            }
        };
        Ok(Launch {
            name: self.name.clone(),
            place,
            versions: self.config.versions(),
            identity: self.config.server.clone(),
            timeout: self.timeout(),
            answer_limit: self.options.answer_limit,
        })
    }

    /// The values of a section, secrets looked up.
    fn resolved(
        &self,
        section: &str,
        values: &BTreeMap<String, SecretOrText>,
    ) -> Result<Vec<(String, SecretString)>, Failure> {
        let resolve = |(name, value): (&String, &SecretOrText)| {
            let value = match value {
                SecretOrText::Text(text) => text.as_str().into(),
                SecretOrText::Secret(secret) => secret.resolve().map_err(|error| {
                    let message = format!("MCP server {}, {section} {name}: {error}", self.name);
                    Failure::new(FailureClass::Configuration, message)
                })?,
            };
            Ok((name.clone(), value))
        };
        values.iter().map(resolve).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long after its end a server that was started so often in a row is
/// started again; the first restart is free.
fn pause(starts: u32) -> Duration {
    starts
        .checked_sub(2)
        .map_or(Duration::ZERO, |doublings| PAUSE.saturating_mul(2_u32.saturating_pow(doublings)).min(LONGEST_PAUSE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_free_and_pauses_double_up_to_a_minute() {
        let seconds = [0, 1, 2, 3, 4, 8, 40, u32::MAX].map(|starts| pause(starts).as_secs());
        assert_eq!(seconds, [0, 0, 1, 2, 4, 60, 60, 60]);
    }
}
