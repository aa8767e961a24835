//! A journal as a person reads it: one line an event, with durations, tokens
//! and dollars, and what a person may do next. Pure.

use common::clock::Timestamp;
use common::failure::Failure;
use common::id::StepKey;
use common::journal::{
    CallResult, Effect, Event, GuardThen, HoldBack, HookDecision, HookEvent, HookRuling, ModelCall, Recorded,
    StepOutcome, WakeCause,
};
use common::task::{Outcome, StateName, Wait, WaitOn};
use scheduler::wire::TaskSummary;
use serde_json::Value;
use std::fmt::Write;
use std::time::Duration;

use crate::output::{Tone, count, cut, dollars, duration};

/// How much of a text from outside is shown.
const TEXT: usize = 160;

/// A line of a timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// When.
    pub(crate) at: Timestamp,
    /// The step, or `task`, `attempt 2`.
    pub(crate) subject: String,
    /// What happened.
    pub(crate) text: String,
    /// How it is to be taken.
    pub(crate) tone: Tone,
}

/// The lines of a journal.
pub(crate) fn timeline(journal: &[Recorded]) -> Vec<Entry> {
    let mut attempt = 0;
    journal
        .iter()
        .map(|recorded| {
            if let Event::Leased { attempt: number, .. } = recorded.event {
                attempt = number;
            }
            let subject = match recorded.event.step() {
                Some(step) => step.to_string(),
                None if by_holder(&recorded.event) => format!("attempt {attempt}"),
                None => "task".to_owned(),
            };
            let (tone, text) = describe(&recorded.event);
            Entry { at: recorded.at, subject, text, tone }
        })
        .collect()
}

/// Whether the event tells of a lease rather than of the task.
fn by_holder(event: &Event) -> bool {
    matches!(event, Event::Leased { .. } | Event::Released { .. } | Event::LeaseExpired { .. } | Event::Parked { .. })
}

