//! Templates and expressions: read, and checked for names that cannot be there.

use std::collections::BTreeSet;

use serde_json::Value;

use super::step::Placed;
use super::{LinkTo, Reader};
use crate::diagnostic::{Diagnostic, Place};
use crate::document::{Kind, Node, closest, place_within};
use crate::id::StepId;
use crate::pipeline::graph::Graph;
use crate::pipeline::model::{Schema, Step, StepKind};
use crate::pipeline::template::{self, Expression, Key, Reference, SyntaxError, Template};

/// Where a template stands: what decides which names it may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Context {
    /// In a trigger: `event`, `headers`, `env`.
    Event,
    /// In `labels`, which are rendered at submit: `input`.
    Labels,
    /// In a step, by its position; `item` says whether `item` and `index` are there, `round` whether `round` is.
    Step { index: usize, item: bool, round: bool },
    /// The pipeline's output.
    Output,
}

impl Context {
    const fn names(self) -> &'static [&'static str] {
        match self {
            Self::Event => &["event", "headers", "env"],
            Self::Labels => &["input"],
            Self::Step { item: true, round: true, .. } => &["input", "steps", "env", "task", "item", "index", "round"],
            Self::Step { item: true, .. } => &["input", "steps", "env", "task", "item", "index"],
            Self::Step { round: true, .. } => &["input", "steps", "env", "task", "round"],
            Self::Step { .. } | Self::Output => &["input", "steps", "env", "task"],
        }
    }
}

/// A look-up, to be checked when all steps are known.
#[derive(Debug)]
pub(super) struct Mention {
    context: Context,
    /// Where it is written.
    at: Place,
    reference: Reference,
}

impl Mention {
    fn written(&self) -> &str {
        self.reference.written.last().map_or("", String::as_str)
    }
}

