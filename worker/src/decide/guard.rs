//! Guards on what agents are told and come to. What trips one is journaled
//! before anything follows from it, and what it said then holds: nobody is asked
//! twice. That a guard has found nothing is not written down, since it finds
//! nothing again.

use std::collections::BTreeSet;

use common::config::policy::Layer;
use common::config::{Finding, Guard, Judge};
use common::failure::{Failure, FailureClass};
use common::id::{CallId, StepKey};
use common::journal::{ApprovalTerms, CallResult, Event, GuardPoint, GuardThen, GuardTrip, StepRun, Turn};
use common::pipeline::model::AgentStep;
use serde_json::{Value, json};

use super::Deciding;
use super::judge::{Judged, Matter};
use super::permission::{Question, Vote};
use super::taint::taints;

/// The most characters of what a judge says.
const WHY: usize = 500;

/// Whether an agent may go on with something.
pub(super) enum Guarded {
    /// It may.
    Clear,
    /// What was found is being written down, or a person is being asked.
    Pending,
    /// It may not.
    Refused(Failure),
}

/// A text that guards look at.
struct Text<'t> {
    /// The call whose answer it is.
    call: Option<&'t CallId>,
    value: &'t Value,
}

impl Deciding<'_> {
    /// What guards say of what an agent is told at first.
    pub(super) fn guarded_prompt(&mut self, key: &StepKey, known: &StepRun, agent: &AgentStep) -> Guarded {
        let Some(conversation) = &known.conversation else { return Guarded::Clear };
        if conversation.turns.len() > conversation.counted_from || self.is_in_flight(key) {
            return Guarded::Clear;
        }
        if self.guards_of(key, agent).is_empty() {
            return Guarded::Clear;
        }
        let prompt = known.subagent.as_ref().map_or(&*conversation.prompt, |subagent| &subagent.prompt);
        let value = Value::String(prompt.to_owned());
        self.guarded(key, known, agent, GuardPoint::Input, &[Text { call: None, value: &value }])
    }

    /// What guards say of the answers in a turn that are text of strangers.
    pub(super) fn guarded_answers(
        &mut self,
        key: &StepKey,
        known: &StepRun,
        turn: &Turn,
        agent: &AgentStep,
    ) -> Guarded {
        if turn.tool_uses.is_empty() || self.is_in_flight(key) {
            return Guarded::Clear;
        }
        if self.guards_of(key, agent).is_empty() {
            return Guarded::Clear;
        }
        let tainting = turn.tool_uses.iter().filter(|used| taints(self.run, self.given.pipeline, key, used));
        let answers = tainting.filter_map(|used| match turn.results.get(&used.id)? {
            CallResult::Done { content, .. } => Some(Text { call: Some(&used.id), value: content }),
            CallResult::Failed { .. } => None,
        });
        let answers: Vec<Text<'_>> = answers.collect();
        self.guarded(key, known, agent, GuardPoint::Input, &answers)
    }

    /// What guards say of what an agent came to.
    pub(super) fn guarded_output(
        &mut self,
        key: &StepKey,
        known: &StepRun,
        agent: &AgentStep,
        output: &Value,
    ) -> Guarded {
        self.guarded(key, known, agent, GuardPoint::Output, &[Text { call: None, value: output }])
    }

    /// The guards of a step, and those of its agent; of a subagent only its own. And those that hold for all.
    fn guards_of(&self, key: &StepKey, agent: &AgentStep) -> BTreeSet<String> {
        let of_step = agent.guards.iter().filter(|_| !key.is_subagent());
        let name = self.run.agent(key).unwrap_or(&agent.agent);
        let of_agent = self.given.pipeline.agents.get(name).into_iter().flat_map(|file| &file.guards);
        let required = self.given.guards.iter().filter(|(_, guard)| guard.required).map(|(name, _)| name.as_str());
        let of_layers = self.given.pipeline.policy.iter().flat_map(Layer::guard_names);
        let named = of_step.chain(of_agent).map(String::as_str);
        named.chain(required).chain(of_layers).map(str::to_owned).collect()
    }

    fn guarded(
        &mut self,
        key: &StepKey,
        known: &StepRun,
        agent: &AgentStep,
        on: GuardPoint,
        texts: &[Text<'_>],
    ) -> Guarded {
        let given = self.given;
        let (mut found, mut matters) = (Vec::new(), Vec::new());
        for name in self.guards_of(key, agent) {
            let Some(guard) = given.guards.get(&name) else {
                let message = format!("there is no guard `{name}`; add it under `guards:` in teamster.yaml");
                return Guarded::Refused(Failure::new(FailureClass::Configuration, message));
            };
            for text in texts.iter().filter(|_| guard.on == on) {
                let is_known =
                    |trip: &GuardTrip| trip.guard == name && trip.on == on && trip.call.as_ref() == text.call;
                if known.trips.iter().any(is_known) {
                    continue;
                }
                match (guard.look(text.value), guard.judge()) {
                    (Some(finding), _) => found.push(trip(key, &name, guard, text.call, finding)),
                    (None, Some(judge)) => {
                        let matter = Matter { guard: name.clone(), on, call: text.call, value: text.value };
                        matters.push((guard, judge, matter));
                    }
                    (None, None) => {}
                }
            }
        }
        if !found.is_empty() {
            self.decision.events.extend(found);
            return Guarded::Pending;
        }
        let is_here = |trip: &&GuardTrip| trip.on == on && texts.iter().any(|text| text.call == trip.call.as_ref());
        // What fails in any case is not paid for to be judged too.
        if !known.trips.iter().filter(is_here).any(|trip| trip.then == GuardThen::Fail) {
            match self.judges(key, agent, matters) {
                Guarded::Clear => {}
                other => return other,
            }
        }
        let trips: Vec<&GuardTrip> = known.trips.iter().filter(is_here).collect();
        match trips.iter().map(|trip| trip.then).max() {
            None | Some(GuardThen::Mark) => Guarded::Clear,
            Some(GuardThen::Fail) => {
                let failing: Vec<&GuardTrip> = trips.into_iter().filter(|trip| trip.then == GuardThen::Fail).collect();
                Guarded::Refused(tripped(FailureClass::Guard, "", &failing))
            }
            Some(GuardThen::Ask) => {
                let asking: Vec<&GuardTrip> = trips.into_iter().filter(|trip| trip.then == GuardThen::Ask).collect();
                self.released(key, known, &asking, texts)
            }
        }
    }

    /// What judges say of what no guard has found by itself.
    fn judges(&mut self, key: &StepKey, agent: &AgentStep, matters: Vec<(&Guard, &Judge, Matter<'_>)>) -> Guarded {
        let mut found = Vec::new();
        let mut pending = false;
        for (guard, judge, matter) in matters {
            let why = match self.judged(key, agent, judge, &matter) {
                Judged::Passed => continue,
                Judged::Pending => {
                    pending = true;
                    continue;
                }
                // That there is no money is not what the text says.
                Judged::Failed(error) if error.class == FailureClass::Budget => return Guarded::Refused(error),
                Judged::Failed(error) => format!("{} gave no verdict: {}", judge.title(), error.message),
                Judged::Tripped(why) => why,
            };
            let found_by_judge =
                Finding { found: why.chars().take(WHY).collect(), excerpt: String::new(), at: String::new() };
            found.push(trip(key, &matter.guard, guard, matter.call, found_by_judge));
        }
        if pending || !found.is_empty() {
            self.decision.events.extend(found);
            return Guarded::Pending;
        }
        Guarded::Clear
    }

    /// Whether a person lets an agent go on with what tripped a guard.
    fn released(&mut self, key: &StepKey, known: &StepRun, trips: &[&GuardTrip], texts: &[Text<'_>]) -> Guarded {
        // What was answered under other permissions is no answer to the question as it is now.
        let asked = known
            .approval
            .as_ref()
            .filter(|approval| approval.answer.is_none() || approval.terms.policy.as_ref() == Some(self.given.policy));
        let Some(asked) = asked else {
            self.ask_release(key, trips, shown(trips, texts), Vec::new());
            return Guarded::Pending;
        };
        match self.vote(asked, self.given.permissions.votes) {
            Vote::Open => Guarded::Pending,
            Vote::Next { approved_by, .. } => {
                self.ask_release(key, trips, shown(trips, texts), approved_by);
                Guarded::Pending
            }
            Vote::Decided { approved: true, decision, .. } if decision.edits.is_none() => Guarded::Clear,
            Vote::Decided { approved: true, .. } => {
                let why = "a person changed what a guard had found, and it can only be let pass or refused";
                Guarded::Refused(tripped(FailureClass::Rejected, why, trips))
            }
            Vote::Decided { decision, .. } => {
                let comment = decision.comment.map(|comment| format!(": {comment}")).unwrap_or_default();
                let why = format!("{} refused it{comment}", decision.by);
                Guarded::Refused(tripped(FailureClass::Rejected, &why, trips))
            }
            Vote::Lapsed => Guarded::Refused(tripped(
                FailureClass::Rejected,
                "a person was asked, and nobody decided in time",
                trips,
            )),
        }
    }

    fn ask_release(&mut self, key: &StepKey, trips: &[&GuardTrip], show: Value, approved_by: Vec<String>) {
        let permissions = self.given.permissions;
        let point = trips.first().map_or(GuardPoint::Input, |trip| trip.on).as_str();
        let title = format!("may {key} go on? Its {point} tripped {}", names(trips));
        let terms = ApprovalTerms {
            call: None,
            approvers: permissions.approvers.clone(),
            approved_by,
            policy: Some(self.given.policy.clone()),
            digest: None,
        };
        self.ask_person(key, Question { title, show, expires: Some(permissions.expires.get()), terms });
    }
}

/// What is written down of what a guard found.
fn trip(key: &StepKey, name: &str, guard: &Guard, call: Option<&CallId>, finding: Finding) -> Event {
    let Finding { found, excerpt, at } = finding;
    let (guard, on, then) = (name.to_owned(), guard.on, guard.then);
    let trip = GuardTrip { guard, on, call: call.cloned(), then, found, excerpt, at };
    Event::GuardTripped { step: key.clone(), trip: Box::new(trip) }
}

/// What a person gets to see: what was found, and the texts that it was found in.
fn shown(trips: &[&GuardTrip], texts: &[Text<'_>]) -> Value {
    let concerned = texts.iter().filter(|text| trips.iter().any(|trip| trip.call.as_ref() == text.call));
    let concerned: Vec<&Value> = concerned.map(|text| text.value).collect();
    json!({"guards": trips, "texts": concerned})
}

fn names(trips: &[&GuardTrip]) -> String {
    let names: BTreeSet<&str> = trips.iter().map(|trip| trip.guard.as_str()).collect();
    let word = if names.len() == 1 { "the guard" } else { "the guards" };
    format!("{word} {}", names.into_iter().collect::<Vec<_>>().join(", "))
}

/// How an agent fails, with the evidence.
fn tripped(class: FailureClass, why: &str, trips: &[&GuardTrip]) -> Failure {
    let point = trips.first().map_or(GuardPoint::Input, |trip| trip.on).as_str();
    let found = trips.first().map_or("", |trip| trip.found.as_str());
    let why = if why.is_empty() { String::new() } else { format!(", and {why}") };
    let message = format!("the {point} of the agent tripped {}{why} ({found})", names(trips));
    Failure::new(class, message).with_detail(json!({ "guards": trips }))
}