fn describe(event: &Event) -> (Tone, String) {
    match event {
        Event::Submitted(submitted) => {
            let mut text = format!(
                "submitted to queue {} as {}@{}",
                submitted.queue,
                submitted.pipeline,
                submitted.digest.short()
            );
            if let Some(batch) = &submitted.batch {
                let _ = write!(text, ", batch {batch}");
            }
            if let Some(at) = submitted.run_at {
                let _ = write!(text, ", not before {at}");
            }
            (Tone::Plain, text)
        }
        Event::Leased { worker, .. } => (Tone::Bold, format!("taken by worker {worker}")),
        Event::Released { reason } => (Tone::Dim, format!("handed back: {}", cut(reason, TEXT))),
        Event::LeaseExpired { worker } => {
            (Tone::Warn, format!("worker {worker} was lost; another one goes on from here"))
        }
        Event::Parked { wait } => (Tone::Dim, format!("waits for {}", waits(wait))),
        Event::Woken { cause: WakeCause::Timer } => (Tone::Dim, "its time has come".to_owned()),
        Event::Woken { cause: WakeCause::Operator } => (Tone::Dim, "woken by a person".to_owned()),
        Event::Woken { cause: WakeCause::Room } => (Tone::Dim, "there may be room under the limit".to_owned()),
        Event::Woken { cause: WakeCause::Unhalted } => (Tone::Dim, "the emergency stop is over".to_owned()),
        Event::CancelRequested { by, reason } => {
            (Tone::Warn, format!("{} asks to cancel it: {}", cut(by, 80), cut(reason, TEXT)))
        }
        Event::Cancelled { by, reason } => (Tone::Warn, format!("cancelled by {}: {}", cut(by, 80), cut(reason, TEXT))),
        Event::Succeeded { .. } => (Tone::Good, "succeeded".to_owned()),
        Event::Died { reason, error, step } => {
            let place = step.as_ref().map(|step| format!(" in step {step}")).unwrap_or_default();
            (Tone::Bad, format!("dead ({reason}){place}: {}", failure(error)))
        }
        Event::PrivateDataSealed { entries } => {
            (Tone::Dim, format!("private values sealed: {}", count(entries.len() as u64)))
        }
        Event::Replayed { by, reset, input, .. } => {
            let steps: Vec<&str> = reset.iter().map(common::id::StepId::as_str).collect();
            let from = if steps.is_empty() { String::new() } else { format!(", anew: {}", steps.join(", ")) };
            let input = if input.is_some() { ", with a corrected input" } else { "" };
            (Tone::Bold, format!("replayed by {}{from}{input}", cut(by, 80)))
        }
        Event::RoundStarted { round, .. } => (Tone::Plain, format!("round {round}")),
        Event::Erased { by, .. } => (Tone::Warn, format!("its data was erased at the wish of {}", cut(by, 80))),
        Event::StepStarted { .. } => (Tone::Dim, "started".to_owned()),
        Event::Expanded { items, .. } => (Tone::Plain, format!("fans out over {} items", count(items.len() as u64))),
        Event::StepRetrying { error, not_before, .. } => {
            (Tone::Warn, format!("failed, tried again from {not_before}: {}", failure(error)))
        }
        Event::StepFinished { outcome, .. } => match outcome {
            StepOutcome::Succeeded { output } => (Tone::Good, format!("done: {}", value(output))),
            StepOutcome::Failed { error } => (Tone::Bad, format!("failed for good: {}", failure(error))),
            StepOutcome::Skipped => (Tone::Dim, "skipped".to_owned()),
        },
        Event::SleepStarted { until, .. } => (Tone::Dim, format!("sleeps until {until}")),
        Event::AgentStarted { head, .. } => {
            let tools = match head.tools.len() {
                0 => "no tools".to_owned(),
                1 => "1 tool".to_owned(),
                number => format!("{number} tools"),
            };
            (Tone::Plain, format!("agent starts: model {} ({} {}), {tools}", head.alias, head.provider, head.model))
        }
        Event::SessionOpened { session, from, history, dropped, .. } => {
            let session = cut(session.as_str(), 120);
            let lost = if *dropped > 0 { format!("; {dropped} older turns are no longer kept") } else { String::new() };
            let text = match from {
                Some(task) => {
                    format!("goes on with session {session} after task {task} ({} messages){lost}", history.len())
                }
                None => format!("begins session {session}"),
            };
            (Tone::Plain, text)
        }
        Event::SessionAwaited { session, holder, .. } => {
            (Tone::Dim, format!("session {} is with task {holder}", cut(session.as_str(), 120)))
        }
        Event::SessionSaved { session, kept: true, .. } => {
            (Tone::Plain, format!("leaves session {} to the next task", cut(session.as_str(), 120)))
        }
        Event::SessionSaved { session, kept: false, .. } => {
            (Tone::Warn, format!("session {} goes on without this conversation", cut(session.as_str(), 120)))
        }
        Event::SubagentCalled { agent, prompt, background, .. } => {
            let how = if *background { " in the background" } else { "" };
            (Tone::Plain, format!("called as {}{how}: {}", cut(agent, 80), cut(prompt, TEXT)))
        }
        Event::TurnFinished { call, entry: None, .. } => (Tone::Plain, turn(call)),
        Event::TurnFinished { call, entry: Some(_), .. } => (Tone::Plain, format!("in a model batch, {}", turn(call))),
        Event::ModelBatchJoined { until, .. } => {
            (Tone::Plain, format!("waits to go out in a model batch, until {until} at the latest"))
        }
        Event::ModelBatchLeft { .. } => {
            (Tone::Warn, "waits no longer for the model batch: asks the model directly".to_owned())
        }
        Event::ModelBatchFailed { error, .. } => {
            (Tone::Warn, format!("was not answered in the model batch: {}", failure(error)))
        }
        Event::Compacted { call, kept_from, .. } => {
            (Tone::Warn, format!("summarised {kept_from} turns: {}", turn(call)))
        }
        Event::ModelChanged { from, to, why, .. } => {
            (Tone::Warn, format!("asks model {} instead of {}: {}", cut(&to.alias, 80), cut(from, 80), failure(why)))
        }
        Event::OtherModel { asked, answered, .. } => {
            (Tone::Warn, format!("the model {} was asked, and {} answered", cut(asked, 80), cut(answered, 80)))
        }
        Event::Prompted { text, reason, .. } => (Tone::Warn, format!("told the model ({reason}): {}", cut(text, TEXT))),
        Event::HookDecided { event, ruling, .. } => hooks(*event, ruling),
        Event::JudgeAsked { judging, .. } => {
            let (on, guard) = (judging.on.as_str(), cut(&judging.guard, 80));
            (Tone::Dim, format!("judges the {on} for the guard {guard}"))
        }
        Event::GuardTripped { trip, .. } => {
            let then = match trip.then {
                GuardThen::Mark => "is marked",
                GuardThen::Ask => "is put before a person",
                GuardThen::Fail => "fails the step",
            };
            let (guard, found) = (cut(&trip.guard, 80), cut(&trip.found, TEXT));
            (Tone::Warn, format!("the {} tripped the guard {guard} and {then}: {found}", trip.on.as_str()))
        }
        Event::CallIntended { call, .. } => {
            let effect = match call.effect {
                Effect::Read => "read",
                Effect::Keyed => "keyed",
                Effect::Once => "once",
            };
            (Tone::Dim, format!("calls {} ({effect}, key {})", cut(&call.tool, 80), cut(&call.key, 80)))
        }
        Event::CallFinished { tool, result, duration_ms, .. } => {
            let took = duration(Duration::from_millis(*duration_ms));
            let tool = cut(tool, 80);
            match result {
                CallResult::Done { content, is_error: false } => {
                    (Tone::Plain, format!("{tool} answered in {took}: {}", value(content)))
                }
                CallResult::Done { content, is_error: true } => {
                    (Tone::Warn, format!("{tool} answered with an error in {took}: {}", value(content)))
                }
                CallResult::Failed { error } => (Tone::Warn, format!("{tool} failed after {took}: {}", failure(error))),
            }
        }
        Event::HeldBack { why, until, .. } => (Tone::Warn, format!("held back until {until}: {}", held_back(why))),
        Event::BudgetNoted { budget, percent, used, limit } => {
            let what = amounts(budget, *used, *limit);
            (Tone::Warn, format!("{percent} % of the budget {} is used: {what}", cut(budget, 80)))
        }
        Event::BudgetRaised { by, usd, tokens } => {
            let usd = usd.map(|usd| format!(" {} more", dollars(usd))).unwrap_or_default();
            let tokens = tokens.map(|tokens| format!(" {} tokens more", count(tokens))).unwrap_or_default();
            (Tone::Bold, format!("{} gives it{usd}{tokens}", cut(by, 80)))
        }
        Event::OutcomeUnknown { call, error, .. } => {
            (Tone::Warn, format!("nobody knows whether call {call} happened: {}", failure(error)))
        }
        Event::OutcomeResolved { call, by, happened, .. } => {
            let word = if happened.is_some() { "happened" } else { "did not happen" };
            (Tone::Plain, format!("{} says that call {call} {word}", cut(by, 80)))
        }
        Event::ApprovalRequested { title, expires, .. } => {
            let until = expires.map(|at| format!(" (until {at})")).unwrap_or_default();
            (Tone::Warn, format!("asks a person: {}{until}", cut(title, TEXT)))
        }
        Event::ApprovalDecided { decision, .. } => {
            let word = if decision.approved { "approved" } else { "rejected" };
            let comment = decision.comment.as_deref().map(|text| format!(": {}", cut(text, TEXT))).unwrap_or_default();
            let edits = if decision.edits.is_some() { " with edits" } else { "" };
            let tone = if decision.approved { Tone::Good } else { Tone::Warn };
            (tone, format!("{word} by {}{edits}{comment}", cut(&decision.by, 80)))
        }
        Event::ApprovalExpired { .. } => (Tone::Warn, "nobody decided in time".to_owned()),
        Event::ChildSubmitted { child, .. } => (Tone::Plain, format!("submits child task {child}")),
        Event::ChildFinished { child, outcome, .. } => {
            let (tone, word) = match outcome {
                Outcome::Succeeded => (Tone::Good, "succeeded"),
                Outcome::Cancelled => (Tone::Warn, "was cancelled"),
                Outcome::Dead => (Tone::Bad, "is dead"),
            };
            (tone, format!("child task {child} {word}"))
        }
    }
}

