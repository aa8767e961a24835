//! The outside world of a worker: models, tools and HTTP, as the configuration
//! has them. Made once a process; workers of one process may share it.

use common::config::Config;
use common::failure::Failure;

use crate::http::HttpClient;
use crate::models::registry::Models;
use crate::tools::registry::Tools;

/// What a worker reaches beyond its store.
#[derive(Debug)]
pub struct Outside {
    /// Models and their providers.
    pub models: Models,
    /// Built-in and configured tools.
    pub tools: Tools,
    /// For `http` steps.
    pub http: HttpClient,
}

impl Outside {
    /// What the configuration names. Connects to nothing and starts nothing.
    ///
    /// # Errors
    /// `configuration`, with the key of `teamster.yaml` that is wrong.
    pub fn from_config(config: &Config) -> Result<Self, Failure> {
        Ok(Self { models: Models::from_config(config)?, tools: Tools::new(config)?, http: HttpClient::new()? })
    }
}
