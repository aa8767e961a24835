//! The one language of templates and conditions: Jinja, through `minijinja`.
//!
//! Undefined names are errors. A value that is one single `{{ … }}` keeps its
//! type. Rendering is bounded by fuel, so that no template can run for ever.

use std::collections::BTreeMap;
use std::sync::Arc;

use minijinja::{Environment, UndefinedBehavior, Value as Jinja};
use serde_json::{Value, json};

use crate::failure::{Failure, FailureClass};
use crate::journal::{Run, StepOutcome};

/// The names that a template may use.
#[derive(Debug, Clone)]
pub struct Scope {
    names: BTreeMap<&'static str, Jinja>,
}

/// A JSON value whose texts are templates.
#[derive(Debug, Clone)]
pub struct Template {
    source: Value,
    origin: Arc<str>,
}

/// A single expression, such as a condition.
#[derive(Debug, Clone)]
pub struct Expression {
    source: Arc<str>,
    origin: Arc<str>,
}

impl Scope {
    /// What the steps of a task see: `input`, `steps`, `env`, `task`.
    pub fn of_run(run: &Run, env: &BTreeMap<String, String>) -> Self {
        let steps: BTreeMap<String, Value> = run
            .steps
            .iter()
            .filter(|(key, _)| key.index.is_none())
            .map(|(key, step)| {
                let (status, output, error) = match step.outcome() {
                    Some(StepOutcome::Succeeded { output }) => (Some("succeeded"), Some(output), None),
                    Some(StepOutcome::Failed { error }) => (Some("failed"), None, Some(error)),
                    Some(StepOutcome::Skipped) => (Some("skipped"), None, None),
                    None => (None, None, None),
                };
                (key.to_string(), json!({"status": status, "output": output, "error": error}))
            })
            .collect();
        let mut names = BTreeMap::new();
        names.insert("input", jinja(&run.input));
        names.insert("steps", jinja(&steps));
        names.insert("env", jinja(env));
        names.insert(
            "task",
            jinja(json!({"id": run.head.id, "pipeline": run.head.pipeline, "labels": run.head.labels})),
        );
        Self { names }
    }

    /// What a trigger sees: `event`, `headers`, `env`.
    pub fn of_event(event: &Value, headers: &BTreeMap<String, String>, env: &BTreeMap<String, String>) -> Self {
        let mut names = BTreeMap::new();
        names.insert("event", jinja(event));
        names.insert("headers", jinja(headers));
        names.insert("env", jinja(env));
        Self { names }
    }

    /// What the labels of a pipeline see at submit: `input`, `env`.
    pub fn of_input(input: &Value, env: &BTreeMap<String, String>) -> Self {
        let mut names = BTreeMap::new();
        names.insert("input", jinja(input));
        names.insert("env", jinja(env));
        Self { names }
    }

    fn context(&self) -> Jinja {
        self.names.iter().map(|(name, value)| (*name, value.clone())).collect()
    }

    /// The same with `item` and `index` of a fan-out.
    #[must_use]
    pub fn with_item(mut self, item: &Value, index: u32) -> Self {
        self.names.insert("item", jinja(item));
        self.names.insert("index", Jinja::from(index));
        self
    }
}

impl Template {
    /// Wraps a value; `origin` names its place in messages.
    pub fn new(source: Value, origin: &str) -> Result<Self, Failure> {
        let template = Self { source, origin: origin.into() };
        Ok(template)
    }

    /// Renders every text in it.
    pub fn render(&self, scope: &Scope) -> Result<Value, Failure> {
        render(&self.source, scope, &self.origin)
    }

    /// Renders it and makes a text of it: texts as they are, all else as JSON.
    pub fn render_text(&self, scope: &Scope) -> Result<String, Failure> {
        Ok(match self.render(scope)? {
            Value::String(text) => text,
            other => other.to_string(),
        })
    }
}

impl Expression {
    /// Wraps an expression; `origin` names its place in messages.
    pub fn new(source: &str, origin: &str) -> Result<Self, Failure> {
        Ok(Self { source: source.into(), origin: origin.into() })
    }

    /// Its value.
    pub fn eval(&self, scope: &Scope) -> Result<Value, Failure> {
        let env = environment();
        let result = env.compile_expression(&self.source).and_then(|compiled| compiled.eval(scope.context()));
        let value = result.map_err(|error| failure(&error, &self.origin))?;
        serde_json::to_value(&value).map_err(|e| Failure::new(FailureClass::Template, format!("{}: {e}", self.origin)))
    }

    /// Whether it holds.
    pub fn holds(&self, scope: &Scope) -> Result<bool, Failure> {
        let env = environment();
        let result = env.compile_expression(&self.source).and_then(|compiled| compiled.eval(scope.context()));
        result.map(|value| value.is_true()).map_err(|error| failure(&error, &self.origin))
    }
}

fn jinja(value: impl serde::Serialize) -> Jinja {
    Jinja::from(minijinja::value::Serde(value))
}

fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_fuel(Some(1_000_000));
    env
}

fn failure(error: &minijinja::Error, origin: &str) -> Failure {
    Failure::new(FailureClass::Template, format!("{origin}: {error:#}"))
}

fn render(value: &Value, scope: &Scope, origin: &str) -> Result<Value, Failure> {
    match value {
        Value::String(text) => render_text(text, scope, origin),
        Value::Array(items) => {
            items.iter().map(|item| render(item, scope, origin)).collect::<Result<_, _>>().map(Value::Array)
        }
        Value::Object(fields) => fields
            .iter()
            .map(|(key, field)| Ok((key.clone(), render(field, scope, origin)?)))
            .collect::<Result<_, _>>()
            .map(Value::Object),
        other => Ok(other.clone()),
    }
}

fn render_text(text: &str, scope: &Scope, origin: &str) -> Result<Value, Failure> {
    let whole = text.trim().strip_prefix("{{").and_then(|rest| rest.strip_suffix("}}"));
    if let Some(expression) = whole.filter(|inner| !inner.contains("{{") && !inner.contains("}}")) {
        return Expression::new(expression.trim(), origin)?.eval(scope);
    }
    let env = environment();
    env.render_str(text, scope.context()).map(Value::String).map_err(|error| failure(&error, origin))
}
