//! The doorbell: tells those who wait in `ready` that something may be ready.
//!
//! Within the process the writer rings after a commit. What other processes
//! commit is noticed by a thread that asks `SQLite` for `data_version` (a look
//! into shared memory): each millisecond while something happens, more rarely
//! when nothing does, and not at all while nobody waits.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::watch;

use super::connection::open_reader;

/// How often the thread looks while something happens.
const EAGER: Duration = Duration::from_millis(1);
/// How often it looks when nothing has happened for long.
const LAZY: Duration = Duration::from_millis(20);
/// How often it looks in vain before it becomes slower.
const PATIENCE: u32 = 200;

/// Rings for all who wait.
#[derive(Debug)]
pub(super) struct Bell {
    rings: watch::Sender<u64>,
    watch: Mutex<Watch>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Watch {
    waiting: usize,
    stopped: bool,
}

impl Bell {
    pub(super) fn new() -> Self {
        Self { rings: watch::Sender::new(0), watch: Mutex::default(), changed: Condvar::new() }
    }

    pub(super) fn ring(&self) {
        self.rings.send_modify(|rings| *rings = rings.wrapping_add(1));
    }

    /// What rings from now on is heard, until the answer is dropped.
    pub(super) fn listen(&self) -> Listener<'_> {
        self.update(|watch| watch.waiting += 1);
        Listener { bell: self, rings: self.rings.subscribe() }
    }

    fn update(&self, change: impl FnOnce(&mut Watch)) {
        change(&mut self.watch.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    /// Sleeps, and further while nobody waits; false when the bell is no longer wanted.
    fn pause(&self, pause: Duration) -> bool {
        let watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        let (watch, _) = self
            .changed
            .wait_timeout_while(watch, pause, |watch| !watch.stopped)
            .unwrap_or_else(PoisonError::into_inner);
        let watch = self
            .changed
            .wait_while(watch, |watch| watch.waiting == 0 && !watch.stopped)
            .unwrap_or_else(PoisonError::into_inner);
        !watch.stopped
    }
}

/// Someone who waits.
#[derive(Debug)]
pub(super) struct Listener<'a> {
    bell: &'a Bell,
    rings: watch::Receiver<u64>,
}

impl Listener<'_> {
    /// Returns at the next ring, or one that was not waited for yet.
    pub(super) async fn rung(&mut self) {
        // The sender lives in the bell, which outlives the listener.
        let _ = self.rings.changed().await;
    }
}

impl Drop for Listener<'_> {
    fn drop(&mut self) {
        self.bell.update(|watch| watch.waiting -= 1);
    }
}

/// The thread that notices the commits of other processes; ends when dropped.
#[derive(Debug)]
pub(super) struct Lookout {
    bell: Arc<Bell>,
    thread: Option<JoinHandle<()>>,
}

impl Lookout {
    pub(super) fn start(path: &Path, bell: &Arc<Bell>) -> std::io::Result<Self> {
        let (path, ringer) = (path.to_owned(), Arc::clone(bell));
        let thread =
            std::thread::Builder::new().name("store-lookout".to_owned()).spawn(move || look_out(&path, &ringer))?;
        Ok(Self { bell: Arc::clone(bell), thread: Some(thread) })
    }
}

impl Drop for Lookout {
    fn drop(&mut self) {
        self.bell.update(|watch| watch.stopped = true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the store's lookout thread had panicked");
        }
    }
}

fn look_out(path: &Path, bell: &Bell) {
    let mut db = None;
    let mut last = None;
    let mut quiet = 0;
    let mut pause = EAGER;
    while bell.pause(pause) {
        let version = data_version(&mut db, path);
        if version.is_some() && version == last {
            quiet += 1;
            if quiet > PATIENCE {
                pause = (pause * 2).min(LAZY);
            }
        } else {
            last = version;
            (quiet, pause) = (0, if version.is_some() { EAGER } else { LAZY });
            bell.ring();
        }
    }
}

/// A number that changes when another connection commits; nothing if the file cannot be read now.
fn data_version(db: &mut Option<Connection>, path: &Path) -> Option<i64> {
    if db.is_none() {
        *db = open_reader(path).ok();
    }
    let version = db
        .as_ref()?
        .prepare_cached("PRAGMA data_version")
        .and_then(|mut statement| statement.query_row([], |row| row.get(0)));
    if version.is_err() {
        *db = None;
    }
    version.ok()
}
