//! The chain of a journal, its seal, and the erasure of a task's data.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use common::failure::{Failure, FailureClass};
use common::id::{ApprovalId, BlobHouse, BlobName, Digest, TaskId};
use common::journal::chain::Fault;
use common::journal::{ApprovalDecision, ApprovalTerms, Event, Reference, SealKey, SlotMut};
use common::store::{BLOB_GRACE, Erasure, Next, SignalError};
use common::task::{DeadReason, Parent, Signal, State, StateName, Wait, WaitOn};
use serde_json::{Value, json};

use super::Place;
use super::bench::{Bench, LEASE, finished, step};

/// What must be gone: it stands in every place of a journal where data can stand.
const CANARY: &str = "canary-4711@example.com";

fn key(seed: u8) -> Result<Arc<SealKey>> {
    Ok(Arc::new(SealKey::from_seed(&[seed; 32])?))
}

/// A bench whose store seals.
async fn sealing(place: Place, key: &Arc<SealKey>) -> Result<Bench> {
    let key = Arc::clone(key);
    Bench::tuned(place, |options| options.seal = Some(key)).await
}

/// Each event hangs upon the one before, whoever wrote it: submitted, taken, appended, signalled, swept.
pub async fn every_event_is_in_the_chain(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let mut held = bench.taken().await?;
    bench.append(&mut held, vec![finished("a"), finished("b")], Next::Release { reason: "drain".to_owned() }).await?;
    let mut held = bench.claimed(held.task).await?;
    bench.clock.advance(LEASE);
    bench.store.due(10).await?;
    held = bench.claimed(held.task).await?;
    let until = bench.now().plus(LEASE);
    let wait = Wait { on: vec![WaitOn::Timer { step: step("t") }], until: Some(until) };
    bench.append(&mut held, Vec::new(), Next::Park(wait)).await?;
    bench.store.signal(held.task, Signal::Wake).await?;
    let verified = bench.verified(held.task, &[]).await?;
    ensure!(verified.faults.is_empty() && verified.starts == Some(1) && !verified.erased, "{verified:?}");
    ensure!(verified.events == 10 && verified.sealed.is_none(), "{verified:?}");
    let chained = bench.store.chain(held.task, 0, 100).await?;
    let tail = bench.store.chain(held.task, 4, 3).await?;
    ensure!(tail == chained[4..7], "{tail:?}");
    ensure!(bench.store.chain(bench.id(), 0, 10).await?.is_empty());
    ensure!(bench.store.seal(bench.id()).await?.is_none());
    // What a script of a store wrote may have no hash of its own: the next one covers it.
    let bare: Vec<u64> = chained.iter().filter(|one| one.hash.is_none()).map(|one| one.seq).collect();
    ensure!(bare.iter().all(|seq| chained.get(usize::try_from(*seq).unwrap_or(0)).is_some_and(|n| n.hash.is_some())));
    bench.verify().await
}

/// A long journal, of which a store may keep snapshots, has a whole chain, too.
pub async fn a_long_journal_has_a_whole_chain(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let mut held = bench.taken().await?;
    for number in 0..150 {
        let ends = number % 16 == 0;
        let next = if ends { Next::Release { reason: "drain".to_owned() } } else { Next::Continue };
        bench.append(&mut held, vec![finished(&format!("s{number}"))], next).await?;
        if ends {
            // As another process finds it.
            let request =
                common::store::ClaimTasks { worker: super::bench::worker("v"), tasks: vec![held.task], lease: LEASE };
            let claims = bench.another().await?.claim(request).await?;
            held = claims.first().context("it is ready")?.into();
        }
    }
    bench.verify().await
}

/// Whoever has the key seals what it writes; the newest seal is kept, and others leave it as it is.
pub async fn the_newest_event_is_sealed(place: Place) -> Result<()> {
    let (key, other) = (key(1)?, key(2)?);
    let bench = sealing(place, &key).await?;
    let task = bench.submitted().await?;
    let keys = [key.public()];
    let verified = bench.verified(task, &keys).await?;
    ensure!(verified.faults.is_empty() && verified.seal_holds, "{verified:?}");
    ensure!(verified.sealed == Some((1, key.public().id())), "{verified:?}");
    let mut held = bench.claimed(task).await?;
    bench.append(&mut held, vec![finished("a"), finished("b")], Next::Continue).await?;
    let verified = bench.verified(task, &keys).await?;
    ensure!(verified.faults.is_empty() && verified.seal_holds, "{verified:?}");
    ensure!(verified.sealed == Some((4, key.public().id())), "{verified:?}");
    let foreign = bench.verified(task, &[other.public()]).await?;
    ensure!(foreign.faults == [Fault::UnknownKey { key: key.public().id() }], "{foreign:?}");
    // A process without the key writes on.
    let plain = bench.another_with(|options| options.seal = None).await?;
    plain.append(bench.request_append(&held, vec![finished("c")], Next::Succeed { output: json!(1) })).await?;
    let verified = bench.verified(task, &keys).await?;
    ensure!(verified.faults.is_empty() && verified.seal_holds && verified.events == 6, "{verified:?}");
    ensure!(verified.sealed == Some((4, key.public().id())), "{verified:?}");
    bench.verify().await
}

