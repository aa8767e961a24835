//! What is done does not slow down what is to be done.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::store::{Filter, Next};
use common::task::StateName;
use suite::conformance::bench::finished;
use suite::servers::postgres;

use super::{bench, client, schema};

/// Finished tasks that are there.
const DONE: i64 = 20_000;
/// Tasks that are taken, worked on and finished beside them.
const WORK: usize = 40;
/// Rows of `tasks` that one of them may cost in all: each of its statements reads it by its key, and looks around a
/// little. One statement that leads past the finished tasks costs hundreds of times as much.
const READS: i64 = 60;

/// How many rows of a table were read and changed, as far as the server has counted yet.
async fn rows(client: &tokio_postgres::Client, schema: &str) -> Result<(i64, i64)> {
    let sql = "SELECT coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) + (SELECT sum(idx_tup_read)::bigint \
               FROM pg_stat_user_indexes i WHERE i.relid = t.relid), n_tup_ins + n_tup_upd \
               FROM pg_stat_user_tables t WHERE schemaname = $1 AND relname = 'tasks'";
    let row = client.query_one(sql, &[&schema]).await?;
    Ok((row.get(0), row.get(1)))
}

/// Waits until the server has counted so many changes: it does so each second.
async fn counted(client: &tokio_postgres::Client, schema: &str, changes: i64) -> Result<i64> {
    tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            let (read, changed) = rows(client, schema).await?;
            if changed >= changes {
                return anyhow::Ok(read);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .context("the server counts its rows")?
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finished_tasks_are_not_read_when_others_are_worked_on() -> Result<()> {
    let url = postgres::place();
    let (bench, client, schema) = (bench(&url).await?, client(&url).await?, schema(&url)?);
    client
        .execute(
            "INSERT INTO tasks (id, pipeline, queue, priority, state, created_at, updated_at, finished_at, version, \
             journal_bytes, head) SELECT gen_random_uuid(), 'p', 'q', 4, 'succeeded', now(), now(), now(), 5, 1000, '{}' \
             FROM generate_series(1, $1::bigint)",
            &[&DONE],
        )
        .await?;
    let before = counted(&client, schema, DONE).await?;
    for _ in 0..WORK {
        let mut held = bench.taken().await?;
        bench.append(&mut held, vec![finished("a")], Next::Continue).await?;
        bench.renew(&held).await?;
        bench.succeed(&mut held).await?;
        bench.store.list(Filter { states: vec![StateName::Ready], ..Filter::default() }, None, 10).await?;
    }
    // Each is inserted once and changed four times.
    let after = counted(&client, schema, DONE + i64::try_from(WORK)? * 5).await?;
    let each = (after - before) / i64::try_from(WORK)?;
    println!("{each} rows read for a task, with {DONE} finished ones beside");
    ensure!(each <= READS, "{each} rows are read for a task that is taken, worked on and finished");
    Ok(())
}
