//! A server by its name: started when needed, shared, restarted with restraint.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use common::config::{McpServer, SecretOrText};
use common::failure::{Failure, FailureClass};
use common::journal::Effect;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use secrecy::ExposeSecret;
use tokio::time::Instant;

use super::connection::{Connection, Launch};
use crate::process::environment;

/// How long the start and a call may take if the configuration does not say.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The pause after the second end in a row without a call that worked; it doubles with each.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

type Opening = Shared<BoxFuture<'static, Result<Arc<Connection>, Failure>>>;

/// A configured server, running or not.
#[derive(Debug)]
pub(super) struct Server {
    name: String,
    config: McpServer,
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
    not_before: Option<Instant>,
    stopped: bool,
}

impl Server {
    pub(super) fn new(name: String, config: McpServer, directory: PathBuf, answer_limit: usize) -> Self {
        Self { name, config, directory, answer_limit, state: Mutex::default() }
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
        opening.await
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
        let of_use = |opening: &Opening| match opening.peek() {
            None => true,
            Some(Ok(connection)) => !connection.is_closed(),
            Some(Err(_)) => false,
        };
        if let Some(opening) = state.opening.as_ref().filter(|opening| of_use(opening)) {
            return Ok(opening.clone());
        }
        let now = Instant::now();
        if let Some(not_before) = state.not_before.filter(|not_before| *not_before > now) {
            let wait = not_before - now;
            let last = state.opening.as_ref().and_then(|opening| opening.peek()?.as_ref().err());
            let last = last.map_or_else(String::new, |failure| format!(" The last time: {failure}"));
            let message = format!(
                "MCP server {} ended {} times in a row; it is started again in {:.1} s.{last}",
                self.name,
                state.starts,
                wait.as_secs_f64()
            );
            return Err(Failure::new(FailureClass::Unavailable, message).with_retry_after(wait));
        }
        let launch = self.launch()?;
        state.starts = state.starts.saturating_add(1);
        state.not_before = pause(state.starts).map(|pause| now + pause);
        let directory = self.directory.clone();
        // A task of its own, so that the start does not end with the caller that happened to be the first.
        let start = tokio::spawn(async move { Connection::open(&launch, &directory).await.map(Arc::new) });
        let opening = start
            .map(|ended| {
                ended.unwrap_or_else(|error| {
                    Err(Failure::new(FailureClass::Internal, format!("starting an MCP server broke down: {error}")))
                })
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
            timeout: self.timeout(),
            answer_limit: self.answer_limit,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long after this start the next one may be; the first restart is free.
fn pause(starts: u32) -> Option<Duration> {
    let doublings = starts.checked_sub(2)?;
    Some(PAUSE.saturating_mul(2_u32.saturating_pow(doublings)).min(LONGEST_PAUSE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_free_and_pauses_double_up_to_a_minute() {
        let seconds: Vec<_> = [1, 2, 3, 4, 9, 40, u32::MAX].map(|n| pause(n).map(|pause| pause.as_secs_f64())).into();
        assert_eq!(seconds, [None, Some(0.5), Some(1.0), Some(2.0), Some(60.0), Some(60.0), Some(60.0)]);
    }
}
