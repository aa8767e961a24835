//! One transaction: tasks are loaded under their locks into a [`Book`], the book
//! says what becomes of them, and everything that changed is written at the end
//! in one flush, commit included.

use std::collections::{BTreeSet, HashMap, HashSet};

use futures::future::BoxFuture;
use futures::{FutureExt, join};
use uuid::Uuid;

use super::connection::Connection;
use super::fault::{Fault, Stop};
use super::row::{self, Beside, Stored, columns};
use super::tally::Tally;
use super::value::Time;
use super::write;
use crate::clock::Timestamp;
use crate::id::{BlobName, QueueName, TaskId};
use crate::store::book::{self, Book, Entry, Known, Needs};
use crate::store::witness::Fact;
use crate::store::{Hint, StoreClock, StoreOptions, ledger};
use crate::task::{Signal, StateName};

/// How often an operation may ask for more tasks: a family is not that deep.
const ROUNDS: usize = 100;

/// Named tasks under their locks, in the order of their ids: two transactions never wait for each other. The parents of
/// those that may end come along: they are told, and are locked before their children.
///
/// Here and below, a `LATERAL` with a `LIMIT` is a look into an index for each item: whatever the statistics say, the
/// planner cannot make a walk through a table of it.
pub(super) const LOAD: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM tasks WHERE id = ANY(ARRAY(SELECT unnest($1::uuid[]) UNION SELECT p.parent FROM unnest($2::uuid[]) AS e(id) \
     CROSS JOIN LATERAL (SELECT t.parent FROM tasks t WHERE t.id = e.id LIMIT 1) p WHERE p.parent IS NOT NULL)) \
     ORDER BY id FOR UPDATE"
);
/// Their unfinished children.
pub(super) const CHILDREN: &str = "SELECT u.id, c.id FROM (SELECT unnest($1::uuid[]) AS id \
     UNION SELECT p.parent FROM unnest($2::uuid[]) AS e(id) \
     CROSS JOIN LATERAL (SELECT t.parent FROM tasks t WHERE t.id = e.id LIMIT 1) p WHERE p.parent IS NOT NULL) u \
     CROSS JOIN LATERAL (SELECT t.id FROM tasks t WHERE t.parent = u.id AND t.parent IS NOT NULL \
     AND t.finished_at IS NULL LIMIT 1000000) c";
/// The newest events of those that are done.
pub(super) const ENDINGS: &str = "SELECT j.task, j.seq, j.at, j.event FROM tasks t \
     JOIN journal j ON j.task = t.id AND j.seq = t.version WHERE t.id = ANY($1::uuid[]) AND t.finished_at IS NOT NULL";
/// The server's time. Asked after the locks are taken: whoever waited for one does not judge by a time before.
pub(super) const CLOCK: &str = "SELECT date_trunc('milliseconds', clock_timestamp())";

/// What a transaction loads first.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// Tasks to be loaded.
    pub(super) ids: BTreeSet<Uuid>,
    /// Those of them that may end.
    pub(super) ending: BTreeSet<Uuid>,
    /// Those of them of which a parent wants to know how they ended.
    pub(super) told: BTreeSet<Uuid>,
}

/// See the module.
pub(super) struct Transaction<'c> {
    pub(super) connection: &'c Connection,
    pub(super) options: &'c StoreOptions,
    /// The store's time.
    pub(super) now: Timestamp,
    pub(super) book: Book,
    pub(super) beside: HashMap<TaskId, Beside>,
    pub(super) tally: Tally,
    /// Tasks that are new, with their first events.
    pub(super) created: Vec<write::Created>,
    /// Lines of batches.
    pub(super) rows: write::BatchRows,
    /// Batches of which retention removed tasks.
    pub(super) lessened: BTreeSet<String>,
    /// Of the blobs that operations refer to, those that are kept.
    pub(super) kept_blobs: HashSet<String>,
    /// Tasks that cannot be read, with where they are to be counted no more.
    aside: HashSet<TaskId>,
}

/// What is to be done after the commit.
#[derive(Debug, Default)]
pub(super) struct Rings {
    /// Something became ready there.
    pub(super) queues: BTreeSet<QueueName>,
    /// For the broker.
    pub(super) hints: Vec<Hint>,
    /// For a witness.
    pub(super) facts: Vec<Fact>,
}

