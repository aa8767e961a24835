//! Values that fit a JSON Schema, filled from the input where that is easy.
//!
//! Not every schema can be satisfied so (a `pattern`, a `not`): then the answer
//! does not fit, and the step says so as it would of a model.

use serde_json::{Map, Value, json};

use super::input::Input;
use super::{chance, pick};

/// Schemas nested deeper get the shortest value that may fit.
const DEPTH: usize = 8;
/// The most items that a list is given.
const ITEMS: u64 = 100;
/// The longest text that is made up to reach a `minLength`, in characters.
const PADDING: usize = 10_000;

/// The final answer: JSON that fits the schema, else a short text.
pub(super) fn text(schema: Option<&Value>, input: &Input) -> String {
    match schema {
        Some(schema) => Maker { root: schema, input, optional: true }.value(schema, "", 0).to_string(),
        None => sentence(input),
    }
}

/// Arguments for a tool: what is known, and what else is required.
pub(super) fn arguments(schema: &Value, input: &Input, known: Map<String, Value>) -> Value {
    let made = Maker { root: schema, input, optional: false }.value(schema, "", 0);
    let mut arguments = known;
    if let Value::Object(made) = made {
        for (key, value) in made {
            arguments.entry(key).or_insert(value);
        }
    }
    Value::Object(arguments)
}

fn sentence(input: &Input) -> String {
    let walked = match input.called.len() {
        0 => "no tool was called".to_owned(),
        1 => format!("1 tool was called ({})", input.called.join(", ")),
        n => format!("{n} tools were called ({})", input.called.join(", ")),
    };
    format!("Rehearsal (no language model): {walked} for \"{}\".", input.gist())
}

/// Makes values for parts of one schema.
struct Maker<'a> {
    root: &'a Value,
    input: &'a Input,
    /// Whether properties that are not required are made.
    optional: bool,
}

