//! What `scheduler`, `worker` and `dev` start from: the project directory, the
//! store, and who this process is.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use common::broker::{Broker, BrokerError, BrokerOptions, doorbell, pass_on};
use common::config::Config;
use common::id::WorkerId;
use common::metrics::{Metrics, Observed};
use common::private::Private;
use common::project::Project;
use common::store::witness::Witness;
use common::store::{Definition, Finding, Severity, Store, StoreOptions};
use common::telemetry;
use secrecy::ExposeSecret;
use tokio_util::task::AbortOnDropHandle;

use crate::context::Context;
use crate::error::{CommandError, Exit};
use crate::output::note;

/// Where the store is, below the directory of `teamster.yaml`, where nobody says otherwise.
const DEFAULT_STORE: &str = ".teamster/teamster.db";

/// How long a service waits for a look at its store's settings.
const EXAMINATION: Duration = Duration::from_secs(5);

/// What a service refuses to start with.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Precautions {
    /// Start although the store may throw tasks away when its memory is full
    #[arg(long)]
    allow_eviction: bool,
}

/// Which models a process calls, in plain words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ModelChoice {
    /// As `teamster.yaml` says.
    Configured,
    /// Rehearsal for every model, because somebody asked for it.
    Asked,
    /// Rehearsal for every model, because there is no key.
    NoKey,
}

impl ModelChoice {
    /// For commands that must work without an account.
    pub(crate) fn without_account(rehearse: bool) -> Self {
        let has_key = std::env::var_os("ANTHROPIC_API_KEY").is_some_and(|key| !key.is_empty());
        match (rehearse, has_key) {
            (true, _) => Self::Asked,
            (false, true) => Self::Configured,
            (false, false) => Self::NoKey,
        }
    }

    /// What people are told.
    pub(crate) fn sentence(self) -> &'static str {
        match self {
            Self::Configured => "Models: the real ones, as teamster.yaml says. Calls cost money.",
            Self::Asked => {
                "Models: rehearsal, as you asked. It is no language model: it answers to the schema from the input, for free."
            }
            Self::NoKey => {
                "Models: rehearsal, because ANTHROPIC_API_KEY is not set. It is no language model: it answers to the \
                 schema from the input, for free. Set the key to call the real API."
            }
        }
    }

    pub(crate) const fn is_rehearsal(self) -> bool {
        !matches!(self, Self::Configured)
    }
}

/// Reads and checks the project; its problems go to stderr.
pub(crate) fn load(context: &Context) -> Result<Project, CommandError> {
    let dir = &context.globals.dir;
    if !dir.is_dir() {
        return Err(CommandError::new(Exit::NotFound, format!("there is no directory {} (--dir)", dir.display())));
    }
    match Project::load(dir) {
        Ok(project) => {
            if !project.warnings.is_empty() {
                note(project.warnings.to_string());
            }
            Ok(project)
        }
        Err(diagnostics) => {
            let errors = diagnostics.errors();
            let message = format!("{} {} in {}\n\n{diagnostics}", errors, plural(errors, "error"), dir.display());
            Err(CommandError::refused(message))
        }
    }
}

/// `1 error`, `2 errors`.
pub(crate) fn plural(number: usize, noun: &str) -> String {
    if number == 1 { noun.to_owned() } else { format!("{noun}s") }
}

/// The URL of the store: `--store`, else as the configuration says, below its directory.
pub(crate) fn store_url(context: &Context, config: &Config, dir: &Path) -> String {
    if let Some(url) = &context.globals.store {
        return url.clone();
    }
    let configured = config.store.as_deref().unwrap_or("");
    let path = match configured.strip_prefix("sqlite:") {
        Some(path) => path.strip_prefix("//").unwrap_or(path),
        None if configured.is_empty() => DEFAULT_STORE,
        None => return configured.to_owned(),
    };
    format!("sqlite:{}", dir.join(path).display())
}

/// Opens the store.
pub(crate) async fn open_store(context: &Context, config: &Config, url: &str) -> Result<Arc<dyn Store>, CommandError> {
    common::store::open(url, store_options(context, config)?).await.map_err(CommandError::from)
}

/// What the store is opened with, the key that seals journals included.
fn store_options(context: &Context, config: &Config) -> Result<StoreOptions, CommandError> {
    let seal = config.audit.seal_key().map_err(|error| CommandError::refused(error.to_string()))?;
    let options = config.store_options(&context.globals.dir, Arc::clone(&context.entropy));
    Ok(StoreOptions { seal: seal.map(Arc::new), ..options })
}

/// The store, and what carries hints where there is something. Hints are passed on while this lives.
#[derive(Debug)]
pub(crate) struct Backends {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) broker: Option<Arc<dyn Broker>>,
    pub(crate) metrics: Arc<Metrics>,
    _hints: Option<AbortOnDropHandle<()>>,
}

/// Opens the broker: `--broker`, else as the configuration says; none if nobody names one.
pub(crate) fn open_broker(context: &Context, config: &Config) -> Result<Option<Arc<dyn Broker>>, CommandError> {
    let configured = config.broker_url().map_err(|error| CommandError::refused(format!("broker: {error}")))?;
    let named = context.globals.broker.as_deref().filter(|url| !url.is_empty());
    let Some(url) = named.or_else(|| configured.as_ref().map(ExposeSecret::expose_secret)) else { return Ok(None) };
    let broker = common::broker::open(url, BrokerOptions::new(Arc::clone(&context.entropy)))?;
    Ok(Some(broker))
}

