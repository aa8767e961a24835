//! Submissions of a history.

use common::id::{BatchId, Digest, GroupKey, IdempotencyKey, PipelineName, QueueName, StepId, StepKey, TaskId};
use common::journal::Submitted;
use common::store::{Store, Submission};
use common::task::Parent;
use serde_json::json;

use super::model::Model;
use crate::conformance::bench;
use crate::differential::chance::Chance;

/// Queues of a history.
pub(super) const QUEUES: usize = 3;
/// Rows of a batch that are tasks, in several lines each.
const ROWS: usize = 20;
/// Batches that may be opened.
pub(super) const BATCHES: usize = 4;

pub(super) fn valid<T, E: std::fmt::Display>(name: Result<T, E>) -> T {
    name.unwrap_or_else(|error| panic!("a history has an invalid name: {error}"))
}

pub(super) fn queue(number: usize) -> QueueName {
    valid(QueueName::new(format!("q{number}")))
}

pub(super) fn pipeline(number: usize) -> PipelineName {
    valid(PipelineName::new(format!("p{number}")))
}

pub(super) fn step(name: impl Into<String>) -> StepKey {
    StepKey::of(valid(StepId::new(name.into())))
}

pub(super) fn batch_id(number: usize) -> BatchId {
    valid(BatchId::new(format!("b{number}")))
}

/// Some tasks for one call.
pub(super) async fn submissions(
    model: &mut Model,
    store: &dyn Store,
    chance: &Chance,
) -> anyhow::Result<Vec<Submission>> {
    // One more than a call may have, now and then.
    let count = if chance.once_in(60) { 13 } else { [1, 1, 1, 2, 4][chance.below(5)] };
    let mut all = Vec::with_capacity(count);
    for _ in 0..count {
        if chance.once_in(15)
            && let Some(earlier) = chance.of(&model.submissions)
            && (count == 1 || earlier.task().supersede.is_none())
        {
            all.push(earlier.clone());
            continue;
        }
        let id = TaskId::new(model.now(), chance.bytes());
        let mut task = submitted(model, store, chance).await?;
        if count > 1 {
            // The receipt of a task that a later one of the call cancels may say what it was or what it is.
            task.supersede = None;
        }
        all.push(Submission::new(id, task));
    }
    Ok(all)
}

async fn submitted(model: &mut Model, store: &dyn Store, chance: &Chance) -> anyhow::Result<Submitted> {
    let number = chance.below(2);
    let size = if chance.once_in(40) { 3_000 } else { chance.below(300) };
    let mut task = Submitted {
        pipeline: pipeline(number),
        digest: Digest::of(&[u8::try_from(number)?]),
        queue: queue(chance.below(QUEUES)),
        priority: u8::try_from([4, 4, 4, chance.below(10)][chance.below(4)])?,
        input: json!({"n": chance.below(1_000), "text": "x".repeat(size)}),
        labels: [("colour".to_owned(), ["red", "blue"][chance.below(2)].to_owned())].into(),
        ..bench::submitted()
    };
    if chance.once_in(6) {
        task.run_at = Some(model.moment(chance, 0, 40_000));
    }
    match chance.below(10) {
        0 | 1 => task.key = Some(valid(IdempotencyKey::new(format!("k{}", chance.below(40))))),
        2 | 3 => child_of(&mut task, model, store, chance).await?,
        4 => task.supersede = Some(valid(GroupKey::new(format!("g{}", chance.below(3))))),
        5 | 6 => {
            let (batch, line) = (chance.below(BATCHES), chance.below(ROWS * 2));
            task.pipeline = pipeline(0);
            task.digest = Digest::of(&[0]);
            task.key = Some(valid(IdempotencyKey::new(format!("b{batch}-{}", line % ROWS))));
            if !chance.once_in(5) {
                task.batch = Some(batch_id(batch));
                task.line = Some(line as u64 + 1);
            }
        }
        _ => {}
    }
    Ok(task)
}

/// As the worker makes them: the key derives from the parent and its step.
async fn child_of(task: &mut Submitted, model: &Model, store: &dyn Store, chance: &Chance) -> anyhow::Result<()> {
    let parent = match chance.of_newest(&model.holds) {
        Some(hold) if !chance.once_in(4) => hold.token.task,
        _ if chance.once_in(10) => TaskId::new(model.now(), chance.bytes()),
        _ => match model.some_task(chance) {
            Some(task) => task,
            None => return Ok(()),
        },
    };
    let depth = match store.head(parent).await? {
        Some(head) => head.parent.map_or(1, |of| of.depth + 1),
        None => 1,
    };
    let at = step(format!("sub{}", chance.below(3)));
    task.key = Some(valid(IdempotencyKey::new(format!("child:{parent}:{at}:0"))));
    task.parent = Some(Parent { task: parent, step: at, depth });
    Ok(())
}