impl<'c> Transaction<'c> {
    /// The state before anything was sent.
    pub(super) fn new(connection: &'c Connection, options: &'c StoreOptions) -> Self {
        let now = Timestamp::default();
        Self {
            connection,
            options,
            now,
            book: Book::new(now, options.limits).sealed_with(options.seal.clone()),
            beside: HashMap::new(),
            tally: Tally::default(),
            created: Vec::new(),
            rows: write::BatchRows::default(),
            lessened: BTreeSet::new(),
            kept_blobs: HashSet::new(),
            aside: HashSet::new(),
        }
    }

    /// Begins, with the time.
    pub(super) async fn begin(connection: &'c Connection, options: &'c StoreOptions) -> Result<Self, Fault> {
        let (begun, now) = join!(connection.batch("BEGIN"), clock(connection, options));
        begun?;
        let mut tx = Self::new(connection, options);
        tx.set_now(now?);
        Ok(tx)
    }

    /// Whether all blobs that an operation refers to are kept.
    pub(super) fn keeps(&self, names: &[BlobName]) -> bool {
        names.iter().all(|name| self.kept_blobs.contains(&name.to_string()))
    }

    /// From now on it is this time.
    pub(super) fn set_now(&mut self, now: Timestamp) {
        self.now = now;
        self.book.at(now);
    }

    /// Loads tasks under their locks.
    pub(super) async fn load(&mut self, wanted: &Wanted) -> Result<(), Fault> {
        let loaded = fetch(self.connection, wanted).await?;
        self.enter(wanted, loaded);
        Ok(())
    }

    /// Enters what was fetched into the book.
    pub(super) fn enter(&mut self, wanted: &Wanted, fetched: Fetched) {
        let Fetched { tasks, mut children, mut endings } = fetched;
        for id in &wanted.ids {
            let id = TaskId::from_uuid(*id);
            if !self.book.knows(id) {
                self.book.load(id, Known::Missing);
            }
        }
        for mut stored in tasks {
            if let Ok(entry) = &mut stored.entry {
                entry.children = children.remove(&stored.id).unwrap_or_default();
                match endings.remove(&stored.id) {
                    Some(Ok(ending)) => entry.ending = Some(ending),
                    Some(Err(why)) => stored.entry = Err(why),
                    None => {}
                }
            }
            self.put(stored);
        }
    }

    /// Enters a row that is locked.
    pub(super) fn put(&mut self, stored: Stored) {
        let Stored { id, beside, entry } = stored;
        self.beside.insert(id, beside);
        self.book.load(
            id,
            match entry {
                Ok(entry) => Known::Task(Box::new(entry)),
                Err(why) => Known::Unreadable(why),
            },
        );
    }

    /// Does an operation of the book, with everything loaded that it asks for.
    pub(super) async fn settle<T, E>(
        &mut self,
        mut operation: impl FnMut(&mut Book) -> Result<T, book::Stop<E>>,
    ) -> Result<T, Stop<E>> {
        for _ in 0..ROUNDS {
            match operation(&mut self.book) {
                Ok(answer) => return Ok(answer),
                Err(book::Stop::Refused(error)) => return Err(Stop::Refused(error)),
                Err(book::Stop::Needs(Needs(ids))) => self.load(&Wanted::all(&ids)).await?,
            }
        }
        Err(Stop::Fault(Fault::Unavailable(format!("a family of tasks is more than {ROUNDS} generations deep"))))
    }

    /// Puts a task aside whose head this version cannot read: a dead letter that
    /// keeps its head and journal as they are. It must not stop others.
    pub(super) fn set_aside<'a>(&'a mut self, id: TaskId, why: &'a str) -> BoxFuture<'a, Result<(), Fault>>
    where
        'c: 'a,
    {
        async move {
            let Some(beside) = self.beside.get(&id).cloned() else { return Ok(()) };
            if beside.state == Some(StateName::Dead) || !self.aside.insert(id) {
                return Ok(());
            }
            tracing::error!(task = %id, why, "a task cannot be read by this version; it is a dead letter now");
            if let Some(parent) = beside.parent {
                self.tell(parent, &ledger::lost_child(id, why)).await?;
            }
            let cancel = Signal::Cancel { by: "store".to_owned(), reason: "its parent cannot be read".to_owned() };
            let wanted = Wanted { ids: [id.as_uuid()].into(), ..Wanted::default() };
            for child in fetch(self.connection, &wanted).await?.children.remove(&id).unwrap_or_default() {
                self.tell(child, &cancel).await?;
            }
            Ok(())
        }
        .boxed()
    }

