//! Which store a URL means.

use std::path::Path;
use std::sync::Arc;

use super::postgres::PostgresStore;
use super::sqlite::SqliteStore;
use super::{Store, StoreError, StoreOptions};

/// Opens the store that a URL names: `sqlite:PATH` or `postgres://…` (see [`PostgresStore::open`]).
///
/// # Errors
/// [`StoreError::Refused`] for a URL of another kind, else what opening the store answers.
pub async fn open(url: &str, options: StoreOptions) -> Result<Arc<dyn Store>, StoreError> {
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        return Ok(PostgresStore::open(url, options).await?);
    }
    let path = sqlite_path(url)?;
    Ok(SqliteStore::open(path, options)?)
}

/// The file of a `sqlite:` URL.
fn sqlite_path(url: &str) -> Result<&Path, StoreError> {
    let refuse = |why: String| Err(StoreError::Refused(format!("store {:?}: {why}", without_credentials(url))));
    match url.split_once(':') {
        Some(("sqlite", "")) => refuse("the path is missing; write sqlite:PATH".to_owned()),
        Some(("sqlite", ":memory:")) => {
            refuse("a store outlives its process, so it needs a file; write sqlite:PATH".to_owned())
        }
        Some(("sqlite", path)) => Ok(Path::new(path.strip_prefix("//").unwrap_or(path))),
        Some((scheme @ ("redis" | "rediss"), _)) => {
            refuse(format!("{scheme} is not supported by this version; use sqlite:PATH or postgres://…"))
        }
        _ => refuse(
            "this is not the URL of a store; use sqlite:PATH, such as sqlite:.teamster/teamster.db, or postgres://…"
                .to_owned(),
        ),
    }
}

/// The URL without what stands before an `@`: errors end up in logs.
fn without_credentials(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://…@{host}"),
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_sqlite_url_names_a_file() {
        assert_eq!(sqlite_path("sqlite:.teamster/teamster.db").unwrap(), Path::new(".teamster/teamster.db"));
        assert_eq!(sqlite_path("sqlite:/var/lib/x.db").unwrap(), Path::new("/var/lib/x.db"));
        assert_eq!(sqlite_path("sqlite:///var/lib/x.db").unwrap(), Path::new("/var/lib/x.db"));
    }

    #[test]
    fn other_urls_are_refused_with_what_to_use_instead() {
        for url in ["redis://h", "mysql://u:secret@h/db", "sqlite:", "sqlite::memory:", "x.db", ""] {
            let error = sqlite_path(url).unwrap_err().to_string();
            assert!(error.contains("sqlite:PATH"), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
        assert!(sqlite_path("redis://h").unwrap_err().to_string().contains("not supported by this version"));
    }
}
