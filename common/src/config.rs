//! `teamster.yaml`: what the operator of an installation says. Secrets are
//! references (`env:NAME`, `file:/path`), resolved when they are used.

mod answers;
mod audit;
mod batches;
mod fallback;
pub(crate) mod guards;
pub(crate) mod hooks;
mod mcp;
mod permissions;
pub mod policy;
pub(crate) mod private;
mod read;
mod retention;
mod sandbox;
mod size;
mod spending;

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::path::PathBuf;

use serde::de::value::SeqAccessDeserializer;
use serde::de::{self, IntoDeserializer, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

pub use self::audit::{Audit, AuditKeyError};
pub use self::batches::Batches;
pub use self::fallback::Fallback;
pub use self::guards::{Finding, Guard, Guards, Judge};
pub use self::hooks::{Hook, HookGroup, HookHandler, Hooks, InvalidMatcher, Matcher};
pub use self::mcp::{
    ClientAuthentication, ClientCredentials, McpAuth, McpEndpoint, McpIdentity, McpProgram, McpServer, McpTransport,
    McpVersion,
};
pub use self::permissions::{PermissionMode, Permissions};
pub use self::private::{PrivateData, PrivateKind, Reveal};
pub use self::retention::{Keep, Retention};
pub use self::sandbox::{InvalidLocation, Location, Sandbox, SandboxMode, SandboxPolicy, SandboxRules};
pub use self::size::Size;
pub use self::spending::{BUDGET_METER, RateLimit, SharedBudget, budget_of_meter};
use crate::journal::{CacheTtl, Compaction, Effect, OnOtherModel, Structured};
use crate::secret::SecretRef;
use crate::span::Span;
use crate::store::{BlobOptions, BlobPlace};

/// The whole file. Everything has a default.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The store's URL. Default `sqlite:.teamster/teamster.db`, below the directory of the file.
    pub store: Option<String>,
    /// The broker's URL, or where it is (`env:NAME`, `file:/path`): it may hold a password. Default: none.
    pub broker: Option<SecretOrText>,
    /// Names of environment variables that templates see as `env.NAME`.
    pub env: Vec<String>,
    /// Where webhooks come from, by the name in `/v1/hooks/NAME`.
    pub webhooks: BTreeMap<String, Webhook>,
    /// The model of agents that name none.
    pub default_model: Option<String>,
    /// Models by the name that agents use.
    pub models: BTreeMap<String, Model>,
    /// Where models are served, by the name that models use.
    pub providers: BTreeMap<String, Provider>,
    /// MCP servers by name.
    pub mcp_servers: BTreeMap<String, McpServer>,
    /// HTTP tools by name.
    pub tools: BTreeMap<String, HttpTool>,
    /// Effect classes by rule, such as `"Bash(git diff:*)": read`; the longest rule that fits wins.
    pub effects: BTreeMap<String, Effect>,
    /// What agents may do, and what a person is asked about.
    pub permissions: Permissions,
    /// When a long conversation is summarised; a step's own wins.
    pub compaction: Compaction,
    /// What model calls of many tasks may cost together, by name.
    pub budgets: BTreeMap<String, SharedBudget>,
    /// How many calls there may be in a time and at once, by name.
    pub rate_limits: BTreeMap<String, RateLimit>,
    /// Who is asked before and after what agents do.
    pub hooks: Hooks,
    /// Checks of what agents read and write, by name.
    pub guards: Guards,
    /// What is private, and who may see it. Without it, nothing is looked for.
    pub private_data: Option<PrivateData>,
    /// What is refused.
    pub limits: Limits,
    /// Where large values go.
    pub blobs: Blobs,
    /// What is kept of finished tasks.
    pub retention: Retention,
    /// What is kept of conversations that go on across tasks.
    pub sessions: Sessions,
    /// How workers work.
    pub worker: Worker,
    /// How the programs that workers start are confined.
    pub sandbox: Sandbox,
    /// How journals are signed.
    pub audit: Audit,
    /// The HTTP API.
    pub api: Api,
    /// What the organisation and the project say of policy. All other fields have what holds of it already, but for
    /// the rules of the organisation, by which calls are judged besides.
    #[serde(skip)]
    pub policy: Vec<policy::Layer>,
}

/// A source of webhooks.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Who sends: `github`, `hmac`, …
    pub sender: String,
    /// The secret, or several while one is rotated.
    pub secret: OneOrMany<SecretRef>,
    /// What the sender `hmac` needs to know.
    #[serde(default)]
    pub hmac: Option<HmacSender>,
}

/// How a sender signs that has no file of its own: HMAC-SHA256 over the raw body.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HmacSender {
    /// The header that carries the signature.
    pub header: String,
    /// What stands before the digits in it, such as `sha256=`.
    #[serde(default)]
    pub prefix: String,
    /// How the signature is written.
    #[serde(default)]
    pub encoding: Encoding,
    /// The header that identifies a delivery; without it, the digest of the body does.
    #[serde(default)]
    pub id_header: Option<String>,
    /// The header that names the event, if the sender has one.
    #[serde(default)]
    pub event_header: Option<String>,
}

