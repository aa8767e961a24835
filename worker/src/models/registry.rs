//! The models and providers of an installation, by name.
//!
//! Providers are built when they are first used, so that a key that is missing
//! fails the steps that need it and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use common::clock::{Clock, SystemClock, Timestamp};
use common::config::{self, Config, Price, ProviderKind};
use common::failure::{Failure, FailureClass};
use common::journal::{Fallback, ModelChoice, ModelSettings, RequestHead, Structured, Usage};
use common::metrics::Metrics;
use common::secret::SecretRef;
use serde_json::{Map, Value};

use super::Provider;
use super::anthropic::{self, Anthropic};
use super::observed::Observed;
use super::openai::{self, OpenAi};
use super::price::{Prices, Tokens};
use super::rehearsal::Rehearsal;
use super::window::Windows;
use super::wire;

const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
const TIMEOUT: Duration = Duration::from_secs(600);

/// What the rehearsal costs.
const FREE: Price = Price { input: 0.0, output: 0.0, cache_read: None, cache_write: None };

/// A model as an agent step uses it.
#[derive(Debug, Clone, PartialEq)]
pub struct ResolvedModel {
    /// The name that it was asked for by.
    pub alias: String,
    /// The provider's name.
    pub provider: String,
    /// The model's name there.
    pub model: String,
    /// Options for the provider; an agent's own win.
    pub options: Map<String, Value>,
    /// What it costs; `None`: nobody said, and it counts as free.
    pub price: Option<Price>,
    /// What else is known of it.
    pub settings: ModelSettings,
    /// The models that stand in for it.
    pub fallback: Option<config::Fallback>,
}

impl From<ResolvedModel> for ModelChoice {
    fn from(model: ResolvedModel) -> Self {
        let ResolvedModel { alias, provider, model, options, settings, .. } = model;
        Self { alias, provider, model, options, settings }
    }
}

/// The models and providers of an installation.
#[derive(Debug)]
pub struct Models {
    config: Config,
    prices: Arc<Prices>,
    windows: Windows,
    clock: Arc<dyn Clock>,
    built: Mutex<BTreeMap<String, Arc<dyn Provider>>>,
    metrics: Option<Arc<Metrics>>,
}

impl Models {
    /// From `teamster.yaml`. Reads no secret and connects to nothing.
    ///
    /// # Errors
    /// `Configuration`, when a model names a provider that does not exist, or a
    /// provider a wire that nobody speaks.
    pub fn from_config(config: &Config) -> Result<Self, Failure> {
        let prices = Prices::shipped()?
            .with_overrides(config.models.iter().filter_map(|(alias, model)| Some((alias.clone(), model.price?))));
        let models = Self {
            config: config.clone(),
            prices: Arc::new(prices),
            windows: Windows::shipped()?,
            clock: Arc::new(SystemClock),
            built: Mutex::default(),
            metrics: None,
        };
        for name in config.providers.keys() {
            models.kind(name)?;
        }
        for (alias, model) in &config.models {
            models.kind(&model.provider).map_err(|e| Failure::new(e.class, format!("model {alias}: {}", e.message)))?;
        }
        if config.default_model.is_some() {
            models.resolve(None)?;
        }
        Ok(models)
    }

    /// Requests are counted here.
    #[must_use]
    pub fn observed_by(mut self, metrics: Arc<Metrics>) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// The model that an agent names; without a name, or with `inherit`, the default.
    ///
    /// Beside what is configured there are `rehearsal`, the short names `opus`,
    /// `sonnet` and `haiku`, and the full names of Anthropic's models. The default
    /// is `default_model`, else the only model that is configured, else `sonnet`.
    ///
    /// # Errors
    /// `Configuration`, when there is no such model.
    pub fn resolve(&self, alias: Option<&str>) -> Result<ResolvedModel, Failure> {
        let (alias, named) = self.config.model(alias)?;
        let config::Model {
            provider, model, options, fallback, on_other_model, structured, context_window, cache, ..
        } = named;
        let kind = self.kind(&provider)?;
        let structured = structured.unwrap_or_else(|| usual_structure(kind, &model));
        let context_window = context_window.or_else(|| self.windows.of(&model));
        let settings = ModelSettings { on_other_model, structured, context_window, cache: cache.ttl };
        let price =
            if kind == ProviderKind::Rehearsal { Some(FREE) } else { self.prices.of(alias, &model, self.clock.now()) };
        Ok(ResolvedModel { alias: alias.to_owned(), provider, model, options, price, settings, fallback })
    }

