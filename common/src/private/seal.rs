//! Sealing: private values out, tokens in. What is sealed already stays as it is.

use std::collections::BTreeMap;
use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::{Map, Value};

use super::keys::Plain;
use super::view::View;
use super::{Private, kind};
use crate::id::Token;
use crate::journal::SealedValues;

/// The shortest value of a field that is looked for elsewhere too, in characters: a shorter one is in too many words.
const SHORTEST: usize = 6;
/// The most values of fields that are looked for elsewhere.
const LEARNED: usize = 10_000;
/// How often a text is looked at again.
const ROUNDS: usize = 8;

/// Seals what comes into one task. A value that a field says to be private is found in text too, if it has six
/// characters and stands in the same piece or came into the task before.
#[derive(Debug)]
pub struct Sealer<'p> {
    private: &'p Private,
    known: &'p SealedValues,
    found: SealedValues,
    /// Values of fields, with their kinds.
    learned: BTreeMap<String, String>,
    search: Option<AhoCorasick>,
}

/// A part of a text that is to be replaced.
struct Part {
    place: Range<usize>,
    kind: String,
    /// The quotation mark that its token needs around it, for JSON that is no text.
    needs_quotes: Option<String>,
}

impl<'p> Sealer<'p> {
    pub(super) fn new(private: &'p Private, known: &'p SealedValues) -> Self {
        let mut sealer =
            Self { private, known, found: SealedValues::default(), learned: BTreeMap::new(), search: None };
        if !private.fields.is_empty() {
            let of_fields: Vec<&String> = private.fields.iter().collect();
            let kinds: Vec<String> = of_fields.iter().map(|name| kind(name)).collect();
            for (token, ciphertext) in known.iter().filter(|(token, _)| kinds.iter().any(|kind| kind == token.kind())) {
                if let Some(Plain::Text(text) | Plain::Json(text)) = private.keys.open(token, ciphertext) {
                    sealer.learn_one(&text, token.kind());
                }
            }
        }
        sealer
    }

    /// How many values were sealed so far that are not known to the task yet.
    pub fn len(&self) -> usize {
        self.found.len()
    }

    /// Whether nothing new was found so far.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// What was sealed so far and is not known to the task yet.
    pub fn take(&mut self) -> SealedValues {
        std::mem::take(&mut self.found)
    }

    /// Seals any JSON.
    pub fn value(&mut self, value: &mut Value) {
        self.learn(value, None);
        self.replace(value, None);
    }

    /// Seals a text.
    pub fn text(&mut self, text: &mut String) {
        self.learn_text(text);
        if let Some(sealed) = self.replaced(text) {
            *text = sealed;
        }
    }

    /// Seals a value that has a name of its own.
    pub fn named(&mut self, name: &str, text: &mut String) {
        if self.private.is_field(name) {
            let mut value = Value::String(std::mem::take(text));
            self.leaf(&kind(name), &mut value);
            if let Value::String(sealed) = value {
                *text = sealed;
            }
        } else {
            self.text(text);
        }
    }

    // ---- values of fields, wherever they stand ------------------------------------

