//! Tasks that come from another store, with their journals.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use common::id::{ApprovalId, BatchId, GroupKey, TaskId};
use common::journal::{ApprovalDecision, Event, Recorded};
use common::store::{BatchRowState, Next, OpenBatch, SqliteStore, Store, StoreError, StoreOptions, Transcript};
use common::task::{Head, Parent, Signal, StateName, Wait, WaitOn};

use super::bench::{Bench, finished, key, pipeline, step, valid};
use super::{Backend, Place};

/// The store that tasks come from.
pub(super) struct Source(pub(super) tempfile::TempDir);

#[async_trait]
impl Backend for Source {
    async fn open(&self, options: StoreOptions) -> Result<Arc<dyn Store>, StoreError> {
        Ok(SqliteStore::open(&self.0.path().join("source.db"), options)?)
    }
}

/// Tasks in every state, as they are in another store.
struct Population {
    source: Bench,
    ready: TaskId,
    scheduled: TaskId,
    running: TaskId,
    asking: TaskId,
    dead: TaskId,
    parent: TaskId,
    child: TaskId,
}

impl Population {
    async fn new() -> Result<Self> {
        let source = Bench::open(Box::new(Source(tempfile::tempdir()?))).await?;
        source.store.open_batch(OpenBatch { id: batch(), pipeline: pipeline("p") }).await?;
        let ready = source.task_with(|s| {
            s.key = Some(key("k"));
            s.batch = Some(batch());
            s.line = Some(7);
            s.supersede = Some(valid(GroupKey::new("g")));
            s.labels = [("a".to_owned(), "b".to_owned())].into();
        });
        let ready = source.submit(ready).await?.id;
        let at = source.now().plus(Duration::from_secs(60));
        let scheduled = source.submit(source.task_with(|s| s.run_at = Some(at))).await?.id;
        let mut running = source.taken_new().await?;
        source.append(&mut running, vec![finished("one")], Next::Continue).await?;
        let mut asking = source.taken_new().await?;
        let question = Event::ApprovalRequested {
            step: step("ask"),
            title: "?".to_owned(),
            show: serde_json::json!(1),
            expires: None,
            terms: Box::default(),
        };
        let approval = ApprovalId { task: asking.task, seq: asking.version + 1 };
        let wait = Wait { on: vec![WaitOn::Approval { approval }], until: None };
        source.append(&mut asking, vec![question], Next::Park(wait)).await?;
        let mut dead = source.taken_new().await?;
        source.die(&mut dead).await?;
        source.succeed(&mut source.taken_new().await?).await?;
        let cancelled = source.submitted().await?;
        source.store.signal(cancelled, Signal::Cancel { by: "x".to_owned(), reason: "y".to_owned() }).await?;
        let mut parent = source.taken_new().await?;
        let family = Parent { task: parent.task, step: step("sub"), depth: 1 };
        let child = source.submit(source.task_with(|s| s.parent = Some(family))).await?.id;
        let wait = Wait { on: vec![WaitOn::Child { task: child }], until: None };
        source.append(&mut parent, vec![Event::ChildSubmitted { step: step("sub"), child }], Next::Park(wait)).await?;
        let (running, asking, dead, parent) = (running.task, asking.task, dead.task, parent.task);
        Ok(Self { source, ready, scheduled, running, asking, dead, parent, child })
    }

    async fn heads(&self) -> Result<Vec<Head>> {
        self.source.all(<_>::default()).await
    }

    async fn transcripts(&self) -> Result<Vec<Transcript>> {
        let mut transcripts = Vec::new();
        for head in self.heads().await? {
            transcripts.push(self.source.transcript(head.id).await?);
        }
        Ok(transcripts)
    }
}

impl Bench {
    /// Submits the usual task and takes just it.
    async fn taken_new(&self) -> Result<super::Held> {
        let id = self.submitted().await?;
        self.claimed(id).await
    }
}

fn batch() -> BatchId {
    valid(BatchId::new("b"))
}

/// A population, in its new place.
async fn moved(place: Place) -> Result<(Bench, Population)> {
    let bench = Bench::open(place).await?;
    let population = Population::new().await?;
    let transcripts = population.transcripts().await?;
    let count = transcripts.len();
    let restored = bench.store.restore(transcripts).await?;
    ensure!(restored == vec![true; count], "{restored:?}");
    // New tasks get other ids than those that came.
    bench.clock.advance(Duration::from_secs(1));
    Ok((bench, population))
}

/// Every head and every journal is as it was. Only what was running is handed back.
pub async fn all_is_as_it_was(place: Place) -> Result<()> {
    let (bench, population) = moved(place).await?;
    for before in population.heads().await? {
        let (was, is) = (population.source.journal(before.id).await?, bench.journal(before.id).await?);
        let head = bench.head(before.id).await?;
        if before.id == population.running {
            ensure!(is.strip_prefix(was.as_slice()).is_some_and(|added| added.len() == 1), "{is:?}");
            ensure!(is.last().is_some_and(|last| last.event.kind() == "released"));
            ensure!(head.state.name() == StateName::Ready);
        } else {
            ensure!(was == is, "{was:?}\n{is:?}");
            ensure!(head == before, "{head:?}\n{before:?}");
        }
    }
    ensure!(bench.all(<_>::default()).await?.len() == population.heads().await?.len());
    bench.verify().await
}

