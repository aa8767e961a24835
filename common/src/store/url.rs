//! Which store a URL means.
//!
//! | URL | store |
//! |---|---|
//! | `sqlite:PATH` | a file |
//! | `redis://[USER:PASSWORD@]HOST[:PORT][/DB]` | one Redis |
//! | `redis+sentinel://[USER:PASSWORD@]HOST[:PORT],…/MASTER[/DB]` | the master that sentinels name |
//! | `postgres://USER[:PASSWORD]@HOST[:PORT]/DATABASE` | a Postgres |
//! | `redis+cluster://[USER:PASSWORD@]HOST[:PORT],…` | a Redis cluster, by some of its nodes |
//!
//! Options of Postgres, as a query: `schema=NAME` (default `teamster`, made if missing), `writers=N`, `sslmode`, `ca=FILE`.
//!
//! `rediss` in place of `redis` is the same with TLS. Options of Redis, as a query: `prefix=NAME` (what keys begin with,
//! default `teamster`), `partitions=N` (1, on a cluster 16; fixed at first use), `ca=FILE` (the certificates to be
//! trusted, with TLS; default: those of the system). What stands in user, password and options is percent-encoded.

use std::path::Path;
use std::sync::Arc;

use super::postgres::PostgresStore;
use super::redis::RedisStore;
use super::sqlite::SqliteStore;
use super::{Offload, Store, StoreError, StoreOptions};

/// Opens the store that a URL names; see the module for the forms. Large values are kept as the options say.
///
/// # Errors
/// [`StoreError::Refused`] for a URL of another kind, else what opening the store answers.
pub async fn open(url: &str, options: StoreOptions) -> Result<Arc<dyn Store>, StoreError> {
    let store: Arc<dyn Store> = if is_redis(url) {
        RedisStore::open(url, options.clone()).await?
    } else if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        PostgresStore::open(url, options.clone()).await?
    } else {
        SqliteStore::open(sqlite_path(url)?, options.clone())?
    };
    Ok(Offload::around(store, &options)?)
}

/// Whether a URL is one of a Redis.
fn is_redis(url: &str) -> bool {
    url.split_once("://").is_some_and(|(scheme, _)| {
        matches!(scheme.split_once('+').map_or(scheme, |(transport, _)| transport), "redis" | "rediss")
    })
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
        _ => refuse(
            "this is not the URL of a store; use sqlite:PATH, such as sqlite:.teamster/teamster.db, redis://… or \
             postgres://…"
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
    fn a_redis_url_has_one_of_its_schemes() {
        for url in ["redis://h", "rediss://h", "redis+sentinel://h/m", "rediss+cluster://a,b"] {
            assert!(is_redis(url), "{url}");
        }
        for url in ["sqlite:redis://", "redis:h", "postgres://h", ""] {
            assert!(!is_redis(url), "{url}");
        }
    }

    #[test]
    fn other_urls_are_refused_with_what_to_use_instead() {
        for url in ["redis:h", "mysql://u:secret@h/db", "sqlite:", "sqlite::memory:", "x.db", ""] {
            let error = sqlite_path(url).unwrap_err().to_string();
            assert!(error.contains("sqlite:PATH"), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
