//! Blobs: kept before they are referred to, shared, and removed when nobody has used them for a while.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use common::id::{ApprovalId, BlobHouse, BlobName, Digest, Shard, TaskId};
use common::journal::{ApprovalDecision, Event, Reference, SlotMut};
use common::store::{
    AppendError, BLOB_GRACE, Keep, Next, Retention, SignalError, StoreError, StoreOptions, Submission,
};
use common::task::{Parent, Signal, StateName};
use serde_json::{Value, json};

use super::Place;
use super::bench::{Bench, Held, finished, step};

const MOMENT: Duration = Duration::from_millis(1);
const NEARLY: Duration = BLOB_GRACE.saturating_sub(MOMENT);

/// Blobs are shared by tasks that lie together; those of the cases do.
fn shard() -> Shard {
    Shard::numbered(7)
}

/// A task that lies with the blobs.
fn task(bench: &Bench, input: Value) -> Submission {
    let (id, mut task) = bench.task().into_parts();
    task.input = input;
    Submission::new(id.in_shard(shard()), task)
}

/// One that is held.
async fn taken(bench: &Bench) -> Result<Held> {
    bench.claimed(submit(bench, Value::Null).await?).await
}

fn name(shard: Shard, house: BlobHouse, generation: u8, content: &str) -> BlobName {
    BlobName::new(house, shard, [generation; 8], Digest::of(content.as_bytes()))
}

fn reference(name: &BlobName) -> Value {
    let mut value = Value::Null;
    Reference(name.clone()).put(SlotMut::Value(&mut value));
    value
}

/// Keeps some bytes.
async fn keep(bench: &Bench, generation: u8, content: &str) -> Result<BlobName> {
    let name = name(shard(), BlobHouse::Store, generation, content);
    Ok(bench.store.keep_blob(&name, Some(Bytes::from(content.to_owned()))).await?)
}

async fn bytes(bench: &Bench, name: &BlobName) -> Result<Option<Bytes>> {
    let mut read = bench.store.blobs(std::slice::from_ref(name)).await?;
    ensure!(read.len() == 1);
    read.pop().context("an answer for each name")
}

async fn is_kept(bench: &Bench, name: &BlobName) -> Result<bool> {
    Ok(bytes(bench, name).await?.is_some())
}

/// Submits a task with this input.
async fn submit(bench: &Bench, input: Value) -> Result<TaskId> {
    Ok(bench.submit(task(bench, input)).await?.id)
}

/// Sweeps until nothing more happens.
async fn sweep(bench: &Bench) -> Result<()> {
    for _ in 0..10 {
        bench.store.due(100).await?;
    }
    Ok(())
}

/// Removes what is done at once.
fn keep_nothing(options: &mut StoreOptions) {
    let nothing = Keep { count: Some(0), age: None, bytes: None };
    options.retention = Retention { finished: nothing, dead: Keep::default() };
}

/// In the order in which they were asked for; nothing for what is not there.
pub async fn kept_bytes_come_back(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let first = keep(&bench, 1, "first").await?;
    let second = keep(&bench, 2, "second").await?;
    let unknown = name(shard(), BlobHouse::Store, 3, "third");
    let read = bench.store.blobs(&[second, unknown, first.clone(), first]).await?;
    let expected = [Some("second"), None, Some("first"), Some("first")];
    ensure!(read.iter().map(|data| data.as_deref()).eq(expected.map(|data| data.map(str::as_bytes))), "{read:?}");
    ensure!(bench.store.blobs(&[]).await?.is_empty());
    let binary = Bytes::from((0..=255_u8).cycle().take(3_000_000).collect::<Vec<u8>>());
    let large = BlobName::new(BlobHouse::Store, shard(), [4; 8], Digest::of(&binary));
    ensure!(bench.store.keep_blob(&large, Some(binary.clone())).await? == large);
    ensure!(bytes(&bench, &large).await? == Some(binary));
    bench.verify().await
}