fn hooks(event: HookEvent, ruling: &HookRuling) -> (Tone, String) {
    let tone = match ruling.decision {
        HookDecision::Pass => Tone::Dim,
        HookDecision::Allow => Tone::Plain,
        HookDecision::Ask | HookDecision::Deny | HookDecision::End => Tone::Warn,
    };
    let ran: Vec<String> = ruling.ran.iter().map(|run| cut(&run.hook, 80)).collect();
    let changed = if ruling.updated.is_some() { ", with changes" } else { "" };
    let reason = ruling.reason.as_deref().map(|text| format!(": {}", cut(text, TEXT))).unwrap_or_default();
    (tone, format!("{event} hooks say {}{changed} ({}){reason}", ruling.decision.as_str(), ran.join(", ")))
}

fn turn(call: &ModelCall) -> String {
    let usage = &call.usage;
    let cached = match usage.cache_read_tokens {
        0 => String::new(),
        tokens => format!(" + {} cached", count(tokens)),
    };
    let tools: Vec<String> = call
        .content
        .iter()
        .filter(|block| block["type"] == "tool_use")
        .map(|block| cut(block["name"].as_str().unwrap_or("?"), 80))
        .collect();
    let asks = if tools.is_empty() { String::new() } else { format!(", asks for {}", tools.join(", ")) };
    format!(
        "{} answered in {}: {}{cached} tokens in, {} out, {}{asks} ({})",
        cut(&call.model, 80),
        duration(Duration::from_millis(call.duration_ms)),
        count(usage.input_tokens + usage.cache_write_tokens),
        count(usage.output_tokens),
        dollars(usage.cost_usd),
        cut(&call.stop_reason, 40),
    )
}

