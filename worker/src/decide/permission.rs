//! Whether a call may be made, and what a person is asked before something
//! happens: approvals of steps, and permissions of calls. One mechanism for both: a question is asked in the
//! journal, answered once, and asked again of somebody else where several must
//! agree. A call that was permitted is intended right after, so that a crash in
//! between finds the answer and asks nobody again.

use std::path::Path;
use std::time::Duration;

use common::id::{CallId, StepKey};
use common::journal::{
    Approval, ApprovalAnswer, ApprovalDecision, ApprovalTerms, Event, HookDecision, HookRuling, StepRun,
};
use common::task::WaitOn;
use serde_json::Value;

use super::Deciding;
use super::hook::{Hooked, retargeted};
use crate::tools::Tool;
use crate::tools::rule::Verdict;

/// Something that a person is asked.
pub(super) struct Question {
    pub title: String,
    pub show: Value,
    /// How long it is open.
    pub expires: Option<Duration>,
    pub terms: ApprovalTerms,
}

/// Where a question is.
pub(super) enum Vote {
    /// Nobody has answered yet.
    Open,
    /// So far all agree, and somebody else has to be asked about what is to be shown.
    Next { approved_by: Vec<String>, show: Value },
    /// The last word.
    Decided { approved: bool, approved_by: Vec<String>, decision: ApprovalDecision, show: Value },
    /// Nobody decided in time.
    Lapsed,
}

/// Whether a call is made.
pub(super) enum Permit {
    /// With these arguments: a person may have changed them.
    Granted(Value),
    /// A person is being asked.
    Pending,
    /// Why not.
    Declined(String),
}

/// A call that may need a permission.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub id: &'a CallId,
    /// The tool's name.
    pub name: &'a str,
    /// The tool; none for a call of another agent, about which there are no rules.
    pub tool: Option<&'a dyn Tool>,
    pub arguments: &'a Value,
    /// The JSON Schema that changed arguments must fit.
    pub schema: &'a Value,
    /// Who wants it, for the person.
    pub who: &'a str,
    /// The agent that wants it, if it is one.
    pub agent: Option<&'a str>,
}

impl Wanted<'_> {
    fn verdict(&self, arguments: &Value, workspace: Option<&Path>) -> Verdict {
        self.tool.map_or(Verdict::Allowed, |tool| tool.verdict(arguments, workspace))
    }

    fn asks(&self, why: String) -> Verdict {
        match self.tool {
            Some(tool) => tool.asks(why),
            None => Verdict::Asks(why),
        }
    }
}