impl Maker<'_> {
    fn value(&self, schema: &Value, name: &str, depth: usize) -> Value {
        let schema = self.resolved(schema);
        if let Some(constant) = schema.get("const") {
            return constant.clone();
        }
        if let Some(values) = schema["enum"].as_array() {
            return pick(values, &[&self.input.prompt, name]).cloned().unwrap_or_default();
        }
        for key in ["anyOf", "oneOf"] {
            if let Some(branches) = schema[key].as_array() {
                return self.branch(branches, name, depth);
            }
        }
        if let Some(parts) = schema["allOf"].as_array() {
            return self.value(&merged(schema, parts.iter().map(|part| self.resolved(part))), name, depth + 1);
        }
        match kind(schema) {
            "object" => self.object(schema, depth),
            "array" => self.array(schema, name, depth),
            "integer" => json!(integer(schema, chance(&[&self.input.prompt, name]))),
            "number" => number(schema, chance(&[&self.input.prompt, name])),
            "boolean" => json!(chance(&[&self.input.prompt, name]).is_multiple_of(2)),
            "null" => Value::Null,
            _ => json!(self.string(schema, name)),
        }
    }

    /// The schema that a local reference stands for.
    fn resolved<'s>(&'s self, schema: &'s Value) -> &'s Value {
        let mut schema = schema;
        for _ in 0..DEPTH {
            let Some(pointer) = schema["$ref"].as_str().and_then(|target| target.strip_prefix('#')) else { break };
            schema = self.root.pointer(pointer).unwrap_or(&Value::Null);
        }
        schema
    }

    /// The first branch that is not null; at the bottom, null if it may be.
    fn branch(&self, branches: &[Value], name: &str, depth: usize) -> Value {
        let is_null = |branch: &&Value| kind(self.resolved(branch)) == "null";
        let chosen = if depth >= DEPTH {
            branches.iter().find(is_null).or(branches.first())
        } else {
            branches.iter().find(|branch| !is_null(branch)).or(branches.first())
        };
        match chosen {
            Some(branch) if depth < 2 * DEPTH => self.value(branch, name, depth + 1),
            _ => Value::Null,
        }
    }

    fn object(&self, schema: &Value, depth: usize) -> Value {
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let mut made = Map::new();
        if depth > 2 * DEPTH {
            return Value::Object(made);
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            if required.contains(&name.as_str()) || (self.optional && depth < DEPTH) {
                made.insert(name.clone(), self.value(property, name, depth + 1));
            }
        }
        for name in required {
            if !made.contains_key(name) {
                let others = schema.get("additionalProperties").filter(|others| others.is_object());
                made.insert(name.to_owned(), self.value(others.unwrap_or(&Value::Null), name, depth + 1));
            }
        }
        Value::Object(made)
    }

    fn array(&self, schema: &Value, name: &str, depth: usize) -> Value {
        let fewest = schema["minItems"].as_u64().unwrap_or(0).min(ITEMS);
        let most = schema["maxItems"].as_u64().unwrap_or(u64::MAX);
        let wanted = if depth >= DEPTH { 0 } else { 1 + chance(&[&self.input.prompt, name, "items"]) % 2 };
        let count = wanted.max(fewest).min(most);
        if depth > 2 * DEPTH {
            return json!([]);
        }
        let first = schema["prefixItems"].as_array().map(Vec::as_slice).unwrap_or_default();
        let items = (0..count).map(|n| {
            let at = usize::try_from(n).unwrap_or(usize::MAX);
            let schema = first.get(at).unwrap_or(&schema["items"]);
            // The number makes items differ.
            let name = if n == 0 { name.to_owned() } else { format!("{name} {}", n + 1) };
            self.value(schema, &name, depth + 1)
        });
        let mut made: Vec<Value> = Vec::new();
        for item in items {
            if schema["uniqueItems"] != true || !made.contains(&item) {
                made.push(item);
            }
        }
        Value::Array(made)
    }

    fn string(&self, schema: &Value, name: &str) -> String {
        let made = match schema["format"].as_str() {
            Some("email" | "idn-email") => return self.input.mail().unwrap_or("rehearsal@example.com").to_owned(),
            Some("uri" | "url" | "iri") => return "https://example.com/rehearsal".to_owned(),
            Some("hostname") => return "example.com".to_owned(),
            Some("ipv4") => return "192.0.2.1".to_owned(),
            Some("ipv6") => return "2001:db8::1".to_owned(),
            Some("uuid") => return "00000000-0000-4000-8000-000000000000".to_owned(),
            Some("date") => return "2026-01-01".to_owned(),
            Some("time") => return "12:00:00Z".to_owned(),
            Some("date-time") => return "2026-01-01T12:00:00Z".to_owned(),
            Some("duration") => return "PT1H".to_owned(),
            _ => self.words(schema, name),
        };
        fitted(made, schema)
    }

    fn words(&self, schema: &Value, name: &str) -> String {
        let file = || self.input.found_paths.first().or(self.input.prompt_paths.first());
        match name {
            "email" | "mail" if self.input.mail().is_some() => self.input.mail().unwrap_or_default().to_owned(),
            "file" | "path" | "file_path" if file().is_some() => file().cloned().unwrap_or_default(),
            _ => {
                let example = schema["examples"][0].as_str().or(schema["default"].as_str());
                let said = self.input.said_of(name).or(example).map(ToOwned::to_owned);
                said.unwrap_or_else(|| match name {
                    "" | "summary" | "answer" | "body" | "text" | "message" => sentence(self.input),
                    name => format!(
                        "Rehearsal (no language model): {} for \"{}\"",
                        name.replace('_', " "),
                        self.input.gist()
                    ),
                })
            }
        }
    }
}

/// The type of a schema, by name or by what it constrains.
fn kind(schema: &Value) -> &str {
    match &schema["type"] {
        Value::String(kind) => kind,
        Value::Array(kinds) => {
            let mut kinds = kinds.iter().filter_map(Value::as_str);
            kinds.clone().find(|kind| *kind != "null").or_else(|| kinds.next()).unwrap_or("string")
        }
        _ if schema["properties"].is_object() || schema["required"].is_array() => "object",
        _ if schema["items"].is_object() => "array",
        _ if schema["minimum"].is_number() || schema["maximum"].is_number() => "number",
        _ => "string",
    }
}