fn failure(error: &Failure) -> String {
    format!("{}: {}", error.class, cut(&error.message, 2 * TEXT))
}

fn value(value: &Value) -> String {
    match value {
        Value::String(text) => cut(text, TEXT),
        other => cut(&other.to_string(), TEXT),
    }
}

fn waits(wait: &Wait) -> String {
    let mut names: Vec<String> = wait
        .on
        .iter()
        .map(|on| match on {
            WaitOn::Timer { step } => format!("the time of step {step}"),
            WaitOn::Approval { approval } => format!("approval {approval}"),
            WaitOn::Child { task } => format!("child task {task}"),
            WaitOn::Outcome { step, call } => format!("a word on call {call} of step {step}"),
            WaitOn::Budget { step } => format!("room in the budget{}", of_step(step.as_ref())),
            WaitOn::RateLimit { step } => format!("room under a limit{}", of_step(step.as_ref())),
            WaitOn::ModelBatch { step } => format!("a model batch (step {step})"),
            WaitOn::Session { .. } => "a session that another task goes on with".to_owned(),
            WaitOn::Halt => "the end of the emergency stop".to_owned(),
        })
        .collect();
    if names.len() > 3 {
        let more = names.len() - 3;
        names.truncate(3);
        names.push(format!("{more} more"));
    }
    let until = wait.until.map(|at| format!(", until {at}")).unwrap_or_default();
    format!("{}{until}", names.join(" or "))
}

fn held_back(why: &HoldBack) -> String {
    match why {
        HoldBack::Budget { budget, used, limit } => {
            format!("the budget {} has no room ({})", cut(budget, 80), amounts(budget, *used, *limit))
        }
        HoldBack::RateLimit { rate_limit, used, limit } => {
            format!("{}: {} of {}", cut(rate_limit, 80), count(*used), count(*limit))
        }
        HoldBack::Breaker { of, class } => format!("{} is left alone ({class})", cut(of, 80)),
    }
}