impl Reader<'_> {
    /// A value whose texts are templates.
    pub(super) fn template(&mut self, node: &Node, key: &str, context: Context) -> Option<Template> {
        let mut sound = true;
        for (text, at) in node.texts() {
            sound &= self.mention(text, at, template::inspect_text(text), context);
        }
        if !sound {
            return None;
        }
        match Template::new(node.to_json(), &self.origin(node.at, key)) {
            Ok(template) => Some(template),
            Err(failure) => {
                self.error(node.at, failure.message);
                None
            }
        }
    }

    /// A template that must be a text.
    pub(super) fn text_template(&mut self, node: &Node, key: &str, context: Context) -> Option<Template> {
        if matches!(node.kind, Kind::List(_) | Kind::Map(_)) {
            let name = key.rsplit('.').next().unwrap_or(key);
            self.error(node.at, format!("`{name}` must be a text, not {}", node.what()));
            return None;
        }
        self.template(node, key, context)
    }

    /// An expression, without `{{` and `}}`.
    pub(super) fn expression(&mut self, node: &Node, key: &str, context: Context) -> Option<Expression> {
        let source = match &node.kind {
            Kind::Text(text) => text.clone(),
            Kind::Bool(_) | Kind::List(_) | Kind::Number(_) => node.to_json().to_string(),
            Kind::Null | Kind::Map(_) => {
                let name = key.rsplit('.').next().unwrap_or(key);
                self.error(node.at, format!("`{name}` must be an expression, not {}", node.what()));
                return None;
            }
        };
        if source.trim_start().starts_with("{{") {
            let error = self.file.error(node.at, "an expression stands without `{{` and `}}`");
            self.out.push(error.with_help("write `if: steps.x.output.ok`, not `if: \"{{ steps.x.output.ok }}\"`"));
            return None;
        }
        if !self.mention(&source, node.at, template::inspect_expression(&source), context) {
            return None;
        }
        match Expression::new(&source, &self.origin(node.at, key)) {
            Ok(expression) => Some(expression),
            Err(failure) => {
                self.error(node.at, failure.message);
                None
            }
        }
    }

    fn origin(&self, at: Place, key: &str) -> String {
        format!("{}:{}:{} ({key})", self.file.name, at.line, at.column)
    }

    /// Notes what a text looks up; answers whether it could be read.
    fn mention(
        &mut self,
        text: &str,
        start: Place,
        inspected: Result<Vec<Reference>, SyntaxError>,
        context: Context,
    ) -> bool {
        match inspected {
            Ok(references) => {
                for reference in references {
                    let length = reference.written.last().map_or(0, String::len);
                    let at = place_within(self.file, start, text, reference.offset, length);
                    self.mentions.push(Mention { context, at, reference });
                }
                true
            }
            Err(error) => {
                let at = place_within(self.file, start, text, error.offset, error.length);
                let offending = text.get(error.offset..error.offset + error.length).unwrap_or_default();
                let width = offending.lines().next().unwrap_or_default().chars().count();
                let message = format!("the template cannot be read: {}", error.message);
                self.out.push(self.file.error(at, message).with_width(width));
                false
            }
        }
    }

    /// Every name that is looked up can be there.
    pub(super) fn check_mentions(&mut self, steps: &[Placed], input: Option<&Schema>) {
        let ids: Vec<&str> = steps.iter().map(|placed| placed.step.id.as_str()).collect();
        let properties = input.and_then(closed_properties);
        for mention in std::mem::take(&mut self.mentions) {
            let problem = match (mention.reference.root.as_str(), mention.reference.path.as_slice()) {
                (root, _) if !mention.context.names().contains(&root) => Some(self.unknown_name(&mention)),
                ("steps", [Key::Name(step), rest @ ..]) => self.step_mention(&mention, step, rest, steps, &ids),
                ("env", [Key::Name(name), ..]) => {
                    self.link(LinkTo::Env, name, mention.at);
                    None
                }
                ("task", [Key::Name(field), ..])
                    if !["id", "pipeline", "labels", "cost_usd", "tokens"].contains(&field.as_str()) =>
                {
                    let error = self.mistake(&mention, format!("a task has no `{field}` here"));
                    Some(error.with_help("it has `id`, `pipeline`, `labels`, `cost_usd` and `tokens`"))
                }
                ("input", [Key::Name(name), ..]) if !mention.reference.lenient => {
                    properties.as_ref().filter(|names| !names.contains(name.as_str())).map(|names| {
                        let names: Vec<&str> = names.iter().copied().collect();
                        let message = format!("the input's schema does not mention `{name}`");
                        let warning =
                            self.file.warning(mention.at, message).with_width(mention.written().chars().count());
                        match closest(name, &names) {
                            Some(meant) => warning.with_help(format!("did you mean `{meant}`?")),
                            None => warning.with_help("add it to the properties of `input`"),
                        }
                    })
                }
                _ => None,
            };
            if let Some(problem) = problem {
                self.out.push(problem);
            }
        }
    }

    fn mistake(&self, mention: &Mention, message: impl Into<String>) -> Diagnostic {
        self.file.error(mention.at, message).with_width(mention.written().chars().count())
    }

    fn unknown_name(&self, mention: &Mention) -> Diagnostic {
        let (root, names) = (mention.reference.root.as_str(), mention.context.names());
        let error = self.mistake(mention, format!("there is no name `{root}` here"));
        if let Some(name) = closest(root, names) {
            return error.with_help(format!("did you mean `{name}`?"));
        }
        let elsewhere = match root {
            "item" | "index" => "`item` and `index` are there in a step with `foreach` only; ",
            "round" => "`round` is there in steps that are repeated; ",
            "event" | "headers" => "`event` and `headers` are there in triggers only; ",
            _ => "",
        };
        error.with_help(format!("{elsewhere}the names are {}", names.join(", ")))
    }

    /// A step is there, was asked for what it has, and is done by then.
    fn step_mention(
        &self,
        mention: &Mention,
        name: &str,
        rest: &[Key],
        steps: &[Placed],
        ids: &[&str],
    ) -> Option<Diagnostic> {
        let Some(target) = steps.iter().find(|placed| placed.step.id.as_str() == name) else {
            let error = self.mistake(mention, format!("there is no step `{name}`"));
            return Some(match closest(name, ids) {
                Some(meant) => error.with_help(format!("did you mean `steps.{meant}`?")),
                None => error.with_help(format!("the steps are {}", ids.join(", "))),
            });
        };
        if let [Key::Name(field), ..] = rest
            && !["status", "output", "error", "guards"].contains(&field.as_str())
        {
            let error = self.mistake(mention, format!("a step has no `{field}`"));
            return Some(error.with_help(format!(
                "it has `status`, `output`, `error` and `guards`; did you mean `steps.{name}.output.{field}`?"
            )));
        }
        let Context::Step { index, .. } = mention.context else { return None };
        let here = &steps.iter().find(|placed| placed.index == index)?.step;
        // What is repeated may look at what came of the round before.
        if repeated_by(here).is_some_and(|group| repeated_by(&target.step) == Some(group)) {
            return None;
        }
        self.order(mention, &here.id, &target.step.id, steps)
    }

    fn order(&self, mention: &Mention, here: &StepId, target: &StepId, steps: &[Placed]) -> Option<Diagnostic> {
        if here == target {
            return Some(self.mistake(mention, format!("the step `{here}` looks at itself, before it is done")));
        }
        let graph = Graph::of(steps.iter().map(|placed| &placed.step));
        if graph.ancestors(here).contains(target) {
            return None;
        }
        if graph.ancestors(target).contains(here) {
            let message = format!("the step `{here}` looks at `{target}`, which runs after it");
            return Some(self.mistake(mention, message).with_help("change the order, or `needs`"));
        }
        let message = format!("the step `{here}` looks at `{target}`, which may not be done by then");
        Some(self.mistake(mention, message).with_help(format!("add `{target}` to the `needs` of `{here}`")))
    }
}

/// The step with `repeat` that a step is, or belongs to.
const fn repeated_by(step: &Step) -> Option<&StepId> {
    match step.kind {
        StepKind::Repeat(_) => Some(&step.id),
        _ => step.within.as_ref(),
    }
}

/// The names of the input's properties, where the schema names them all.
fn closed_properties(schema: &Schema) -> Option<BTreeSet<&str>> {
    let schema = schema.schema.as_object()?;
    // With these, further properties are expected.
    let open = ["patternProperties", "$ref", "allOf", "anyOf", "oneOf", "if", "unevaluatedProperties"];
    let further = schema.get("additionalProperties").is_some_and(|further| *further != Value::Bool(false));
    if further || open.iter().any(|key| schema.contains_key(*key)) {
        return None;
    }
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    Some(schema.get("properties")?.as_object()?.keys().map(String::as_str).chain(required).collect())
}
