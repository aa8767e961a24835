//! What `scheduler`, `worker` and `dev` start from: the project directory, the
//! store, and who this process is.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use common::config::Config;
use common::id::WorkerId;
use common::project::Project;
use common::store::{Definition, Finding, Severity, Store};

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
    let options = config.store_options(&context.globals.dir, Arc::clone(&context.entropy));
    common::store::open(url, options).await.map_err(CommandError::from)
}

/// Opens the store for a service: what its settings can lose is said, and what would lose tasks is refused.
pub(crate) async fn open_for_service(
    context: &Context,
    config: &Config,
    url: &str,
    precautions: Precautions,
) -> Result<Arc<dyn Store>, CommandError> {
    let store = open_store(context, config, url).await?;
    let findings = match tokio::time::timeout(EXAMINATION, store.examine()).await {
        Ok(findings) => findings?,
        Err(_) => {
            tracing::warn!("the store's settings could not be looked at in time; `teamster doctor` looks again");
            return Ok(store);
        }
    };
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
    Ok(store)
}

/// Opens a store that must be there already.
pub(crate) async fn open_existing(
    context: &Context,
    config: &Config,
    url: &str,
) -> Result<Arc<dyn Store>, CommandError> {
    if let Some(path) = url.strip_prefix("sqlite:")
        && !Path::new(path.strip_prefix("//").unwrap_or(path)).exists()
    {
        // Opening would make an empty one, and everything would seem to be gone.
        return Err(CommandError::new(Exit::NotFound, format!("there is no store at {url} (--store)")));
    }
    open_store(context, config, url).await
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