    /// The models that stand in for another one, by what is written of them.
    ///
    /// # Errors
    /// `Configuration`, when there is no such model.
    fn fallback(&self, written: Option<&config::Fallback>) -> Result<Fallback, Failure> {
        let Some(config::Fallback { models, on, tries }) = written else { return Ok(Fallback::default()) };
        let models = models.iter().map(|alias| self.resolve(Some(alias)).map(Into::into)).collect::<Result<_, _>>()?;
        Ok(Fallback { models, on: on.clone(), tries: *tries })
    }

    /// The model that an agent asks and those that stand in for it, all with the effort that it wants. `fallback` is what
    /// is written beside the agent; else that of the model holds.
    ///
    /// # Errors
    /// `Configuration`, when there is no such model.
    pub fn choose(
        &self,
        alias: Option<&str>,
        fallback: Option<&config::Fallback>,
        effort: Option<&str>,
    ) -> Result<(ModelChoice, Fallback), Failure> {
        let model = self.resolve(alias)?;
        let mut fallback = self.fallback(fallback.or(model.fallback.as_ref()))?;
        let mut model = ModelChoice::from(model);
        fallback.models.retain(|other| other.alias != model.alias);
        if let Some(effort) = effort {
            for choice in std::iter::once(&mut model).chain(&mut fallback.models) {
                choice.options.insert("effort".to_owned(), Value::from(effort));
            }
        }
        Ok((model, fallback))
    }

    /// What the model of a conversation costs at a time; `None`: nobody said.
    pub fn price(&self, head: &RequestHead, at: Timestamp) -> Option<Price> {
        match self.kind(&head.provider) {
            Ok(ProviderKind::Rehearsal) => Some(FREE),
            _ => self.prices.of(&head.alias, &head.model, at),
        }
    }

    /// Whether a provider is the rehearsal, which takes any number of calls.
    pub fn is_rehearsed(&self, provider: &str) -> bool {
        matches!(self.kind(provider), Ok(ProviderKind::Rehearsal))
    }

    /// What a request of a conversation costs in a model batch; `None`: nobody said.
    pub fn price_in_batch(&self, head: &RequestHead, at: Timestamp) -> Option<Price> {
        self.prices.in_batch(&head.alias, &head.model, at)
    }

    /// What an answer in a model batch cost.
    pub fn bill_in_batch(&self, head: &RequestHead, tokens: Tokens, at: Timestamp) -> Usage {
        self.prices.bill_in_batch(&head.alias, &head.model, tokens, at)
    }

    /// How requests go to a provider together, if it takes them so.
    pub fn batches(&self, provider: &str) -> Option<config::Batches> {
        self.config.provider_kind(provider).filter(|kind| kind.has_batches())?;
        Some(self.config.providers.get(provider).map(|provider| provider.batches).unwrap_or_default())
    }

    /// The providers that take requests of many tasks together.
    pub fn batch_providers(&self) -> Vec<String> {
        let configured = self.config.providers.keys().map(String::as_str);
        let all: BTreeSet<&str> = configured.chain(["anthropic"]).collect();
        all.into_iter().filter(|name| self.batches(name).is_some()).map(str::to_owned).collect()
    }

    /// A provider by name, built at its first use.
    ///
    /// # Errors
    /// `Configuration`, when there is no such provider or it cannot be built;
    /// `Authentication`, when its key cannot be had. The next use tries again.
    pub fn provider(&self, name: &str) -> Result<Arc<dyn Provider>, Failure> {
        let kind = self.kind(name)?;
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(provider) = built.get(name) {
            return Ok(Arc::clone(provider));
        }
        let provider: Arc<dyn Provider> = match kind {
            ProviderKind::Rehearsal => Arc::new(Rehearsal),
            ProviderKind::Anthropic => {
                let options = self.options(name, &ANTHROPIC)?;
                Arc::new(Anthropic::new(options, Arc::clone(&self.prices), Arc::clone(&self.clock))?)
            }
            ProviderKind::OpenAi => {
                let options = self.options(name, &OPENAI)?;
                Arc::new(OpenAi::new(options, Arc::clone(&self.prices), Arc::clone(&self.clock))?)
            }
        };
        let provider = match &self.metrics {
            Some(metrics) => Observed::around(provider, name, Arc::clone(metrics)),
            None => provider,
        };
        built.insert(name.to_owned(), Arc::clone(&provider));
        Ok(provider)
    }