    fn learn(&mut self, value: &Value, field: Option<&str>) {
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    // A name is a text too, and may hold JSON with a field in it.
                    self.learn_text(key);
                    let own = self.private.is_field(key).then(|| kind(key));
                    self.learn(value, own.as_deref().or(field));
                }
            }
            Value::Array(items) => items.iter().for_each(|item| self.learn(item, field)),
            Value::String(text) => match field {
                Some(field) => self.learn_one(text, field),
                None => self.learn_text(text),
            },
            Value::Number(number) => {
                if let Some(field) = field {
                    self.learn_one(&number.to_string(), field);
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn learn_text(&mut self, text: &str) {
        let Some(embedded) = &self.private.embedded else { return };
        for value in embedded.all_in(text) {
            self.learn_one(&text[value.place.clone()], &kind(&value.name));
        }
    }

    fn learn_one(&mut self, text: &str, kind: &str) {
        let fits = self.learned.len() < LEARNED && text.chars().nth(SHORTEST - 1).is_some();
        if fits && !self.learned.contains_key(text) && Token::all_in(text).next().is_none() {
            self.learned.insert(text.to_owned(), kind.to_owned());
            self.search = None;
        }
    }

    /// Finds all values that were learned. Built when it is needed.
    fn search(&mut self) -> Option<&AhoCorasick> {
        if self.search.is_none() && !self.learned.is_empty() {
            let search = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(self.learned.keys());
            self.search = search.ok();
        }
        self.search.as_ref()
    }

    // ---- replacing -------------------------------------------------------------------

    fn replace(&mut self, value: &mut Value, field: Option<&str>) {
        match value {
            Value::Object(fields) => self.replace_fields(fields, field),
            Value::Array(items) => items.iter_mut().for_each(|item| self.replace(item, field)),
            leaf => match field {
                Some(field) => self.leaf(field, leaf),
                None => self.free(leaf),
            },
        }
    }

    fn replace_fields(&mut self, fields: &mut Map<String, Value>, field: Option<&str>) {
        let mut sealed = Map::with_capacity(fields.len());
        for (key, mut value) in std::mem::take(fields) {
            let own = self.private.is_field(&key).then(|| kind(&key));
            self.replace(&mut value, own.as_deref().or(field));
            // A key names something, below a private field too; what is private by its form is found in it.
            sealed.insert(self.replaced(&key).unwrap_or(key), value);
        }
        *fields = sealed;
    }

    /// A value that its field says to be private.
    fn leaf(&mut self, kind: &str, leaf: &mut Value) {
        let plain = match leaf {
            Value::String(text) if text.is_empty() || self.is_token(text) => return,
            Value::String(text) => Plain::Text(std::mem::take(text)),
            Value::Number(_) | Value::Bool(_) => Plain::Json(leaf.to_string()),
            _ => return,
        };
        *leaf = Value::String(self.put(kind, &plain).into());
    }

    /// A value that is not in a private field.
    fn free(&mut self, leaf: &mut Value) {
        match leaf {
            Value::String(text) => {
                if let Some(sealed) = self.replaced(text) {
                    *text = sealed;
                }
            }
            Value::Number(number) => {
                let text = number.to_string();
                let kind = self.private.forms.of_number(&text).map(str::to_owned);
                if let Some(kind) = kind.or_else(|| self.learned.get(&text).cloned()) {
                    *leaf = Value::String(self.put(&kind, &Plain::Json(text)).into());
                }
            }
            _ => {}
        }
    }

    /// A text with tokens for what is private in it; nothing if there is nothing. Looked at again as long as it changes:
    /// what stood beside a value may have a form of its own without it.
    fn replaced(&mut self, text: &str) -> Option<String> {
        let mut sealed = self.replaced_once(text)?;
        for _ in 0..ROUNDS {
            match self.replaced_once(&sealed) {
                Some(again) => sealed = again,
                None => break,
            }
        }
        Some(sealed)
    }

    fn replaced_once(&mut self, text: &str) -> Option<String> {
        let parts = self.parts(text);
        if parts.is_empty() {
            return None;
        }
        let mut sealed = String::with_capacity(text.len());
        let mut from = 0;
        for part in parts {
            let value = text[part.place.clone()].to_owned();
            sealed.push_str(&text[from..part.place.start]);
            if let Some(quote) = part.needs_quotes {
                let token = self.put(&part.kind, &Plain::Json(value));
                sealed.extend([&quote, token.as_str(), &quote]);
            } else {
                sealed.push_str(self.put(&part.kind, &Plain::Text(value)).as_str());
            }
            from = part.place.end;
        }
        sealed.push_str(&text[from..]);
        Some(sealed)
    }

    /// What is to be replaced in a text, in order, none within another; tokens stay.
    fn parts(&mut self, text: &str) -> Vec<Part> {
        let tokens: Vec<Range<usize>> = Token::all_in(text)
            .filter(|(_, token)| self.private.kinds.contains(token.kind()))
            .map(|(place, _)| place)
            .collect();
        let mut parts: Vec<Part> = Vec::new();
        if let Some(embedded) = &self.private.embedded {
            let values = embedded.all_in(text).into_iter().filter(|value| !tokens.contains(&value.place));
            parts.extend(values.map(|value| Part {
                kind: kind(&value.name),
                place: value.place,
                needs_quotes: value.needs_quotes,
            }));
        }
        let mut from = 0;
        for gap_end in tokens.iter().map(|token| token.start).chain([text.len()]) {
            if gap_end > from {
                self.parts_between(text, from..gap_end, &mut parts);
            }
            from = tokens.iter().find(|token| token.start == gap_end).map_or(gap_end, |token| token.end);
        }
        united(parts)
    }

    /// What is to be replaced between two tokens.
    fn parts_between(&mut self, text: &str, gap: Range<usize>, parts: &mut Vec<Part>) {
        let view = View::of(&text[gap.clone()]);
        let part = |place: Range<usize>, kind: &str| {
            let place = view.place(place);
            Part { place: gap.start + place.start..gap.start + place.end, kind: kind.to_owned(), needs_quotes: None }
        };
        let hits: Vec<Range<usize>> = self
            .search()
            .map(|search| search.find_iter(view.text()).map(|hit| hit.range()).collect())
            .unwrap_or_default();
        for hit in hits {
            if let Some(kind) = self.learned.get(&view.text()[hit.clone()]) {
                parts.push(part(hit, kind));
            }
        }
        // Behind what was learned: of two kinds for one value, that of its field counts.
        parts.extend(self.private.forms.all_in(view.text()).into_iter().map(|found| part(found.place, found.kind)));
    }

    fn is_token(&self, text: &str) -> bool {
        text.parse::<Token>().is_ok_and(|token| self.private.kinds.contains(token.kind()))
    }

    /// The token of a value, which is sealed if it is not known.
    fn put(&mut self, kind: &str, plain: &Plain) -> Token {
        let token = self.private.keys.token(kind, plain);
        if !self.known.contains(&token)
            && !self.found.contains(&token)
            && let Some(ciphertext) = self.private.keys.seal(&token, plain)
        {
            self.found.add(token.clone(), ciphertext);
        }
        token
    }
}

/// Parts in order; those that overlap become one, so that nothing of either stays.
fn united(mut parts: Vec<Part>) -> Vec<Part> {
    parts.sort_by_key(|part| (part.place.start, std::cmp::Reverse(part.place.end)));
    let mut united: Vec<Part> = Vec::with_capacity(parts.len());
    for part in parts {
        match united.last_mut() {
            Some(last) if part.place.start < last.place.end => {
                if part.place.end > last.place.end {
                    if part.place.len() > last.place.len() {
                        last.kind = part.kind;
                    }
                    last.place.end = part.place.end;
                    last.needs_quotes = None;
                }
            }
            _ => united.push(part),
        }
    }
    united
}