/// How bytes are written as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// Hexadecimal digits.
    #[default]
    Hex,
    /// Base64.
    Base64,
}

/// One value that is written as a text, or a list of such.
#[derive(Debug, Clone, PartialEq)]
pub enum OneOrMany<T> {
    /// One.
    One(T),
    /// Several.
    Many(Vec<T>),
}

// By hand, since an untagged enum hides why a value does not fit.
impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrManyVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrManyVisitor<T> {
            type Value = OneOrMany<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                T::deserialize(text.into_deserializer()).map(OneOrMany::One)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(OneOrMany::Many)
            }
        }

        deserializer.deserialize_any(OneOrManyVisitor(PhantomData))
    }
}

impl<T> OneOrMany<T> {
    /// All of them.
    pub fn as_slice(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// A model by the name that agents use.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// A name under `providers:`.
    pub provider: String,
    /// The model's name there.
    pub model: String,
    /// What it costs, where the table that ships does not say or is wrong.
    #[serde(default)]
    pub price: Option<Price>,
    /// Options for the provider, such as `temperature`; an agent's own win.
    #[serde(default)]
    pub options: serde_json::Map<String, Value>,
    /// The models that are asked when this one is overloaded or declines.
    #[serde(default)]
    pub fallback: Option<Fallback>,
    /// What a reply from another model than this one does. Default `warn`.
    #[serde(default)]
    pub on_other_model: OnOtherModel,
    /// How it is held to the schema of an output. Default `native`; `tool` for Anthropic's models that are older
    /// than structured outputs.
    #[serde(default)]
    pub structured: Option<Structured>,
    /// How many tokens it can read and write together, where the table that ships does not say or is wrong.
    #[serde(default)]
    pub context_window: Option<u64>,
    /// How its provider keeps what it has read.
    #[serde(default)]
    pub cache: Cache,
}

/// How a provider keeps the beginning of a conversation, where it is told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cache {
    /// For how long since it was last used: `5m` (the default) or `1h`.
    pub ttl: CacheTtl,
}

/// Dollars per million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Read at full price.
    pub input: f64,
    /// Written.
    pub output: f64,
    /// Read from the cache; by default a tenth of `input`.
    #[serde(default)]
    pub cache_read: Option<f64>,
    /// Written to the cache; by default 1.25 times `input`.
    #[serde(default)]
    pub cache_write: Option<f64>,
}

/// Where models are served.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// The wire that it speaks; by default the provider's own name.
    #[serde(default)]
    pub kind: Option<ProviderKind>,
    /// Its address; by default that of the kind, or of `ANTHROPIC_BASE_URL`.
    #[serde(default)]
    pub base_url: Option<String>,
    /// The API key.
    #[serde(default)]
    pub key: Option<SecretRef>,
    /// Headers sent with every request.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// How long the first byte, or silence between two, may take. Default 120 s.
    #[serde(default)]
    pub idle_timeout: Option<Span>,
    /// How long one call may take in all. Default 600 s.
    #[serde(default)]
    pub timeout: Option<Span>,
    /// How requests of many tasks go out together, where it takes them so.
    #[serde(default)]
    pub batches: Batches,
}

/// A wire that a provider can speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProviderKind {
    /// The Anthropic Messages API.
    Anthropic,
    /// Chat Completions of OpenAI, and what speaks the same wire: vLLM, Ollama, gateways.
    #[serde(rename = "openai")]
    OpenAi,
    /// Offline, deterministic and free; no language model.
    Rehearsal,
}

impl ProviderKind {
    /// Whether it takes requests of many tasks together, for half the price.
    pub const fn has_batches(self) -> bool {
        matches!(self, Self::Anthropic)
    }
}

/// A secret by reference, or a plain text.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum SecretOrText {
    /// `env:NAME` or `file:/path`.
    Secret(SecretRef),
    /// Anything else.
    Text(String),
}

/// An HTTP request that agents can use as a tool.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpTool {
    /// When to use it.
    pub description: String,
    /// The JSON Schema of its arguments.
    pub input: Value,
    /// GET, POST, PUT, PATCH or DELETE.
    pub method: String,
    /// Where to, as a template over the arguments.
    pub url: String,
    /// Headers, as texts or secrets by reference.
    #[serde(default)]
    pub headers: BTreeMap<String, SecretOrText>,
    /// The body, as a template over the arguments; without it, POST, PUT and PATCH send the arguments.
    #[serde(default)]
    pub json: Option<Value>,
    /// What repeating it may do. Default: `read` for GET, else `once`.
    #[serde(default)]
    pub effect: Option<Effect>,
    /// How long it may take. Default 60 s.
    #[serde(default)]
    pub timeout: Option<Span>,
}

