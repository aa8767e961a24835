//! Compiled code and its evaluation.
//!
//! Most expressions are a plain path (`steps.draft.output`); those are walked
//! without `minijinja`. All others run there, rewritten by [`super::syntax`] so
//! that each look-up goes through [`look`] or [`find`], which know the rules
//! about what is missing and what is `none`.

use std::io::{self, Write};
use std::sync::LazyLock;

use minijinja::value::{Rest, ValueKind};
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, Value as Jinja};
use serde_json::Value;

use super::SyntaxError;
use super::scope::{Found, Scope};
use super::syntax::{self, FIND, LOOK, Reference};

/// Instructions that one rendering may take.
const FUEL: u64 = 1_000_000;
/// The largest text that one rendering may make, in bytes.
const OUTPUT_LIMIT: usize = 4 << 20;
/// The name of the one template of an environment.
const TEXT: &str = "text";

static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(environment);

/// A compiled text or expression.
#[derive(Debug)]
pub(super) struct Code {
    references: Vec<Reference>,
    program: Program,
}

#[derive(Debug)]
enum Program {
    /// The one reference and nothing else.
    Path,
    Expression(minijinja::Expression<'static, 'static>),
    /// A text with templates in it, as the template [`TEXT`] of an environment of its own.
    Text(Box<Environment<'static>>),
}

/// Why there is no value.
#[derive(Debug)]
pub(super) struct Problem {
    /// Where in the value that was rendered: a JSON pointer.
    pub(super) pointer: String,
    pub(super) message: String,
}

impl Problem {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { pointer: String::new(), message: message.into() }
    }

    /// The same, seen from one level up.
    pub(super) fn within(mut self, key: &str) -> Self {
        self.pointer = format!("/{}{}", key.replace('~', "~0").replace('/', "~1"), self.pointer);
        self
    }
}

impl Code {
    /// Compiles a text; nothing if no template is in it.
    pub(super) fn text(text: &str) -> Result<Option<Self>, SyntaxError> {
        if !text.contains("{{") && !text.contains("{%") && !text.contains("{#") {
            return Ok(None);
        }
        if let Some((start, expression)) = syntax::single_expression(text) {
            return Self::expression(expression).map(|code| Some(code.moved(start))).map_err(|mut error| {
                error.offset += start;
                error
            });
        }
        let mut environment = ENVIRONMENT.clone();
        // First as it stands, so that a message speaks of what the user wrote.
        environment.add_template_owned(TEXT, text.to_owned()).map_err(|error| syntax_error(&error, text))?;
        let (rewritten, mut references) = syntax::rewrite_text(text);
        environment.add_template_owned(TEXT, rewritten).map_err(|error| syntax_error(&error, text))?;
        if text.contains("{%")
            && let Ok(template) = environment.get_template(TEXT)
        {
            let outside = template.undeclared_variables(false);
            for reference in &mut references {
                reference.local = !outside.contains(&reference.root);
            }
        }
        Ok(Some(Self { references, program: Program::Text(Box::new(environment)) }))
    }

    /// Compiles an expression.
    pub(super) fn expression(source: &str) -> Result<Self, SyntaxError> {
        if source.trim().is_empty() {
            let message = "the expression is empty".to_owned();
            return Err(SyntaxError { message, offset: 0, length: source.len() });
        }
        ENVIRONMENT.compile_expression_owned(source.to_owned()).map_err(|error| syntax_error(&error, source))?;
        let (rewritten, references) = syntax::rewrite_expression(source);
        if let [reference] = references.as_slice()
            && reference.is_whole(source)
        {
            return Ok(Self { references, program: Program::Path });
        }
        let expression =
            ENVIRONMENT.compile_expression_owned(rewritten).map_err(|error| syntax_error(&error, source))?;
        Ok(Self { references, program: Program::Expression(expression) })
    }

    /// The names that it looks up in its scope, without those that it defines itself (`set`, `for`).
    pub(super) fn into_references(self) -> Vec<Reference> {
        self.references.into_iter().filter(|reference| !reference.local).collect()
    }

    fn moved(mut self, by: usize) -> Self {
        for reference in &mut self.references {
            reference.offset += by;
        }
        self
    }

    pub(super) fn eval(&self, scope: &Scope<'_>) -> Result<Value, Problem> {
        match &self.program {
            Program::Path => self.walk(scope),
            Program::Expression(expression) => {
                let value = expression.eval(scope.names(&self.references)).map_err(|error| problem(&error))?;
                if value.is_undefined() {
                    return Err(Problem::new("the value is undefined"));
                }
                serde_json::to_value(&value).map_err(|error| Problem::new(format!("the value is no JSON: {error}")))
            }
            Program::Text(environment) => {
                let mut output = Limited(Vec::new());
                let rendered = environment
                    .get_template(TEXT)
                    .and_then(|text| text.render_captured_to(scope.names(&self.references), &mut output).map(drop));
                rendered.map_err(|error| problem(&error))?;
                // Templates and values are UTF-8, so that nothing is replaced here.
                Ok(Value::String(String::from_utf8_lossy(&output.0).into_owned()))
            }
        }
    }

