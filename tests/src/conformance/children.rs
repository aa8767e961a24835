//! Child tasks: what ends a parent stops them, and what ends them is told to the parent.

use anyhow::{Context, Result, ensure};
use common::id::TaskId;
use common::journal::{Event, Run};
use common::store::{Next, Signalled, StoreError};
use common::task::{Outcome, Parent, Signal, StateName, Wait, WaitOn};
use serde_json::json;

use super::Place;
use super::bench::{Bench, Held, step};

/// Submits a child of a task.
async fn child_of(bench: &Bench, parent: TaskId) -> Result<TaskId> {
    let parent = Parent { task: parent, step: step("sub"), depth: 1 };
    Ok(bench.submit(bench.task_with(|s| s.parent = Some(parent))).await?.id)
}

fn journaled(child: TaskId) -> Vec<Event> {
    vec![Event::ChildSubmitted { step: step("sub"), child }]
}

fn wait_for(child: TaskId) -> Next {
    Next::Park(Wait { on: vec![WaitOn::Child { task: child }], until: None })
}

/// A parent that waits for its child.
async fn family(bench: &Bench) -> Result<(Held, TaskId)> {
    let mut parent = bench.taken().await?;
    let child = child_of(bench, parent.task).await?;
    bench.append(&mut parent, journaled(child), wait_for(child)).await?;
    Ok((parent, child))
}

async fn told(bench: &Bench, parent: TaskId) -> Result<(Outcome, serde_json::Value)> {
    let run = Run::fold(parent, &bench.journal(parent).await?)?;
    let child = run.step(&step("sub")).and_then(|s| s.child.clone()).context("the step has a child")?;
    child.ended.context("the child has ended")
}

/// A waiting parent gets its child's output and goes on.
pub async fn a_parent_is_told(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let (parent, child) = family(&bench).await?;
    ensure!(bench.head(parent.task).await?.open_children == [child]);
    bench.succeed(&mut bench.claimed(child).await?).await?;
    ensure!(bench.state(parent.task).await? == StateName::Ready);
    ensure!(told(&bench, parent.task).await? == (Outcome::Succeeded, json!("done")));
    ensure!(bench.head(parent.task).await?.open_children.is_empty());
    bench.verify().await
}

/// A parent that runs gets it with its next append.
pub async fn a_parent_that_runs_is_told_at_its_next_append(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let mut parent = bench.taken().await?;
    let child = child_of(&bench, parent.task).await?;
    bench.append(&mut parent, journaled(child), Next::Continue).await?;
    bench.die(&mut bench.claimed(child).await?).await?;
    // It waits for what has come already: it must be ready at once.
    let appended = bench.append(&mut parent, Vec::new(), wait_for(child)).await?;
    ensure!(appended.recorded.last().map(|r| r.event.kind()) == Some("child_finished"));
    ensure!(bench.state(parent.task).await? == StateName::Ready);
    ensure!(told(&bench, parent.task).await?.0 == Outcome::Dead);
    bench.verify().await
}

/// A child may be done before its parent journals that there is one, and the
/// parent may have been lost in between: it is told all the same.
pub async fn a_child_that_is_done_before_it_is_journaled(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let mut parent = bench.taken().await?;
    let child = child_of(&bench, parent.task).await?;
    bench.succeed(&mut bench.claimed(child).await?).await?;
    // An append of another step uses up what was kept.
    bench.append(&mut parent, vec![super::bench::finished("other")], Next::Continue).await?;
    bench.append(&mut parent, journaled(child), wait_for(child)).await?;
    ensure!(bench.state(parent.task).await? == StateName::Ready);
    ensure!(told(&bench, parent.task).await? == (Outcome::Succeeded, json!("done")));

    let mut parent = bench.taken().await?;
    let child = child_of(&bench, parent.task).await?;
    bench.append(&mut parent, Vec::new(), Next::Release { reason: "drain".to_owned() }).await?;
    bench.succeed(&mut bench.claimed(child).await?).await?;
    let mut parent = bench.claimed(parent.task).await?;
    bench.append(&mut parent, journaled(child), wait_for(child)).await?;
    ensure!(bench.state(parent.task).await? == StateName::Ready);
    bench.verify().await
}