/// A second time, as after a lost answer, changes nothing; also with another that is new.
pub async fn a_second_time_changes_nothing(place: Place) -> Result<()> {
    let (bench, population) = moved(place).await?;
    let heads = bench.all(<_>::default()).await?;
    let mut transcripts = population.transcripts().await?;
    ensure!(bench.store.restore(transcripts.clone()).await?.iter().all(|new| !new));
    ensure!(bench.all(<_>::default()).await? == heads);
    let other = population.source.submitted().await?;
    let other = population.source.transcript(other).await?;
    transcripts.truncate(2);
    transcripts.extend([other.clone(), other]);
    ensure!(bench.store.restore(transcripts).await? == [false, false, true, false]);
    ensure!(bench.store.restore(Vec::new()).await?.is_empty());
    bench.verify().await
}

/// They go on where they were: taken, woken in time, decided, replayed.
pub async fn they_go_on(place: Place) -> Result<()> {
    let (bench, population) = moved(place).await?;
    let mut ready: Vec<TaskId> = bench.take(10).await?.iter().map(|claim| claim.task).collect();
    let mut expected = vec![population.ready, population.running, population.child];
    ready.sort_unstable();
    expected.sort_unstable();
    ensure!(ready == expected, "{ready:?}, not {expected:?}");
    bench.clock.advance(Duration::from_secs(60));
    ensure!(bench.store.due(10).await?.woken == 1);
    ensure!(bench.state(population.scheduled).await? == StateName::Ready);
    let approval = *bench.head(population.asking).await?.open_approvals.first().context("it asks")?;
    let decision = ApprovalDecision { approved: true, by: "ann".to_owned(), comment: None, edits: None };
    bench.store.signal(population.asking, Signal::Decide { approval, decision }).await?;
    let replay = Signal::Replay {
        by: "ann".to_owned(),
        reset: Vec::new(),
        input: None,
        sealed: common::journal::SealedValues::default(),
    };
    bench.store.signal(population.dead, replay).await?;
    for task in [population.asking, population.dead] {
        bench.succeed(&mut bench.claimed(task).await?).await?;
    }
    bench.verify().await
}

/// A parent is told of its child, and a newer one of the group supersedes an older one.
pub async fn families_and_groups_stay_together(place: Place) -> Result<()> {
    let (bench, population) = moved(place).await?;
    bench.succeed(&mut bench.claimed(population.child).await?).await?;
    ensure!(bench.state(population.parent).await? == StateName::Ready);
    bench.submit(bench.task_with(|s| s.supersede = Some(valid(GroupKey::new("g"))))).await?;
    ensure!(bench.state(population.ready).await? == StateName::Cancelled);
    bench.verify().await
}

/// Their idempotency keys are theirs here too; nobody comes with the key of another.
pub async fn keys_stay(place: Place) -> Result<()> {
    let (bench, population) = moved(place).await?;
    let again = bench.submit(bench.task_with(|s| s.key = Some(key("k")))).await?;
    ensure!(again.id == population.ready && !again.created);
    let other = Bench::open(Box::new(Source(tempfile::tempdir()?))).await?;
    other.clock.advance(Duration::from_secs(1));
    let other_task = other.submit(other.task_with(|s| s.key = Some(key("k")))).await?.id;
    let journal = other.journal(other_task).await?;
    let refused = bench.store.restore(vec![Transcript::bare(other_task, journal)]).await;
    ensure!(matches!(&refused, Err(StoreError::Refused(why)) if why.contains("key")), "{refused:?}");
    ensure!(bench.store.head(other_task).await?.is_none());
    bench.verify().await
}

/// A batch that is known here gets its rows back, with their costs and states.
pub async fn rows_come_back_to_their_batch(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    bench.store.open_batch(OpenBatch { id: batch(), pipeline: pipeline("p") }).await?;
    let population = Population::new().await?;
    bench.store.restore(population.transcripts().await?).await?;
    let status = bench.store.batch(&batch()).await?.context("the batch is there")?;
    ensure!(status.tasks == [(StateName::Ready, 1)].into() && status.duplicates == 0, "{status:?}");
    let rows = bench.store.batch_rows(&batch(), 0, 10).await?;
    ensure!(rows.len() == 1 && rows[0].line == 7);
    ensure!(matches!(&rows[0].state, BatchRowState::Task(head) if head.id == population.ready));
    bench.succeed(&mut bench.claimed(population.ready).await?).await?;
    let status = bench.store.batch(&batch()).await?.context("the batch is there")?;
    ensure!(status.tasks == [(StateName::Succeeded, 1)].into(), "{status:?}");
    bench.verify().await
}

/// What is no journal is refused, with all that comes with it.
pub async fn what_is_no_journal_is_refused(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let population = Population::new().await?;
    bench.clock.advance(Duration::from_secs(1));
    let good = population.source.journal(population.asking).await?;
    let without = |index: usize| {
        let mut journal = good.clone();
        journal.remove(index);
        journal
    };
    let later = |by: u64| good.iter().map(|r| Recorded { seq: r.seq + by, ..r.clone() }).collect();
    let mut twice = good.clone();
    twice.extend(good.first().cloned().map(|first| Recorded { seq: good.len() as u64 + 1, ..first }));
    let bad: [Vec<Recorded>; 6] = [Vec::new(), without(0), without(1), without(good.len() - 2), later(1), twice];
    for journal in bad {
        let mut transcripts = population.transcripts().await?;
        let id = bench.id();
        transcripts.push(Transcript::bare(id, journal));
        let refused = bench.store.restore(transcripts).await;
        ensure!(matches!(&refused, Err(StoreError::Refused(why)) if why.contains(&id.to_string())), "{refused:?}");
        ensure!(bench.all(<_>::default()).await?.is_empty(), "all or none");
    }
    bench.verify().await
}
