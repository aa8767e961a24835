//! YAML as a tree in which everything knows its place.
//!
//! [`Node::parse`] reads a text; [`Table`] takes a mapping apart and reports
//! every key that nobody asked for; [`Node::read`] makes any `serde` type of a
//! node, with the place of what does not fit. Reading never panics and is
//! bounded in size and depth.

mod deserialize;

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};
use serde_saphyr::Spanned;

use crate::diagnostic::{Diagnostics, Place, SourceFile};

/// How deep a document may be nested.
const DEPTH_LIMIT: usize = 64;

/// A value in its place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) at: Place,
    pub(crate) kind: Kind,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A key in its place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Key {
    pub(crate) at: Place,
    pub(crate) text: String,
}

impl Node {
    /// Reads the one document of a file. An empty file is `null`.
    pub(crate) fn parse(file: &SourceFile) -> Result<Self, Diagnostics> {
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! {
                max_depth: DEPTH_LIMIT,
                max_nodes: 100_000,
                max_documents: 1,
            },
            strict_booleans: true,
            with_snippet: false,
        };
        serde_saphyr::from_str_with_options::<Spanned<Kind>>(&file.text, options).map(Self::from).map_err(|error| {
            let place = error.location().map(place_of).filter(|place| place.line > 0);
            let error = error.without_snippet().to_string();
            Diagnostics::from(file.error(place, without_place(&error)))
        })
    }

    /// A word for what it is, with its article.
    pub(crate) const fn what(&self) -> &'static str {
        match self.kind {
            Kind::Null => "nothing",
            Kind::Bool(_) => "a boolean",
            Kind::Number(_) => "a number",
            Kind::Text(_) => "a text",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a mapping",
        }
    }

    /// The value without places.
    pub(crate) fn to_json(&self) -> Value {
        match &self.kind {
            Kind::Null => Value::Null,
            Kind::Bool(value) => Value::Bool(*value),
            Kind::Number(value) => Value::Number(value.clone()),
            Kind::Text(value) => Value::String(value.clone()),
            Kind::List(items) => items.iter().map(Self::to_json).collect(),
            Kind::Map(fields) => fields.iter().map(|(key, node)| (key.text.clone(), node.to_json())).collect(),
        }
    }

    /// The text, if it is one.
    pub(crate) fn as_text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Every text in it with its place.
    pub(crate) fn texts(&self) -> Vec<(&str, Place)> {
        match &self.kind {
            Kind::Text(text) => vec![(text, self.at)],
            Kind::List(items) => items.iter().flat_map(Self::texts).collect(),
            Kind::Map(fields) => fields.iter().flat_map(|(_, node)| node.texts()).collect(),
            _ => Vec::new(),
        }
    }

    /// Makes a value of it; what does not fit is reported.
    pub(crate) fn read<T: for<'de> Deserialize<'de>>(&self, file: &SourceFile, out: &mut Diagnostics) -> Option<T> {
        match T::deserialize(self) {
            Ok(value) => Some(value),
            Err(misfit) => {
                out.push(file.error(misfit.at.unwrap_or(self.at), misfit.message));
                None
            }
        }
    }
}

/// The place of what stands so many bytes into a text that starts at `at`: found by looking for
/// it in the source, so that it holds for every way of writing a text. The start where that fails.
pub(crate) fn place_within(file: &SourceFile, at: Place, text: &str, offset: usize, length: usize) -> Place {
    let Some(wanted) = text.get(offset..offset + length).filter(|wanted| !wanted.is_empty()) else { return at };
    let earlier = text[..offset].matches(wanted).count();
    let start = file.offset(at);
    match file.text[start..].match_indices(wanted).nth(earlier) {
        Some((found, _)) => file.place(start + found),
        None => at,
    }
}

fn place_of(location: serde_saphyr::Location) -> Place {
    let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    Place { line: number(location.line()), column: number(location.column()) }
}

/// The parser's message without the place that it repeats, and without a period.
fn without_place(message: &str) -> &str {
    let message = message.find(" at line ").map_or(message, |end| &message[..end]);
    message.lines().next().unwrap_or_default().trim_end_matches([':', ',', '.'])
}

