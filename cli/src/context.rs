//! What a command works with: the global options, the output, and the way to
//! the tasks (a scheduler's API, or a store that it opens itself).

use std::sync::Arc;

use common::clock::{Clock, SystemClock};
use common::entropy::{Entropy, SystemEntropy};
use secrecy::SecretString;

use crate::args::Globals;
use crate::client::{Client, DEFAULT_API};
use crate::error::{CommandError, Exit};
use crate::local;
use crate::output::Output;

/// What a command works with.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) globals: Globals,
    pub(crate) output: Output,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    token: Option<SecretString>,
}

impl Context {
    pub(crate) fn new(globals: Globals) -> Result<Self, CommandError> {
        let output = Output::new(globals.json);
        let entropy = SystemEntropy::new()
            .map_err(|error| CommandError::new(Exit::Failed, format!("no randomness from the system: {error}")))?;
        let token = std::env::var("TEAMSTER_TOKEN").ok().filter(|text| !text.is_empty()).map(SecretString::from);
        Ok(Self { globals, output, clock: Arc::new(SystemClock), entropy: Arc::new(entropy), token })
    }

    /// The API of a scheduler that runs elsewhere.
    pub(crate) fn api_client(&self) -> Result<Client, CommandError> {
        Client::new(self.globals.api.as_deref().unwrap_or(DEFAULT_API), self.token.clone())
    }

    /// The way to the tasks: the API that is named or the default one; or, if
    /// only a store is named, that store, through an API of our own.
    pub(crate) async fn client(&self) -> Result<Client, CommandError> {
        match (&self.globals.api, &self.globals.store) {
            (None, Some(url)) => local::client(self, url).await,
            _ => self.api_client(),
        }
    }
}

/// Who decides, for the journal: `--by`, or the user of this machine.
pub(crate) fn by(given: Option<String>) -> Option<String> {
    given.or_else(|| ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok())).filter(|by| !by.is_empty())
}