impl Deciding<'_> {
    pub(super) fn ask_person(&mut self, key: &StepKey, question: Question) {
        let Question { title, show, expires, terms } = question;
        let terms = terms.sealed(self.run.head.id, key, &title, &show);
        let expires = expires.map(|span| self.given.now.plus(span));
        self.decision.record(Event::ApprovalRequested {
            step: key.clone(),
            title,
            show,
            expires,
            terms: Box::new(terms),
        });
    }

    /// Where a question is that was asked; waits for it, or lets it lapse.
    pub(super) fn vote(&mut self, approval: &Approval, votes: u32) -> Vote {
        match &approval.answer {
            None if approval.expires.is_some_and(|expires| self.given.now >= expires) => {
                self.decision.record(Event::ApprovalExpired { approval: approval.id });
                Vote::Open
            }
            None => {
                self.wait(WaitOn::Approval { approval: approval.id }, approval.expires);
                Vote::Open
            }
            Some(ApprovalAnswer::Expired) => Vote::Lapsed,
            Some(ApprovalAnswer::Decided(decision)) => {
                let show = decision.edits.clone().unwrap_or_else(|| approval.show.clone());
                let mut approved_by = approval.terms.approved_by.clone();
                if decision.approved {
                    approved_by.push(decision.by.clone());
                    if approved_by.len() < votes as usize {
                        return Vote::Next { approved_by, show };
                    }
                }
                Vote::Decided { approved: decision.approved, approved_by, decision: decision.clone(), show }
            }
        }
    }

    /// Whether a call may be made, as far as hooks, rules and people say.
    pub(super) fn permit(&mut self, key: &StepKey, known: &StepRun, wanted: Wanted<'_>) -> Permit {
        let silent = HookRuling::default();
        let ruling = match self.before_call(key, known, wanted) {
            Hooked::Pending => return Permit::Pending,
            Hooked::Silent => &silent,
            Hooked::Ruled(ruling) => ruling,
        };
        let reason = ruling.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
        if ruling.decision >= HookDecision::Deny {
            return Permit::Declined(format!("a hook refused it{reason}"));
        }
        let updated = ruling.updated.as_ref().map(|updated| retargeted(wanted.name, wanted.arguments, updated));
        if let Some(updated) = &updated
            && let Err(why) = crate::tools::registry::validate(wanted.schema, updated)
        {
            return Permit::Declined(format!("a hook changed its arguments, and they do not fit its schema: {why}"));
        }
        let wanted = Wanted { arguments: updated.as_ref().unwrap_or(wanted.arguments), ..wanted };
        // What a hook allows is not asked because of a mode; rules hold whatever it says.
        let workspace = Some(self.given.workspace);
        let verdict = match (wanted.verdict(wanted.arguments, workspace), ruling.decision) {
            (Verdict::Unruled(_), HookDecision::Allow) => Verdict::Allowed,
            (Verdict::Allowed | Verdict::Unruled(_), HookDecision::Ask) => wanted.asks(format!("a hook asks{reason}")),
            (verdict, _) => verdict,
        };
        match verdict {
            Verdict::Allowed => match self.suspicion(key, wanted).map(|why| wanted.asks(why)) {
                None | Some(Verdict::Allowed) => Permit::Granted(wanted.arguments.clone()),
                Some(Verdict::Refused(why)) => Permit::Declined(why),
                Some(Verdict::Asks(why) | Verdict::Unruled(why)) => self.permit_by_person(key, known, wanted, &why),
            },
            Verdict::Refused(why) => Permit::Declined(why),
            Verdict::Asks(why) | Verdict::Unruled(why) => self.permit_by_person(key, known, wanted, &why),
        }
    }

    /// Whether a person lets a call be made.
    fn permit_by_person(&mut self, key: &StepKey, known: &StepRun, wanted: Wanted<'_>, why: &str) -> Permit {
        let workspace = Some(self.given.workspace);
        // What was answered under other permissions is no answer to the question as it is now.
        let asked = known
            .permissions
            .get(wanted.id)
            .filter(|approval| approval.answer.is_none() || approval.terms.policy.as_ref() == Some(self.given.policy));
        let Some(asked) = asked else {
            self.ask_permission(key, wanted, why, wanted.arguments.clone(), Vec::new());
            return Permit::Pending;
        };
        match self.vote(asked, self.given.permissions.votes) {
            Vote::Open => Permit::Pending,
            Vote::Next { approved_by, show } => {
                self.ask_permission(key, wanted, why, show, approved_by);
                Permit::Pending
            }
            Vote::Decided { approved: true, show, .. } => changed(wanted, show, workspace),
            Vote::Decided { decision, .. } => {
                let comment = decision.comment.map(|comment| format!(": {comment}")).unwrap_or_default();
                Permit::Declined(format!("a person refused it{comment}"))
            }
            Vote::Lapsed => Permit::Declined("a person was asked, and nobody decided in time".to_owned()),
        }
    }

    fn ask_permission(&mut self, key: &StepKey, wanted: Wanted<'_>, why: &str, show: Value, approved_by: Vec<String>) {
        let permissions = self.given.permissions;
        let title = format!("{} wants to call {} ({why})", wanted.who, wanted.name);
        let terms = ApprovalTerms {
            call: Some(wanted.id.clone()),
            approvers: permissions.approvers.clone(),
            approved_by,
            policy: Some(self.given.policy.clone()),
            digest: None,
        };
        self.ask_person(key, Question { title, show, expires: Some(permissions.expires.get()), terms });
    }
}

/// The arguments as a person approved them: what they changed must be a call that could have been made.
fn changed(wanted: Wanted<'_>, arguments: Value, workspace: Option<&Path>) -> Permit {
    if arguments == *wanted.arguments {
        return Permit::Granted(arguments);
    }
    if let Err(why) = crate::tools::registry::validate(wanted.schema, &arguments) {
        return Permit::Declined(format!("a person changed its arguments, and they do not fit its schema: {why}"));
    }
    match wanted.verdict(&arguments, workspace) {
        Verdict::Refused(why) => Permit::Declined(format!("a person changed its arguments, and {why}")),
        // That a person wrote them is the permission.
        Verdict::Allowed | Verdict::Asks(_) | Verdict::Unruled(_) => Permit::Granted(arguments),
    }
}