/// Under the name that it got first; a repeated call changes nothing.
pub async fn equal_content_is_kept_once(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let first = keep(&bench, 1, "content").await?;
    ensure!(keep(&bench, 1, "content").await? == first);
    ensure!(keep(&bench, 2, "content").await? == first);
    let second = name(shard(), BlobHouse::Store, 2, "content");
    ensure!(!is_kept(&bench, &second).await? && is_kept(&bench, &first).await?);
    let other = bench.another().await?;
    ensure!(other.keep_blob(&second, Some(Bytes::from("content"))).await? == first);
    bench.verify().await
}

/// Exactly when its time of grace is over, which keeping it again begins anew; the sweep says when that is.
pub async fn what_nobody_uses_goes_after_the_grace(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let blob = keep(&bench, 1, "content").await?;
    bench.clock.advance(NEARLY);
    sweep(&bench).await?;
    ensure!(keep(&bench, 2, "content").await? == blob);
    let ends = bench.now().plus(BLOB_GRACE);
    let due = bench.store.due(100).await?;
    ensure!(due.next == Some(ends), "{due:?}");
    bench.clock.advance(NEARLY);
    sweep(&bench).await?;
    ensure!(is_kept(&bench, &blob).await?);
    bench.clock.advance(MOMENT);
    sweep(&bench).await?;
    ensure!(!is_kept(&bench, &blob).await?);
    ensure!(bench.store.due(100).await?.next.is_none());
    let anew = keep(&bench, 3, "content").await?;
    ensure!(anew != blob && is_kept(&bench, &anew).await?);
    bench.verify().await
}

/// However long they live, and however often they refer to it.
pub async fn tasks_share_it_and_the_last_takes_it_along(place: Place) -> Result<()> {
    let bench = Bench::tuned(place, keep_nothing).await?;
    let blob = keep(&bench, 1, "content").await?;
    let first = submit(&bench, reference(&blob)).await?;
    let second = submit(&bench, json!("small")).await?;
    let mut one = bench.claimed(first).await?;
    let mut two = bench.claimed(second).await?;
    bench.append(&mut two, vec![output(&blob)], Next::Release { reason: "x".to_owned() }).await?;
    bench.append(&mut one, Vec::new(), Next::Succeed { output: reference(&blob) }).await?;
    sweep(&bench).await?;
    ensure!(bench.store.head(first).await?.is_none(), "retention removes it");
    bench.clock.advance(BLOB_GRACE * 3);
    sweep(&bench).await?;
    ensure!(is_kept(&bench, &blob).await?, "the other task uses it");
    let mut two = bench.claimed(second).await?;
    bench.die(&mut two).await?;
    bench.clock.advance(BLOB_GRACE * 3);
    sweep(&bench).await?;
    ensure!(is_kept(&bench, &blob).await?, "a dead letter uses it");
    ensure!(bench.store.forget(second).await?);
    bench.clock.advance(NEARLY);
    sweep(&bench).await?;
    ensure!(is_kept(&bench, &blob).await?, "the time of grace");
    bench.clock.advance(MOMENT);
    sweep(&bench).await?;
    ensure!(!is_kept(&bench, &blob).await?);
    bench.verify().await
}

fn output(blob: &BlobName) -> Event {
    let outcome = common::journal::StepOutcome::Succeeded { output: reference(blob) };
    Event::StepFinished { step: step("large"), outcome }
}

/// A text's reference counts like a value's.
pub async fn a_text_is_referred_to(place: Place) -> Result<()> {
    let bench = Bench::tuned(place, keep_nothing).await?;
    let blob = keep(&bench, 1, "content").await?;
    let mut held = taken(&bench).await?;
    let text = format!("$blob:{blob}");
    let started =
        Event::Prompted { step: step("a"), text: text.clone(), reason: "continue".to_owned(), subagents: Vec::new() };
    bench.append(&mut held, vec![started], Next::Continue).await?;
    bench.clock.advance(BLOB_GRACE * 3);
    sweep(&bench).await?;
    ensure!(is_kept(&bench, &blob).await?);
    let journal = bench.journal(held.task).await?;
    ensure!(journal.iter().any(|r| matches!(&r.event, Event::Prompted { text: t, .. } if *t == text)));
    Ok(())
}