/// What is refused, beyond what the store refuses by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The body of a webhook. Default 5 MiB.
    pub webhook_body: Size,
    /// The input of a task. Default 1 MiB.
    pub input: Size,
    /// The journal of a task, without its large values, and each of these. Default 64 MiB.
    pub journal: Size,
    /// The large values of one journal that are loaded together. Default 256 MiB.
    pub values: Size,
    /// The body of a batch. Default 1 GiB; it is read as a stream.
    pub batch_body: Size,
    /// Nesting of JSON in any body. Default 64.
    pub json_depth: usize,
    /// What a tool's answer may have; more is cut or refused. Default 1 MiB.
    pub tool_output: Size,
    /// What a model sees of a tool's answer at once; it can read on. Default 100 KiB.
    pub tool_shown: Size,
    /// Tasks that are ready or scheduled in one queue. Default 10 million.
    pub queue_depth: u64,
    /// Leases in a row without a sign of life, after which a task is poison. Default 3.
    pub barren_attempts: u32,
    /// Items of one `foreach`. Default 10,000.
    pub foreach_items: usize,
    /// How deep pipelines may run each other. Default 8.
    pub child_depth: u32,
    /// Tools of MCP servers that an agent is told of one by one; more are found by search. Default 40.
    pub mcp_tools: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            webhook_body: Size(5 << 20),
            input: Size(1 << 20),
            journal: Size(64 << 20),
            values: Size(256 << 20),
            batch_body: Size(1 << 30),
            json_depth: 64,
            tool_output: Size(1 << 20),
            tool_shown: Size(100 << 10),
            queue_depth: 10_000_000,
            barren_attempts: 3,
            foreach_items: 10_000,
            child_depth: 8,
            mcp_tools: 40,
        }
    }
}

/// Large values: inputs, model answers, tool results, outputs. They leave the
/// journals, are compressed, and tasks with equal values share them. All
/// processes of an installation need the same place. Whoever changes it brings
/// what is there along: values in the store stay readable from any place.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Blobs {
    /// A value with more bytes of JSON than this leaves the journal. Default 64 KiB.
    pub threshold: Size,
    /// `store` (the default), `file:PATH` (below the directory of the file; all processes share it)
    /// or `s3://BUCKET/PREFIX` (credentials and region from the usual `AWS_…` variables).
    pub place: BlobPlace,
    /// The address of another server that speaks S3, such as `http://127.0.0.1:9000`.
    pub endpoint: Option<String>,
    /// How many bytes of large values a process keeps at hand. Default 16 MiB.
    pub cache: Size,
}

impl Default for Blobs {
    fn default() -> Self {
        let BlobOptions { threshold, place, endpoint, cache } = BlobOptions::default();
        Self { threshold: Size(threshold as u64), place, endpoint, cache: Size(cache as u64) }
    }
}

/// What is kept of conversations that go on across tasks (`session:` of an agent step).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sessions {
    /// For how long after its last task. Default 30 days.
    pub keep: Span,
    /// How many of its last turns. Default 400.
    pub turns: usize,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { keep: Span::from_secs(30 * 86_400), turns: 400 }
    }
}

/// How workers work.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Worker {
    /// Tasks at once. Default 64.
    pub slots: usize,
    /// Queues to take from; empty for all that have work.
    pub queues: Vec<crate::id::QueueName>,
    /// How long a lease lasts. Default 8 s; it is renewed four times as often.
    pub lease: Span,
    /// How long a drain lets model and tool calls run before it gives them up. Default 25 s.
    pub drain: Span,
    /// How often the store is asked for ready tasks although a broker brings hints. Default 5 s.
    pub poll: Span,
    /// Where the working directories of tasks are. Default `.teamster/workspaces`, below the directory of the file.
    pub workspaces: Option<PathBuf>,
}

impl Default for Worker {
    fn default() -> Self {
        Self {
            slots: 64,
            queues: Vec::new(),
            lease: Span::from_secs(8),
            drain: Span::from_secs(25),
            poll: Span::from_secs(5),
            workspaces: None,
        }
    }
}

/// The HTTP API.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Api {
    /// Who has it may use the API. Without it, only loopback addresses are served.
    pub token: Option<SecretRef>,
}

impl Config {
    /// Makes every provider rehearse: nothing goes out to a model, nothing is
    /// paid, and every model keeps its name.
    pub fn rehearse(&mut self) {
        let names: Vec<String> =
            self.providers.keys().cloned().chain(["anthropic", "openai"].map(str::to_owned)).collect();
        for name in names {
            let provider = Provider {
                kind: Some(ProviderKind::Rehearsal),
                base_url: None,
                key: None,
                headers: BTreeMap::new(),
                idle_timeout: None,
                timeout: None,
                batches: Batches::default(),
            };
            self.providers.insert(name, provider);
        }
    }

    /// The environment variables that templates see as `env`: those that are listed and set.
    pub fn env_values(&self) -> BTreeMap<String, String> {
        self.env.iter().filter_map(|name| Some((name.clone(), std::env::var(name).ok()?))).collect()
    }
}

#[cfg(test)]
mod tests;
