//! What the operator configured, with its secrets resolved. Replaced as a whole
//! when the configuration is loaded again.

use std::collections::BTreeMap;
use std::sync::Arc;

use common::config::{Config, Webhook};
use common::private::{Private, PrivateError};
use common::secret::SecretError;
use secrecy::{ExposeSecret, SecretString};

/// The configuration in force.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) config: Arc<Config>,
    /// What templates see as `env.NAME`.
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) token: Option<Token>,
    /// A webhook whose secret cannot be had is not served; the others are.
    pub(crate) webhooks: BTreeMap<String, Result<Source, String>>,
    /// What is private, where the operator said so.
    pub(crate) private: Option<Private>,
}

/// Why settings cannot be used at all.
#[derive(Debug)]
pub(crate) enum Unusable {
    Token(SecretError),
    Private(PrivateError),
}

/// A source of webhooks with its secrets: several while one is rotated.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) webhook: Webhook,
    pub(crate) secrets: Vec<SecretString>,
}

/// The token of the API, as a digest: comparing digests takes the same time for every guess.
#[derive(Debug)]
pub(crate) struct Token(blake3::Hash);

impl Token {
    pub(crate) fn new(secret: &SecretString) -> Self {
        Self(blake3::hash(secret.expose_secret().as_bytes()))
    }

    pub(crate) fn fits(&self, given: &str) -> bool {
        // `blake3::Hash` compares in constant time.
        self.0 == blake3::hash(given.as_bytes())
    }
}

impl Settings {
    pub(crate) fn load(config: Arc<Config>) -> Result<Self, Unusable> {
        let token = config.api.token.as_ref().map(|token| Ok(Token::new(&token.resolve()?)));
        let token = token.transpose().map_err(Unusable::Token)?;
        let private = config.private_data.as_ref().map(Private::load).transpose().map_err(Unusable::Private)?;
        let env = config.env.iter().filter_map(|name| Some((name.clone(), std::env::var(name).ok()?))).collect();
        let webhooks = config.webhooks.iter().map(|(name, webhook)| (name.clone(), source(name, webhook))).collect();
        Ok(Self { config, env, token, webhooks, private })
    }
}

fn source(name: &str, webhook: &Webhook) -> Result<Source, String> {
    let secrets: Result<Vec<_>, _> = webhook.secret.as_slice().iter().map(common::secret::SecretRef::resolve).collect();
    match secrets {
        Ok(secrets) if secrets.is_empty() => Err(format!("webhooks.{name}.secret is an empty list")),
        Ok(secrets) => Ok(Source { webhook: webhook.clone(), secrets }),
        Err(error) => {
            let why = format!("webhooks.{name}.secret: {error}");
            tracing::warn!(webhook = name, %error, "a webhook is not served: its secret cannot be had");
            Err(why)
        }
    }
}
