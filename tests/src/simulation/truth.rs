//! The store itself, and beside it a ledger of leases that is kept by other
//! means: it notices if the store lets a stale writer through.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use common::clock::{Clock, Timestamp};
use common::id::{AppendId, LeaseToken, TaskId};
use common::journal::Recorded;
use common::store::{
    Append, AppendError, Appended, Claim, Doorbell, Hint, Receipt, Renew, Renewal, SqliteStore, Store, StoreClock,
    StoreError, StoreOptions, Submission,
};
use tokio::sync::Notify;

use super::chance::Chance;
use super::clock::{SimulatedClock, StoreTime};

/// The store, asked synchronously.
#[derive(Debug)]
pub(super) struct Truth {
    store: Arc<SqliteStore>,
    time: StoreTime,
    pub(super) clock: SimulatedClock,
    path: PathBuf,
    pub(super) bell: Arc<Bell>,
    notes: Mutex<Notes>,
}

/// Rings when the store says that something became ready. Wakes those who wait in
/// the order in which they came (a `watch` channel would do so by chance), and not
/// from a thread of the store: when that is heard would be chance too.
#[derive(Debug, Default)]
pub(super) struct Bell {
    rings: AtomicU64,
    waiting: Notify,
    /// What the operation that is being done has made ready.
    rung: Mutex<Vec<Hint>>,
}

impl Doorbell for Bell {
    fn ring(&self, hints: Vec<Hint>) {
        self.rung.lock().unwrap_or_else(PoisonError::into_inner).extend(hints);
    }
}

impl Bell {
    /// What it has been rung for; those who wait hear of it now.
    fn sound(&self) -> Vec<Hint> {
        let hints = std::mem::take(&mut *self.rung.lock().unwrap_or_else(PoisonError::into_inner));
        if !hints.is_empty() {
            self.rings.fetch_add(hints.len() as u64, Ordering::SeqCst);
            self.waiting.notify_waiters();
        }
        hints
    }

    /// Waits until it has rung more often than `heard` says.
    pub(super) async fn rung(&self, heard: &AtomicU64) {
        loop {
            let mut waiting = pin!(self.waiting.notified());
            waiting.as_mut().enable();
            let rings = self.rings.load(Ordering::SeqCst);
            if heard.swap(rings, Ordering::SeqCst) != rings {
                return;
            }
            waiting.await;
        }
    }
}

/// What is known without asking the store.
#[derive(Debug, Default)]
struct Notes {
    leases: HashMap<TaskId, (LeaseToken, Timestamp)>,
    accepted: HashSet<AppendId>,
    /// The tasks that each key was answered with.
    keys: BTreeMap<String, BTreeSet<TaskId>>,
    tasks: HashSet<TaskId>,
    counts: BTreeMap<String, u64>,
    violations: Vec<String>,
    /// From when each schedule was served.
    schedules: BTreeMap<String, Timestamp>,
}

impl Truth {
    pub(super) fn open(path: &std::path::Path, seed: u64, tune: impl FnOnce(&mut StoreOptions)) -> Arc<Self> {
        let (time, clock) = (StoreTime::default(), SimulatedClock::start());
        let bell = Arc::new(Bell::default());
        let mut options = StoreOptions::new(Chance::of(seed, "store").entropy());
        options.clock = StoreClock::Given(Arc::new(time.clone()));
        options.doorbell = Some(Arc::clone(&bell) as Arc<dyn Doorbell>);
        tune(&mut options);
        time.set(clock.now());
        let store = SqliteStore::open(path, options).expect("a store");
        Arc::new(Self { store, time, clock, path: path.to_owned(), bell, notes: Mutex::default() })
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self, kind: &str) {
        *self.notes().counts.entry(kind.to_owned()).or_default() += 1;
    }

    pub(super) fn counts(&self) -> BTreeMap<String, u64> {
        self.notes().counts.clone()
    }

    pub(super) fn violation(&self, what: impl std::fmt::Display) {
        let at = self.clock.elapsed();
        self.notes().violations.push(format!("at {at:?}: {what}"));
    }

    pub(super) fn violations(&self) -> Vec<String> {
        self.notes().violations.clone()
    }

    /// Asks the store, at this very moment of virtual time.
    pub(super) fn ask<'s, T>(&'s self, operation: &str, question: impl AsyncFnOnce(&'s dyn Store) -> T) -> T {
        self.count(&format!("store/{operation}"));
        self.time.set(self.clock.now());
        // Without the budget of the task that asks: nobody else could run until it is spent.
        finish(tokio::task::unconstrained(question(&*self.store)))
    }

