//! `guards:`: checks of what agents read and write, by name.
//!
//! Pure: says what trips a guard. What follows from that is the worker's. Time
//! is bounded: patterns are matched in time linear to the text, and of a text
//! that is longer than a mebibyte is said that nobody has looked at it, which
//! trips every guard with patterns.

mod judge;
mod layer;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use regex::{Regex, RegexBuilder};
use serde::Deserialize;
use serde_json::Value;

pub use self::judge::Judge;
pub(crate) use self::layer::{only_tightens, read_layer, under};
use super::OneOrMany;
use super::private::{PATTERN_MEMORY, compile};
use super::read::{field, value};
use crate::diagnostic::{Diagnostics, Place, SourceFile};
use crate::document::Node;
use crate::journal::{GuardPoint, GuardThen};
use crate::schema::Schema;

/// The most bytes of text that a guard with patterns looks at.
const LOOKED_AT: usize = 1 << 20;
/// The most patterns of a guard.
const LIST_LIMIT: usize = 200;
/// The longest pattern, in bytes.
const TEXT_LIMIT: usize = 500;
/// Characters of an excerpt before what was found, and behind it.
const AROUND: usize = 60;
/// The most characters of what was found.
const FOUND: usize = 120;

/// The name of the list that ships.
const KNOWN_INJECTIONS: &str = "known_injections";

/// Phrases of known injections: one pattern a line, upper and lower case are the same.
static KNOWN: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    let lines = include_str!("guards/known_injections.txt").lines().map(str::trim);
    let patterns = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    // A test compiles every line of the list.
    patterns
        .filter_map(|pattern| RegexBuilder::new(pattern).case_insensitive(true).size_limit(PATTERN_MEMORY).build().ok())
        .collect()
});

/// All guards of an installation, by name.
pub type Guards = BTreeMap<String, Guard>;

/// One guard.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "Written")]
pub struct Guard {
    /// What it looks at.
    pub on: GuardPoint,
    /// What happens when it trips.
    pub then: GuardThen,
    /// Whether it holds for all agents, whoever names it.
    pub required: bool,
    check: Check,
}

/// What trips a guard.
#[derive(Debug, Clone, PartialEq)]
enum Check {
    /// A phrase of the list that ships.
    KnownInjections,
    /// Something that fits one of these.
    Patterns(Vec<Pattern>),
    /// What does not fit this.
    Schema(Schema),
    /// What does not fit the schema of this file, which is yet to be read.
    SchemaFile(String),
    /// What an agent says to.
    Judge(Judge),
    /// What the agent of this name says to, whose file is yet to be read.
    JudgeFile(String),
}

/// A pattern with its text, by which it is compared.
#[derive(Debug, Clone)]
struct Pattern(Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

/// What a guard found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The pattern that fits, or what does not fit the schema.
    pub found: String,
    /// Some of the text around it.
    pub excerpt: String,
    /// Where in the value: a JSON pointer, empty for the whole.
    pub at: String,
}

/// A guard as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    on: GuardPoint,
    #[serde(default)]
    then: GuardThen,
    #[serde(default)]
    patterns: Option<OneOrMany<String>>,
    #[serde(default)]
    schema: Option<Value>,
    #[serde(default)]
    judge: Option<Value>,
    #[serde(default)]
    required: bool,
}

impl TryFrom<Written> for Guard {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        const ONE: &str = "a guard has `patterns`, a `schema` or a `judge`";
        let Written { on, then, patterns, schema, judge, required } = written;
        if let Some(judge) = judge {
            if patterns.is_some() || schema.is_some() {
                return Err(format!("{ONE}, and only one of them"));
            }
            let check = match judge::Written::read(judge)? {
                judge::Written::Agent(name) => Check::JudgeFile(name),
                judge::Written::Here(judge) => Check::Judge(judge),
            };
            return Ok(Self { on, then, required, check });
        }
        let check = match (patterns, schema) {
            (Some(OneOrMany::One(name)), None) if name == KNOWN_INJECTIONS => Check::KnownInjections,
            (Some(OneOrMany::One(name)), None) => {
                return Err(format!(
                    "there is no list `{name}` of patterns; the one that ships is `{KNOWN_INJECTIONS}`, and own patterns are written as a list"
                ));
            }
            (Some(OneOrMany::Many(patterns)), None) => own_patterns(&patterns)?,
            (None, Some(Value::String(path))) => Check::SchemaFile(schema_path(&path)?),
            (None, Some(schema)) => {
                let compiled = Schema::new("the schema of the guard", schema);
                Check::Schema(compiled.map_err(|issue| format!("the JSON Schema is not valid: {issue}"))?)
            }
            (None, None) => return Err(ONE.to_owned()),
            (Some(_), Some(_)) => return Err(format!("{ONE}, and only one of them")),
        };
        Ok(Self { on, then, required, check })
    }
}

