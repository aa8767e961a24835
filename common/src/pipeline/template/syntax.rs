//! The surface of Jinja, as far as its own parser does not tell: where code
//! stands in a text, which names it looks up, and the rewriting of look-ups.
//!
//! `a.b["c"]` becomes `look(look(a, "b", …), "c", …)`, and `find(…)` where it may
//! be missing. What is not understood here stays as it is, and `minijinja`, in
//! its strict mode, has the last word.

use serde_json::Value;

/// The function for what must be there.
pub(super) const LOOK: &str = "__look";
/// The function for what may be missing.
pub(super) const FIND: &str = "__find";

/// A key of a look-up.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    /// `.name` or `["name"]`
    Name(String),
    /// `[0]` or `.0`
    Index(i64),
    /// `[expression]`
    Computed,
}

/// A look-up in a text: a name and the keys below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reference {
    /// The name.
    pub(crate) root: String,
    /// The keys, up to the first that is computed.
    pub(crate) path: Vec<Key>,
    /// Whether it may be missing: `default(…)` or `is defined` follows.
    pub(crate) lenient: bool,
    /// Whether the template itself defines the name.
    pub(crate) local: bool,
    /// Where it starts, in bytes.
    pub(crate) offset: usize,
    /// How it is written, up to the end of each key; the name alone comes first.
    pub(crate) written: Vec<String>,
}

impl Key {
    /// What a value has under this key.
    pub(super) fn of<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        match self {
            Self::Name(name) => value.get(name),
            Self::Index(index) => {
                let items = value.as_array()?;
                let index = if *index < 0 { index.checked_add(i64::try_from(items.len()).ok()?)? } else { *index };
                items.get(usize::try_from(index).ok()?)
            }
            Self::Computed => None,
        }
    }
}

impl Reference {
    /// How the first so many keys are written.
    pub(super) fn shown(&self, keys: usize) -> String {
        self.written.get(keys).or(self.written.last()).unwrap_or(&self.root).clone()
    }

    /// Whether a whole expression is this reference and nothing else.
    pub(super) fn is_whole(&self, expression: &str) -> bool {
        let written = self.written.last().map_or("", String::as_str);
        written == expression.trim() && !self.path.contains(&Key::Computed) && self.path.len() + 1 == self.written.len()
    }
}

/// The expression of a text that is one single `{{ … }}`, and where it starts.
pub(super) fn single_expression(text: &str) -> Option<(usize, &str)> {
    let trimmed = text.trim();
    if !trimmed.starts_with("{{") {
        return None;
    }
    let start = text.len() - text.trim_start().len() + 2;
    let end = end_of_code(text, start, "}}")?;
    if !text[end + 2..].trim().is_empty() {
        return None;
    }
    let code = &text[start..end];
    let inner = code.strip_prefix(['-', '+']).filter(|rest| rest.starts_with(char::is_whitespace)).unwrap_or(code);
    let start = start + code.len() - inner.len();
    let inner = inner.strip_suffix(['-', '+']).unwrap_or(inner);
    Some((start, inner))
}

/// Rewrites the look-ups in a text, and lists them.
pub(super) fn rewrite_text(text: &str) -> (String, Vec<Reference>) {
    let mut out = String::with_capacity(text.len() * 2);
    let mut references = Vec::new();
    let mut at = 0;
    while let Some(found) = text[at..].find('{') {
        let open = at + found;
        let (end, code) = match text[open..].get(..2) {
            Some("{{") => (end_of_code(text, open + 2, "}}"), true),
            Some("{%") => match raw_end(&text[open..]) {
                Some(length) => (Some(open + length - 2), false),
                None => (end_of_code(text, open + 2, "%}"), true),
            },
            Some("{#") => (text[open..].find("#}").map(|length| open + length), false),
            _ => {
                out.push_str(&text[at..=open]);
                at = open + 1;
                continue;
            }
        };
        let Some(end) = end else { break };
        out.push_str(&text[at..open]);
        if code {
            out.push_str(&text[open..open + 2]);
            Lexer { text, end }.code(open + 2, end, &mut out, &mut references);
            out.push_str(&text[end..end + 2]);
        } else {
            out.push_str(&text[open..end + 2]);
        }
        at = end + 2;
    }
    out.push_str(&text[at..]);
    (out, references)
}

/// Rewrites the look-ups in an expression, and lists them.
pub(super) fn rewrite_expression(source: &str) -> (String, Vec<Reference>) {
    let mut out = String::with_capacity(source.len() * 2);
    let mut references = Vec::new();
    Lexer { text: source, end: source.len() }.code(0, source.len(), &mut out, &mut references);
    (out, references)
}