/// The parts of an `allOf` as one schema: properties and requirements together.
fn merged<'s>(schema: &Value, parts: impl Iterator<Item = &'s Value>) -> Value {
    let mut whole = schema.as_object().cloned().unwrap_or_default();
    whole.shift_remove("allOf");
    for (key, value) in parts.filter_map(Value::as_object).flatten() {
        match (whole.get_mut(key), value) {
            (Some(Value::Object(there)), Value::Object(more)) => {
                there.extend(more.iter().map(|(k, v)| (k.clone(), v.clone())));
            }
            (Some(Value::Array(there)), Value::Array(more)) => there.extend(more.iter().cloned()),
            _ => {
                whole.insert(key.clone(), value.clone());
            }
        }
    }
    Value::Object(whole)
}

/// A whole number within the bounds; without bounds, 0 to 100.
fn integer(schema: &Value, chance: u64) -> i64 {
    let bound = |key: &str| schema[key].as_i64().or_else(|| schema[key].as_f64().map(rounded));
    let least = bound("minimum").into_iter().chain(bound("exclusiveMinimum").map(|n| n.saturating_add(1))).max();
    let most = bound("maximum").into_iter().chain(bound("exclusiveMaximum").map(|n| n.saturating_sub(1))).min();
    let (least, most) = match (least, most) {
        (None, None) => (0, 100),
        (Some(least), None) => (least, least.saturating_add(100)),
        (None, Some(most)) => (most.saturating_sub(100).max(most.min(0)), most),
        (Some(least), Some(most)) => (least, most.max(least)),
    };
    let step = schema["multipleOf"].as_i64().filter(|step| *step > 0).unwrap_or(1);
    let first = i128::from(least).div_euclid(i128::from(step)) * i128::from(step);
    let first = if first < i128::from(least) { first + i128::from(step) } else { first };
    let places = ((i128::from(most) - first) / i128::from(step) + 1).max(1);
    i64::try_from(first + i128::from(chance) % places * i128::from(step)).unwrap_or(least)
}

#[expect(clippy::cast_possible_truncation, reason = "a float cast saturates, which is what a bound needs")]
fn rounded(number: f64) -> i64 {
    number.round() as i64
}

/// A number within the bounds, in hundredths of their distance; without bounds, 0 to 1.
fn number(schema: &Value, chance: u64) -> Value {
    let bound = |key: &str, exclusive: &str| schema[key].as_f64().or(schema[exclusive].as_f64());
    let least = bound("minimum", "exclusiveMinimum");
    let most = bound("maximum", "exclusiveMaximum");
    if schema["multipleOf"].is_number() {
        return json!(integer(schema, chance));
    }
    let (least, most) = match (least, most) {
        (None, None) => (0.0, 1.0),
        (Some(least), None) => (least, least + 1.0),
        (None, Some(most)) => (most - 1.0, most),
        (Some(least), Some(most)) => (least, most),
    };
    // 1 to 99 hundredths: the bounds themselves may be excluded.
    #[expect(clippy::cast_precision_loss, reason = "a number below 100 is exact")]
    let part = (1 + chance % 99) as f64 / 100.0;
    let made = least + (most - least) * part;
    // A short number reads better, where rounding keeps it inside.
    let short = (made * 100.0).round() / 100.0;
    json!(if short > least && short < most { short } else { made })
}

