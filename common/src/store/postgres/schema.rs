//! The tables, and how a schema of an older version becomes one of this version.
//!
//! Migrations go forward only, all in one transaction, under an advisory lock:
//! several processes may start at once. A schema of a newer version or of another
//! program is refused and left as it is. Names of tables and columns are a
//! format: users read them with psql.

use super::address::Address;
use super::connection::Connection;
use super::fault::{Fault, Stop};
use crate::store::StoreError;

/// Only one process at a time migrates: "TMSTMIGR".
const LOCK: i64 = 0x544D_5354_4D49_4752;
/// What the comment on a schema of ours says.
const MARK: &str = "the tables of Teamster, version";

/// One entry a version; never changed once released, only added to.
const MIGRATIONS: &[&str] = &[VERSION_1, VERSION_2, VERSION_3, VERSION_4, VERSION_5, VERSION_6];

const VERSION_1: &str = r#"
-- A task. `head` is the truth for a reader; the other columns are what indexes and filters need of it.
-- What an append changes stands in no index, and pages have room: such an update touches one page (HOT).
CREATE TABLE tasks (
    id            uuid PRIMARY KEY,
    pipeline      text COLLATE "C" NOT NULL,
    queue         text COLLATE "C" NOT NULL,
    priority      smallint NOT NULL,
    key           text COLLATE "C",     -- the idempotency key
    parent        uuid,
    batch         text COLLATE "C",     -- the batch of which a row made this task
    supersede     text COLLATE "C",     -- the group of which only the newest is wanted
    labels        text COLLATE "C",     -- a line each: name=value
    state         text COLLATE "C" NOT NULL,
    dead_reason   text COLLATE "C",
    created_at    timestamptz NOT NULL,
    updated_at    timestamptz NOT NULL,
    ready_since   timestamptz,          -- while ready
    due_at        timestamptz,          -- when the store must look: a timer, or the end of the lease
    finished_at   timestamptz,          -- once done; retention counts from here
    approvals     integer NOT NULL DEFAULT 0,  -- how many decisions are wanted from people
    version       bigint NOT NULL,      -- the number of the newest event
    token         uuid,                 -- of the lease, while running
    inbox         text,                 -- signals that wait for the holder: a JSON array
    journal_bytes bigint NOT NULL,
    last_append   uuid,                 -- the newest append by id, and the events it added
    last_from     bigint,
    last_to       bigint,
    head          text NOT NULL         -- JSON
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 2000,
        autovacuum_analyze_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 1);