    fn kind(&self, name: &str) -> Result<ProviderKind, Failure> {
        self.config.provider_kind(name).ok_or_else(|| {
            let text = if self.config.providers.contains_key(name) {
                format!("provider {name}: say what it speaks, kind: anthropic, kind: openai or kind: rehearsal")
            } else {
                let names: Vec<&str> = self.config.providers.keys().map(String::as_str).collect();
                format!("there is no provider {name:?}; there are anthropic, openai, rehearsal {}", names.join(", "))
            };
            Failure::new(FailureClass::Configuration, text)
        })
    }

    /// What the client of a provider needs to know.
    fn options(&self, name: &str, usual: &Usual) -> Result<wire::Options, Failure> {
        let settings = self.config.providers.get(name).cloned().unwrap_or_else(unconfigured);
        let from_environment = || std::env::var(usual.base_url_variable).ok().filter(|url| !url.is_empty());
        let elsewhere = settings.base_url.or_else(from_environment);
        let reference = settings.key.clone().unwrap_or_else(|| SecretRef::Env(usual.key_variable.to_owned()));
        let key_origin = match &reference {
            SecretRef::Env(variable) => variable.clone(),
            SecretRef::File(path) => path.display().to_string(),
        };
        let key = match reference.resolve() {
            Ok(key) => Some(key),
            // A server of one's own may ask for none; what is configured must be there.
            Err(_) if usual.key_is_optional && settings.key.is_none() && elsewhere.is_some() => None,
            Err(error) => {
                let text = format!("provider {name}: {error}; set it, or use the model rehearsal, which needs no key");
                return Err(Failure::new(FailureClass::Authentication, text));
            }
        };
        Ok(wire::Options {
            name: name.to_owned(),
            base_url: elsewhere.unwrap_or_else(|| usual.base_url.to_owned()),
            key,
            key_origin,
            headers: settings.headers,
            idle_timeout: settings.idle_timeout.map_or(IDLE_TIMEOUT, common::span::Span::get),
            timeout: settings.timeout.map_or(TIMEOUT, common::span::Span::get),
        })
    }
}

/// Anthropic's models that are older than structured outputs, by how their names begin.
const UNSTRUCTURED: [&str; 7] = [
    "claude-2",
    "claude-instant",
    "claude-3",
    "claude-opus-4-0",
    "claude-sonnet-4-0",
    "claude-opus-4-2025",
    "claude-sonnet-4-2025",
];

/// How a model is held to a schema of which nobody says anything.
fn usual_structure(kind: ProviderKind, model: &str) -> Structured {
    let old = UNSTRUCTURED.iter().any(|name| model.starts_with(name));
    if kind == ProviderKind::Anthropic && old { Structured::Tool } else { Structured::Native }
}

/// Where a wire is usually spoken, and with which key.
struct Usual {
    base_url: &'static str,
    base_url_variable: &'static str,
    key_variable: &'static str,
    /// Whether servers other than the usual one may do without.
    key_is_optional: bool,
}

const ANTHROPIC: Usual = Usual {
    base_url: anthropic::BASE_URL,
    base_url_variable: "ANTHROPIC_BASE_URL",
    key_variable: "ANTHROPIC_API_KEY",
    key_is_optional: false,
};

const OPENAI: Usual = Usual {
    base_url: openai::BASE_URL,
    base_url_variable: "OPENAI_BASE_URL",
    key_variable: "OPENAI_API_KEY",
    key_is_optional: true,
};