/// A text of the length that the schema asks for.
fn fitted(mut text: String, schema: &Value) -> String {
    let length = |key: &str| schema[key].as_u64().map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    if let Some(fewest) = length("minLength") {
        let missing = fewest.min(PADDING).saturating_sub(text.chars().count());
        text.extend(std::iter::repeat_n('.', missing));
    }
    match length("maxLength") {
        Some(most) => text.chars().take(most).collect(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn input(prompt: &str) -> Input {
        Input::read(&[json!({"role": "user", "content": prompt})])
    }

    fn answer_to(schema: &Value, prompt: &str) -> Value {
        serde_json::from_str(&text(Some(schema), &input(prompt))).unwrap()
    }

    fn assert_fits(schema: &Value) {
        for prompt in ["", "Research Acme. E-mail: jo@acme.example", "ünïcode ☃ \u{0} prompt"] {
            let answer = answer_to(schema, prompt);
            let validator = jsonschema::options().should_validate_formats(true).build(schema).unwrap();
            let errors: Vec<String> = validator.iter_errors(&answer).map(|e| e.to_string()).collect();
            assert!(errors.is_empty(), "{answer} does not fit {schema}: {errors:?}");
        }
    }

    #[test]
    fn answers_fit_their_schema() {
        for property in [
            json!({"type": "string"}),
            json!({"type": "string", "minLength": 200, "maxLength": 210}),
            json!({"type": "string", "maxLength": 3}),
            json!({"type": "string", "maxLength": 0}),
            json!({"enum": ["hot", "cold", 7, null]}),
            json!({"const": {"a": [1]}}),
            json!({"type": "integer", "minimum": 0, "maximum": 100}),
            json!({"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 5}),
            json!({"type": "integer", "minimum": -9_223_372_036_854_775_808_i64, "maximum": 9_223_372_036_854_775_807_i64}),
            json!({"type": "integer", "minimum": 7, "multipleOf": 5}),
            json!({"type": "integer", "maximum": -3}),
            json!({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.001}),
            json!({"type": "number", "minimum": 5}),
            json!({"type": ["null", "boolean"]}),
            json!({"anyOf": [{"type": "null"}, {"type": "string", "format": "email"}]}),
            json!({"type": "array", "minItems": 3, "items": {"type": "string"}, "uniqueItems": true}),
            json!({"type": "array", "maxItems": 0}),
            json!({"type": "array", "maxItems": 1, "items": {"type": "object", "required": ["file", "line"],
                "properties": {"file": {"type": "string"}, "line": {"type": "integer", "minimum": 1}}}}),
            json!({"allOf": [{"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
                {"properties": {"b": {"type": "integer"}}, "required": ["b"]}]}),
            json!({"type": "object", "additionalProperties": {"type": "integer"}, "required": ["x"]}),
            json!({"type": "string", "format": "date-time"}),
            json!({"type": "string", "format": "uuid"}),
            json!({"$ref": "#/$defs/node"}),
            json!({}),
        ] {
            assert_fits(&json!({"type": "object", "required": ["p"], "additionalProperties": false,
                "properties": {"p": property, "q": property},
                "$defs": {"node": {"type": "object", "required": ["name"], "properties": {
                    "name": {"type": "string"}, "children": {"type": "array", "items": {"$ref": "#/$defs/node"}}}}}}));
        }
    }

    #[test]
    fn numbers_vary_with_the_input_and_not_with_the_run() {
        let schema =
            json!({"type": "object", "properties": {"score": {"type": "integer", "minimum": 0, "maximum": 100}}});
        let scores: std::collections::BTreeSet<i64> =
            (0..20).map(|n| answer_to(&schema, &format!("lead {n}"))["score"].as_i64().unwrap()).collect();
        assert!(scores.len() > 10, "{scores:?}");
        assert_eq!(answer_to(&schema, "lead 1"), answer_to(&schema, "lead 1"));
    }

    #[test]
    fn fields_are_filled_from_the_input_and_texts_say_what_they_are() {
        let schema = json!({"type": "object", "properties": {
            "company": {"type": "string"}, "email": {"type": "string", "format": "email"}, "summary": {"type": "string"}}});
        let answer = answer_to(&schema, "Company: Acme GmbH\nMail: jo@acme.example");
        assert_eq!((&answer["company"], &answer["email"]), (&json!("Acme GmbH"), &json!("jo@acme.example")));
        assert!(answer["summary"].as_str().unwrap().starts_with("Rehearsal (no language model)"));
    }

    #[test]
    fn schemas_that_never_end_do_not_hang() {
        let endless = json!({"type": "object", "required": ["next"], "properties": {"next": {"$ref": "#"}}});
        assert!(text(Some(&endless), &input("x")).len() < 10_000);
        let itself = json!({"$ref": "#"});
        assert!(text(Some(&itself), &input("x")).len() < 10_000);
        let wide = json!({"$ref": "#/$defs/a", "$defs": {"a": {"type": "object", "properties":
            {"l": {"$ref": "#/$defs/a"}, "r": {"$ref": "#/$defs/a"}}}}});
        assert!(text(Some(&wide), &input("x")).len() < 100_000);
    }
}
