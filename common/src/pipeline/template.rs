//! The one language of templates and conditions: Jinja, through `minijinja`.
//!
//! - A name or key that is not there is an error that says where the template
//!   stands, except right before `default(…)` and `is defined`.
//! - Looking into `none` gives `none`, and `default(…)` stands in for `none` too.
//! - A value that is one single `{{ … }}` keeps its type.
//! - Texts are compiled once; rendering is bounded in work and output.
//!
//! Nothing here reads a clock, a random source or the environment: what a
//! template sees is its [`Scope`] alone.

mod engine;
mod scope;
mod syntax;

use std::sync::Arc;

use serde_json::Value;

pub use self::scope::Scope;
pub(crate) use self::syntax::{Key, Reference};

use self::engine::{Code, Problem};
use crate::failure::{Failure, FailureClass};

/// A JSON value whose texts are templates, compiled. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Template {
    origin: Arc<str>,
    part: Arc<Part>,
}

/// A single expression, such as a condition, compiled. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Expression {
    origin: Arc<str>,
    code: Arc<Code>,
}

/// A value, taken apart into what is rendered and what is not.
#[derive(Debug)]
enum Part {
    Constant(Value),
    Code(Code),
    List(Vec<Part>),
    Map(Vec<(String, Part)>),
}

/// A text that is no template, and the part of it that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    pub(crate) message: String,
    /// Where in the text, in bytes.
    pub(crate) offset: usize,
    pub(crate) length: usize,
}

impl Template {
    /// Compiles a value; `origin` names its place in messages.
    pub fn new(source: Value, origin: &str) -> Result<Self, Failure> {
        let part = Part::compile(source).map_err(|error| failure(origin, "", &error.message))?;
        Ok(Self { origin: origin.into(), part: Arc::new(part) })
    }

    /// Renders every text in it.
    pub fn render(&self, scope: &Scope<'_>) -> Result<Value, Failure> {
        self.part.render(scope).map_err(|problem| self.failure(&problem))
    }

    /// Renders it and makes a text of it: texts as they are, all else as JSON.
    pub fn render_text(&self, scope: &Scope<'_>) -> Result<String, Failure> {
        Ok(match self.render(scope)? {
            Value::String(text) => text,
            other => other.to_string(),
        })
    }

    fn failure(&self, problem: &Problem) -> Failure {
        failure(&self.origin, &problem.pointer, &problem.message)
    }
}

impl Expression {
    /// Compiles an expression; `origin` names its place in messages.
    pub fn new(source: &str, origin: &str) -> Result<Self, Failure> {
        let code = Code::expression(source).map_err(|error| failure(origin, "", &error.message))?;
        Ok(Self { origin: origin.into(), code: Arc::new(code) })
    }

    /// Its value.
    pub fn eval(&self, scope: &Scope<'_>) -> Result<Value, Failure> {
        self.code.eval(scope).map_err(|problem| failure(&self.origin, "", &problem.message))
    }

    /// Whether it holds: `none`, `false`, 0 and what is empty do not.
    pub fn holds(&self, scope: &Scope<'_>) -> Result<bool, Failure> {
        self.code.holds(scope).map_err(|problem| failure(&self.origin, "", &problem.message))
    }
}

/// Checks a text as a template and lists the names that it looks up.
pub(crate) fn inspect_text(text: &str) -> Result<Vec<Reference>, SyntaxError> {
    Code::text(text).map(|code| code.map(Code::into_references).unwrap_or_default())
}

/// Checks a text as an expression and lists the names that it looks up.
pub(crate) fn inspect_expression(text: &str) -> Result<Vec<Reference>, SyntaxError> {
    Code::expression(text).map(Code::into_references)
}

impl Part {
    fn compile(source: Value) -> Result<Self, SyntaxError> {
        Ok(match source {
            Value::String(text) => match Code::text(&text)? {
                Some(code) => Self::Code(code),
                None => Self::Constant(Value::String(text)),
            },
            Value::Array(items) => {
                let parts = items.into_iter().map(Self::compile).collect::<Result<Vec<_>, _>>()?;
                Self::list(parts)
            }
            Value::Object(fields) => {
                let parts = fields.into_iter().map(|(key, field)| Ok((key, Self::compile(field)?)));
                Self::map(parts.collect::<Result<_, SyntaxError>>()?)
            }
            other => Self::Constant(other),
        })
    }

    /// A list, constant if all of it is.
    fn list(parts: Vec<Self>) -> Self {
        if parts.iter().any(|part| !matches!(part, Self::Constant(_))) {
            return Self::List(parts);
        }
        let constant = |part| if let Self::Constant(value) = part { Some(value) } else { None };
        Self::Constant(parts.into_iter().filter_map(constant).collect())
    }

    /// A mapping, constant if all of it is.
    fn map(parts: Vec<(String, Self)>) -> Self {
        if parts.iter().any(|(_, part)| !matches!(part, Self::Constant(_))) {
            return Self::Map(parts);
        }
        let constant = |(key, part)| if let Self::Constant(value) = part { Some((key, value)) } else { None };
        Self::Constant(Value::Object(parts.into_iter().filter_map(constant).collect()))
    }

    fn render(&self, scope: &Scope<'_>) -> Result<Value, Problem> {
        match self {
            Self::Constant(value) => Ok(value.clone()),
            Self::Code(code) => code.eval(scope),
            Self::List(parts) => parts
                .iter()
                .enumerate()
                .map(|(index, part)| part.render(scope).map_err(|problem| problem.within(&index.to_string())))
                .collect(),
            Self::Map(parts) => parts
                .iter()
                .map(|(key, part)| Ok((key.clone(), part.render(scope).map_err(|problem| problem.within(key))?)))
                .collect(),
        }
    }
}

fn failure(origin: &str, pointer: &str, message: &str) -> Failure {
    let at = if pointer.is_empty() { String::new() } else { format!(" at {pointer}") };
    Failure::new(FailureClass::Template, format!("{origin}{at}: {message}"))
}

#[cfg(test)]
mod tests;
