//! What only happens inside: a full disk, a bad operation among good ones.
#![allow(clippy::unwrap_used)]

use rusqlite::Connection;
use serde_json::json;

use super::*;
use crate::clock::{ManualClock, Timestamp};
use crate::entropy::SeededEntropy;

use crate::journal::{SealedValues, Submitted, chain};
use crate::store::StoreClock;
use crate::task::samples;

fn options() -> StoreOptions {
    let mut options = StoreOptions::new(Arc::new(SeededEntropy::new(1)));
    options.clock = StoreClock::Given(Arc::new(ManualClock::at(Timestamp::from_millis(1_000))));
    options
}

fn submission(n: u8, bytes: usize) -> Submission {
    let task = Submitted { input: json!("x".repeat(bytes)), ..samples::submitted() };
    Submission::new(TaskId::new(Timestamp::from_millis(1_000), [n; 10]), task)
}

fn opened(directory: &tempfile::TempDir) -> (Connection, PathBuf) {
    let path = directory.path().join("x.db");
    (open_writer(&path).unwrap(), path)
}

#[tokio::test]
async fn a_full_disk_refuses_the_submit_and_keeps_what_was_accepted() {
    let directory = tempfile::tempdir().unwrap();
    let (db, path) = opened(&directory);
    let pages: i64 = db.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
    let _: i64 = db.pragma_update_and_check(None, "max_page_count", pages + 8, |row| row.get(0)).unwrap();
    let store = SqliteStore::start(db, path.clone(), options()).unwrap();
    store.submit(vec![submission(1, 100)]).await.unwrap();
    let full = store.submit(vec![submission(2, 100), submission(3, 500_000)]).await;
    assert!(matches!(&full, Err(StoreError::Unavailable(why)) if why.contains("x.db")), "{full:?}");
    assert!(store.head(submission(1, 0).id()).await.unwrap().is_some());
    assert!(store.head(submission(2, 0).id()).await.unwrap().is_none(), "all or none");
    // And it goes on as soon as there is room.
    store.submit(vec![submission(4, 100)]).await.unwrap();
    drop(store);
    let store = SqliteStore::open(&path, options()).unwrap();
    assert_eq!(store.list(Filter::default(), None, 10).await.unwrap().tasks.len(), 2);
}

#[tokio::test]
async fn a_bad_operation_does_not_fail_its_neighbours() {
    let directory = tempfile::tempdir().unwrap();
    let (db, path) = opened(&directory);
    let store = SqliteStore::start(db, path, options()).unwrap();
    // The writer is kept busy, so that the others meet in one group.
    let (release, blocked) = std::sync::mpsc::sync_channel::<()>(1);
    let busy = store.writer.write::<_, StoreError, _>(1, move |_| {
        let _ = blocked.recv_timeout(Duration::from_secs(10));
        Ok(())
    });
    let bad = store.writer.write::<(), StoreError, _>(1, |tx| {
        tx.db.execute("INSERT INTO schedules (name, served_until) VALUES ('half', 1)", [])?;
        Err(tx.db.execute_batch("SELECT nonsense").unwrap_err().into())
    });
    let good = store.submit(vec![submission(1, 10)]);
    let unblock = async {
        tokio::task::yield_now().await;
        drop(release);
    };
    let (busy, bad, good, ()) = tokio::join!(busy, bad, good, unblock);
    busy.unwrap();
    assert!(bad.is_err());
    assert!(good.unwrap()[0].created);
    assert!(store.schedule("half").await.unwrap().is_none(), "the bad one left nothing behind");
    assert_eq!(store.queues().await.unwrap()[0].depth.values().sum::<u64>(), 1, "and nothing was counted twice");
}

#[tokio::test]
async fn dropping_the_store_writes_what_was_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let (db, path) = opened(&directory);
    let store = SqliteStore::start(db, path.clone(), options()).unwrap();
    store.submit(vec![submission(1, 10)]).await.unwrap();
    drop(store);
    assert!(!directory.path().join("x.db-wal").exists(), "the log was taken up");
    let db = Connection::open(&path).unwrap();
    let tasks: i64 = db.query_row("SELECT count(*) FROM tasks", [], |row| row.get(0)).unwrap();
    assert_eq!(tasks, 1);
}

#[tokio::test]
async fn a_journal_of_an_older_version_is_read_and_its_chain_starts_where_it_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let (db, path) = opened(&directory);
    let store = SqliteStore::start(db, path.clone(), options()).unwrap();
    let id = store.submit(vec![submission(1, 10)]).await.unwrap()[0].id;
    let cancel = |reason: &str| Signal::Cancel { by: "ann".to_owned(), reason: reason.to_owned() };
    store.signal(id, cancel("a")).await.unwrap();
    drop(store);
    // As a version without chains left it.
    let db = Connection::open(&path).unwrap();
    db.execute_batch("UPDATE journal SET hash = NULL; UPDATE tasks SET chain = NULL, chain_at = NULL").unwrap();
    drop(db);
    let store = SqliteStore::open(&path, options()).unwrap();
    let look = async || {
        let journal = store.chain(id, 0, 100).await.unwrap();
        let version = store.head(id).await.unwrap().unwrap().version;
        chain::verify(&chain::Witness { task: id, version, seal: None, keys: &[] }, &journal)
    };
    let before = look().await;
    assert_eq!((before.faults, before.starts, before.events), (vec![], None, 2));
    assert_eq!(store.journal(id, 0, 100).await.unwrap().len(), 2);
    store
        .signal(
            id,
            Signal::Replay { by: "ann".to_owned(), reset: Vec::new(), input: None, sealed: SealedValues::default() },
        )
        .await
        .unwrap();
    store.signal(id, cancel("b")).await.unwrap();
    let after = look().await;
    assert_eq!((after.faults, after.starts, after.events), (vec![], Some(3), 4));
    // A version without chains that still runs beside this one may write in between.
    let db = Connection::open(&path).unwrap();
    db.execute_batch("UPDATE journal SET hash = NULL WHERE seq = 4; UPDATE tasks SET chain_at = 3").unwrap();
    drop(db);
    store
        .signal(
            id,
            Signal::Replay { by: "ann".to_owned(), reset: Vec::new(), input: None, sealed: SealedValues::default() },
        )
        .await
        .unwrap();
    let mixed = look().await;
    assert_eq!((mixed.faults, mixed.starts, mixed.events), (vec![], Some(5), 5));
}
