//! The outside world: tools that do something which cannot be undone, and
//! that remembers what was done to it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use common::failure::{Failure, FailureClass};
use common::id::{CallId, TaskId};
use common::journal::{CallResult, CallState, Effect, Event, Recorded, Run};
use serde_json::{Value, json};
use worker::decide::idempotency_key;
use worker::tools::{Tool, ToolAnswer, ToolCall, ToolError, ToolSpec};

use super::chance::Chance;
use super::truth::Truth;

/// Something that was done.
#[derive(Debug, Clone)]
pub(super) struct Deed {
    pub(super) task: TaskId,
    pub(super) effect: Effect,
    pub(super) key: String,
    pub(super) epoch: u32,
    /// Which call of the pipeline it is, as its arguments say.
    pub(super) mark: String,
}

/// What was done to the world in one history.
#[derive(Debug)]
pub(super) struct World {
    truth: Arc<Truth>,
    chance: Chance,
    clears: Duration,
    deeds: Mutex<Vec<Deed>>,
}

impl World {
    pub(super) fn new(truth: &Arc<Truth>, seed: u64, clears: Duration) -> Arc<Self> {
        let truth = Arc::clone(truth);
        Arc::new(Self { truth, chance: Chance::of(seed, "world"), clears, deeds: Mutex::default() })
    }

    pub(super) fn deeds(&self) -> MutexGuard<'_, Vec<Deed>> {
        self.deeds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was done for a task, but for what changes nothing.
    pub(super) fn deeds_of(&self, task: TaskId) -> Vec<Deed> {
        self.deeds().iter().filter(|deed| deed.task == task && deed.effect != Effect::Read).cloned().collect()
    }

    /// What a call answered, if it happened.
    pub(super) fn happened(&self, key: &str) -> Option<Value> {
        self.deeds().iter().any(|deed| deed.key == key).then(|| answer(key))
    }

    async fn meet(&self, effect: Effect, call: ToolCall) -> Result<ToolAnswer, ToolError> {
        let stormy = self.truth.clock.elapsed() < self.clears;
        let slow = stormy && self.chance.one_in(10);
        tokio::time::sleep(self.chance.millis(if slow { 0..2_500 } else { 1..30 })).await;
        let luck = if stormy { self.chance.below(20) } else { 19 };
        let failed = |why: &str| Failure::new(FailureClass::Unavailable, why.to_owned());
        match luck {
            0 | 1 => return Err(ToolError::Failed(failed("the world was busy and did nothing"))),
            2 => return Err(ToolError::Lost(failed("the request broke off"))),
            _ => {}
        }
        let key = call.key.clone();
        self.happen(effect, call);
        tokio::time::sleep(self.chance.millis(1..30)).await;
        if luck == 3 {
            return Err(ToolError::Lost(failed("the answer broke off")));
        }
        Ok(ToolAnswer { content: answer(&key), is_error: false })
    }

    /// Now it happens, and at this moment it must be right that it does.
    fn happen(&self, effect: Effect, call: ToolCall) {
        let ToolCall { name, arguments, key, context } = call;
        let mark = arguments["mark"].as_str().unwrap_or_default().to_owned();
        self.truth.count(&format!("effect/{effect:?}"));
        let journal = self.truth.journal(context.task);
        if effect != Effect::Read && !is_intended(&journal, &key) {
            self.truth.violation(format!("I5: {name} ({mark}) of task {} happens without an intent", context.task));
        }
        if is_answered(&journal, context.task, &key) {
            self.truth.violation(format!(
                "I3: {name} ({mark}) of task {} happens again: its result is in the journal",
                context.task
            ));
        }
        self.deeds().push(Deed { task: context.task, effect, key, epoch: context.epoch, mark });
    }
}

fn answer(key: &str) -> Value {
    json!({"receipt": key.get(..8)})
}

fn is_intended(journal: &[Recorded], key: &str) -> bool {
    journal.iter().any(|r| matches!(&r.event, Event::CallIntended { call, .. } if call.key == key))
}

/// Whether the journal has a good answer to the call of this key, that no replay has reset.
fn is_answered(journal: &[Recorded], task: TaskId, key: &str) -> bool {
    let Ok(run) = Run::fold(task, journal) else { return false };
    let is_good = |result: &CallResult| matches!(result, CallResult::Done { is_error: false, .. });
    run.steps.iter().any(|(step, known)| {
        let of_step = known.calls.iter().filter_map(|(id, call)| match &call.state {
            CallState::Finished(result) => Some((id, result)),
            _ => None,
        });
        let turns = known.conversation.iter().flat_map(|conversation| &conversation.turns);
        let of_turns = turns.flat_map(|turn| &turn.results);
        let key_of = |call: Option<&CallId>| idempotency_key(task, step, known.generation, call);
        of_step
            .chain(of_turns)
            .filter(|(_, result)| is_good(result))
            .any(|(id, _)| key_of(None) == key || key_of(Some(id)) == key)
    })
}

/// Where tools find the world of the history that is being played.
pub(super) type Door = Arc<Mutex<Option<Arc<World>>>>;

/// A tool of some class.
#[derive(Debug)]
pub(super) struct SimulatedTool {
    spec: ToolSpec,
    effect: Effect,
    door: Door,
}

impl SimulatedTool {
    pub(super) fn new(name: &str, effect: Effect, door: &Door) -> Self {
        let spec = ToolSpec {
            name: name.to_owned(),
            description: format!("does something of class {effect:?}"),
            input_schema: json!({"type": "object", "properties": {"mark": {"type": "string"}}, "required": ["mark"]}),
        };
        Self { spec, effect, door: Arc::clone(door) }
    }
}

#[async_trait]
impl Tool for SimulatedTool {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn effect(&self, _arguments: &Value) -> Effect {
        self.effect
    }

    async fn call(&self, call: ToolCall) -> Result<ToolAnswer, ToolError> {
        let world = self.door.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match world {
            Some(world) => world.meet(self.effect, call).await,
            None => std::future::pending().await,
        }
    }
}
