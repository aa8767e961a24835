//! Connections that break, notifications that get lost, and others in the way.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::store::{AppendError, ClaimTasks, Next, PostgresStore, Store, StoreError};
use common::task::StateName;
use suite::conformance::bench::{LEASE, finished, key, queue, worker};
use suite::servers::postgres::{self, Options, Server};

use super::{bench, client, options, schema};

/// Ends all connections that an application of this name has.
const TERMINATE: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = $1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_survive_connections_that_are_killed_and_are_done_once() -> Result<()> {
    let place = postgres::place();
    let name = schema(&place)?;
    let bench = Arc::new(bench(&format!("{place}&application_name={name}")).await?);
    let killer = client(&place).await?;
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let mut held = bench.taken().await?;
        let bench = Arc::clone(&bench);
        workers.spawn(async move {
            for n in 0..60 {
                let next = if n < 59 { Next::Continue } else { Next::Succeed { output: serde_json::json!(n) } };
                let append = bench.request_append(&held, vec![finished(&format!("s{n}"))], next);
                let appended = loop {
                    // An answer that got lost is asked for again.
                    match bench.store.append(append.clone()).await {
                        Ok(appended) => break appended,
                        Err(AppendError::Store(StoreError::Unavailable(_))) => {}
                        Err(error) => return Err(error.into()),
                    }
                };
                ensure!(appended.recorded.len() == if n < 59 { 1 } else { 2 });
                held.version += 1;
            }
            anyhow::Ok(())
        });
    }
    let working = Arc::new(AtomicBool::new(true));
    let flag = Arc::clone(&working);
    let schema_name = name.to_owned();
    let killing = tokio::spawn(async move {
        let mut killed = 0;
        while flag.load(Ordering::Relaxed) {
            killed += killer.query_one(TERMINATE, &[&schema_name]).await?.get::<_, i64>(0);
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
        anyhow::Ok(killed)
    });
    while let Some(worker) = workers.join_next().await {
        worker??;
    }
    working.store(false, Ordering::Relaxed);
    ensure!(killing.await?? > 3, "connections were killed");
    for head in bench.all(<_>::default()).await? {
        ensure!(head.state.name() == StateName::Succeeded && head.version == 2 + 60 + 1, "{head:?}");
    }
    bench.verify().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_crashes_keeps_what_was_accepted_and_is_found_again() -> Result<()> {
    let mut server = tokio::task::spawn_blocking(|| Server::start(&Options::default())).await?;
    let bench = bench(&format!("{}?schema=x", server.url())).await?;
    let task = bench.submitted().await?;
    let mut held = bench.taken().await?;
    let server = tokio::task::spawn_blocking(move || {
        server.kill();
        server
    })
    .await?;
    let down = bench.store.head(task).await;
    ensure!(matches!(down, Err(StoreError::Unavailable(_))), "{down:?}");
    let down = bench.store.submit(vec![bench.task()]).await;
    ensure!(matches!(down, Err(StoreError::Unavailable(_))), "{down:?}");
    let _server = tokio::task::spawn_blocking(move || {
        let mut server = server;
        server.restart();
        server
    })
    .await?;
    ensure!(bench.state(task).await? == StateName::Ready);
    bench.succeed(&mut held).await?;
    bench.verify().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_is_found_when_its_notification_is_lost() -> Result<()> {
    let url = postgres::place();
    let bench = bench(&url).await?;
    let waiting = bench.another().await?;
    bench.store.pause(queue("q"), true).await?;
    bench.submitted().await?;
    let waiter = tokio::spawn(async move {
        loop {
            waiting.ready(&[queue("q")]).await;
            // A bell may ring for nothing: only work counts.
            if !waiting
                .take(common::store::Take { worker: worker("w"), queues: vec![queue("q")], max: 1, lease: LEASE })
                .await?
                .is_empty()
            {
                return anyhow::Ok(());
            }
        }
    });
    // Behind the store's back: nobody is told.
    client(&url).await?.execute("DELETE FROM paused_queues", &[]).await?;
    tokio::time::timeout(Duration::from_secs(10), waiter).await???;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_submit_the_same_keys_at_once_get_the_same_tasks() -> Result<()> {
    const KEYS: usize = 120;
    let url = postgres::place();
    let bench = Arc::new(bench(&url).await?);
    let mut stores: Vec<Arc<dyn Store>> = vec![Arc::clone(&bench.store)];
    for _ in 0..2 {
        stores.push(PostgresStore::open(&url, options()?).await?);
    }
    let mut submitting = tokio::task::JoinSet::new();
    for (number, store) in stores.into_iter().enumerate() {
        for part in 0..2 {
            let (bench, store) = (Arc::clone(&bench), Arc::clone(&store));
            submitting.spawn(async move {
                let mut keys: Vec<usize> = (0..KEYS).collect();
                // Each in another order.
                keys.rotate_left(number * 31 + part * 17);
                if part == 1 {
                    keys.reverse();
                }
                let mut got = Vec::new();
                for some in keys.chunks(20) {
                    let tasks = some.iter().map(|n| bench.task_with(|s| s.key = Some(key(&format!("k{n}")))));
                    let receipts = store.submit(tasks.collect()).await?;
                    got.extend(some.iter().copied().zip(receipts.into_iter().map(|receipt| receipt.id)));
                }
                anyhow::Ok(got)
            });
        }
    }
    let mut pairs = HashSet::new();
    while let Some(got) = submitting.join_next().await {
        pairs.extend(got??);
    }
    ensure!(pairs.len() == KEYS, "{} different answers for {KEYS} keys", pairs.len());
    ensure!(bench.all(<_>::default()).await?.len() == KEYS);
    bench.verify().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadlock_with_another_transaction_is_tried_again() -> Result<()> {
    let url = postgres::place();
    let bench = Arc::new(bench(&url).await?);
    let (first, second) = (bench.submitted().await?, bench.submitted().await?);
    let mut other = client(&url).await?;
    // Whoever waits for a second finds out: the store is to be the one that gives way.
    other.batch_execute("SET deadlock_timeout = '60s'").await?;
    let lock = "SELECT 1 FROM tasks WHERE id = $1 FOR UPDATE";
    let tx = other.transaction().await?;
    tx.execute(lock, &[&second.as_uuid()]).await?;
    let claiming = tokio::spawn({
        let bench = Arc::clone(&bench);
        async move {
            let tasks = vec![first, second];
            bench.store.claim(ClaimTasks { worker: worker("w"), tasks, lease: LEASE }).await
        }
    });
    let watcher = client(&url).await?;
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%FOR UPDATE%'";
    tokio::time::timeout(Duration::from_secs(10), async {
        while watcher.query_one(waits, &[]).await?.get::<_, i64>(0) == 0 {
            tokio::task::yield_now().await;
        }
        anyhow::Ok(())
    })
    .await
    .context("the store waits for the lock")??;
    tx.execute(lock, &[&first.as_uuid()]).await?;
    tx.commit().await?;
    ensure!(claiming.await??.len() == 2);
    bench.verify().await
}