fn own_patterns(patterns: &[String]) -> Result<Check, String> {
    if patterns.is_empty() || patterns.len() > LIST_LIMIT {
        return Err(format!("`patterns` has 1 to {LIST_LIMIT} entries"));
    }
    let compiled = patterns.iter().map(|pattern| {
        if pattern.len() > TEXT_LIMIT {
            return Err(format!("a pattern has at most {TEXT_LIMIT} bytes"));
        }
        compile(pattern).map(Pattern).map_err(|why| format!("{pattern:?} is not a pattern: {why}"))
    });
    compiled.collect::<Result<_, _>>().map(Check::Patterns)
}

fn schema_path(path: &str) -> Result<String, String> {
    let plain = path.strip_prefix("./").unwrap_or(path);
    let inside = plain.strip_prefix("schemas/").is_some_and(|name| !name.contains(['/', '\\']));
    if !inside || Path::new(plain).extension() != Some("json".as_ref()) {
        return Err(format!(
            "{path:?} is not a schema; schemas are files schemas/NAME.json in the project's directory"
        ));
    }
    Ok(plain.to_owned())
}

impl Guard {
    /// What of a value trips the guard.
    pub fn look(&self, value: &Value) -> Option<Finding> {
        match &self.check {
            Check::KnownInjections => look_for(KNOWN.iter(), value, plain),
            Check::Patterns(patterns) => look_for(patterns.iter().map(|pattern| &pattern.0), value, as_it_is),
            Check::Schema(schema) => misfit(schema, value),
            Check::Judge(_) => too_long(texts(value).iter().map(|(_, text)| text.len()).sum()),
            // Reading the project puts the file in its place, or fails. The safe side.
            Check::SchemaFile(file) | Check::JudgeFile(file) => Some(nothing_of(format!("{file} was not read"))),
        }
    }

    /// The agent that is asked about what was looked at and not found wanting.
    pub const fn judge(&self) -> Option<&Judge> {
        match &self.check {
            Check::Judge(judge) => Some(judge),
            _ => None,
        }
    }

    /// The name of the agent that is to judge, whose file is yet to be read.
    pub(crate) fn wants_judge(&self) -> Option<&str> {
        match &self.check {
            Check::JudgeFile(name) => Some(name),
            _ => None,
        }
    }

    pub(crate) fn appoint(&mut self, judge: Judge) {
        self.check = Check::Judge(judge);
    }
}

/// Where a guard names its judge.
pub(crate) fn place_of_judge(file: &SourceFile, guard: &str) -> Option<Place> {
    let node = Node::parse(file).ok()?;
    field(value(value(&node, "guards")?, guard)?, "judge")
}

/// A finding that has no place in the value.
fn nothing_of(found: String) -> Finding {
    Finding { found, excerpt: String::new(), at: String::new() }
}

/// That so much text is more than anybody looks at.
fn too_long(bytes: usize) -> Option<Finding> {
    (bytes > LOOKED_AT)
        .then(|| nothing_of(format!("it is longer than {LOOKED_AT} bytes, the most that a guard looks at")))
}

