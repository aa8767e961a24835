//! What a template sees. A scope borrows; values are converted for `minijinja`
//! only when a template that is rendered asks for them, and only those.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use minijinja::Value as Jinja;
use serde_json::{Value, json};

use super::syntax::{Key, Reference};
use crate::id::{StepId, StepKey};
use crate::journal::{Run, StepOutcome};
use crate::pipeline::model::{Pipeline, StepKind};

/// The names that a template may use. Cheap to make and to clone.
#[derive(Debug, Clone)]
pub struct Scope<'a> {
    names: Names<'a>,
    env: Option<&'a BTreeMap<String, String>>,
    item: Option<(&'a Value, u32)>,
    round: Option<u32>,
}

#[derive(Debug, Clone, Copy)]
enum Names<'a> {
    Run { pipeline: &'a Pipeline, run: &'a Run },
    Event { event: &'a Value, headers: &'a BTreeMap<String, String> },
    Input(&'a Value),
}

/// What a look-up came to.
pub(super) enum Found<'a> {
    Value(Cow<'a, Value>),
    /// The first so many keys are not there.
    Missing {
        upto: usize,
    },
}

impl<'a> Scope<'a> {
    /// What the steps of a task see: `input`, `steps`, `env`, `task`. Every step of the pipeline
    /// is in `steps`, with `status`, `output`, `error` and `guards`.
    pub const fn of_run(pipeline: &'a Pipeline, run: &'a Run, env: &'a BTreeMap<String, String>) -> Self {
        Self { names: Names::Run { pipeline, run }, env: Some(env), item: None, round: None }
    }

    /// What a trigger sees: `event`, `headers`, `env`.
    pub const fn of_event(
        event: &'a Value,
        headers: &'a BTreeMap<String, String>,
        env: &'a BTreeMap<String, String>,
    ) -> Self {
        Self { names: Names::Event { event, headers }, env: Some(env), item: None, round: None }
    }

    /// What labels see: `input`.
    pub const fn of_input(input: &'a Value) -> Self {
        Self { names: Names::Input(input), env: None, item: None, round: None }
    }

    /// The same with `item` and `index` of a fan-out.
    #[must_use]
    pub const fn with_item(mut self, item: &'a Value, index: u32) -> Self {
        self.item = Some((item, index));
        self
    }

    /// The same with `round` of a step that is repeated.
    #[must_use]
    pub const fn with_round(mut self, round: u32) -> Self {
        self.round = Some(round);
        self
    }

    /// The value of a path.
    pub(super) fn find(&self, reference: &Reference) -> Found<'a> {
        let keys = reference.path.as_slice();
        // `root` takes the keys that it can, so that only the wanted part of a step is made.
        let Some((mut value, taken)) = self.root(&reference.root, keys) else {
            let upto = match reference.root.as_str() {
                "steps" => 2,
                "env" => 1,
                _ => 0,
            };
            return Found::Missing { upto };
        };
        for (index, key) in keys.iter().enumerate().skip(taken) {
            value = match value {
                Cow::Borrowed(Value::Null) | Cow::Owned(Value::Null) => return Found::Value(Cow::Owned(Value::Null)),
                Cow::Borrowed(inner) => match key.of(inner) {
                    Some(inner) => Cow::Borrowed(inner),
                    None => return Found::Missing { upto: index + 1 },
                },
                Cow::Owned(inner) => match key.of(&inner) {
                    Some(inner) => Cow::Owned(inner.clone()),
                    None => return Found::Missing { upto: index + 1 },
                },
            };
        }
        Found::Value(value)
    }

    /// The value of a name, or of as many keys below it as were taken.
    fn root(&self, root: &str, keys: &[Key]) -> Option<(Cow<'a, Value>, usize)> {
        let whole = |value: &'a Value| Some((Cow::Borrowed(value), 0));
        match (root, self.names) {
            ("item", _) => whole(self.item?.0),
            ("index", _) => Some((Cow::Owned(self.item?.1.into()), 0)),
            ("round", _) => Some((Cow::Owned(self.round?.into()), 0)),
            ("env", _) => match (self.env?, keys) {
                (env, [Key::Name(name), ..]) => Some((Cow::Owned(env.get(name)?.as_str().into()), 1)),
                (env, _) => Some((Cow::Owned(json!(env)), 0)),
            },
            ("input", Names::Run { run, .. }) => whole(&run.input),
            ("input", Names::Input(input)) => whole(input),
            ("event", Names::Event { event, .. }) => whole(event),
            ("headers", Names::Event { headers, .. }) => Some((Cow::Owned(json!(headers)), 0)),
            ("task", Names::Run { run, .. }) => {
                let head = &run.head;
                // What it cost is known when the journal is, so that a template says the same again after a crash.
                let task = json!({
                    "id": head.id, "pipeline": head.pipeline, "labels": head.labels,
                    "cost_usd": head.usage.cost_usd, "tokens": head.usage.tokens(),
                });
                Some((Cow::Owned(task), 0))
            }
            ("steps", Names::Run { pipeline, run }) => match keys {
                [Key::Name(step), Key::Name(field), ..] => {
                    Some((step_field(pipeline, run, known(pipeline, step)?, field)?, 2))
                }
                [Key::Name(step), ..] => Some((Cow::Owned(whole_step(pipeline, run, known(pipeline, step)?)), 1)),
                _ => {
                    let steps =
                        pipeline.steps.iter().map(|step| (step.id.to_string(), whole_step(pipeline, run, &step.id)));
                    Some((Cow::Owned(Value::Object(steps.collect())), 0))
                }
            },
            _ => None,
        }
    }

    /// The names for `minijinja` that these references need, each with only the part that they need.
    pub(super) fn names(&self, references: &[Reference]) -> Jinja {
        let roots: BTreeSet<&str> = references.iter().map(|reference| reference.root.as_str()).collect();
        let value = |root: &str| {
            let paths: Vec<&[Key]> = references.iter().filter(|r| r.root == root).map(|r| r.path.as_slice()).collect();
            let depth = if root == "steps" { 2 } else { 1 };
            self.part(root, &mut Vec::new(), &paths, depth)
        };
        Jinja::from_pairs(roots.into_iter().filter_map(|root| Some((root.to_owned(), value(root)?))))
    }

    /// The value at a path, with only those keys of the next `depth` levels that are named.
    fn part(&self, root: &str, at: &mut Vec<Key>, paths: &[&[Key]], depth: usize) -> Option<Jinja> {
        let named = paths.iter().map(|path| path.get(at.len())).collect::<Option<BTreeSet<&Key>>>();
        let names = named.filter(|keys| depth > 0 && keys.iter().all(|key| matches!(key, Key::Name(_))));
        let reference = Reference { root: root.to_owned(), path: at.clone(), ..Reference::default() };
        let Some(names) = names else {
            return match self.find(&reference) {
                Found::Value(value) => Some(jinja(value.as_ref())),
                Found::Missing { .. } => None,
            };
        };
        // What is no mapping has no keys to choose from.
        if root != "steps" && root != "env" {
            match self.find(&reference) {
                Found::Value(value) if value.is_object() => {}
                Found::Value(value) => return Some(jinja(value.as_ref())),
                Found::Missing { .. } => return None,
            }
        }
        let mut fields = BTreeMap::new();
        for key in names {
            let below: Vec<&[Key]> = paths.iter().filter(|path| path.get(at.len()) == Some(key)).copied().collect();
            at.push(key.clone());
            if let (Key::Name(name), Some(value)) = (key, self.part(root, at, &below, depth - 1)) {
                fields.insert(name.clone(), value);
            }
            at.pop();
        }
        Some(Jinja::from_pairs(fields))
    }
}