    pub(super) fn holds(&self, scope: &Scope<'_>) -> Result<bool, Problem> {
        match &self.program {
            Program::Expression(expression) => {
                let value = expression.eval(scope.names(&self.references)).map_err(|error| problem(&error))?;
                Ok(value.is_true())
            }
            _ => Ok(match self.eval(scope)? {
                Value::Null => false,
                Value::Bool(value) => value,
                Value::Number(number) => number.as_f64() != Some(0.0),
                Value::String(text) => !text.is_empty(),
                Value::Array(items) => !items.is_empty(),
                Value::Object(fields) => !fields.is_empty(),
            }),
        }
    }

    fn walk(&self, scope: &Scope<'_>) -> Result<Value, Problem> {
        let Some(reference) = self.references.first() else { return Err(Problem::new("the expression is empty")) };
        match scope.find(reference) {
            Found::Value(value) => Ok(value.into_owned()),
            Found::Missing { upto } => Err(Problem::new(missing(&reference.shown(upto)))),
        }
    }
}

fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_fuel(Some(FUEL));
    env.set_recursion_limit(64);
    env.set_debug(true);
    // What is no text is written as JSON, and nothing as `none`.
    env.set_formatter(|out, state, value| match value.kind() {
        ValueKind::None => out.write_str("none").map_err(minijinja::Error::from),
        ValueKind::Bool | ValueKind::Map | ValueKind::Seq => {
            out.write_str(&json(value, None)?).map_err(minijinja::Error::from)
        }
        _ => minijinja::escape_formatter(out, state, value),
    });
    env.add_function(LOOK, look);
    env.add_function(FIND, find);
    env.add_filter("default", default);
    env.add_filter("d", default);
    env.add_filter("untrusted", untrusted);
    env.add_filter("json", json);
    env.add_filter("tojson", json);
    env
}

/// Text of strangers, between marks that it cannot hold itself.
fn untrusted(value: &Jinja) -> Result<String, minijinja::Error> {
    let text = match value.as_str() {
        Some(text) => text.to_owned(),
        None => json(value, None)?,
    };
    Ok(crate::pipeline::untrusted::mark("input", &text))
}

/// A value as JSON, on several lines with `json(true)`. Unlike Jinja's own
/// `tojson`, it does not escape what HTML would need escaped.
fn json(value: &Jinja, pretty: Option<bool>) -> Result<String, minijinja::Error> {
    let text = if pretty == Some(true) { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
    text.map_err(|error| minijinja::Error::new(ErrorKind::BadSerialization, error.to_string()))
}

/// A key of a value that must be there. `shown` is how the template writes it.
#[expect(clippy::needless_pass_by_value, reason = "the signature that minijinja asks for")]
fn look(base: &Jinja, key: &Jinja, shown: String) -> Result<Jinja, minijinja::Error> {
    if base.is_none() {
        return Ok(Jinja::from(()));
    }
    let found = if base.is_undefined() { None } else { base.get_item(key).ok() };
    match found.filter(|value| !value.is_undefined()) {
        Some(value) => Ok(value),
        None => Err(minijinja::Error::new(ErrorKind::UndefinedError, missing(&shown))),
    }
}

/// A key of a value that may be missing, as may the value.
fn find(base: &Jinja, key: &Jinja) -> Jinja {
    if base.is_none() {
        return Jinja::from(());
    }
    base.get_item(key).unwrap_or(Jinja::UNDEFINED)
}

/// Jinja's filter `default`, which stands in for `none` too.
#[expect(clippy::needless_pass_by_value, reason = "the signature that minijinja asks for")]
fn default(value: &Jinja, args: Rest<Jinja>) -> Result<Jinja, minijinja::Error> {
    if args.len() > 2 {
        return Err(minijinja::Error::from(ErrorKind::TooManyArguments));
    }
    let lax = args.get(1).is_some_and(Jinja::is_true);
    if value.is_undefined() || value.is_none() || (lax && !value.is_true()) {
        return Ok(args.first().cloned().unwrap_or_else(|| Jinja::from("")));
    }
    Ok(value.clone())
}

fn missing(shown: &str) -> String {
    match shown.strip_prefix("env.") {
        Some(name) => format!("`{shown}` is not there: the environment variable {name} is not set"),
        None => format!("`{shown}` is not there; if it may be missing, write `{shown} | default(…)`"),
    }
}

fn problem(error: &minijinja::Error) -> Problem {
    Problem::new(match (error.kind(), error.detail()) {
        (ErrorKind::UndefinedError, Some(detail)) => detail.to_owned(),
        (ErrorKind::OutOfFuel, _) => format!("the template takes more than {FUEL} instructions"),
        (ErrorKind::WriteFailure, _) => format!("the text is longer than {} MiB", OUTPUT_LIMIT >> 20),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    })
}

fn syntax_error(error: &minijinja::Error, text: &str) -> SyntaxError {
    let message = match error.detail() {
        Some(detail) => detail.to_owned(),
        None => error.kind().to_string(),
    };
    let range = error.range().filter(|range| range.end <= text.len()).unwrap_or(0..text.len());
    SyntaxError { message, offset: range.start, length: range.len() }
}

/// A buffer that refuses more than [`OUTPUT_LIMIT`].
struct Limited(Vec<u8>);

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > OUTPUT_LIMIT {
            return Err(io::Error::other("the output is too long"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