/// A provider of which the operator says nothing.
fn unconfigured() -> config::Provider {
    config::Provider {
        kind: None,
        base_url: None,
        key: None,
        headers: BTreeMap::new(),
        idle_timeout: None,
        timeout: None,
        batches: config::Batches::default(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn models(config: &Value) -> Result<Models, Failure> {
        Models::from_config(&serde_json::from_value(config.clone()).unwrap())
    }

    fn resolved(config: &Value, alias: Option<&str>) -> (String, String) {
        let model = models(config).unwrap().resolve(alias).unwrap();
        (model.provider, model.model)
    }

    fn named(provider: &str, model: &str) -> (String, String) {
        (provider.to_owned(), model.to_owned())
    }

    #[test]
    fn well_known_models_need_no_configuration() {
        let none = json!({});
        assert_eq!(resolved(&none, None), named("anthropic", "claude-sonnet-4-6"));
        assert_eq!(resolved(&none, Some("inherit")), named("anthropic", "claude-sonnet-4-6"));
        assert_eq!(resolved(&none, Some("haiku")), named("anthropic", "claude-haiku-4-5"));
        assert_eq!(resolved(&none, Some("claude-opus-4-8")), named("anthropic", "claude-opus-4-8"));
        assert_eq!(resolved(&none, Some("rehearsal")), named("rehearsal", "rehearsal"));
    }

    #[test]
    fn models_older_than_structured_outputs_are_held_to_a_schema_by_a_tool() {
        let structured =
            |config: Value, alias: &str| models(&config).unwrap().resolve(Some(alias)).unwrap().settings.structured;
        assert_eq!(structured(json!({}), "claude-3-5-haiku-20241022"), Structured::Tool);
        assert_eq!(structured(json!({}), "claude-sonnet-4-20250514"), Structured::Tool);
        assert_eq!(structured(json!({}), "sonnet"), Structured::Native);
        let model = |how: &str| json!({"models": {"m": {"provider": "openai", "model": "m", "structured": how}}});
        assert_eq!(structured(model("tool"), "m"), Structured::Tool);
        assert_eq!(structured(model("prompt"), "m"), Structured::Prompt);
    }

    #[test]
    fn what_is_configured_wins() {
        let config = json!({
            "models": {"sonnet": {"provider": "local", "model": "m", "price": {"input": 1.0, "output": 2.0}, "options": {"effort": "low"}}},
            "providers": {"local": {"kind": "rehearsal"}}});
        assert_eq!(resolved(&config, Some("sonnet")), named("local", "m"));
        assert_eq!(resolved(&config, None), named("local", "m"));
        assert!(models(&config).unwrap().provider("local").is_ok());
    }

    #[test]
    fn a_provider_can_be_rehearsed_by_its_own_name() {
        let config = json!({"providers": {"anthropic": {"kind": "rehearsal"}}});
        let models = models(&config).unwrap();
        assert_eq!(models.resolve(Some("opus")).unwrap().price.map(|price| price.input), Some(0.0));
        assert!(models.provider("anthropic").is_ok());
    }

    #[test]
    fn what_does_not_exist_is_named_with_what_does() {
        let unknown = models(&json!({})).unwrap().resolve(Some("gpt")).unwrap_err();
        assert_eq!(unknown.class, FailureClass::Configuration);
        assert!(unknown.message.contains("\"gpt\"") && unknown.message.contains("sonnet"), "{unknown}");
        for wrong in [
            json!({"models": {"a": {"provider": "nobody", "model": "m"}}}),
            json!({"providers": {"mine": {}}}),
            json!({"default_model": "nothing"}),
        ] {
            assert_eq!(models(&wrong).unwrap_err().class, FailureClass::Configuration, "{wrong}");
        }
    }

    #[test]
    fn a_missing_key_fails_its_use_and_says_which() {
        let config = json!({"providers": {"anthropic": {"key": "env:TEAMSTER_TEST_NO_SUCH_KEY"}}});
        let failure = models(&config).unwrap().provider("anthropic").unwrap_err();
        assert_eq!(failure.class, FailureClass::Authentication);
        assert!(failure.message.contains("TEAMSTER_TEST_NO_SUCH_KEY"), "{failure}");
    }

    #[test]
    fn a_provider_is_built_once() {
        let models = models(&json!({})).unwrap();
        let (first, second) = (models.provider("rehearsal").unwrap(), models.provider("rehearsal").unwrap());
        assert!(Arc::ptr_eq(&first, &second));
    }
}