/// Refused, to be kept and written again; and nothing is changed.
pub async fn an_event_cannot_refer_to_what_is_gone(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let gone = name(shard(), BlobHouse::Store, 1, "content");
    let unavailable = |error: &StoreError| matches!(error, StoreError::Unavailable(_));
    let with = task(&bench, reference(&gone));
    let refused = bench.store.submit(vec![bench.task(), with]).await;
    ensure!(refused.as_ref().is_err_and(unavailable), "{refused:?}");
    ensure!(bench.all(<_>::default()).await?.is_empty());
    let mut held = taken(&bench).await?;
    let before = bench.journal(held.task).await?;
    for (events, next) in [
        (vec![finished("small"), output(&gone)], Next::Continue),
        (Vec::new(), Next::Succeed { output: reference(&gone) }),
    ] {
        let refused = bench.append(&mut held, events, next).await;
        ensure!(matches!(&refused, Err(AppendError::Store(error)) if unavailable(error)), "{refused:?}");
    }
    ensure!(bench.journal(held.task).await? == before);
    bench.die(&mut held).await?;
    let replay = |input| Signal::Replay {
        by: "x".to_owned(),
        reset: Vec::new(),
        input,
        sealed: common::journal::SealedValues::default(),
    };
    let refused = bench.store.signal(held.task, replay(Some(reference(&gone)))).await;
    ensure!(matches!(&refused, Err(SignalError::Store(error)) if unavailable(error)), "{refused:?}");
    ensure!(bench.state(held.task).await? == StateName::Dead);
    let kept = keep(&bench, 2, "content").await?;
    bench.store.signal(held.task, replay(Some(reference(&kept)))).await?;
    bench.clock.advance(BLOB_GRACE * 2);
    sweep(&bench).await?;
    ensure!(is_kept(&bench, &kept).await?);
    bench.verify().await
}

/// What comes to a parent from its child it uses itself.
pub async fn a_parent_uses_what_its_child_answered(place: Place) -> Result<()> {
    let bench = Bench::tuned(place, keep_nothing).await?;
    let mut parent = taken(&bench).await?;
    let family = Parent { task: parent.task, step: step("sub"), depth: 1 };
    let child = bench.submit(bench.task_with(|s| s.parent = Some(family))).await?.id;
    let blob = name(child.shard(), BlobHouse::Store, 1, "content");
    bench.store.keep_blob(&blob, Some(Bytes::from("content"))).await?;
    let mut held = bench.claimed(child).await?;
    bench.append(&mut held, Vec::new(), Next::Succeed { output: reference(&blob) }).await?;
    bench.append(&mut parent, vec![Event::ChildSubmitted { step: step("sub"), child }], Next::Continue).await?;
    bench.append(&mut parent, Vec::new(), Next::Release { reason: "x".to_owned() }).await?;
    ensure!(bench.kinds(parent.task).await?.contains(&"child_finished"));
    let mut parent = bench.claimed(parent.task).await?;
    bench.die(&mut parent).await?;
    bench.clock.advance(BLOB_GRACE * 3);
    sweep(&bench).await?;
    bench.clock.advance(BLOB_GRACE * 3);
    sweep(&bench).await?;
    ensure!(bench.store.head(child).await?.is_none(), "the child is gone");
    ensure!(is_kept(&bench, &blob).await?);
    ensure!(bench.store.forget(parent.task).await?);
    bench.clock.advance(BLOB_GRACE);
    sweep(&bench).await?;
    ensure!(!is_kept(&bench, &blob).await?);
    bench.verify().await
}

