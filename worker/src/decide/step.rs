//! One step: whether it may start, and what it does next by its kind.

use common::failure::{Failure, FailureClass};
use common::id::StepKey;
use common::journal::{ApprovalTerms, Event, StepOutcome, StepRun, StepStatus};
use common::pipeline::model::{ApprovalStep, OnExpiry, PipelineStep, SleepStep, Step, StepKind};
use common::pipeline::template::{Scope, Template};
use common::task::{Outcome, WaitOn};
use serde_json::{Value, json};

use super::permission::{Question, Vote};
use super::{Action, Deciding};

/// Whether a step may start.
enum Gate {
    Open,
    Closed,
    Skip,
}

impl Deciding<'_> {
    pub(super) fn step(&mut self, step: &Step) {
        let key = StepKey::of(step.id.clone());
        let known = self.run.step(&key);
        if known.is_some_and(StepRun::is_done) {
            return;
        }
        if known.is_none_or(|known| known.status == StepStatus::Pending) {
            match self.gate(step) {
                Ok(Gate::Open) => {}
                Ok(Gate::Closed) => return,
                Ok(Gate::Skip) => return self.decision.finish_step(&key, StepOutcome::Skipped),
                Err(error) => return self.decision.fail_step(&key, error),
            }
        }
        match &step.foreach {
            Some(foreach) => self.fan_out(step, foreach, &key),
            None => self.unit(step, &key),
        }
    }

    fn gate(&mut self, step: &Step) -> Result<Gate, Failure> {
        let mut skipped = false;
        if let Some(group) = &step.within {
            match self.run.step(&StepKey::of(group.clone())) {
                Some(group) if group.is_done() => return Ok(Gate::Skip),
                Some(group) if group.round > 0 => {}
                _ => return Ok(Gate::Closed),
            }
        }
        for need in &step.needs {
            match self.run.step(&StepKey::of(need.clone())).and_then(StepRun::outcome) {
                None => return Ok(Gate::Closed),
                Some(StepOutcome::Skipped) => skipped = true,
                Some(_) => {}
            }
        }
        match &step.condition {
            Some(condition) => Ok(if condition.holds(self.scope())? { Gate::Open } else { Gate::Skip }),
            None if skipped => Ok(Gate::Skip),
            None => Ok(Gate::Open),
        }
    }

    /// A step that runs once, or one item of a fan-out.
    pub(super) fn unit(&mut self, step: &Step, key: &StepKey) {
        let default = StepRun::default();
        let known = self.run.step(key).unwrap_or(&default);
        if let StepStatus::Retrying { not_before } = known.status
            && self.given.now < not_before
        {
            if let StepKind::Agent(agent) = &step.kind {
                self.subagents(step, key, agent);
            }
            return self.wait(WaitOn::Timer { step: key.clone() }, Some(not_before));
        }
        let mark = self.mark();
        match &step.kind {
            StepKind::Set(template) => self.set(step, key, template),
            StepKind::Sleep(sleep) => self.sleep(key, known, sleep),
            StepKind::Approval(approval) => self.approval(step, key, known, approval),
            StepKind::Pipeline(child) => self.child(step, key, known, child),
            StepKind::Agent(agent) => self.agent(step, key, known, agent),
            StepKind::Repeat(repeat) => self.repeat(step, key, known, repeat),
            StepKind::Tool(_) | StepKind::Http(_) | StepKind::Run(_) => self.single_call(step, key, known),
        }
        self.heed_places(step, key, &mark);
    }

    /// Ends a step with an output that fits its schema, or fails it.
    pub(super) fn output(&mut self, step: &Step, key: &StepKey, output: Value) {
        match fits(step, &output) {
            Ok(()) => self.decision.finish_step(key, StepOutcome::Succeeded { output }),
            Err(error) => self.decision.fail_step(key, error),
        }
    }

    fn set(&mut self, step: &Step, key: &StepKey, template: &Template) {
        let scope = self.scope_of(key);
        match template.render(&scope) {
            Ok(output) => self.output(step, key, output),
            Err(error) => self.decision.fail_step(key, error),
        }
    }

    fn sleep(&mut self, key: &StepKey, known: &StepRun, sleep: &SleepStep) {
        let Some(until) = known.sleep_until else {
            let until = match sleep {
                SleepStep::For(span) => Ok(self.given.now.plus(span.get())),
                SleepStep::Until(template) => render_time(template, &self.scope_of(key)),
            };
            return match until {
                Ok(until) => self.decision.record(Event::SleepStarted { step: key.clone(), until }),
                Err(error) => self.decision.fail_step(key, error),
            };
        };
        if self.given.now >= until {
            self.decision.finish_step(key, StepOutcome::Succeeded { output: json!({"until": until}) });
        } else {
            self.wait(WaitOn::Timer { step: key.clone() }, Some(until));
        }
    }

    fn approval(&mut self, step: &Step, key: &StepKey, known: &StepRun, asked: &ApprovalStep) {
        let ask = |show, title, approved_by| Question {
            title,
            show,
            expires: asked.expires.map(common::span::Span::get),
            terms: ApprovalTerms { approvers: asked.approvers.clone(), approved_by, ..ApprovalTerms::default() },
        };
        let title = |deciding: &mut Self| asked.title.render_text(&deciding.scope_of(key));
        let Some(approval) = &known.approval else {
            let scope = self.scope_of(key);
            let show = asked.show.as_ref().map_or(Ok(Value::Null), |show| show.eval(&scope));
            return match show.and_then(|show| Ok((show, title(self)?))) {
                Ok((show, title)) => self.ask_person(key, ask(show, title, Vec::new())),
                Err(error) => self.decision.fail_step(key, error),
            };
        };
        match self.vote(approval, asked.votes) {
            Vote::Open => {}
            Vote::Next { approved_by, show } => match title(self) {
                Ok(title) => self.ask_person(key, ask(show, title, approved_by)),
                Err(error) => self.decision.fail_step(key, error),
            },
            Vote::Decided { approved, approved_by, decision, show } => {
                let mut output = json!({
                    "approved": approved, "by": decision.by, "comment": decision.comment, "value": show,
                });
                if asked.votes > 1 {
                    output["approved_by"] = json!(approved_by);
                }
                self.output(step, key, output);
            }
            Vote::Lapsed => match asked.on_expiry {
                OnExpiry::Fail => {
                    let error = Failure::new(FailureClass::Rejected, "nobody decided before the approval lapsed");
                    self.decision.fail_step(key, error);
                }
                on_expiry => {
                    let approved = on_expiry == OnExpiry::Approve;
                    let output = json!({"approved": approved, "by": "expiry", "comment": null, "value": approval.show});
                    self.output(step, key, output);
                }
            },
        }
    }

    fn child(&mut self, step: &Step, key: &StepKey, known: &StepRun, child: &PipelineStep) {
        match &known.child {
            None if self.is_in_flight(key) => {}
            None => match child.input.render(&self.scope_of(key)) {
                Ok(input) => self.act(Action::SubmitChild { step: key.clone(), input }),
                Err(error) => self.decision.fail_step(key, error),
            },
            Some(submitted) => match &submitted.ended {
                None => self.wait(WaitOn::Child { task: submitted.task }, None),
                Some((Outcome::Succeeded, output)) => self.output(step, key, output.clone()),
                Some((outcome, why)) => {
                    let how = if *outcome == Outcome::Dead { "is a dead letter" } else { "was cancelled" };
                    let error = Failure::new(
                        FailureClass::Child,
                        format!(
                            "task {} of pipeline {} {how}; see `teamster tasks show {}`",
                            submitted.task, child.pipeline, submitted.task
                        ),
                    );
                    self.decision.fail_step(key, error.with_detail(why.clone()));
                }
            },
        }
    }
}

/// Whether an output fits the schema of its step.
pub(super) fn fits(step: &Step, output: &Value) -> Result<(), Failure> {
    let Some(schema) = &step.output else { return Ok(()) };
    schema.validate(output).map_err(|issues| {
        let list: Vec<String> = issues.iter().take(20).map(ToString::to_string).collect();
        let message = format!("the output of step {} does not fit {}: {}", step.id, schema.origin, list.join("; "));
        Failure::new(FailureClass::InvalidOutput, message).with_detail(json!({"output": output, "issues": list}))
    })
}

fn render_time(template: &Template, scope: &Scope<'_>) -> Result<common::clock::Timestamp, Failure> {
    let text = template.render_text(scope)?;
    text.parse().map_err(|_| {
        Failure::new(
            FailureClass::Template,
            format!("sleep.until is {text:?}, and must be a time such as 2026-11-21T08:00:00Z"),
        )
    })
}