/// What ends a parent stops its unfinished children in the same step.
pub async fn a_dead_parent_stops_its_children(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let mut parent = bench.taken().await?;
    let (done, open, unknown) =
        (child_of(&bench, parent.task).await?, child_of(&bench, parent.task).await?, bench.submitted().await?);
    bench.succeed(&mut bench.claimed(done).await?).await?;
    bench.die(&mut parent).await?;
    ensure!(bench.state(done).await? == StateName::Succeeded);
    ensure!(bench.state(open).await? == StateName::Cancelled);
    ensure!(bench.state(unknown).await? == StateName::Ready, "strangers are left alone");
    bench.verify().await
}

/// And theirs.
pub async fn grandchildren_stop_too(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let (parent, child) = family(&bench).await?;
    let mut held = bench.claimed(child).await?;
    let grandchild = child_of(&bench, child).await?;
    bench.append(&mut held, journaled(grandchild), wait_for(grandchild)).await?;
    let cancel = Signal::Cancel { by: "x".to_owned(), reason: "y".to_owned() };
    ensure!(bench.store.signal(parent.task, cancel).await? == Signalled::Applied(StateName::Cancelled));
    for task in [child, grandchild] {
        ensure!(bench.state(task).await? == StateName::Cancelled);
    }
    bench.verify().await
}

/// Who is done has no more children; but a child that was there before is found by its key.
pub async fn a_done_parent_gets_no_child(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let mut parent = bench.taken().await?;
    let with_key = |id: TaskId| {
        bench.task_with(|s| {
            s.parent = Some(Parent { task: id, step: step("sub"), depth: 1 });
            s.key = Some(super::bench::key("child"));
        })
    };
    let child = bench.submit(with_key(parent.task)).await?;
    bench.succeed(&mut parent).await?;
    let refused = child_of(&bench, parent.task).await;
    let refused = refused.err().and_then(|error| error.downcast::<StoreError>().ok());
    ensure!(matches!(refused, Some(StoreError::Refused(_))), "{refused:?}");
    let again = bench.submit(with_key(parent.task)).await?;
    ensure!(again.id == child.id && !again.created);
    bench.verify().await
}

/// Nobody is the child of nobody.
pub async fn an_unknown_parent_gets_no_child(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    ensure!(child_of(&bench, bench.id()).await.is_err());
    ensure!(bench.all(<_>::default()).await?.is_empty());
    Ok(())
}

/// A child that a worker holds is asked to stop.
pub async fn a_running_child_is_asked_to_stop(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let mut parent = bench.taken().await?;
    let child = child_of(&bench, parent.task).await?;
    let mut held = bench.claimed(child).await?;
    bench.succeed(&mut parent).await?;
    ensure!(bench.state(child).await? == StateName::Running);
    let appended = bench.append(&mut held, Vec::new(), Next::Continue).await?;
    ensure!(appended.recorded.last().map(|r| r.event.kind()) == Some("cancel_requested"));
    // Its end finds a parent that is done, and that is no error.
    bench.append(&mut held, Vec::new(), Next::Cancel { by: "x".to_owned(), reason: "y".to_owned() }).await?;
    bench.verify().await
}

/// A child that someone cancelled ends for its parent as cancelled.
pub async fn a_cancelled_child_is_told_as_cancelled(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let (parent, child) = family(&bench).await?;
    bench.store.signal(child, Signal::Cancel { by: "x".to_owned(), reason: "enough".to_owned() }).await?;
    ensure!(bench.state(parent.task).await? == StateName::Ready);
    ensure!(told(&bench, parent.task).await? == (Outcome::Cancelled, json!({"reason": "enough"})));
    bench.verify().await
}