/// Parents, children, superseded ones: what an operation changes beside its own task is sealed with it.
pub async fn all_that_an_operation_changes_is_sealed(place: Place) -> Result<()> {
    let key = key(1)?;
    let bench = sealing(place, &key).await?;
    let mut parent = bench.taken().await?;
    let family = Parent { task: parent.task, step: step("sub"), depth: 1 };
    let child = bench.submit(bench.task_with(|s| s.parent = Some(family))).await?.id;
    let wait = Wait { on: vec![WaitOn::Child { task: child }], until: None };
    bench.append(&mut parent, vec![Event::ChildSubmitted { step: step("sub"), child }], Next::Park(wait)).await?;
    bench.store.signal(parent.task, Signal::Cancel { by: "x".to_owned(), reason: "y".to_owned() }).await?;
    for task in [parent.task, child] {
        ensure!(bench.state(task).await? == StateName::Cancelled);
        let verified = bench.verified(task, &[key.public()]).await?;
        ensure!(verified.seal_holds && verified.sealed == Some((verified.events, key.public().id())), "{verified:?}");
    }
    bench.verify().await
}

/// A task moves with its hashes and its seal. What was changed on the way is refused, with what came along.
pub async fn a_chain_moves_with_its_task(place: Place) -> Result<()> {
    let key = key(1)?;
    let source = sealing(Box::new(super::restore::Source(tempfile::tempdir()?)), &key).await?;
    let mut held = source.taken().await?;
    source.append(&mut held, vec![finished("a")], Next::Succeed { output: json!("x") }).await?;
    let running = source.taken().await?.task;
    let (done, going) = (source.transcript(held.task).await?, source.transcript(running).await?);
    let bench = Bench::open(place).await?;
    let mut altered = done.clone();
    if let Some(last) = altered.journal.last_mut() {
        last.event = Event::Succeeded { output: json!("y") };
    }
    let mut short = done.clone();
    short.journal.pop();
    short.hashes.pop();
    for wrong in [altered, short] {
        let refused = bench.store.restore(vec![going.clone(), wrong]).await;
        let why = format!("{:?}", refused.err().context("it is refused")?);
        ensure!(why.contains(&held.task.to_string()) && why.contains("not what was written"), "{why}");
        ensure!(bench.all(<_>::default()).await?.is_empty(), "all or none");
    }
    bench.store.restore(vec![done.clone(), going]).await?;
    ensure!(bench.transcript(held.task).await? == done);
    let verified = bench.verified(held.task, &[key.public()]).await?;
    ensure!(verified.faults.is_empty() && verified.seal_holds, "{verified:?}");
    let verified = bench.verified(running, &[key.public()]).await?;
    ensure!(verified.faults.is_empty() && verified.sealed.is_some_and(|(to, _)| to < verified.events), "{verified:?}");
    bench.succeed(&mut bench.claimed(running).await?).await?;
    bench.verify().await
}

/// A task with the canary in every place where data can stand, that died.
async fn full_of_data(bench: &Bench) -> Result<(TaskId, BlobName)> {
    let value = || json!({"mail": CANARY});
    let failure = || Failure::new(FailureClass::Tool, format!("no {CANARY}")).with_detail(value());
    let (id, mut task) = bench.task().into_parts();
    task.input = value();
    task.labels = [("tenant".to_owned(), "a".to_owned())].into();
    let id = bench.submit(common::store::Submission::new(id, task)).await?.id;
    let large = format!("\"{CANARY}\"");
    let name = BlobName::new(BlobHouse::Store, id.shard(), [1; 8], Digest::of(large.as_bytes()));
    let name = bench.store.keep_blob(&name, Some(Bytes::from(large))).await?;
    let mut reference = Value::Null;
    Reference(name.clone()).put(SlotMut::Value(&mut reference));
    let mut held = bench.claimed(id).await?;
    let retrying = Event::StepRetrying { step: step("r"), error: failure(), not_before: bench.now() };
    let asked = Event::ApprovalRequested {
        step: step("ask"),
        title: format!("send to {CANARY}?"),
        show: value(),
        expires: None,
        terms: Box::<ApprovalTerms>::default(),
    };
    let large = Event::Expanded { step: step("e"), items: vec![reference, value()] };
    let approval = ApprovalId { task: id, seq: held.version + 3 };
    let wait = Wait { on: vec![WaitOn::Approval { approval }], until: None };
    bench.append(&mut held, vec![retrying, large, asked], Next::Park(wait)).await?;
    let comment = Some(format!("yes, {CANARY}"));
    let decision = ApprovalDecision { approved: true, by: "ada".to_owned(), comment, edits: Some(value()) };
    bench.store.signal(id, Signal::Decide { approval, decision }).await?;
    let mut held = bench.claimed(id).await?;
    let die = Next::Die { reason: DeadReason::Failed, error: failure(), step: Some(step("r")) };
    bench.append(&mut held, Vec::new(), die).await?;
    Ok((id, name))
}

