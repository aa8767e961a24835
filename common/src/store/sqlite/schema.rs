//! The tables, and how a file of an older version becomes one of this version.
//!
//! Migrations go forward only, all in one transaction. A file of a newer
//! version, of another program, or that is no database is refused and left as
//! it is. Table and column names are a file format: users read them with the
//! `sqlite3` shell. Times are milliseconds since the Unix epoch.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::connection::store_error;
use crate::store::StoreError;

/// Marks the file as ours (`file` and the shell show it): "TMST".
const APPLICATION_ID: i32 = 0x544D_5354;

/// One entry a version; never changed once released, only added to.
const MIGRATIONS: &[&str] = &[VERSION_1, VERSION_2, VERSION_3, VERSION_4, VERSION_5, VERSION_6, VERSION_7];

const VERSION_1: &str = r"
-- A task. `head` is the truth for a reader; the other columns are what indexes and filters need of it.
CREATE TABLE tasks (
    n             INTEGER PRIMARY KEY,
    id            TEXT NOT NULL UNIQUE,
    pipeline      TEXT NOT NULL,
    queue         TEXT NOT NULL,
    priority      INTEGER NOT NULL,
    key           TEXT,             -- the idempotency key
    parent        TEXT,
    batch         TEXT,             -- the batch of which a row made this task
    supersede     TEXT,             -- the group of which only the newest is wanted
    state         TEXT NOT NULL,
    dead_reason   TEXT,
    created_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL,
    ready_since   INTEGER,          -- while ready
    due_at        INTEGER,          -- when the store must look: a timer, or the end of the lease
    finished_at   INTEGER,          -- once done; retention counts from here
    approvals     INTEGER NOT NULL, -- how many decisions are wanted from people
    version       INTEGER NOT NULL, -- the number of the newest event
    token         BLOB,             -- of the lease, while running
    kept          INTEGER NOT NULL, -- how many signals wait in the inbox
    journal_bytes INTEGER NOT NULL,
    last_append   BLOB,             -- the newest append by id, and the events it added
    last_from     INTEGER,
    last_to       INTEGER,
    head          TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX tasks_key ON tasks (pipeline, key) WHERE key IS NOT NULL;
CREATE INDEX tasks_ready ON tasks (queue, priority DESC, ready_since, id) WHERE state = 'ready';
CREATE INDEX tasks_due ON tasks (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX tasks_parent ON tasks (parent, id) WHERE parent IS NOT NULL;
CREATE INDEX tasks_supersede ON tasks (pipeline, supersede) WHERE supersede IS NOT NULL AND finished_at IS NULL;
CREATE INDEX tasks_pipeline ON tasks (pipeline, id);
CREATE INDEX tasks_open ON tasks (id) WHERE finished_at IS NULL;
CREATE INDEX tasks_failed ON tasks (state, id) WHERE state IN ('dead', 'cancelled');
CREATE INDEX tasks_approvals ON tasks (id) WHERE approvals > 0;
CREATE INDEX tasks_retained ON tasks (finished_at) WHERE state IN ('succeeded', 'cancelled');
CREATE INDEX tasks_retained_dead ON tasks (finished_at) WHERE state = 'dead';

CREATE TABLE journal (
    task  TEXT NOT NULL,
    seq   INTEGER NOT NULL,
    at    INTEGER NOT NULL,
    event TEXT NOT NULL,
    UNIQUE (task, seq)
) STRICT;

-- Signals that wait for the holder of a task.
CREATE TABLE inbox (
    n      INTEGER PRIMARY KEY,
    task   TEXT NOT NULL,
    signal TEXT NOT NULL
) STRICT;
CREATE INDEX inbox_task ON inbox (task);

-- Sums over tasks, kept in the transaction that changes the tasks: figures cost O(queues), not O(tasks).
CREATE TABLE queue_counts (
    queue TEXT NOT NULL,
    state TEXT NOT NULL,
    tasks INTEGER NOT NULL,
    PRIMARY KEY (queue, state)
) STRICT, WITHOUT ROWID;
CREATE TABLE batch_counts (
    batch TEXT NOT NULL,
    state TEXT NOT NULL,
    tasks INTEGER NOT NULL,
    PRIMARY KEY (batch, state)
) STRICT, WITHOUT ROWID;
CREATE TABLE retained (
    class TEXT PRIMARY KEY,         -- finished or dead
    tasks INTEGER NOT NULL,
    bytes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE paused_queues (
    queue TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;

CREATE TABLE batches (
    id         TEXT PRIMARY KEY,
    pipeline   TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    closed     INTEGER NOT NULL,
    tasks      INTEGER NOT NULL,    -- its tasks that retention has not removed
    duplicates INTEGER NOT NULL,
    rejected   INTEGER NOT NULL,
    cost_usd   REAL NOT NULL        -- of its own tasks
) STRICT;
CREATE INDEX batches_over ON batches (created_at) WHERE closed = 1 AND tasks = 0;
CREATE TABLE batch_rows (
    batch     TEXT NOT NULL,
    line      INTEGER NOT NULL,
    task      TEXT,
    duplicate INTEGER NOT NULL,     -- the task existed before
    reason    TEXT,                 -- why it made no task
    PRIMARY KEY (batch, line)
) STRICT, WITHOUT ROWID;
CREATE INDEX batch_rows_duplicate ON batch_rows (batch, task) WHERE duplicate = 1;
CREATE INDEX batch_rows_rejected ON batch_rows (batch, line) WHERE reason IS NOT NULL;

CREATE TABLE definitions (
    digest TEXT PRIMARY KEY,
    name   TEXT NOT NULL,
    body   TEXT NOT NULL
) STRICT;
CREATE TABLE current_definitions (
    name   TEXT PRIMARY KEY,
    digest TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE schedules (
    name         TEXT PRIMARY KEY,
    served_until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- One row that a health check rewrites.
CREATE TABLE health (
    id         INTEGER PRIMARY KEY CHECK (id = 1),
    checked_at INTEGER NOT NULL
) STRICT;
";

const VERSION_2: &str = r"
-- Where there is a broker: ready tasks of which nobody said yet that the broker knows.
CREATE TABLE outbox (
    task     TEXT PRIMARY KEY,
    version  INTEGER NOT NULL,      -- the number of the event that made it ready
    queue    TEXT NOT NULL,
    priority INTEGER NOT NULL,
    since    INTEGER NOT NULL       -- when it was noted, or last given to a relay
) STRICT, WITHOUT ROWID;
CREATE INDEX outbox_since ON outbox (since);
";

const VERSION_3: &str = r"
-- Large values that events refer to by name.
CREATE TABLE blobs (
    name         TEXT PRIMARY KEY,
    digest       TEXT NOT NULL,     -- BLAKE3 of the value's JSON
    elsewhere    INTEGER NOT NULL,  -- its bytes are in a folder or a bucket, not in blob_data
    unused_since INTEGER,           -- while no task uses it
    condemned    INTEGER NOT NULL   -- it is to be removed from that folder or bucket
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX blobs_content ON blobs (digest, elsewhere) WHERE condemned = 0;
CREATE INDEX blobs_unused ON blobs (unused_since) WHERE unused_since IS NOT NULL AND condemned = 0;
CREATE INDEX blobs_condemned ON blobs (name) WHERE condemned = 1;
-- Apart from the rest, which changes: the JSON, compressed with zstd.
CREATE TABLE blob_data (
    name TEXT PRIMARY KEY,
    data BLOB NOT NULL
) STRICT;
CREATE TABLE blob_users (
    task TEXT NOT NULL,
    name TEXT NOT NULL,
    PRIMARY KEY (task, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX blob_users_name ON blob_users (name);
";

const VERSION_4: &str = r"
-- How much of something was used: budgets, rate limits, places.
CREATE TABLE meters (
    name       TEXT NOT NULL,
    kind       TEXT NOT NULL,       -- its window: total, places, every 1m, idle 30d
    used       INTEGER NOT NULL,    -- or reserved
    most       INTEGER,             -- the limit that was named last
    since      INTEGER NOT NULL,    -- since when this is counted
    charged_at INTEGER NOT NULL,
    held_until INTEGER,             -- nothing is granted before
    goes_at    INTEGER,             -- when the store must look: it may be over
    PRIMARY KEY (name, kind)
) STRICT, WITHOUT ROWID;
CREATE INDEX meters_goes ON meters (goes_at) WHERE goes_at IS NOT NULL;
-- What was reserved of meters.
CREATE TABLE reservations (
    id      TEXT PRIMARY KEY,
    task    TEXT NOT NULL,
    status  TEXT NOT NULL,          -- held, settled or lapsed
    expires INTEGER NOT NULL,
    due_at  INTEGER NOT NULL,       -- when the store must look
    parts   TEXT NOT NULL           -- how much of which meters: JSON
) STRICT, WITHOUT ROWID;
CREATE INDEX reservations_due ON reservations (due_at);
-- The emergency stop: the newest of the fleet and of each pipeline.
CREATE TABLE halts (
    pipeline  TEXT PRIMARY KEY,     -- empty: the whole fleet
    halted_at INTEGER NOT NULL,
    halted_by TEXT NOT NULL,
    reason    TEXT NOT NULL,
    lifted_at INTEGER,              -- none: it is in force
    lifted_by TEXT,
    over      INTEGER NOT NULL      -- all that waited for it was woken
) STRICT, WITHOUT ROWID;
";

const VERSION_5: &str = r"
ALTER TABLE meters ADD COLUMN level INTEGER NOT NULL DEFAULT 0;     -- the highest level that was passed, in percent
ALTER TABLE meters ADD COLUMN line TEXT NOT NULL DEFAULT '{}';      -- who holds places and who waits for one: JSON
";

const VERSION_6: &str = r"
-- The chain of a journal: what came before has none.
ALTER TABLE journal ADD COLUMN hash BLOB;
ALTER TABLE tasks ADD COLUMN chain BLOB;        -- the hash of the event with the number chain_at
ALTER TABLE tasks ADD COLUMN chain_at INTEGER;
ALTER TABLE tasks ADD COLUMN seal BLOB;         -- the newest signature: the event's number, the key, the signature
";

const VERSION_7: &str = "
-- Conversations that go on across tasks.
CREATE TABLE sessions (
    name    TEXT PRIMARY KEY,       -- the pipeline, / and the key
    version INTEGER NOT NULL,       -- how often it was replaced
    body    BLOB NOT NULL,          -- JSON
    until   INTEGER NOT NULL        -- when it may go
) STRICT;
CREATE INDEX sessions_until ON sessions (until);
";

/// Brings the file to the version that this program knows, or refuses it.
pub(super) fn migrate(db: &mut Connection, path: &Path) -> Result<(), StoreError> {
    migrate_with(db, path, MIGRATIONS)
}

fn migrate_with(db: &mut Connection, path: &Path, migrations: &[&str]) -> Result<(), StoreError> {
    let failed = |error| store_error(path, &error);
    let known = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
    // Two processes may open a new file at once: the first to lock it migrates, the other finds it done.
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    let version: i64 = tx.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
    let application: i32 = tx.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(failed)?;
    let tables: i64 = tx.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    if application != APPLICATION_ID && tables > 0 {
        return Err(StoreError::Damaged(format!(
            "{} is a SQLite database of another program; name another file",
            path.display()
        )));
    }
    if version > known {
        return Err(StoreError::Damaged(format!(
            "{} has schema version {version}, and this program knows versions up to {known}; use a newer program",
            path.display()
        )));
    }
    if version == known {
        return Ok(());
    }
    for migration in migrations.iter().skip(usize::try_from(version).unwrap_or(0)) {
        tx.execute_batch(migration).map_err(failed)?;
    }
    tx.pragma_update(None, "application_id", APPLICATION_ID).map_err(failed)?;
    tx.pragma_update(None, "user_version", known).map_err(failed)?;
    tx.commit().map_err(failed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_migration_that_fails_leaves_the_file_at_its_version() {
        let mut db = Connection::open_in_memory().unwrap();
        migrate(&mut db, Path::new("x.db")).unwrap();
        let broken = [MIGRATIONS, &["CREATE TABLE extra (a INTEGER); SELECT nonsense;"]].concat();
        assert!(migrate_with(&mut db, Path::new("x.db"), &broken).is_err());
        let version: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        assert_eq!(usize::try_from(version).unwrap(), MIGRATIONS.len());
        assert!(db.prepare("SELECT a FROM extra").is_err());
    }

    #[test]
    fn a_file_of_an_older_version_is_brought_forward() {
        let mut db = Connection::open_in_memory().unwrap();
        migrate_with(&mut db, Path::new("x.db"), &MIGRATIONS[..1]).unwrap();
        let newer = [MIGRATIONS, &["CREATE TABLE extra (a INTEGER);"]].concat();
        migrate_with(&mut db, Path::new("x.db"), &newer).unwrap();
        migrate_with(&mut db, Path::new("x.db"), &newer).unwrap();
        assert!(db.prepare("SELECT since FROM outbox").is_ok());
        assert!(db.prepare("SELECT a FROM extra").is_ok());
        let refused = migrate(&mut db, Path::new("x.db")).unwrap_err().to_string();
        let says = |number: usize| refused.contains(&format!("{number}"));
        assert!(says(MIGRATIONS.len()) && says(newer.len()), "{refused}");
    }

    #[test]
    fn a_database_of_another_program_is_refused() {
        let mut db = Connection::open_in_memory().unwrap();
        db.execute_batch("CREATE TABLE theirs (a INTEGER)").unwrap();
        assert!(matches!(migrate(&mut db, Path::new("x.db")), Err(StoreError::Damaged(_))));
    }
}