/// Where the code that starts at `start` ends: the first `close` outside of texts and brackets.
fn end_of_code(text: &str, start: usize, close: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut depth = 0_usize;
    let mut at = start;
    while at < bytes.len() {
        if depth == 0 && text.as_bytes()[at..].starts_with(close.as_bytes()) {
            return Some(at);
        }
        match bytes[at] {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' | b'\'' => {
                at = end_of_string(bytes, at)?;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// Where the text that starts with the quote at `start` ends, the closing quote included.
fn end_of_string(bytes: &[u8], start: usize) -> Option<usize> {
    let quote = *bytes.get(start)?;
    let mut at = start + 1;
    loop {
        match *bytes.get(at)? {
            b'\\' => at += 2,
            byte if byte == quote => return Some(at + 1),
            _ => at += 1,
        }
    }
}

/// How long `{% raw %} … {% endraw %}` is, if the text starts with it.
fn raw_end(text: &str) -> Option<usize> {
    fn tag(text: &str, name: &str) -> Option<usize> {
        let inner = text.strip_prefix("{%")?;
        let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner).trim_start();
        let inner = inner.strip_prefix(name)?.trim_start();
        let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner);
        Some(text.len() - inner.strip_prefix("%}")?.len())
    }
    let start = tag(text, "raw")?;
    text[start..].match_indices("{%").find_map(|(at, _)| Some(start + at + tag(&text[start + at..], "endraw")?))
}

/// Words that are no names, though a bracket may follow them.
const WORDS: [&str; 24] = [
    "and",
    "or",
    "not",
    "in",
    "is",
    "if",
    "else",
    "elif",
    "true",
    "True",
    "false",
    "False",
    "none",
    "None",
    "for",
    "set",
    "with",
    "block",
    "filter",
    "macro",
    "call",
    "recursive",
    "autoescape",
    "do",
];

/// Reads code token by token.
struct Lexer<'t> {
    text: &'t str,
    /// Where the code ends, in bytes.
    end: usize,
}

impl<'t> Lexer<'t> {
    fn bytes(&self) -> &'t [u8] {
        &self.text.as_bytes()[..self.end]
    }

    /// Copies code from `at` to `end`, rewriting look-ups.
    fn code(&self, mut at: usize, end: usize, out: &mut String, references: &mut Vec<Reference>) {
        // What stood before decides whether a word is a name: not after `.` and `|`, nor after `is`.
        let mut before = Before::Nothing;
        while at < end {
            let byte = self.text.as_bytes()[at];
            let next = match byte {
                b'"' | b'\'' => {
                    before = Before::Nothing;
                    end_of_string(self.bytes(), at).unwrap_or(end).min(end)
                }
                b'0'..=b'9' => {
                    before = Before::Nothing;
                    self.number(at)
                }
                byte if is_start(byte) => {
                    let stop = self.word(at);
                    let word = &self.text[at..stop];
                    if before == Before::NoName || WORDS.contains(&word) {
                        let test = word == "is" || (word == "not" && before == Before::NoName);
                        before = if test { Before::NoName } else { Before::Nothing };
                        stop
                    } else {
                        before = Before::Nothing;
                        at = self.chain(at, out, references);
                        continue;
                    }
                }
                byte => {
                    if !byte.is_ascii_whitespace() {
                        before = if matches!(byte, b'.' | b'|') { Before::NoName } else { Before::Nothing };
                    }
                    at + self.text[at..].chars().next().map_or(1, char::len_utf8)
                }
            };
            out.push_str(&self.text[at..next]);
            at = next;
        }
    }

    /// Copies a name with the keys after it, as calls; answers where it ends.
    fn chain(&self, start: usize, out: &mut String, references: &mut Vec<Reference>) -> usize {
        let mut at = self.word(start);
        let root = self.text[start..at].to_owned();
        let mut written = vec![root.clone()];
        let mut keys: Vec<(Key, String)> = Vec::new();
        let mut inner = Vec::new();
        while let Some((key, code, stop)) = self.key(at, &mut inner) {
            at = stop;
            keys.push((key, code));
            written.push(self.text[start..at].to_owned());
        }
        let called = self.after(at).starts_with('(');
        let rest = self.after(at);
        let assigned = rest.starts_with('=') && !rest.starts_with("==");
        if called || assigned || root == "loop" {
            // The arguments of a call are code of their own, which comes next.
            out.push_str(&self.text[start..at]);
            references.append(&mut inner);
            return at;
        }
        let lenient = self.is_lenient(at);
        let function = if lenient { FIND } else { LOOK };
        let mut call = root.clone();
        for (index, (_, code)) in keys.iter().enumerate() {
            let shown = if lenient {
                String::new()
            } else {
                let shown: String =
                    written.get(index + 1).map(|text| text.chars().take(120).collect()).unwrap_or_default();
                format!(", {}", literal(&shown))
            };
            call = format!("{function}({call}, {code}{shown})");
        }
        out.push_str(&call);
        let path = keys.into_iter().map(|(key, _)| key).take_while(|key| *key != Key::Computed).collect();
        references.push(Reference { root, path, lenient, local: false, offset: start, written });
        references.append(&mut inner);
        at
    }

    /// The key that starts at `at`: what it is, its code as an argument, and where it ends.
    fn key(&self, at: usize, references: &mut Vec<Reference>) -> Option<(Key, String, usize)> {
        match *self.bytes().get(at)? {
            b'.' => {
                let first = *self.bytes().get(at + 1)?;
                if first.is_ascii_digit() {
                    let digits = self.bytes()[at + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                    let stop = at + 1 + digits;
                    let index: i64 = self.text[at + 1..stop].parse().ok()?;
                    return Some((Key::Index(index), index.to_string(), stop));
                }
                let stop = if is_start(first) { self.word(at + 1) } else { return None };
                let name = &self.text[at + 1..stop];
                // A method stays a method.
                if self.after(stop).starts_with('(') {
                    return None;
                }
                Some((Key::Name(name.to_owned()), literal(name), stop))
            }
            b'[' => {
                let close = end_of_code(&self.text[..self.end], at + 1, "]")?;
                let inner = self.text[at + 1..close].trim();
                let from = at + 1 + (self.text[at + 1..close].len() - self.text[at + 1..close].trim_start().len());
                if inner.is_empty() || is_slice(inner) {
                    return None;
                }
                let key = if let Ok(index) = inner.parse() {
                    Key::Index(index)
                } else if let Some(name) = plain_string(inner) {
                    Key::Name(name.to_owned())
                } else {
                    Key::Computed
                };
                let mut code = String::new();
                let nested = Lexer { text: self.text, end: from + inner.len() };
                nested.code(from, from + inner.len(), &mut code, references);
                Some((key, format!("({code})"), close + 1))
            }
            _ => None,
        }
    }

    fn word(&self, at: usize) -> usize {
        at + self.bytes()[at..].iter().take_while(|byte| is_start(**byte) || byte.is_ascii_digit()).count()
    }

    fn number(&self, mut at: usize) -> usize {
        let bytes = self.bytes();
        while at < bytes.len() {
            let fraction = bytes[at] == b'.' && bytes.get(at + 1).is_some_and(u8::is_ascii_digit);
            if !fraction && !bytes[at].is_ascii_alphanumeric() && bytes[at] != b'_' {
                break;
            }
            at += 1;
        }
        at
    }

    /// What comes after white space.
    fn after(&self, at: usize) -> &'t str {
        self.text[at..self.end].trim_start()
    }

    /// Whether `| default` or `is defined` follows.
    fn is_lenient(&self, at: usize) -> bool {
        let rest = self.after(at);
        if let Some(filter) = rest.strip_prefix('|') {
            return matches!(first_word(filter.trim_start()), "default" | "d");
        }
        let Some(test) = word_prefix(rest, "is") else { return false };
        let test = word_prefix(test, "not").unwrap_or(test);
        matches!(first_word(test), "defined" | "undefined")
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    /// A filter, test or attribute comes next.
    NoName,
}

fn is_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_'
}

fn first_word(text: &str) -> &str {
    let end = text.bytes().take_while(|byte| is_start(*byte) || byte.is_ascii_digit()).count();
    &text[..end]
}

/// What follows a word, without the white space between.
fn word_prefix<'t>(text: &'t str, word: &str) -> Option<&'t str> {
    (first_word(text) == word).then(|| text[word.len()..].trim_start())
}

/// The text between quotes, where nothing in it is escaped.
fn plain_string(code: &str) -> Option<&str> {
    let quote = code.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let inner = code.strip_prefix(quote)?.strip_suffix(quote)?;
    (!inner.contains([quote, '\\'])).then_some(inner)
}

/// Whether brackets hold a slice: a `:` outside of texts and inner brackets.
fn is_slice(code: &str) -> bool {
    end_of_code(code, 0, ":").is_some()
}

/// A text as a literal of the expression language.
fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