/// How much is used of how much; money is counted in millionths of a dollar.
fn amounts(name: &str, used: u64, limit: u64) -> String {
    if !name.ends_with(" usd") {
        return format!("{} of {}", count(used), count(limit));
    }
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let usd = |amount: u64| dollars(amount as f64 / 1e6);
    format!("{} of {}", usd(used), usd(limit))
}

fn of_step(step: Option<&StepKey>) -> String {
    step.map(|step| format!(" (step {step})")).unwrap_or_default()
}

/// Commands that a person may want next.
pub(crate) fn next_commands(task: &TaskSummary) -> Vec<String> {
    let id = task.id;
    let mut commands = Vec::new();
    for approval in &task.open_approvals {
        commands.push(format!("teamster approvals approve {approval}"));
        commands.push(format!("teamster approvals reject {approval} --comment 'why'"));
    }
    for unknown in &task.unknown_outcomes {
        let call = &unknown.call;
        commands.push(format!("teamster tasks resolve {id} --call {call} --happened yes --result JSON"));
        commands.push(format!("teamster tasks resolve {id} --call {call} --happened no"));
    }
    match task.state {
        StateName::Dead => {
            commands.push(format!("teamster dlq replay {id}"));
            if let Some(step) = &task.dead_step {
                commands.push(format!("teamster dlq replay {id} --from {}", step.step));
            }
            commands.push(format!("teamster dlq drop {id}"));
        }
        StateName::Cancelled => commands.push(format!("teamster tasks retry {id}")),
        StateName::Scheduled | StateName::Ready | StateName::Running | StateName::Waiting => {
            commands.push(format!("teamster tasks watch {id}"));
            commands.push(format!("teamster tasks cancel {id}"));
        }
        StateName::Succeeded => {}
    }
    commands
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn journal(events: Vec<Value>) -> Vec<Recorded> {
        let at = |n: usize| format!("2026-11-21T08:00:{n:02}.000Z");
        let with_place = |(n, event): (usize, Value)| json!({"seq": n + 1, "at": at(n), "event": event});
        events.into_iter().enumerate().map(with_place).map(|e| serde_json::from_value(e).unwrap()).collect()
    }

    #[test]
    fn a_lost_worker_and_its_successor_are_told_apart() {
        let lines = timeline(&journal(vec![
            json!({"type": "leased", "attempt": 1, "worker": "a"}),
            json!({"type": "lease_expired", "worker": "a"}),
            json!({"type": "leased", "attempt": 2, "worker": "b"}),
            json!({"type": "step_finished", "step": "draft", "outcome": {"status": "skipped"}}),
            json!({"type": "succeeded", "output": 1}),
        ]));
        let subjects: Vec<&str> = lines.iter().map(|line| line.subject.as_str()).collect();
        assert_eq!(subjects, ["attempt 1", "attempt 1", "attempt 2", "draft", "task"]);
        assert!(lines[1].text.contains("worker a was lost"), "{}", lines[1].text);
        assert_eq!(lines[4].tone, Tone::Good);
    }

    #[test]
    fn a_turn_says_what_it_cost_and_what_it_asks_for() {
        let lines = timeline(&journal(vec![json!({"type": "turn_finished", "step": "review", "call": {
            "content": [{"type": "text", "text": "…"}, {"type": "tool_use", "id": "t1", "name": "Read", "input": {}}],
            "stop_reason": "tool_use", "model": "claude-sonnet-4-6", "response_id": "msg_1",
            "usage": {"input_tokens": 1200, "output_tokens": 80, "cost_usd": 0.0048}, "duration_ms": 1500}})]));
        assert_eq!(
            lines[0].text,
            "claude-sonnet-4-6 answered in 1.5 s: 1,200 tokens in, 80 out, $0.0048, asks for Read (tool_use)"
        );
    }
}
