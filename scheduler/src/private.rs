//! Private data at the doors: what comes in is sealed, what is read is revealed
//! where `private_data.reveal` allows it. Without `private_data`, nothing here
//! does anything. Tasks themselves are sealed by [`common::submission`].

use std::collections::BTreeMap;

use common::id::TaskId;
use common::journal::{Run, SealedValues};
use common::store::{SignalError, Signalled, StoreError};
use common::task::{Head, Signal};
use serde_json::Value;

use crate::app::App;
use crate::wire;

/// Events that are read at once.
const PAGE: usize = 1_000;

/// Seals an event from outside, and says what the tokens in it stand for.
pub(crate) fn event(app: &App, payload: &mut Value, headers: &mut BTreeMap<String, String>) -> SealedValues {
    let settings = app.settings();
    let Some(private) = &settings.private else { return SealedValues::default() };
    let known = SealedValues::default();
    let mut sealer = private.sealer(&known);
    sealer.value(payload);
    for (name, value) in headers {
        sealer.named(name, value);
    }
    sealer.take()
}

/// An input with its values, to be checked and sealed for its own task.
pub(crate) fn revealed(app: &App, input: Value, sealed: &SealedValues) -> Value {
    match &app.settings().private {
        Some(private) => private.reveal(&input, sealed),
        None => input,
    }
}

/// A sealed copy, where anything is private.
pub(crate) fn value(app: &App, value: &Value) -> Option<Value> {
    let settings = app.settings();
    let known = SealedValues::default();
    let mut sealer = settings.private.as_ref()?.sealer(&known);
    let mut sealed = value.clone();
    sealer.value(&mut sealed);
    Some(sealed)
}

/// A sealed text.
pub(crate) fn text(app: &App, mut text: String) -> String {
    if let Some(private) = &app.settings().private {
        private.sealer(&SealedValues::default()).text(&mut text);
    }
    text
}

/// Sends a signal with nothing private in it. What its tokens stand for goes ahead, or with it.
pub(crate) async fn signal(app: &App, task: TaskId, mut signal: Signal) -> Result<Signalled, SignalError> {
    let settings = app.settings();
    if let Some(private) = &settings.private {
        let known = sealed_values(app, task).await?;
        let mut sealer = private.sealer(&known);
        sealer.signal(&mut signal);
        let entries = sealer.take();
        if !entries.is_empty() {
            match app.store().signal(task, Signal::Seal { entries }).await {
                // A task that is done takes nothing in: what the signal itself is told says it better.
                Ok(_) | Err(SignalError::Refused(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }
    app.store().signal(task, signal).await
}

/// The output of a task as its reader may see it.
pub(crate) fn output(app: &App, run: &Run) -> Option<Value> {
    match &app.settings().private {
        Some(private) if private.shows_output_of(&run.head.pipeline) => {
            run.output.as_ref().map(|output| private.reveal(output, &run.sealed))
        }
        _ => run.output.clone(),
    }
}

/// The same for an output that was read without its journal.
pub(crate) async fn output_of(app: &App, head: &Head, output: Value) -> Result<Value, StoreError> {
    let settings = app.settings();
    match &settings.private {
        Some(private) if private.shows_output_of(&head.pipeline) => {
            Ok(private.reveal(&output, &sealed_values(app, head.id).await?))
        }
        _ => Ok(output),
    }
}

/// Shows a person the values in what is to be approved, if people may see them.
pub(crate) async fn approval(app: &App, approval: &mut wire::Approval) -> Result<(), StoreError> {
    let settings = app.settings();
    if let Some(private) = settings.private.as_ref().filter(|private| private.shows_people()) {
        let sealed = sealed_values(app, approval.task).await?;
        approval.title = private.reveal_text(&approval.title, &sealed);
        approval.show = private.reveal(&approval.show, &sealed);
    }
    Ok(())
}

/// What the tokens of a task stand for, encrypted.
async fn sealed_values(app: &App, task: TaskId) -> Result<SealedValues, StoreError> {
    let mut values = SealedValues::default();
    let mut after = 0;
    loop {
        let page = app.store().journal(task, after, PAGE).await?;
        for recorded in &page {
            after = recorded.seq;
            values.add_event(&recorded.event);
        }
        if page.len() < PAGE {
            return Ok(values);
        }
    }
}