/// A decision that waits for the holder of its task keeps what it refers to.
pub async fn a_kept_signal_uses_its_value(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let mut held = taken(&bench).await?;
    let title = "send?".to_owned();
    let asked =
        Event::ApprovalRequested { step: step("ask"), title, show: Value::Null, expires: None, terms: Box::default() };
    bench.append(&mut held, vec![asked], Next::Continue).await?;
    let blob = keep(&bench, 1, "content").await?;
    let approval = ApprovalId { task: held.task, seq: held.version };
    let decision =
        ApprovalDecision { approved: true, by: "ann".to_owned(), comment: None, edits: Some(reference(&blob)) };
    bench.store.signal(held.task, Signal::Decide { approval, decision }).await?;
    for _ in 0..500 {
        bench.clock.advance(Duration::from_secs(20));
        bench.renew(&held).await?;
        bench.store.due(100).await?;
    }
    ensure!(is_kept(&bench, &blob).await?);
    bench.append(&mut held, Vec::new(), Next::Continue).await?;
    ensure!(bench.kinds(held.task).await?.contains(&"approval_decided"));
    bench.clock.advance(BLOB_GRACE * 2);
    sweep(&bench).await?;
    ensure!(is_kept(&bench, &blob).await?);
    bench.verify().await
}

/// What is kept elsewhere is condemned when its time is over; it is named until it is buried, and
/// the same content gets another name from then on.
pub async fn what_is_elsewhere_is_condemned(place: Place) -> Result<()> {
    let bench = Bench::tuned(place, keep_nothing).await?;
    let first = name(shard(), BlobHouse::Object, 1, "content");
    ensure!(bench.store.keep_blob(&first, None).await? == first);
    let inside = keep(&bench, 9, "content").await?;
    ensure!(inside.house() == BlobHouse::Store, "each house by itself");
    let second = name(shard(), BlobHouse::Object, 2, "content");
    ensure!(bench.store.keep_blob(&second, None).await? == first);
    let user = submit(&bench, reference(&first)).await?;
    bench.clock.advance(BLOB_GRACE * 2);
    sweep(&bench).await?;
    ensure!(bench.store.condemned_blobs(10).await?.is_empty());
    bench.succeed(&mut bench.claimed(user).await?).await?;
    sweep(&bench).await?;
    bench.clock.advance(BLOB_GRACE);
    sweep(&bench).await?;
    ensure!(bench.store.condemned_blobs(10).await? == std::slice::from_ref(&first));
    ensure!(bench.store.keep_blob(&second, None).await? == second);
    let refused = bench.store.submit(vec![task(&bench, reference(&first))]).await;
    ensure!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    submit(&bench, reference(&second)).await?;
    ensure!(bench.store.condemned_blobs(10).await? == std::slice::from_ref(&first));
    bench.store.bury_blobs(&[first.clone(), second.clone()]).await?;
    ensure!(bench.store.condemned_blobs(10).await?.is_empty());
    let third = name(shard(), BlobHouse::Object, 3, "content");
    ensure!(bench.store.keep_blob(&third, None).await? == second, "what is used cannot be buried");
    bench.store.bury_blobs(&[first]).await?;
    bench.verify().await
}

/// Bytes are where the name says, or the call is a mistake.
pub async fn bytes_belong_where_the_name_says(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let inside = bench.store.keep_blob(&name(shard(), BlobHouse::Store, 1, "x"), None).await;
    ensure!(matches!(inside, Err(StoreError::Refused(_))), "{inside:?}");
    let outside = bench.store.keep_blob(&name(shard(), BlobHouse::Object, 1, "x"), Some(Bytes::from("x"))).await;
    ensure!(matches!(outside, Err(StoreError::Refused(_))), "{outside:?}");
    Ok(())
}

/// Everything survives the end of a process.
pub async fn blobs_are_there_after_reopening(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let used = keep(&bench, 1, "used").await?;
    let unused = keep(&bench, 2, "unused").await?;
    submit(&bench, reference(&used)).await?;
    let bench = bench.restart().await?;
    ensure!(is_kept(&bench, &used).await? && is_kept(&bench, &unused).await?);
    bench.clock.advance(BLOB_GRACE);
    sweep(&bench).await?;
    ensure!(is_kept(&bench, &used).await? && !is_kept(&bench, &unused).await?);
    bench.verify().await
}
