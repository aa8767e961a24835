//! What a configuration means, defaults included.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use secrecy::SecretString;

use super::{Config, Model, ProviderKind, SecretOrText};
use crate::entropy::Entropy;
use crate::failure::{Failure, FailureClass};
use crate::secret::SecretError;
use crate::store::{self, BlobOptions, StoreOptions};

/// The store of an installation that names none, below the directory of `teamster.yaml`.
const STORE: &str = ".teamster/teamster.db";
/// Models that agents can name without configuration, as Claude Code's agent files do.
const SHORT_NAMES: [(&str, &str); 3] =
    [("opus", "claude-opus-5"), ("sonnet", "claude-sonnet-4-6"), ("haiku", "claude-haiku-4-5")];
const ANTHROPIC: &str = "anthropic";
const OPENAI: &str = "openai";
const REHEARSAL: &str = "rehearsal";

impl ProviderKind {
    /// The wire of a provider that is named like one.
    pub fn of_name(name: &str) -> Option<Self> {
        match name {
            ANTHROPIC => Some(Self::Anthropic),
            OPENAI => Some(Self::OpenAi),
            REHEARSAL => Some(Self::Rehearsal),
            _ => None,
        }
    }
}

impl Config {
    /// The names under `env:` that are set in the environment of this process, with their values.
    pub fn environment(&self) -> BTreeMap<String, String> {
        self.env.iter().filter_map(|name| Some((name.clone(), std::env::var(name).ok()?))).collect()
    }

    /// The URL of the store. A relative path of `sqlite:` is below `dir`, the directory of `teamster.yaml`.
    pub fn store_url(&self, dir: &Path) -> String {
        let path = match self.store.as_deref() {
            None => STORE,
            Some(url) => match url.strip_prefix("sqlite:") {
                Some(path) if !path.is_empty() && !path.starts_with([':', '/']) => path,
                _ => return url.to_owned(),
            },
        };
        format!("sqlite:{}", dir.join(path).display())
    }

    /// The URL of the broker, if there is one.
    ///
    /// # Errors
    /// When the URL stands elsewhere and cannot be had.
    pub fn broker_url(&self) -> Result<Option<SecretString>, SecretError> {
        match &self.broker {
            None => Ok(None),
            Some(SecretOrText::Text(url)) => Ok(Some(url.as_str().into())),
            Some(SecretOrText::Secret(reference)) => reference.resolve().map(Some),
        }
    }

    /// What a store is opened with. A relative folder for large values is below `dir`, the directory
    /// of `teamster.yaml`.
    pub fn store_options(&self, dir: &Path, entropy: Arc<dyn Entropy>) -> StoreOptions {
        StoreOptions {
            retention: self.retention.into(),
            limits: store::Limits {
                input_bytes: self.limits.input.bytes(),
                journal_bytes: self.limits.journal.0,
                values_bytes: self.limits.values.0,
                queue_depth: self.limits.queue_depth,
                barren_attempts: self.limits.barren_attempts,
                ..store::Limits::default()
            },
            blobs: BlobOptions {
                threshold: self.blobs.threshold.bytes(),
                place: self.blobs.place.clone().below(dir),
                endpoint: self.blobs.endpoint.clone(),
                cache: self.blobs.cache.bytes(),
            },
            ..StoreOptions::new(entropy)
        }
    }

    /// The wire that a provider speaks; `anthropic` and `rehearsal` are there without being configured.
    pub fn provider_kind(&self, name: &str) -> Option<ProviderKind> {
        match self.providers.get(name) {
            Some(provider) => provider.kind.or(ProviderKind::of_name(name)),
            None => ProviderKind::of_name(name),
        }
    }

    /// The name of the model that agents use that name none: `default_model`, else the only one
    /// that is configured, else `sonnet`.
    pub fn default_model(&self) -> &str {
        match &self.default_model {
            Some(name) => name,
            None if self.models.len() == 1 => self.models.keys().next().map_or("sonnet", String::as_str),
            None => "sonnet",
        }
    }

    /// Whether agents may name a model so.
    pub fn knows_model(&self, name: &str) -> bool {
        self.model(Some(name)).is_ok()
    }

    /// The model that an agent names, under the name that it has here. Without a name, or with
    /// `inherit`, the default.
    ///
    /// Beside what is configured there are `rehearsal`, the short names `opus`, `sonnet` and
    /// `haiku`, and the full names of Anthropic's models.
    ///
    /// # Errors
    /// `Configuration`, when there is no such model.
    pub fn model<'n>(&'n self, name: Option<&'n str>) -> Result<(&'n str, Model), Failure> {
        let name = match name {
            Some(name) if name != "inherit" => name,
            _ => self.default_model(),
        };
        if let Some(model) = self.models.get(name) {
            return Ok((name, model.clone()));
        }
        let of = |provider: &str, model: &str| Model {
            provider: provider.to_owned(),
            model: model.to_owned(),
            ..Model::default()
        };
        if name == REHEARSAL {
            return Ok((name, of(REHEARSAL, REHEARSAL)));
        }
        if let Some((_, model)) = SHORT_NAMES.iter().find(|(short, _)| *short == name) {
            return Ok((name, of(ANTHROPIC, model)));
        }
        if name.starts_with("claude-") {
            return Ok((name, of(ANTHROPIC, name)));
        }
        let message = format!(
            "there is no model {name:?}; add it under models: in teamster.yaml, or use one of {}",
            self.model_names().join(", ")
        );
        Err(Failure::new(FailureClass::Configuration, message))
    }

    /// The names that agents may use for models, but for the full names of Anthropic's.
    pub(crate) fn model_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.models.keys().map(String::as_str).collect();
        let known = SHORT_NAMES.iter().map(|(short, _)| *short).chain([REHEARSAL]);
        names.extend(known.filter(|name| !self.models.contains_key(*name)));
        names
    }
}