/// In the journal and the head stands no data any more, the chain verifies, and the blobs that it used go in time.
pub async fn erased_data_is_gone_and_the_chain_verifies(place: Place) -> Result<()> {
    let key = key(1)?;
    let bench = sealing(place, &key).await?;
    let (task, blob) = full_of_data(&bench).await?;
    let other = bench.submitted().await?;
    let before = bench.transcript(task).await?;
    ensure!(serde_json::to_string(&before)?.matches(CANARY).count() >= 9);
    bench.clock.advance(LEASE);
    ensure!(bench.store.erase(task, "ada").await? == Erasure::Erased);
    let (after, head) = (bench.transcript(task).await?, bench.head(task).await?);
    ensure!(!serde_json::to_string(&(&after, &head))?.contains(CANARY), "{after:#?} {head:#?}");
    ensure!(after.journal.len() == before.journal.len() + 1);
    ensure!(after.hashes.starts_with(&before.hashes), "no hash was changed");
    ensure!(matches!(after.journal.last().map(|last| &last.event), Some(Event::Erased { by, .. }) if by == "ada"));
    ensure!(head.erased_at == Some(bench.now()) && head.labels.len() == 1);
    let State::Dead { reason: DeadReason::Failed, error, step: Some(_), .. } = &head.state else {
        anyhow::bail!("{head:?}")
    };
    ensure!(error.message == "erased" && error.detail.is_none());
    let verified = bench.verified(task, &[key.public()]).await?;
    ensure!(verified.faults.is_empty() && verified.erased && verified.starts == Some(1), "{verified:?}");
    ensure!(verified.seal_holds && verified.sealed.map(|(to, _)| to) == Some(verified.events), "{verified:?}");
    ensure!(bench.store.blobs(std::slice::from_ref(&blob)).await?[0].is_some(), "somebody else may use it");
    bench.clock.advance(BLOB_GRACE);
    for _ in 0..10 {
        bench.store.due(100).await?;
    }
    ensure!(bench.store.blobs(&[blob]).await?[0].is_none());
    ensure!(bench.state(other).await? == StateName::Ready);
    // So it is after the process has ended, and in another store.
    let bench = bench.restart().await?;
    ensure!(bench.transcript(task).await? == after && bench.head(task).await? == head);
    let target = Bench::open(Box::new(super::restore::Source(tempfile::tempdir()?))).await?;
    ensure!(target.store.restore(vec![after.clone()]).await? == [true]);
    ensure!(target.transcript(task).await? == after && target.head(task).await? == head);
    target.verify().await?;
    bench.verify().await
}

/// Erasing again changes nothing, and an erased task cannot be replayed.
pub async fn erased_is_erased(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let (task, _) = full_of_data(&bench).await?;
    ensure!(bench.store.erase(task, "ada").await? == Erasure::Erased);
    let after = bench.transcript(task).await?;
    ensure!(bench.store.erase(task, "bob").await? == Erasure::Before);
    let replay = Signal::Replay {
        by: "ada".to_owned(),
        reset: Vec::new(),
        input: Some(json!({})),
        sealed: common::journal::SealedValues::default(),
    };
    let refused = bench.store.signal(task, replay).await;
    ensure!(matches!(&refused, Err(SignalError::Refused(why)) if why.to_string().contains("erased")), "{refused:?}");
    ensure!(bench.transcript(task).await? == after);
    ensure!(bench.store.forget(task).await?, "it can be dropped like any dead letter");
    bench.verify().await
}

/// Only the data of a task that is done can be erased: succeeded, cancelled or dead.
pub async fn what_lives_is_not_erased(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let unknown = bench.store.erase(bench.id(), "ada").await;
    ensure!(matches!(unknown, Err(SignalError::NotFound(_))), "{unknown:?}");
    let mut held = bench.taken().await?;
    let ready = bench.submitted().await?;
    for task in [held.task, ready] {
        let refused = bench.store.erase(task, "ada").await;
        ensure!(matches!(refused, Err(SignalError::Refused(_))), "{refused:?}");
    }
    bench.succeed(&mut held).await?;
    bench.store.signal(ready, Signal::Cancel { by: "x".to_owned(), reason: "y".to_owned() }).await?;
    for (task, state) in [(held.task, StateName::Succeeded), (ready, StateName::Cancelled)] {
        ensure!(bench.store.erase(task, "ada").await? == Erasure::Erased);
        ensure!(bench.state(task).await? == state && bench.head(task).await?.erased_at.is_some());
    }
    bench.verify().await
}