CREATE UNIQUE INDEX tasks_key ON tasks (pipeline, key) WHERE key IS NOT NULL;
CREATE INDEX tasks_ready ON tasks (queue, priority DESC, ready_since, id) WHERE state = 'ready';
CREATE INDEX tasks_due ON tasks (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX tasks_parent ON tasks (parent, id) WHERE parent IS NOT NULL;
CREATE INDEX tasks_children ON tasks (parent, id) WHERE parent IS NOT NULL AND finished_at IS NULL;
CREATE INDEX tasks_supersede ON tasks (pipeline, supersede) WHERE supersede IS NOT NULL AND finished_at IS NULL;
CREATE INDEX tasks_approvals ON tasks (id) WHERE approvals > 0;
CREATE INDEX tasks_pipeline ON tasks (pipeline, id);
CREATE INDEX tasks_state ON tasks (state, id) WHERE state <> 'succeeded';
CREATE INDEX tasks_retained ON tasks (finished_at) WHERE state IN ('succeeded', 'cancelled');
CREATE INDEX tasks_retained_dead ON tasks (finished_at) WHERE state = 'dead';

CREATE TABLE journal (
    task  uuid NOT NULL,
    seq   bigint NOT NULL,
    at    timestamptz NOT NULL,
    event text NOT NULL,                -- JSON
    PRIMARY KEY (task, seq)
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.5);

-- Sums over tasks, kept in the transaction that changes the tasks: figures cost O(queues), not O(tasks). A row for
-- each connection that writes (slot), so that no two wait for each other; the figure is their sum.
CREATE TABLE counts (
    kind   text COLLATE "C" NOT NULL,   -- queue, batch or retained
    name   text COLLATE "C" NOT NULL,   -- which queue or batch; finished or dead
    what   text COLLATE "C" NOT NULL,   -- a state, or what else is counted
    slot   integer NOT NULL,
    n      bigint NOT NULL,
    amount double precision NOT NULL,   -- of cost: dollars
    PRIMARY KEY (kind, name, what, slot)
) WITH (fillfactor = 25, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0.0);
CREATE VIEW queue_depths AS
    SELECT name AS queue, what AS state, sum(n)::bigint AS tasks FROM counts WHERE kind = 'queue' GROUP BY 1, 2;

CREATE TABLE paused_queues (
    queue text COLLATE "C" PRIMARY KEY
);

CREATE TABLE batches (
    id         text COLLATE "C" PRIMARY KEY,
    pipeline   text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL,
    closed     boolean NOT NULL DEFAULT false,
    over       boolean NOT NULL DEFAULT false   -- closed, and retention has removed all of its tasks
);
CREATE INDEX batches_over ON batches (created_at) WHERE over;
CREATE TABLE batch_rows (
    batch     text COLLATE "C" NOT NULL,
    line      bigint NOT NULL,
    task      uuid,
    duplicate boolean NOT NULL,         -- the task existed before
    reason    text,                     -- why it made no task
    PRIMARY KEY (batch, line)
);
CREATE INDEX batch_rows_duplicate ON batch_rows (batch, task) WHERE duplicate;
CREATE INDEX batch_rows_rejected ON batch_rows (batch, line) WHERE reason IS NOT NULL;

CREATE TABLE definitions (
    digest text COLLATE "C" PRIMARY KEY,
    name   text COLLATE "C" NOT NULL,
    body   text NOT NULL
);
CREATE TABLE current_definitions (
    name   text COLLATE "C" PRIMARY KEY,
    digest text COLLATE "C" NOT NULL
);

CREATE TABLE schedules (
    name         text COLLATE "C" PRIMARY KEY,
    served_until timestamptz NOT NULL
);

-- Hints that a broker may not have yet.
CREATE TABLE outbox (
    task     uuid PRIMARY KEY,
    version  bigint NOT NULL,
    queue    text COLLATE "C" NOT NULL,
    priority smallint NOT NULL,
    since    timestamptz NOT NULL       -- kept, or given out again
) WITH (fillfactor = 70, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX outbox_since ON outbox (since);

-- One row that a health check rewrites.
CREATE TABLE health (
    id         integer PRIMARY KEY CHECK (id = 1),
    checked_at timestamptz NOT NULL
);

-- Large events compress several times faster with lz4; not every server was built with it.
DO $$ BEGIN
    EXECUTE 'ALTER TABLE journal ALTER COLUMN event SET COMPRESSION lz4';
    EXECUTE 'ALTER TABLE tasks ALTER COLUMN head SET COMPRESSION lz4';
EXCEPTION WHEN OTHERS THEN NULL;
END $$;
"#;

const VERSION_2: &str = r#"
-- Large values that events refer to by name.
CREATE TABLE blobs (
    name         text COLLATE "C" PRIMARY KEY,
    digest       text COLLATE "C" NOT NULL,  -- BLAKE3 of the value's JSON
    elsewhere    boolean NOT NULL,           -- its bytes are in a folder or a bucket, not in blob_data
    unused_since timestamptz,                -- while no task uses it
    condemned    boolean NOT NULL DEFAULT false  -- it is to be removed from that folder or bucket
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX blobs_content ON blobs (digest, elsewhere) WHERE NOT condemned;
CREATE INDEX blobs_unused ON blobs (unused_since) WHERE unused_since IS NOT NULL AND NOT condemned;
CREATE INDEX blobs_condemned ON blobs (name) WHERE condemned;
CREATE TABLE blob_data (
    name text COLLATE "C" PRIMARY KEY,
    data bytea NOT NULL              -- the JSON, compressed with zstd
);
ALTER TABLE blob_data ALTER COLUMN data SET STORAGE EXTERNAL;
CREATE TABLE blob_users (
    task uuid NOT NULL,
    name text COLLATE "C" NOT NULL,
    PRIMARY KEY (task, name)
);
CREATE INDEX blob_users_name ON blob_users (name);
"#;

const VERSION_3: &str = r#"
-- How much of something was used: budgets, rate limits, places.
CREATE TABLE meters (
    name       text COLLATE "C" NOT NULL,
    kind       text COLLATE "C" NOT NULL,    -- its window: total, places, every 1m, idle 30d
    used       bigint NOT NULL,              -- or reserved
    most       bigint,                       -- the limit that was named last
    since      timestamptz NOT NULL,         -- since when this is counted
    charged_at timestamptz NOT NULL,
    held_until timestamptz,                  -- nothing is granted before
    goes_at    timestamptz,                  -- when the store must look: it may be over
    PRIMARY KEY (name, kind)
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX meters_goes ON meters (goes_at) WHERE goes_at IS NOT NULL;
-- What was reserved of meters.
CREATE TABLE reservations (
    id      text COLLATE "C" PRIMARY KEY,
    task    uuid NOT NULL,
    status  text COLLATE "C" NOT NULL,       -- held, settled or lapsed
    expires timestamptz NOT NULL,
    due_at  timestamptz NOT NULL,            -- when the store must look
    parts   text NOT NULL                    -- how much of which meters: JSON
) WITH (fillfactor = 70, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX reservations_due ON reservations (due_at);
-- The emergency stop: the newest of the fleet and of each pipeline.
CREATE TABLE halts (
    pipeline  text COLLATE "C" PRIMARY KEY,  -- empty: the whole fleet
    halted_at timestamptz NOT NULL,
    halted_by text NOT NULL,
    reason    text NOT NULL,
    lifted_at timestamptz,                   -- none: it is in force
    lifted_by text,
    over      boolean NOT NULL               -- all that waited for it was woken
);
"#;

const VERSION_4: &str = r"
ALTER TABLE meters ADD COLUMN level smallint NOT NULL DEFAULT 0;    -- the highest level that was passed, in percent
ALTER TABLE meters ADD COLUMN line text NOT NULL DEFAULT '{}';      -- who holds places and who waits for one: JSON
";

const VERSION_5: &str = r"
-- The chain of a journal: what came before has none.
ALTER TABLE journal ADD COLUMN hash bytea;
ALTER TABLE journal ALTER COLUMN hash SET STORAGE PLAIN;
ALTER TABLE tasks ADD COLUMN chain bytea;    -- the hash of the event with the number chain_at
ALTER TABLE tasks ADD COLUMN chain_at bigint;
ALTER TABLE tasks ADD COLUMN seal bytea;     -- the newest signature: the event's number, the key, the signature
";

const VERSION_6: &str = r#"
-- Conversations that go on across tasks.
CREATE TABLE sessions (
    name    text COLLATE "C" PRIMARY KEY,    -- the pipeline, / and the key
    version bigint NOT NULL,                 -- how often it was replaced
    body    bytea NOT NULL,                  -- JSON
    until   timestamptz NOT NULL             -- when it may go
);
CREATE INDEX sessions_until ON sessions (until);
"#;

/// Brings the schema to the version that this program knows, or refuses it.
pub(super) async fn migrate(connection: &Connection, address: &Address) -> Result<(), Stop<StoreError>> {
    let schema = &address.schema;
    connection.batch(&format!("BEGIN; SELECT pg_advisory_xact_lock({LOCK})")).await?;
    let outcome = migrate_locked(connection, schema, MIGRATIONS).await;
    connection.batch(if outcome.is_ok() { "COMMIT" } else { "ROLLBACK" }).await?;
    outcome
}

async fn migrate_locked(connection: &Connection, schema: &str, migrations: &[&str]) -> Result<(), Stop<StoreError>> {
    let refuse = |why: String| Err(Stop::Refused(StoreError::Damaged(why)));
    let found = connection
        .query(
            "SELECT n.oid IS NOT NULL, (SELECT count(*) FROM pg_class c WHERE c.relnamespace = n.oid), \
             obj_description(n.oid, 'pg_namespace') \
             FROM (SELECT $1::text AS name) s LEFT JOIN pg_namespace n ON n.nspname = s.name",
            &[&schema],
        )
        .await?;
    let Some(row) = found.first() else { return refuse("the catalog of Postgres gives no answer".to_owned()) };
    let exists: bool = row.try_get(0).map_err(Fault::from)?;
    let tables: i64 = row.try_get(1).map_err(Fault::from)?;
    let mark: Option<String> = row.try_get(2).map_err(Fault::from)?;
    let version = mark.as_deref().and_then(|mark| mark.strip_prefix(MARK)).map(str::trim);
    let version: usize = match version.map(str::parse) {
        Some(Ok(version)) => version,
        Some(Err(_)) => return refuse(format!("schema {schema} has a version that is no number: {mark:?}")),
        None if tables > 0 => {
            return refuse(format!(
                "schema {schema} holds tables of another program; name another one with ?schema=NAME"
            ));
        }
        None => 0,
    };
    let known = migrations.len();
    if version > known {
        return refuse(format!(
            "schema {schema} has version {version}, and this program knows versions up to {known}; use a newer program"
        ));
    }
    if !exists {
        connection.batch(&format!("CREATE SCHEMA \"{schema}\"")).await?;
    }
    for migration in migrations.iter().skip(version) {
        connection.batch(migration).await?;
    }
    if version < known {
        connection.batch(&format!("COMMENT ON SCHEMA \"{schema}\" IS '{MARK} {known}'")).await?;
    }
    Ok(())
}
