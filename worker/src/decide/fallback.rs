//! What becomes of a model's reply before anything is made of it, and which
//! model is asked when one gives none: pure.

use common::failure::{Failure, FailureClass};
use common::id::StepKey;
use common::journal::{Conversation, Event, ModelCall, ModelChoice, OnOtherModel, Run, StepOutcome};

use super::Purpose;
use super::compaction::can_be_shortened;
use super::effect::Retry;
use crate::models::price::is_same_model;

/// What is written down of a reply: the turn, and whether the model that answered is the one that was asked.
pub(super) fn answered(run: &Run, step: &StepKey, call: ModelCall) -> Vec<Event> {
    let conversation = conversation(run, step);
    let noticed = conversation.and_then(|known| other_model(known, step, &call));
    let turn = Event::TurnFinished { step: step.clone(), call: Box::new(call), entry: None };
    std::iter::once(turn).chain(noticed.into_iter().flatten()).collect()
}

/// What is said of a reply that is not from the model that was asked; nothing if it is.
pub(super) fn other_model(conversation: &Conversation, step: &StepKey, call: &ModelCall) -> Option<Vec<Event>> {
    let (asked, answered) = (&conversation.head.model, &call.model);
    if is_same_model(asked, answered) {
        return None;
    }
    let mut events = Vec::new();
    let on_other_model = conversation.head.settings.on_other_model;
    if on_other_model != OnOtherModel::Accept && conversation.other_model.as_ref() != Some(answered) {
        events.push(Event::OtherModel { step: step.clone(), asked: asked.clone(), answered: answered.clone() });
    }
    if on_other_model == OnOtherModel::Fail {
        let message = format!("the model {asked} was asked, and {answered} answered (on_other_model: fail)");
        let error = Failure::new(FailureClass::Configuration, message);
        events.push(Event::StepFinished { step: step.clone(), outcome: StepOutcome::Failed { error } });
    }
    Some(events)
}

/// What follows when a model did not answer: another model, another try, or the end of the step.
pub(super) fn unanswered(retry: &Retry<'_>, purpose: Purpose, error: Failure) -> Vec<Event> {
    let known = conversation(retry.run, retry.key);
    let was_cut = matches!(purpose, Purpose::Summary { cut: true, .. });
    if error.class == FailureClass::ContextWindow && !was_cut && known.is_some_and(can_be_shortened) {
        return vec![Event::StepRetrying { step: retry.key.clone(), error, not_before: retry.now }];
    }
    let wait = retry.wait(&error);
    let tried = retry.run.step(retry.key).map_or(0, |known| known.failed_tries) + 1;
    match known.and_then(|known| Some((known, known.head.fallback.after(&error, tried, wait.is_none())?))) {
        Some((known, next)) => vec![change(retry.key, known, next, error)],
        None => retry.after(error),
    }
}

/// The change to the next model because this one declined, if there is one.
pub(super) fn declined(step: &StepKey, conversation: &Conversation, error: &Failure) -> Option<Event> {
    let next = conversation.head.fallback.after(error, 1, true)?;
    Some(change(step, conversation, next, error.clone()))
}

fn change(step: &StepKey, conversation: &Conversation, to: &ModelChoice, why: Failure) -> Event {
    let from = conversation.head.alias.clone();
    Event::ModelChanged { step: step.clone(), from, to: Box::new(to.clone()), why }
}

fn conversation<'a>(run: &'a Run, step: &StepKey) -> Option<&'a Conversation> {
    run.step(step)?.conversation.as_ref()
}