/// The step of a pipeline with this id.
fn known<'a>(pipeline: &'a Pipeline, id: &str) -> Option<&'a StepId> {
    pipeline.steps.iter().map(|step| &step.id).find(|known| known.as_str() == id)
}

/// How a step ended: in this round, or else in the one before. A step that repeats others is what the last of them is.
fn outcome<'a>(pipeline: &'a Pipeline, run: &'a Run, id: &StepId) -> Option<&'a StepOutcome> {
    let known = run.step(&StepKey::of(id.clone()));
    known.and_then(|known| known.outcome().or(known.before.as_ref())).or_else(|| {
        let StepKind::Repeat(repeat) = &pipeline.step(id)?.kind else { return None };
        let known = run.step(&StepKey::of(repeat.steps.last()?.clone()))?;
        known.outcome().or(known.before.as_ref())
    })
}

fn step_field<'a>(pipeline: &'a Pipeline, run: &'a Run, step: &StepId, field: &str) -> Option<Cow<'a, Value>> {
    let outcome = outcome(pipeline, run, step);
    Some(match (field, outcome) {
        ("guards", _) => Cow::Owned(trips(run, step)),
        ("status", Some(StepOutcome::Succeeded { .. })) => Cow::Owned("succeeded".into()),
        ("status", Some(StepOutcome::Failed { .. })) => Cow::Owned("failed".into()),
        ("status", Some(StepOutcome::Skipped)) => Cow::Owned("skipped".into()),
        ("output", Some(StepOutcome::Succeeded { output })) => Cow::Borrowed(output),
        ("error", Some(StepOutcome::Failed { error })) => Cow::Owned(json!(error)),
        ("status" | "output" | "error", _) => Cow::Owned(Value::Null),
        _ => return None,
    })
}

fn whole_step(pipeline: &Pipeline, run: &Run, step: &StepId) -> Value {
    let field = |name: &str| step_field(pipeline, run, step, name).map_or(Value::Null, Cow::into_owned);
    let mut whole = json!({"status": field("status"), "output": field("output"), "error": field("error")});
    if let Value::Array(tripped) = trips(run, step)
        && !tripped.is_empty()
    {
        whole["guards"] = Value::Array(tripped);
    }
    whole
}

/// What guards found in a step.
fn trips(run: &Run, step: &StepId) -> Value {
    run.trips(step).map(|(_, trip)| json!(trip)).collect()
}

fn jinja(value: &Value) -> Jinja {
    Jinja::from(minijinja::value::Serde(value))
}
