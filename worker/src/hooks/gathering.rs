//! What the answers of several hooks come to: pure. The strictest decides; what
//! they change is what the last of them made of it; all that they add is kept.

use std::ops::ControlFlow;

use common::failure::Failure;
use common::journal::{HookDecision, HookEvent, HookRuling, HookRun};
use serde_json::Value;

use super::answer::{HookAnswer, bounded};

/// What was said so far.
pub(super) struct Gathering {
    event: HookEvent,
    ruling: HookRuling,
}

impl Gathering {
    pub(super) fn new(event: HookEvent) -> Self {
        Self { event, ruling: HookRuling::default() }
    }

    /// Adds an answer, or why there is none, and says whether others are to be asked still.
    ///
    /// # Errors
    /// The failure, where there is nothing that could be refused because of it.
    pub(super) fn add(
        &mut self,
        hook: String,
        answer: Result<HookAnswer, Failure>,
        duration_ms: u64,
    ) -> Result<ControlFlow<()>, Failure> {
        let mut failure = None;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                let why = bounded(format!("the hook {hook} did not judge it: {}", error.message));
                failure = Some(why.clone());
                match self.event {
                    HookEvent::PreToolUse => HookAnswer::denied(&why),
                    // It has happened; what came of it does not reach the model unseen.
                    HookEvent::PostToolUse => {
                        let updated = Some(Value::from("The result is withheld."));
                        HookAnswer { updated, ..HookAnswer::denied(&why) }
                    }
                    HookEvent::Stop | HookEvent::SubagentStop | HookEvent::PreCompact => {
                        return Err(Failure { message: why, ..error });
                    }
                }
            }
        };
        let HookAnswer { decision, reason, updated, context } = answer;
        let withheld = failure.is_some();
        self.ruling.ran.push(HookRun { hook, decision, failure, duration_ms });
        if decision > self.ruling.decision {
            self.ruling.decision = decision;
            self.ruling.reason = reason;
        }
        if let Some(updated) = updated {
            self.ruling.updated = Some(updated);
        }
        self.ruling.context.extend(context);
        let settled = match decision {
            HookDecision::End => true,
            // What happened can be looked at by all.
            HookDecision::Deny => self.event != HookEvent::PostToolUse || withheld,
            HookDecision::Pass | HookDecision::Allow | HookDecision::Ask => false,
        };
        Ok(if settled { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    /// Puts what was changed into what the next hook is told.
    pub(super) fn update(&self, input: &mut Value) {
        let key = if self.event == HookEvent::PostToolUse { "tool_response" } else { "tool_input" };
        if let (Some(updated), Some(told)) = (&self.ruling.updated, input.get_mut(key)) {
            *told = updated.clone();
        }
    }

    pub(super) fn ruling(self) -> HookRuling {
        self.ruling
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::needless_pass_by_value, clippy::unnecessary_wraps)]

    use HookDecision::{Allow, Ask, Deny, End, Pass};
    use common::failure::FailureClass;
    use serde_json::json;

    use super::*;

    fn said(decision: HookDecision, reason: &str) -> Result<HookAnswer, Failure> {
        Ok(HookAnswer { decision, reason: Some(reason.to_owned()), ..HookAnswer::default() })
    }

    fn broken() -> Result<HookAnswer, Failure> {
        Err(Failure::new(FailureClass::Timeout, "too late"))
    }

    /// The ruling, and how many were asked.
    fn gather(event: HookEvent, answers: Vec<Result<HookAnswer, Failure>>) -> Result<(HookRuling, usize), Failure> {
        let mut gathering = Gathering::new(event);
        for (number, answer) in answers.into_iter().enumerate() {
            if gathering.add(format!("h{number}"), answer, 1)?.is_break() {
                break;
            }
        }
        let ruling = gathering.ruling();
        let asked = ruling.ran.len();
        Ok((ruling, asked))
    }

    #[test]
    fn deny_beats_ask_beats_allow_whoever_says_it() {
        let table = [
            (vec![], Pass, 0),
            (vec![Pass], Pass, 1),
            (vec![Allow], Allow, 1),
            (vec![Ask], Ask, 1),
            (vec![Deny], Deny, 1),
            (vec![End], End, 1),
            (vec![Pass, Allow], Allow, 2),
            (vec![Allow, Pass], Allow, 2),
            (vec![Allow, Ask], Ask, 2),
            (vec![Ask, Allow], Ask, 2),
            (vec![Allow, Deny], Deny, 2),
            (vec![Ask, Deny], Deny, 2),
            (vec![Pass, Ask, Pass, Allow], Ask, 4),
            // Nobody is asked about what is settled.
            (vec![Deny, Allow], Deny, 1),
            (vec![Deny, End], Deny, 1),
            (vec![Allow, End, Deny], End, 2),
        ];
        for (decisions, expected, asked) in table {
            let answers = decisions.iter().map(|decision| said(*decision, decision.as_str())).collect();
            let (ruling, count) = gather(HookEvent::PreToolUse, answers).unwrap();
            assert_eq!((ruling.decision, count), (expected, asked), "{decisions:?}");
            let reason = (expected != Pass).then_some(expected.as_str());
            assert_eq!(ruling.reason.as_deref(), reason, "{decisions:?}: the reason is that of who decided");
        }
    }

    #[test]
    fn whoever_does_not_judge_has_not_agreed() {
        let (ruling, asked) = gather(HookEvent::PreToolUse, vec![said(Allow, ""), broken(), said(Allow, "")]).unwrap();
        assert_eq!((ruling.decision, asked), (Deny, 2));
        assert!(ruling.reason.unwrap().contains("h1 did not judge it: too late"));
        assert!(ruling.ran[1].failure.is_some() && ruling.ran[0].failure.is_none());
        let (ruling, _) = gather(HookEvent::PostToolUse, vec![broken()]).unwrap();
        assert_eq!((ruling.decision, ruling.updated), (Deny, Some(json!("The result is withheld."))));
        for event in [HookEvent::Stop, HookEvent::SubagentStop, HookEvent::PreCompact] {
            let failure = gather(event, vec![said(Pass, ""), broken()]).unwrap_err();
            assert_eq!(failure.class, FailureClass::Timeout);
        }
    }

    #[test]
    fn each_sees_what_those_before_it_changed_and_all_that_is_added_is_kept() {
        let change = |to: Value, note: &str| {
            Ok(HookAnswer { updated: Some(to), context: Some(note.to_owned()), ..HookAnswer::default() })
        };
        let mut gathering = Gathering::new(HookEvent::PreToolUse);
        let mut input = json!({"tool_input": {"command": "one"}});
        assert!(gathering.add("a".into(), change(json!({"command": "two"}), "x"), 1).unwrap().is_continue());
        gathering.update(&mut input);
        assert_eq!(input, json!({"tool_input": {"command": "two"}}));
        assert!(gathering.add("b".into(), Ok(HookAnswer::default()), 1).unwrap().is_continue());
        assert!(gathering.add("c".into(), change(json!({"command": "three"}), "y"), 1).unwrap().is_continue());
        let ruling = gathering.ruling();
        assert_eq!((ruling.updated, ruling.context), (Some(json!({"command": "three"})), vec!["x".into(), "y".into()]));
    }
}