/// Opens the store and the broker, and lets the one ring for the other.
pub(crate) async fn open_backends(context: &Context, config: &Config, url: &str) -> Result<Backends, CommandError> {
    keep_private(config)?;
    let metrics = Metrics::new(env!("CARGO_PKG_VERSION"))
        .map_err(|error| CommandError::new(Exit::Failed, format!("the metrics cannot be made: {error}")))?;
    let metrics = Arc::new(metrics);
    let witness: Arc<dyn Witness> = Arc::clone(&metrics) as _;
    let options = StoreOptions { witness: Some(witness), ..store_options(context, config)? };
    let Some(broker) = open_broker(context, config)? else {
        let store = Observed::around(common::store::open(url, options).await?, Arc::clone(&metrics));
        return Ok(Backends { store, broker: None, metrics, _hints: None });
    };
    let (bell, calls) = doorbell();
    let store = common::store::open(url, StoreOptions { doorbell: Some(bell), ..options }).await?;
    let store = Observed::around(store, Arc::clone(&metrics));
    let passing = tokio::spawn(pass_on(calls, Arc::clone(&broker), Arc::clone(&store)));
    Ok(Backends { store, broker: Some(broker), metrics, _hints: Some(AbortOnDropHandle::new(passing)) })
}

/// Opens store and broker for a service: what their settings can lose is said, and what would lose tasks is refused.
pub(crate) async fn open_for_service(
    context: &Context,
    config: &Config,
    url: &str,
    precautions: Precautions,
) -> Result<Backends, CommandError> {
    let backends = open_backends(context, config, url).await?;
    if config.audit.key.is_some() && matches!(config.audit.seal_key(), Ok(None)) {
        tracing::warn!("audit.key names a variable that is not set here: what this process journals is not signed");
    }
    let Ok(findings) = tokio::time::timeout(EXAMINATION, backends.store.examine()).await else {
        tracing::warn!("the store's settings could not be looked at in time; `teamster doctor` looks again");
        return Ok(backends);
    };
    let mut findings = findings?;
    if let Some(broker) = &backends.broker {
        match tokio::time::timeout(EXAMINATION, broker.examine()).await {
            Ok(Ok(more)) => findings.extend(more),
            Ok(Err(BrokerError::Misconfigured(why))) => return Err(CommandError::refused(why)),
            // Hints are not needed to begin: the store's own queue does until the broker is there.
            Ok(Err(error)) => tracing::warn!(%error, "the broker is tried again all the time"),
            Err(_) => tracing::warn!("the broker does not answer and is tried again all the time"),
        }
    }
    for finding in findings {
        let advice = finding.advice.unwrap_or_default();
        let tolerated = finding.subject == Finding::EVICTION && precautions.allow_eviction;
        match finding.severity {
            Severity::Good => {}
            Severity::Fatal if !tolerated => {
                return Err(CommandError::refused(format!(
                    "the store is not safe: {}: {}. {advice}",
                    finding.subject, finding.said
                )));
            }
            Severity::Warning | Severity::Fatal => {
                tracing::warn!(setting = finding.subject, advice, "{}", finding.said);
            }
        }
    }
    Ok(backends)
}

/// Makes the log ready for private data. Without its key nothing starts.
fn keep_private(config: &Config) -> Result<(), CommandError> {
    let Some(private) = &config.private_data else { return Ok(()) };
    let private = Private::load(private).map_err(|error| CommandError::refused(error.to_string()))?;
    telemetry::seal(private);
    Ok(())
}

/// Opens a store that must be there already.
pub(crate) async fn open_existing(
    context: &Context,
    config: &Config,
    url: &str,
) -> Result<Arc<dyn Store>, CommandError> {
    exists(url)?;
    open_store(context, config, url).await
}

/// Refuses a file that is not there: opening would make an empty store, and everything would seem to be gone.
pub(crate) fn exists(url: &str) -> Result<(), CommandError> {
    match url.strip_prefix("sqlite:") {
        Some(path) if !Path::new(path.strip_prefix("//").unwrap_or(path)).exists() => {
            Err(CommandError::new(Exit::NotFound, format!("there is no store at {url} (--store)")))
        }
        _ => Ok(()),
    }
}

/// Makes definitions the current ones, and says which were not before.
pub(crate) async fn apply(
    store: &dyn Store,
    definitions: &[Definition],
) -> Result<Vec<(Definition, bool)>, CommandError> {
    let mut applied = Vec::with_capacity(definitions.len());
    for definition in definitions {
        let before = store.current(&definition.name).await?;
        let changed = before.is_none_or(|before| before.digest != definition.digest);
        applied.push((definition.clone(), changed));
    }
    if applied.iter().any(|(_, changed)| *changed) {
        store.apply(definitions.to_vec()).await?;
    }
    Ok(applied)
}

/// A name for this worker: machine, process and a random part, so that no two are the same.
pub(crate) fn worker_id(context: &Context) -> Result<WorkerId, CommandError> {
    let node = rustix::system::uname();
    let host: String = node.nodename().to_string_lossy().chars().filter(|c| !c.is_control()).take(100).collect();
    let random = hex::encode(context.entropy.bytes::<3>());
    WorkerId::new(format!("{host}-{}-{random}", std::process::id()))
        .map_err(|error| CommandError::new(Exit::Failed, error.to_string()))
}