impl From<Spanned<Kind>> for Node {
    fn from(spanned: Spanned<Kind>) -> Self {
        Self { at: place_of(spanned.referenced), kind: spanned.value }
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KindVisitor;

        impl<'de> Visitor<'de> for KindVisitor {
            type Value = Kind;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a YAML value")
            }
            fn visit_unit<E>(self) -> Result<Kind, E> {
                Ok(Kind::Null)
            }
            fn visit_none<E>(self) -> Result<Kind, E> {
                Ok(Kind::Null)
            }
            fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<Kind, D::Error> {
                Kind::deserialize(inner)
            }
            fn visit_bool<E>(self, value: bool) -> Result<Kind, E> {
                Ok(Kind::Bool(value))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Kind, E> {
                Ok(Kind::Number(value.into()))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Kind, E> {
                Ok(Kind::Number(value.into()))
            }
            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Kind, E> {
                Number::from_f64(value).map(Kind::Number).ok_or_else(|| E::custom("a number must be finite"))
            }
            fn visit_str<E>(self, value: &str) -> Result<Kind, E> {
                Ok(Kind::Text(value.to_owned()))
            }
            fn visit_string<E>(self, value: String) -> Result<Kind, E> {
                Ok(Kind::Text(value))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Kind, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element::<Spanned<Kind>>()? {
                    items.push(item.into());
                }
                Ok(Kind::List(items))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kind, A::Error> {
                let mut fields = Vec::new();
                while let Some(key) = map.next_key::<Spanned<String>>()? {
                    let key = Key { at: place_of(key.referenced), text: key.value };
                    fields.push((key, map.next_value::<Spanned<Kind>>()?.into()));
                }
                Ok(Kind::Map(fields))
            }
        }

        deserializer.deserialize_any(KindVisitor)
    }
}

/// A mapping that is taken apart key by key.
pub(crate) struct Table<'n> {
    pub(crate) file: &'n SourceFile,
    /// Where it starts.
    pub(crate) at: Place,
    fields: &'n [(Key, Node)],
    known: Vec<&'static str>,
}

impl<'n> Table<'n> {
    /// The table of a node; `what` names it if it is none.
    pub(crate) fn of(node: &'n Node, file: &'n SourceFile, what: &str, out: &mut Diagnostics) -> Option<Self> {
        let Kind::Map(fields) = &node.kind else {
            out.push(file.error(node.at, format!("{what} must be a mapping of keys to values, not {}", node.what())));
            return None;
        };
        Some(Self { file, at: node.at, fields, known: Vec::new() })
    }

    /// The value of a key; `null` counts as absent.
    pub(crate) fn get(&mut self, key: &'static str) -> Option<&'n Node> {
        self.entry(key).map(|(_, node)| node).filter(|node| node.kind != Kind::Null)
    }

    /// A key and its value, even if that is `null`.
    pub(crate) fn entry(&mut self, key: &'static str) -> Option<(&'n Key, &'n Node)> {
        self.known.push(key);
        self.fields.iter().find(|(found, _)| found.text == key).map(|(key, node)| (key, node))
    }

    /// The value of a key as any type.
    pub(crate) fn read<T: for<'de> Deserialize<'de>>(&mut self, key: &'static str, out: &mut Diagnostics) -> Option<T> {
        let file = self.file;
        self.get(key)?.read(file, out)
    }

    /// The value of a key, or its default.
    pub(crate) fn read_or<T: for<'de> Deserialize<'de>>(
        &mut self,
        key: &'static str,
        default: T,
        out: &mut Diagnostics,
    ) -> T {
        self.read(key, out).unwrap_or(default)
    }

    /// The value of a key that must be there.
    pub(crate) fn need(&mut self, key: &'static str, what: &str, out: &mut Diagnostics) -> Option<&'n Node> {
        let found = self.get(key);
        if found.is_none() {
            out.push(self.file.error(self.at, format!("{what} needs the key `{key}`")));
        }
        found
    }

    /// All of its keys and values, for a mapping whose keys are names.
    pub(crate) fn rows(&self) -> std::slice::Iter<'n, (Key, Node)> {
        self.fields.iter()
    }

    /// Reports every key that was not asked for.
    pub(crate) fn finish(self, what: &str, out: &mut Diagnostics) {
        for (key, _) in self.fields.iter().filter(|(key, _)| !self.known.contains(&key.text.as_str())) {
            let shown: String = key.text.chars().take(60).collect();
            let unknown = self.file.error(key.at, format!("unknown key `{shown}` in {what}"));
            out.push(unknown.with_width(key.text.chars().count()).with_help(match closest(&key.text, &self.known) {
                Some(name) => format!("did you mean `{name}`?"),
                None => format!("the keys are {}", self.known.join(", ")),
            }));
        }
    }
}

/// The name that was probably meant.
pub(crate) fn closest<'a>(wrong: &str, names: &[&'a str]) -> Option<&'a str> {
    let wrong: String = wrong.chars().take(64).collect();
    let (distance, name) = names.iter().map(|name| (distance(&wrong, name), *name)).min()?;
    // A guess at a name of one or two letters is noise.
    let length = wrong.chars().count();
    (length > 2 && distance <= length.div_ceil(3)).then_some(name)
}

/// The edit distance between two texts (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let cost = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}
