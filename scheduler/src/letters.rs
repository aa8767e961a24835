//! Takes in tasks that other systems publish to the broker. A message is
//! acknowledged when its task is durable; one that can never become a task goes
//! to the broker's dead letters with the reason; while the store is out of
//! reach, messages go back and come again.

use std::sync::Arc;

use common::broker::{Inbox, Letter, Receipt};
use common::store::{StoreError, Submission};
use common::submission::NewTask;

use crate::app::App;
use crate::catalog::CatalogError;
use crate::ingress::amqp;
use crate::text::is_traceparent;
use crate::wire::Complaint;

/// Messages that are held unacknowledged, and that are submitted together at most.
/// How large one may be that gets here is a setting of the broker (`max_message_size`).
pub(crate) const WINDOW: usize = 200;

/// Why a message made no task.
enum Refusal {
    /// It never will.
    Forever(String),
    /// It may later.
    Store(StoreError),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Refused(why) => Self::Forever(why),
            error => Self::Store(error),
        }
    }
}

/// Submits the tasks of some messages. On an error nothing of them is lost: those
/// that are not durable come again.
pub(crate) async fn tick(app: &App, inbox: &mut Box<dyn Inbox>, letters: Vec<Letter>) -> Result<(), StoreError> {
    let mut accepted: Vec<(Letter, Submission)> = Vec::with_capacity(letters.len());
    let mut refused = Vec::new();
    let mut trouble = None;
    for letter in letters {
        if trouble.is_some() {
            inbox.give_back(vec![letter.receipt]);
            continue;
        }
        match read(app, &letter).await {
            Ok(submission) => accepted.push((letter, submission)),
            Err(Refusal::Forever(why)) => refused.push((letter, why)),
            Err(Refusal::Store(error)) => {
                inbox.give_back(vec![letter.receipt]);
                trouble = Some(error);
            }
        }
    }
    let submissions = accepted.iter().map(|(_, submission)| submission.clone()).collect();
    let receipts = || accepted.iter().map(|(letter, _)| letter.receipt).collect::<Vec<Receipt>>();
    match submit(app, submissions).await.map_err(Refusal::from) {
        Ok(()) => inbox.acknowledge(receipts()),
        Err(Refusal::Store(error)) => {
            inbox.give_back(receipts());
            trouble = Some(error);
        }
        // One of them is too much: which, only each by itself can say.
        Err(Refusal::Forever(_)) => {
            for (letter, submission) in accepted {
                match submit(app, vec![submission]).await.map_err(Refusal::from) {
                    Ok(()) => inbox.acknowledge(vec![letter.receipt]),
                    Err(Refusal::Forever(why)) => refused.push((letter, why)),
                    Err(Refusal::Store(error)) => {
                        inbox.give_back(vec![letter.receipt]);
                        trouble = Some(error);
                    }
                }
            }
        }
    }
    if !refused.is_empty() {
        tracing::warn!(messages = refused.len(), why = refused.first().map(|(_, why)| why), "messages are no tasks");
        inbox.refuse(refused);
    }
    trouble.map_or(Ok(()), Err)
}

async fn submit(app: &App, submissions: Vec<Submission>) -> Result<(), StoreError> {
    if submissions.is_empty() {
        return Ok(());
    }
    app.store().submit(submissions).await.map(|_| ())
}

async fn read(app: &App, letter: &Letter) -> Result<Submission, Refusal> {
    let limits = app.settings().config.limits;
    let task = amqp::read(letter, limits.input.bytes(), limits.json_depth).map_err(Refusal::Forever)?;
    let pipeline = app.catalog().current(&task.pipeline).await.map_err(|error| match error {
        CatalogError::Store(error) => Refusal::from(error),
        error => Refusal::Forever(error.to_string()),
    })?;
    let new = NewTask {
        input: task.input,
        key: task.idempotency_key,
        queue: task.queue,
        priority: task.priority,
        run_at: task.run_at,
        labels: task.labels,
        traceparent: letter.traceparent.clone().filter(|header| is_traceparent(header)),
        ..NewTask::default()
    };
    app.submission(&Arc::clone(&pipeline), new).map_err(|complaints| {
        let all: Vec<String> =
            complaints.into_iter().map(|Complaint { pointer, message }| format!("{pointer}: {message}")).collect();
        Refusal::Forever(format!("pipeline {} does not accept this task: {}", pipeline.name, all.join("; ")))
    })
}