/// Reads the schema files that guards name.
pub(crate) fn read_schemas(guards: &mut Guards, file: &SourceFile, dir: &Path, out: &mut Diagnostics) {
    for (name, guard) in guards {
        let Check::SchemaFile(path) = &guard.check else { continue };
        let read = std::fs::read_to_string(dir.join(path))
            .map_err(|error| format!("the schema file {path} cannot be read: {error}"))
            .and_then(|text| serde_json::from_str(&text).map_err(|error| format!("{path} is not JSON: {error}")))
            .and_then(|schema| {
                Schema::new(path.clone(), schema)
                    .map_err(|issue| format!("the JSON Schema {path} is not valid: {issue}"))
            });
        match read {
            Ok(schema) => guard.check = Check::Schema(schema),
            Err(message) => {
                let node = Node::parse(file).ok();
                let written = node.as_ref().and_then(|node| value(value(node, "guards")?, name));
                out.push(file.error(written.and_then(|guard| field(guard, "schema")), message));
            }
        }
    }
}

/// What does not fit. A text that is JSON may fit as what it says.
fn misfit(schema: &Schema, value: &Value) -> Option<Finding> {
    let Err(mut issues) = schema.validate(value) else { return None };
    if let Some(Ok(said)) = value.as_str().map(serde_json::from_str::<Value>) {
        issues = schema.validate(&said).err()?;
    }
    let first = issues.first()?;
    let message = format!("{}: {}", schema.origin, first.message);
    let excerpt = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let excerpt = excerpt.chars().take(FOUND).collect();
    Some(Finding { found: message, excerpt, at: first.pointer.clone() })
}

/// The first text in a value that one of the patterns fits.
fn look_for<'p>(
    patterns: impl Iterator<Item = &'p Regex>,
    value: &Value,
    read: fn(&str) -> Cow<'_, str>,
) -> Option<Finding> {
    let texts = texts(value);
    if let Some(finding) = too_long(texts.iter().map(|(_, text)| text.len()).sum()) {
        return Some(finding);
    }
    let texts: Vec<(String, Cow<'_, str>)> = texts.into_iter().map(|(at, text)| (at, read(text))).collect();
    for pattern in patterns {
        for (at, text) in &texts {
            if let Some(found) = pattern.find(text) {
                let excerpt = excerpt(text, found.range());
                return Some(Finding { found: pattern.as_str().to_owned(), excerpt, at: at.clone() });
            }
        }
    }
    None
}

/// All texts in a value with their places, names of keys included.
fn texts(value: &Value) -> Vec<(String, &str)> {
    let mut texts = Vec::new();
    collect(value, &mut String::new(), &mut texts);
    texts
}

fn collect<'v>(value: &'v Value, at: &mut String, texts: &mut Vec<(String, &'v str)>) {
    let length = at.len();
    match value {
        Value::String(text) => texts.push((at.clone(), text)),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                at.push('/');
                at.push_str(&index.to_string());
                collect(item, at, texts);
                at.truncate(length);
            }
        }
        Value::Object(fields) => {
            for (key, item) in fields {
                at.push('/');
                at.push_str(&key.replace('~', "~0").replace('/', "~1"));
                texts.push((at.clone(), key));
                collect(item, at, texts);
                at.truncate(length);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// What was found, with a little of what is around it.
fn excerpt(text: &str, found: std::ops::Range<usize>) -> String {
    let before: Vec<char> = text[..found.start].chars().rev().take(AROUND).collect();
    let after = text[found.start..].chars().take(FOUND.min(text[found].chars().count()) + AROUND);
    before.into_iter().rev().chain(after).collect()
}

/// A text for patterns that were written for it.
fn as_it_is(text: &str) -> Cow<'_, str> {
    Cow::Borrowed(text)
}

/// A text without what people do not see, and with plain letters for those that only look different.
fn plain(text: &str) -> Cow<'_, str> {
    let is_disguised = |c: char| shown(c) != Some(c);
    if !text.contains(is_disguised) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().filter_map(shown).collect())
}

/// What a character stands for: nothing if it is invisible.
fn shown(c: char) -> Option<char> {
    match c {
        '\u{ad}'
        | '\u{200b}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{2064}'
        | '\u{feff}'
        | '\u{e0000}'..='\u{e001f}'
        | '\u{e007f}' => None,
        // Letters of other widths, and the invisible tags that spell letters.
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(c) - 0xff01 + 0x21),
        '\u{e0020}'..='\u{e007e}' => char::from_u32(u32::from(c) - 0xe0000),
        '\u{2018}' | '\u{2019}' => Some('\''),
        _ => Some(c),
    }
}

#[cfg(test)]
mod tests;
