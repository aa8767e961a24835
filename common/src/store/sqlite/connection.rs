//! Connections to the file: how they are opened, how long they wait for each
//! other, and what their errors mean to a caller.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use tokio::sync::Semaphore;

use super::schema;
use crate::store::StoreError;

/// For how long a connection waits for the locks of other processes.
const BUSY_LIMIT: Duration = Duration::from_secs(3);
/// How long it sleeps between two tries.
const BUSY_PAUSE: Duration = Duration::from_micros(500);
/// Connections that read at the same time.
const READERS: usize = 4;
/// Statements that a connection keeps prepared.
const STATEMENTS: usize = 96;

/// Why an operation on the database stopped.
#[derive(Debug)]
pub(super) enum Stop<E> {
    /// The database failed; the whole transaction is undone.
    Sql(rusqlite::Error),
    /// The request was found to be impossible before anything was written.
    Refused(E),
}

impl<E> From<rusqlite::Error> for Stop<E> {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl<E> From<rusqlite::types::FromSqlError> for Stop<E> {
    fn from(error: rusqlite::types::FromSqlError) -> Self {
        Self::Sql(error.into())
    }
}

/// Opens the connection that writes; makes the file, if there is none, and brings it to this version.
pub(super) fn open_writer(path: &Path) -> Result<Connection, StoreError> {
    let failed = |error| store_error(path, &error);
    create(path).map_err(|error| StoreError::Unavailable(format!("cannot open {}: {error}", path.display())))?;
    let mut db = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(failed)?;
    // Reading the header first keeps a file that is no database from being touched at all.
    db.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).map_err(failed)?;
    switch_to_wal(&db, path)?;
    db.execute_batch(
        "PRAGMA synchronous = FULL; PRAGMA cache_size = -8000; PRAGMA wal_autocheckpoint = 4000; \
         PRAGMA journal_size_limit = 67108864; PRAGMA temp_store = MEMORY;",
    )
    .map_err(failed)?;
    schema::migrate(&mut db, path)?;
    Ok(db)
}

/// Opens a connection that only reads.
pub(super) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let db = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    db.execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -1000; PRAGMA temp_store = MEMORY;")?;
    Ok(db)
}

/// Makes the file and its directory; only its owner may read it: it holds inputs and answers.
fn create(path: &Path) -> std::io::Result<()> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent)?;
    }
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

fn connect(path: &Path, access: OpenFlags) -> rusqlite::Result<Connection> {
    let mut db = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    // SQLite's own handler backs off to 100 ms, which is far longer than a commit takes.
    db.busy_handler(Some(wait_a_little))?;
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    // Without this a statement with `LIMIT ?` is planned anew at each run.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(db)
}

fn wait_a_little(tries: i32) -> bool {
    if BUSY_PAUSE.saturating_mul(u32::try_from(tries).unwrap_or(0)) >= BUSY_LIMIT {
        return false;
    }
    std::thread::sleep(BUSY_PAUSE);
    true
}

/// The change of mode takes a lock for which `SQLite` does not call the busy handler.
fn switch_to_wal(db: &Connection, path: &Path) -> Result<(), StoreError> {
    let mut tries = 0;
    loop {
        let mode: rusqlite::Result<String> = db.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0));
        match mode {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(mode) => {
                return Err(StoreError::Unavailable(format!(
                    "{} cannot use a write-ahead log (its journal mode stays {mode}); keep it on a local disk",
                    path.display()
                )));
            }
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && wait_a_little(tries) => {
                tries += 1;
            }
            Err(error) => return Err(store_error(path, &error)),
        }
    }
}

/// What an error of the database means to a caller.
pub(super) fn store_error(path: &Path, error: &rusqlite::Error) -> StoreError {
    let file = path.display();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            StoreError::Unavailable(format!("{file} is locked by another process: {error}"))
        }
        Some(ErrorCode::DiskFull) => StoreError::Unavailable(format!("no room to write {file}: {error}")),
        Some(
            ErrorCode::SystemIoFailure
            | ErrorCode::CannotOpen
            | ErrorCode::ReadOnly
            | ErrorCode::PermissionDenied
            | ErrorCode::OutOfMemory
            | ErrorCode::OperationInterrupted
            | ErrorCode::OperationAborted
            | ErrorCode::FileLockingProtocolFailed,
        ) => StoreError::Unavailable(format!("{file}: {error}")),
        Some(ErrorCode::NotADatabase) => StoreError::Damaged(format!(
            "{file} is not a SQLite database; it was left as it is (name another file, or restore a backup)"
        )),
        Some(ErrorCode::DatabaseCorrupt) => StoreError::Damaged(format!(
            "{file} is corrupt ({error}); it was left as it is (restore a backup, or try `sqlite3 FILE .recover`)"
        )),
        _ => StoreError::Damaged(format!("{file}: {error}")),
    }
}

/// Something stored that cannot be decoded; travels through `rusqlite` as a conversion error.
pub(super) fn undecodable(what: &str, error: &serde_json::Error) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(
        0,
        rusqlite::types::Type::Text,
        format!("{what} cannot be read by this version: {error}").into(),
    )
}

/// Something that cannot be encoded, which no value of ours is.
pub(super) fn unencodable(error: serde_json::Error) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(error))
}

/// A bounded pool of connections that read beside the writer.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, permits: Arc::new(Semaphore::new(READERS)), idle: Mutex::default() }
    }

    /// Runs a read off the runtime. Everything that it reads is one snapshot.
    pub(super) async fn read<T, E, F>(self: &Arc<Self>, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Stop<E>> + Send + 'static,
    {
        let stopped = || StoreError::Unavailable("the store is closed".to_owned());
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| stopped())?;
        let readers = Arc::clone(self);
        let reading = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            readers.read_blocking(work)
        });
        reading.await.map_err(|_| stopped())?
    }

    fn read_blocking<T, E: From<StoreError>>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Stop<E>>,
    ) -> Result<T, E> {
        let failed = |error: &rusqlite::Error| E::from(store_error(&self.path, error));
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let db = match idle {
            Some(db) => db,
            None => open_reader(&self.path).map_err(|error| failed(&error))?,
        };
        let answer = {
            let snapshot = db.unchecked_transaction().map_err(|error| failed(&error))?;
            work(&snapshot)
        };
        match answer {
            Err(Stop::Sql(error)) => Err(failed(&error)), // and the connection is not used again
            Err(Stop::Refused(error)) => {
                self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(db);
                Err(error)
            }
            Ok(answer) => {
                self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(db);
                Ok(answer)
            }
        }
    }
}
