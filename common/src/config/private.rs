//! `private_data:`: which values are private, and who may see them.

use std::collections::BTreeMap;

use regex::Regex;
use serde::Deserialize;

use super::OneOrMany;
use super::read::{field, value};
use crate::diagnostic::{Diagnostics, Place, SourceFile};
use crate::document::{Kind, Node};
use crate::id::PipelineName;
use crate::secret::SecretRef;

/// The most names of fields, patterns and exceptions, each.
const LIST_LIMIT: usize = 200;
/// The longest name of a field, and the longest pattern, in bytes.
const TEXT_LIMIT: usize = 500;
/// The memory that one compiled pattern may take, in bytes.
pub(crate) const PATTERN_MEMORY: usize = 1 << 20;

/// Values that are replaced by tokens before they reach a journal, a log or a model.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrivateData {
    /// 32 bytes, as 64 hexadecimal digits or in Base64. Several while one is changed: the first seals, all open.
    pub key: OneOrMany<SecretRef>,
    /// Kinds that are known by their form.
    #[serde(default)]
    pub kinds: Vec<PrivateKind>,
    /// Names of keys whose values are private, wherever they stand in JSON. Upper and lower case are the same.
    #[serde(default)]
    pub fields: Vec<String>,
    /// Further forms, as regular expressions by name.
    #[serde(default)]
    pub patterns: BTreeMap<String, String>,
    /// What a kind or pattern finds and is not private: regular expressions, such as `@acme\.example$`.
    #[serde(default)]
    pub except: Vec<String>,
    /// Who may see the values. Nobody, where nothing is said.
    #[serde(default)]
    pub reveal: Reveal,
}

/// A kind of value that is known by its form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrivateKind {
    /// Addresses of e-mail.
    Email,
    /// Telephone numbers, international or with a separator.
    Phone,
    /// Numbers of payment cards, by length, first digits and Luhn's check.
    Card,
    /// Bank accounts, by country, length and the check of ISO 7064.
    Iban,
}

impl PrivateKind {
    /// Its name, as users write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::Phone => "phone",
            Self::Card => "card",
            Self::Iban => "iban",
        }
    }

    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Email, Self::Phone, Self::Card, Self::Iban];
}

/// Who may see private values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reveal {
    /// Calls that are made with the values, by rules as in `permissions`; steps are `http` and `run`.
    pub tools: Vec<String>,
    /// Pipelines whose output is shown with the values over the API.
    pub outputs: Vec<PipelineName>,
    /// Whether people see the values in what they are to approve.
    pub people: bool,
}

/// Whether a text can be the name of a pattern: it stands in tokens.
fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (1..=32).contains(&text.len()) && text.bytes().all(plain)
}

/// A pattern within its limits.
pub(crate) fn compile(pattern: &str) -> Result<Regex, String> {
    let regex = regex::RegexBuilder::new(pattern).size_limit(PATTERN_MEMORY).build().map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "it needs too much memory".to_owned(),
        // The last line says what is wrong; those before draw it.
        error => error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned(),
    })?;
    if regex.is_match("") {
        return Err("it fits the empty text".to_owned());
    }
    Ok(regex)
}

pub(super) fn read(node: &Node, file: &SourceFile, out: &mut Diagnostics) -> Option<PrivateData> {
    let private: PrivateData = node.read(file, out)?;
    let at = |key: &str| field(node, key).unwrap_or(node.at);
    if private.key.as_slice().is_empty() {
        out.push(
            file.error(at("key"), "`key` is an empty list").with_help("name the key, such as env:TEAMSTER_PRIVATE_KEY"),
        );
    }
    if private.kinds.is_empty() && private.fields.is_empty() && private.patterns.is_empty() {
        let error = file.error(node.at, "nothing is said to be private");
        out.push(error.with_help("name `kinds` (email, phone, card, iban), `fields` or `patterns`"));
    }
    let lists =
        [("fields", private.fields.len()), ("patterns", private.patterns.len()), ("except", private.except.len())];
    for (key, _) in lists.into_iter().filter(|(_, length)| *length > LIST_LIMIT) {
        out.push(file.error(at(key), format!("`{key}` has more than {LIST_LIMIT} entries")));
    }
    for (index, name) in private.fields.iter().enumerate() {
        if name.is_empty()
            || name.len() > TEXT_LIMIT
            || name.contains(['"', '\\'])
            || name.chars().any(char::is_control)
        {
            out.push(file.error(item(node, "fields", index), format!("{name:?} is not the name of a field")));
        }
    }
    for (index, pattern) in private.except.iter().enumerate() {
        if let Err(why) = checked(pattern) {
            out.push(file.error(item(node, "except", index), format!("not a pattern: {why}")));
        }
    }
    if let Some(Kind::Map(rows)) = value(node, "patterns").map(|node| &node.kind) {
        for (key, row) in rows {
            if !is_name(&key.text) || PrivateKind::ALL.iter().any(|kind| kind.as_str() == key.text) {
                let error = file.error(key.at, format!("`{}` cannot be the name of a pattern", key.text));
                out.push(error.with_help("use 1 to 32 lower-case letters, digits or '_', and not the name of a kind"));
            }
            if let Some(Err(why)) = private.patterns.get(&key.text).map(|pattern| checked(pattern)) {
                out.push(file.error(row.at, format!("not a pattern: {why}")));
            }
        }
    }
    Some(private)
}

/// The pipelines under `reveal.outputs`, with their places.
pub(crate) fn outputs(file: &SourceFile) -> Vec<(String, Place)> {
    let Ok(node) = Node::parse(file) else { return Vec::new() };
    let list = ["private_data", "reveal", "outputs"].iter().try_fold(&node, |node, key| value(node, key));
    match list.map(|list| &list.kind) {
        Some(Kind::List(items)) => {
            items.iter().filter_map(|item| Some((item.as_text()?.to_owned(), item.at))).collect()
        }
        _ => Vec::new(),
    }
}

fn checked(pattern: &str) -> Result<(), String> {
    if pattern.len() > TEXT_LIMIT {
        return Err(format!("it has more than {TEXT_LIMIT} bytes"));
    }
    compile(pattern).map(|_| ())
}

/// The place of an item of a list below a key.
fn item(node: &Node, key: &str, index: usize) -> Place {
    match value(node, key).map(|node| &node.kind) {
        Some(Kind::List(items)) => items.get(index).map_or(node.at, |item| item.at),
        _ => field(node, key).unwrap_or(node.at),
    }
}
