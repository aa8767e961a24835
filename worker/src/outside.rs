//! The outside world of a worker: models, tools and HTTP, as the configuration
//! has them. Made once a process; workers of one process may share it.

use std::sync::Arc;

use common::config::{Config, SandboxMode};
use common::failure::Failure;
use common::metrics::Metrics;
use sandbox::{Abilities, Sandbox};

use crate::hooks::HookRunner;
use crate::http::HttpClient;
use crate::models::registry::Models;
use crate::tools::private::PrivateData;
use crate::tools::registry::{Tools, confined};

/// What a worker reaches beyond its store.
#[derive(Debug)]
pub struct Outside {
    /// Models and their providers.
    pub models: Models,
    /// Built-in and configured tools.
    pub tools: Tools,
    /// For `http` steps.
    pub http: HttpClient,
    /// For the programs of `run` steps.
    pub programs: Sandbox,
    /// Who is asked before and after what agents do.
    pub hooks: HookRunner,
    /// What is private, and which calls are made with it.
    pub private: Option<PrivateData>,
}

impl Outside {
    /// Requests to models are counted here.
    #[must_use]
    pub fn observed_by(mut self, metrics: &Arc<Metrics>) -> Self {
        self.models = self.models.observed_by(Arc::clone(metrics));
        self
    }

    /// What the configuration names. Connects to nothing and starts nothing. Says what of the
    /// sandbox this machine cannot do, and ends programs of workers here that were killed.
    ///
    /// # Errors
    /// `configuration`, with the key of `teamster.yaml` that is wrong, or that requires what cannot be had here.
    pub fn from_config(config: &Config) -> Result<Self, Failure> {
        let programs = confined("sandbox.run", config.sandbox.run())?;
        let http = HttpClient::new()?;
        let outside = Self {
            models: Models::from_config(config)?,
            tools: Tools::new(config)?,
            hooks: HookRunner::new(http.clone(), programs.clone()),
            http,
            programs,
            private: PrivateData::from_config(config)?,
        };
        let abilities = Abilities::here();
        abilities.clear_leftovers();
        if config.sandbox.bash().mode != SandboxMode::Off {
            for lack in abilities.shortcomings() {
                tracing::warn!(sandbox = lack.subject, advice = lack.advice, "not confined: {}", lack.said);
            }
        }
        Ok(outside)
    }
}