    /// What became ready by the operation that was just done, which its process has to pass on.
    pub(super) fn made_ready(&self) -> Vec<Hint> {
        self.bell.sound()
    }

    pub(super) fn journal(&self, task: TaskId) -> Vec<Recorded> {
        self.ask("look", async |store| store.journal(task, 0, 10_000).await).unwrap_or_default()
    }

    /// Submits; `sabotaged` is without idempotency.
    pub(super) fn submit(&self, submissions: Vec<Submission>, sabotaged: bool) -> Result<Vec<Receipt>, StoreError> {
        let keys: Vec<_> = submissions
            .iter()
            .map(|s| s.task().key.as_ref().map(|key| format!("{}/{key}", s.task().pipeline)))
            .collect();
        let without_key = |submission: Submission| {
            let (id, mut task) = submission.into_parts();
            task.key = None;
            Submission::new(id, task)
        };
        let submissions = if sabotaged { submissions.into_iter().map(without_key).collect() } else { submissions };
        let receipts = self.ask("submit", async |store| store.submit(submissions).await)?;
        let mut notes = self.notes();
        for (key, receipt) in keys.into_iter().zip(&receipts) {
            notes.tasks.insert(receipt.id);
            if let Some(key) = key {
                notes.keys.entry(key).or_default().insert(receipt.id);
            }
        }
        Ok(receipts)
    }

    pub(super) fn took(&self, claims: &[Claim]) {
        let mut notes = self.notes();
        for claim in claims {
            notes.leases.insert(claim.task, (claim.token, claim.expires));
        }
    }

    /// The lease that is in force, whoever holds it: for those who break the rules on purpose.
    pub(super) fn lease_of(&self, task: TaskId) -> Option<LeaseToken> {
        self.notes().leases.get(&task).map(|(token, _)| *token)
    }

    /// Appends; `token` is what its writer has.
    pub(super) fn append(&self, append: Append, token: LeaseToken) -> Result<Appended, AppendError> {
        let (task, id) = (append.task, append.id);
        let appended = self.ask("append", async |store| store.append(append).await)?;
        let now = self.clock.now();
        let mut notes = self.notes();
        if notes.accepted.insert(id) {
            let held = notes.leases.get(&task).copied();
            if held.is_none_or(|(current, expires)| current != token || now >= expires) {
                drop(notes);
                self.violation(format!("I2: a stale write to task {task} was accepted"));
            }
        }
        Ok(appended)
    }

    pub(super) fn renew(&self, renew: Renew) -> Result<Vec<Renewal>, StoreError> {
        let leases = renew.leases.clone();
        let renewals = self.ask("renew", async |store| store.renew(renew).await)?;
        let now = self.clock.now();
        for ((task, token), renewal) in leases.into_iter().zip(&renewals) {
            let Renewal::Renewed { expires, .. } = renewal else { continue };
            let held = self.notes().leases.insert(task, (token, *expires));
            if held.is_none_or(|(current, until)| current != token || now >= until) {
                self.violation(format!("I2: a lease on task {task} was renewed that is not in force"));
            }
        }
        Ok(renewals)
    }

    pub(super) fn serve_schedule(&self, name: &str, until: Timestamp) -> Result<(), StoreError> {
        self.ask("serve_schedule", async |store| store.serve_schedule(name, until).await)?;
        self.notes().schedules.entry(name.to_owned()).or_insert(until);
        Ok(())
    }

    /// Signals that are still kept for a holder, by looking into the file.
    pub(super) fn kept_signals(&self) -> rusqlite::Result<u64> {
        let db = rusqlite::Connection::open(&self.path)?;
        db.query_row("SELECT count(*) FROM inbox", [], |row| row.get(0)).map(i64::unsigned_abs)
    }

    /// The tasks that were accepted.
    pub(super) fn accepted(&self) -> Vec<TaskId> {
        self.notes().tasks.iter().copied().collect()
    }

    /// The tasks that each idempotency key was answered with.
    pub(super) fn keys(&self) -> BTreeMap<String, BTreeSet<TaskId>> {
        self.notes().keys.clone()
    }

    /// From when each schedule was served.
    pub(super) fn schedules(&self) -> BTreeMap<String, Timestamp> {
        self.notes().schedules.clone()
    }
}

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Finishes a future whose progress is made by other threads.
fn finish<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(answer) => return answer,
            Poll::Pending => std::thread::park(),
        }
    }
}