    /// Gives a signal to a task that may not want it.
    async fn tell(&mut self, task: TaskId, signal: &Signal) -> Result<(), Fault> {
        match self.settle(|book| book.signal(task, signal)).await {
            Ok(_) | Err(Stop::Refused(_)) => Ok(()),
            Err(Stop::Fault(fault)) => Err(fault),
        }
    }

    /// Writes everything that changed, and commits. `last` is sent before the commit, in the same flush.
    pub(super) async fn commit(self) -> Result<Rings, Fault> {
        let (rings, _) = self.commit_reading(Vec::new()).await?;
        Ok(rings)
    }

    /// As [`Self::commit`]; answers with the journals of some tasks, too.
    pub(super) async fn commit_reading(self, journals: Vec<Uuid>) -> Result<(Rings, write::Journals), Fault> {
        let Self { connection, options, now, book, beside, tally, created, rows, lessened, aside, .. } = self;
        let mut writing = write::Writing::new(connection, options, now, tally);
        writing.created(created)?;
        writing.changes(book.into_changes(), &beside)?;
        writing.aside(aside, &beside);
        writing.batches(rows, lessened);
        writing.commit(journals).await
    }

    /// The task as it is now, if it was loaded and can be read.
    pub(super) fn entry(&self, id: TaskId) -> Option<&Entry> {
        self.book.entry(id)
    }
}

impl Wanted {
    /// Everything that can be known of some tasks.
    pub(super) fn all(ids: &[TaskId]) -> Self {
        let ids: BTreeSet<Uuid> = ids.iter().map(|id| id.as_uuid()).collect();
        Self { told: ids.clone(), ending: BTreeSet::new(), ids }
    }
}

/// What [`Wanted`] leads to.
#[derive(Default)]
pub(super) struct Fetched {
    tasks: Vec<Stored>,
    children: HashMap<TaskId, Vec<TaskId>>,
    endings: HashMap<TaskId, Result<crate::journal::Recorded, String>>,
}

/// Asks for tasks, their children and endings, in one flush.
pub(super) async fn fetch(connection: &Connection, wanted: &Wanted) -> Result<Fetched, Fault> {
    if wanted.ids.is_empty() {
        return Ok(Fetched::default());
    }
    let list = |ids: &BTreeSet<Uuid>| ids.iter().copied().collect::<Vec<_>>();
    let (ids, ending, told) = (list(&wanted.ids), list(&wanted.ending), list(&wanted.told));
    let (tasks, children, endings) = join!(
        async { connection.query(LOAD, &[&ids, &ending]).await },
        async { connection.query(CHILDREN, &[&ids, &ending]).await },
        async { if told.is_empty() { Ok(Vec::new()) } else { connection.query(ENDINGS, &[&told]).await } },
    );
    let mut fetched =
        Fetched { tasks: tasks?.iter().map(Stored::read).collect::<Result<_, _>>()?, ..Fetched::default() };
    for row in children? {
        let parent = TaskId::from_uuid(row.try_get(0)?);
        fetched.children.entry(parent).or_default().push(TaskId::from_uuid(row.try_get(1)?));
    }
    // The oldest first.
    fetched.children.values_mut().for_each(|children| children.sort_unstable());
    for row in endings? {
        let task = TaskId::from_uuid(row.try_get(0)?);
        let ending = match row::event(&row, task, 1) {
            Err(Fault::Damaged(why)) => Err(why),
            other => Ok(other?),
        };
        fetched.endings.insert(task, ending);
    }
    Ok(fetched)
}

/// The store's time.
pub(super) async fn clock(connection: &Connection, options: &StoreOptions) -> Result<Timestamp, Fault> {
    if let Some(now) = given(options) {
        return Ok(now.0);
    }
    let rows = connection.query(CLOCK, &[]).await?;
    let Some(row) = rows.first() else { return Err(Fault::Unavailable("the server has no time".to_owned())) };
    let Time(now) = row.try_get(0)?;
    Ok(now)
}

/// The time that statements are to go by, if it is not the server's.
pub(super) fn given(options: &StoreOptions) -> Option<Time> {
    match &options.clock {
        StoreClock::Own => None,
        StoreClock::Given(clock) => Some(Time(clock.now())),
    }
}
