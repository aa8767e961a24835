//! Everything that can stand in a journal.
//!
//! Events are facts, written once and never changed. A new field has a default;
//! a new meaning gets a new event. Names and fields are a file format: users
//! read them with `teamster tasks show`, over HTTP and with the sqlite3 shell.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::guard::GuardTrip;
use super::hook::{HookEvent, HookRuling};
use super::judge::Judging;
use super::record::{
    ApprovalDecision, ApprovalTerms, CallRecord, CallResult, HoldBack, ModelCall, StepOutcome, WakeCause,
};
use super::request::{ModelChoice, RequestHead};
use super::sealed::SealedValues;
use super::submitted::Submitted;
use crate::clock::Timestamp;
use crate::failure::Failure;
use crate::id::{ApprovalId, CallId, EntryId, SessionName, StepKey, TaskId, WorkerId};
use crate::task::{DeadReason, Outcome, Wait};

mod name;

/// An event in its place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    /// Its number in the journal, from 1, without gaps.
    pub seq: u64,
    /// When it was written, by the store's clock.
    pub at: Timestamp,
    /// What happened.
    pub event: Event,
}

/// A fact about a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    // ---- the life of the task -------------------------------------------------
    /// It was accepted. Always and only the first event.
    Submitted(Box<Submitted>),
    /// A worker took the lease: an attempt begins.
    Leased {
        /// The number of the attempt, from 1: also the fencing epoch that effects carry.
        attempt: u32,
        /// The worker.
        worker: WorkerId,
    },
    /// The holder handed it back, to be taken up by another.
    Released {
        /// Why: `drain`, `halt`, …
        reason: String,
    },
    /// The lease ran out before the holder renewed it.
    LeaseExpired {
        /// The worker that was lost.
        worker: WorkerId,
    },
    /// Nothing can go on until something comes.
    Parked {
        /// What is waited for.
        wait: Wait,
    },
    /// Waiting or a schedule ended by itself.
    Woken {
        /// Why.
        cause: WakeCause,
    },
    /// Someone asked a running task to stop; its holder takes it up.
    CancelRequested {
        /// Who asked.
        by: String,
        /// Why.
        reason: String,
    },
    /// It was stopped.
    Cancelled {
        /// Who asked.
        by: String,
        /// Why.
        reason: String,
    },
    /// It finished.
    Succeeded {
        /// The task's output.
        output: Value,
    },
    /// It cannot go on by itself.
    Died {
        /// Why.
        reason: DeadReason,
        /// The failure itself.
        error: Failure,
        /// The step that failed, where it was one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<StepKey>,
    },
    /// A dead or cancelled task was sent on its way again. Steps that had
    /// failed get new tries and keep what their journal holds already (answered
    /// model and tool calls); steps that are reset start from nothing.
    Replayed {
        /// Who asked.
        by: String,
        /// The steps that start from nothing: the one that `from` names and all that need it.
        reset: Vec<crate::id::StepId>,
        /// A corrected input, if any.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        input: Option<Value>,
        /// The private values in it.
        #[serde(default, skip_serializing_if = "SealedValues::is_empty")]
        sealed: SealedValues,
    },
    /// Private values came in: what tokens stand for in the events that follow.
    PrivateDataSealed {
        /// Their ciphertexts.
        entries: SealedValues,
    },
    /// Its data was erased: in the events before stand marks in the places of all values and of all words for people.
    /// The last event of a journal.
    Erased {
        /// Who asked.
        by: String,
        /// How the task had ended.
        outcome: Outcome,
    },

    // ---- steps ----------------------------------------------------------------
    /// A step with `repeat` started a round: its steps run, from the second round on anew.
    RoundStarted {
        /// The step.
        step: StepKey,
        /// The number of the round, from 1.
        round: u32,
        /// The steps that start from nothing; what they came to in the round before stays known.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        reset: Vec<crate::id::StepId>,
    },
    /// A step with effects or a model started its first try.
    StepStarted {
        /// The step.
        step: StepKey,
    },
    /// A step with `foreach` was given its items.
    Expanded {
        /// The step.
        step: StepKey,
        /// The items, in order.
        items: Vec<Value>,
    },
    /// A try of a step failed and another one follows.
    StepRetrying {
        /// The step.
        step: StepKey,
        /// What went wrong.
        error: Failure,
        /// When the next try may start.
        not_before: Timestamp,
    },
    /// A step is done. Its result is never computed again.
    StepFinished {
        /// The step.
        step: StepKey,
        /// How.
        outcome: StepOutcome,
    },
    /// A `sleep` step began to wait.
    SleepStarted {
        /// The step.
        step: StepKey,
        /// Until when.
        until: Timestamp,
    },

    // ---- agents and calls -----------------------------------------------------
    /// An agent step fixed what all its requests share, and its first message.
    AgentStarted {
        /// The step.
        step: StepKey,
        /// What stays the same in every request.
        head: Box<RequestHead>,
        /// The first user message, rendered.
        prompt: String,
    },
    /// A step goes on with a conversation that earlier tasks had, and nobody else does until it is done with it.
    SessionOpened {
        /// The step.
        step: StepKey,
        /// The session.
        session: SessionName,
        /// The task whose conversation it is so far; nothing: it begins here.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<TaskId>,
        /// The conversation so far, as messages.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        history: Vec<Value>,
        /// How many of its oldest turns are lost: more were had than are kept.
        #[serde(default, skip_serializing_if = "is_zero")]
        dropped: usize,
    },
    /// Another task goes on with the session now.
    SessionAwaited {
        /// The step.
        step: StepKey,
        /// The session.
        session: SessionName,
        /// The task that goes on with it.
        holder: TaskId,
        /// When to look again, if nobody calls before.
        until: Timestamp,
    },
    /// The conversation was left to the next task of the session.
    SessionSaved {
        /// The step.
        step: StepKey,
        /// The session.
        session: SessionName,
        /// Whether it was kept: not if somebody else went on with the session meanwhile, or if it is too large.
        kept: bool,
    },
    /// An agent called another one: a new one, or one that had come to its end, which goes on with its whole history.
    SubagentCalled {
        /// The subagent: its events name this key as their step.
        step: StepKey,
        /// The call, by which its caller gets the answer.
        call: CallId,
        /// The agent's name.
        agent: String,
        /// What it is told.
        prompt: String,
        /// Whether its caller goes on meanwhile.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        background: bool,
    },
    /// The model answered: one turn. Durable before its tool calls run.
    TurnFinished {
        /// The step.
        step: StepKey,
        /// The answer.
        call: Box<ModelCall>,
        /// The request in a model batch that it answers; none: it was asked for by itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        entry: Option<EntryId>,
    },
    /// A request waits to go out with others in a model batch, at half the price.
    ModelBatchJoined {
        /// The step.
        step: StepKey,
        /// The request.
        entry: EntryId,
        /// When the model is asked directly, if there is no answer before.
        until: Timestamp,
    },
    /// There was no answer in time: the request is withdrawn, and the model is asked directly. If it had gone out, it
    /// may have to be paid too.
    ModelBatchLeft {
        /// The step.
        step: StepKey,
        /// The request.
        entry: EntryId,
    },
    /// A request in a model batch was not answered.
    ModelBatchFailed {
        /// The step.
        step: StepKey,
        /// The request.
        entry: EntryId,
        /// What went wrong.
        error: Failure,
    },
    /// The model summarised the older part of a conversation: from now on it is told the summary instead.
    Compacted {
        /// The step.
        step: StepKey,
        /// The reply with the summary, and what it cost.
        call: Box<ModelCall>,
        /// How many turns, from the first, the summary stands for; those behind them stay as they are.
        kept_from: usize,
    },
    /// The model that was asked did not answer, or declined: from now on another one is asked. A reply in which it
    /// declined is no longer part of the conversation.
    ModelChanged {
        /// The step.
        step: StepKey,
        /// The model that was asked until now, by its name in `teamster.yaml`.
        from: String,
        /// The one that is asked from now on.
        to: Box<ModelChoice>,
        /// What went wrong.
        why: Failure,
    },
    /// A model answered that was not asked. Written when this is first seen of an answering model.
    OtherModel {
        /// The step.
        step: StepKey,
        /// The model that was asked, by its name at the provider.
        asked: String,
        /// The one that answered.
        answered: String,
    },
    /// The loop itself said something to the model (repair, nudge, go on).
    Prompted {
        /// The step.
        step: StepKey,
        /// The text, as a user message or behind the tool results.
        text: String,
        /// Why: `repair`, `continue`, `subagents`, `hook`.
        reason: String,
        /// The subagents of whose end the text tells.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        subagents: Vec<StepKey>,
    },
    /// Hooks were asked, and this is what came of it. They are not asked about the same thing again.
    HookDecided {
        /// The step.
        step: StepKey,
        /// When they were asked.
        event: HookEvent,
        /// The call that they were asked about.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        call: Option<CallId>,
        /// What they said.
        ruling: Box<HookRuling>,
    },
    /// An agent is asked whether a text trips a guard. What it says follows under its own key.
    JudgeAsked {
        /// The judge: its events name this key as their step.
        step: StepKey,
        /// What it is asked about.
        judging: Box<Judging>,
    },
    /// A guard found something in what the agent was told or came to.
    GuardTripped {
        /// The step.
        step: StepKey,
        /// What it found, and what happens.
        trip: Box<GuardTrip>,
    },
    /// A call that is not `read` is about to start (invariant I5).
    CallIntended {
        /// The step.
        step: StepKey,
        /// The call.
        call: CallRecord,
    },
    /// A call was answered. It is never made again (invariant I3).
    CallFinished {
        /// The step.
        step: StepKey,
        /// The call.
        call: CallId,
        /// The tool, for readers of the journal.
        tool: String,
        /// What came of it.
        result: CallResult,
        /// How long it took, in milliseconds.
        duration_ms: u64,
    },
    /// A call of class `once` was started and nobody knows whether it happened:
    /// a person is asked.
    OutcomeUnknown {
        /// The step.
        step: StepKey,
        /// The call.
        call: CallId,
        /// What was seen: the worker died, the connection broke.
        error: Failure,
    },
    /// A person said what happened to such a call.
    OutcomeResolved {
        /// The step.
        step: StepKey,
        /// The call.
        call: CallId,
        /// Who said it.
        by: String,
        /// What it answered, if it happened; `none`: it did not, and may be made again.
        happened: Option<Value>,
    },

    // ---- money and limits -----------------------------------------------------
    /// A call has to wait: a budget is spent, a rate limit or breaker holds it back, or there is no place for the task.
    HeldBack {
        /// The step; none: the task as a whole.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<StepKey>,
        /// Why.
        why: HoldBack,
        /// When it is tried again, if nobody says so before.
        until: Timestamp,
    },
    /// So much of a budget is used. Said once for each level (50, 80 and 100 percent) and window.
    BudgetNoted {
        /// The budget: `task`, `step ID`, or its name under `budgets:`, with the value of its label.
        budget: String,
        /// How much, in percent.
        percent: u8,
        /// How much of it is used or reserved: millionths of a dollar, or tokens.
        used: u64,
        /// How much may be.
        limit: u64,
    },
    /// Somebody gave the task more to spend: it and each of its steps.
    BudgetRaised {
        /// Who.
        by: String,
        /// Dollars more.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usd: Option<f64>,
        /// Tokens more.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tokens: Option<u64>,
    },

    // ---- people and children --------------------------------------------------
    /// A decision is wanted. Its id is the task and the number of this event.
    ApprovalRequested {
        /// The step.
        step: StepKey,
        /// One line for the list.
        title: String,
        /// What is to be decided on, exactly as the person sees it.
        show: Value,
        /// When the question lapses.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires: Option<Timestamp>,
        /// What the answer is bound to.
        #[serde(default, skip_serializing_if = "ApprovalTerms::is_open")]
        terms: Box<ApprovalTerms>,
    },
    /// Someone decided, once.
    ApprovalDecided {
        /// Which question.
        approval: ApprovalId,
        /// The decision.
        decision: ApprovalDecision,
    },
    /// Nobody decided in time.
    ApprovalExpired {
        /// Which question.
        approval: ApprovalId,
    },
    /// A `pipeline` step submitted its child.
    ChildSubmitted {
        /// The step.
        step: StepKey,
        /// The child.
        child: TaskId,
    },
    /// A child is done.
    ChildFinished {
        /// The child.
        child: TaskId,
        /// How it ended.
        outcome: Outcome,
        /// Its output, or why it has none.
        result: Value,
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
const fn is_zero(number: &usize) -> bool {
    *number == 0
}
