//! A server by its name: started when needed, shared, restarted with restraint.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use common::config::{McpServer, SecretOrText};
use common::failure::{Failure, FailureClass};
use common::journal::Effect;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use sandbox::Sandbox;
use secrecy::ExposeSecret;
use tokio::time::Instant;

use super::connection::{Connection, Launch};
use crate::process::environment;

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
    sandbox: Sandbox,
    directory: PathBuf,
    answer_limit: usize,
    state: Mutex<State>,
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
    pub(super) fn new(
        name: String,
        config: McpServer,
        sandbox: Sandbox,
        directory: PathBuf,
        answer_limit: usize,
    ) -> Self {
        Self { name, config, sandbox, directory, answer_limit, state: Mutex::default() }
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

    /// The connection; starts the server if it does not run.
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
            let (ended, last) = match opening.peek() {
                None => return Ok(opening.clone()),
                Some(Ok(connection)) => match connection.ended_at() {
                    None => return Ok(opening.clone()),
                    Some(at) => (at, String::new()),
                },
                Some(Err(not_opened)) => (not_opened.at, format!(" The last time: {}", not_opened.failure)),
            };
            let wait = pause(state.starts).saturating_sub(ended.elapsed());
            if !wait.is_zero() {
                let message = format!(
                    "MCP server {} ended {} times in a row; it is started again in {:.1} s.{last}",
                    self.name,
                    state.starts,
                    wait.as_secs_f64()
                );
                return Err(Failure::new(FailureClass::Unavailable, message).with_retry_after(wait));
            }
        }
        let launch = self.launch()?;
        state.starts = state.starts.saturating_add(1);
        let directory = self.directory.clone();
        // A task of its own, so that the start does not end with the caller that happened to be the first.
        let start = tokio::spawn(async move { Connection::open(&launch, &directory).await.map(Arc::new) });
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
        let mut configured = Vec::new();
        for (name, value) in &self.config.env {
            let value = match value {
                SecretOrText::Text(text) => text.clone(),
                SecretOrText::Secret(secret) => {
                    let secret = secret.resolve().map_err(|error| {
                        let message = format!("MCP server {}, env {name}: {error}", self.name);
                        Failure::new(FailureClass::Configuration, message)
                    })?;
                    secret.expose_secret().to_owned()
                }
            };
            configured.push((name.clone(), value));
        }
        // The operator chose the program, and package runners keep their cache at home.
        let home = std::env::var_os("HOME").map_or_else(|| self.directory.clone(), PathBuf::from);
        Ok(Launch {
            name: self.name.clone(),
            command: self.config.command.clone(),
            env: environment(&home, configured),
            sandbox: self.sandbox.clone(),
            timeout: self.timeout(),
            answer_limit: self.answer_limit,
        })
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
