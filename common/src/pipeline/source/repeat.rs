//! `repeat:`: a step, or a group of steps, that runs until a condition holds.
//!
//! A group stands in the pipeline as a step of its own, with its steps behind it.
//! A lone step with `repeat` is a group of one, whose step is called `ID_round`.

use super::Reader;
use super::step::{Here, Placed};
use super::text::Context;
use crate::diagnostic::Place;
use crate::document::{Kind, Node, Table};
use crate::id::{StepId, StepKey};
use crate::pipeline::model::{Budget, RepeatStep, Step, StepKind};
use crate::pipeline::template::Expression;

/// The most rounds.
const MOST_ROUNDS: u32 = 100;

/// `{ until, max }`.
struct Rounds {
    until: Expression,
    max: u32,
}

impl<'a> Reader<'a> {
    /// A step, with those that it repeats.
    pub(super) fn step_or_group(&mut self, node: &'a Node, index: usize, before: Option<StepId>) -> Vec<Placed> {
        if has(node, "steps") {
            return self.group(node, index, before).unwrap_or_default();
        }
        let Some((placed, repeat)) = self.step(node, index, before, false) else { return Vec::new() };
        match repeat {
            None => vec![placed],
            Some(repeat) => self.group_of_one(placed, repeat).unwrap_or_default(),
        }
    }

    fn group(&mut self, node: &'a Node, index: usize, before: Option<StepId>) -> Option<Vec<Placed>> {
        let mut table = Table::of(node, self.file, "a group of steps", self.out)?;
        let id_node = table.need("id", "a group of steps", self.out);
        let id: Option<StepId> = id_node.and_then(|node| node.read(self.file, self.out));
        let name = id.as_ref().map_or_else(|| index.to_string(), ToString::to_string);
        let (needs, needs_at) = match table.get("needs") {
            Some(node) => self.needs(node),
            None => (before.into_iter().collect(), Vec::new()),
        };
        let context = Context::Step { index, item: false, round: false };
        let condition = table.get("if").and_then(|node| self.expression(node, &format!("steps.{name}.if"), context));
        let on_error = table.read("on_error", self.out).unwrap_or_default();
        let output = table.get("output").and_then(|node| self.schema(node, &format!("steps.{name}.output")));
        let rounds = table.need("repeat", "a group of steps", self.out);
        let rounds = rounds.and_then(|node| self.rounds(node, index, &name));
        let steps = table.get("steps");
        table.finish("a group of steps", self.out);
        let at = id_node.map_or(node.at, |node| node.at);
        let id = id?;
        let members = self.members(steps?, &id, index);
        let Rounds { until, max } = rounds?;
        let steps = members.iter().map(|placed| placed.step.id.clone()).collect();
        let kind = StepKind::Repeat(RepeatStep { until, max, steps });
        let step = Step {
            id,
            needs,
            condition,
            foreach: None,
            on_error,
            retry: None,
            timeout: None,
            output,
            budget: Budget::default(),
            concurrency: None,
            uses: Vec::new(),
            kind,
            within: None,
        };
        Some(std::iter::once(Placed { step, index, at, needs_at }).chain(members).collect())
    }

    /// The steps of a group.
    fn members(&mut self, node: &'a Node, group: &StepId, index: usize) -> Vec<Placed> {
        let Kind::List(items) = &node.kind else {
            self.error(node.at, format!("`steps` must be a list, not {}", node.what()));
            return Vec::new();
        };
        if items.is_empty() {
            self.error(node.at, "a group has at least one step");
        }
        let mut members: Vec<Placed> = Vec::with_capacity(items.len());
        for item in items {
            if has(item, "steps") || has(item, "repeat") {
                self.error(
                    item.at,
                    "what is repeated cannot repeat anything itself; use a pipeline of its own for that",
                );
                continue;
            }
            let before = members.last().map(|placed| placed.step.id.clone());
            let Some((mut placed, _)) = self.step(item, index + 1 + members.len(), before, true) else { continue };
            placed.step.within = Some(group.clone());
            members.push(placed);
        }
        members
    }

    /// A lone step that is repeated: it waits, starts and fails as the group, and all else is its own.
    fn group_of_one(&mut self, placed: Placed, repeat: &'a Node) -> Option<Vec<Placed>> {
        let Placed { step, index, at, needs_at } = placed;
        let Rounds { until, max } = self.rounds(repeat, index, step.id.as_str())?;
        let Ok(inner) = StepId::new(format!("{}_round", step.id)) else {
            self.error(at, "the id of a step with `repeat` may have at most 58 letters");
            return None;
        };
        let kind = StepKind::Repeat(RepeatStep { until, max, steps: vec![inner.clone()] });
        let group = Step {
            id: step.id.clone(),
            needs: step.needs,
            condition: step.condition,
            foreach: None,
            on_error: step.on_error,
            retry: None,
            timeout: None,
            output: None,
            budget: Budget::default(),
            concurrency: None,
            uses: Vec::new(),
            kind,
            within: None,
        };
        let member = Step { id: inner, needs: Vec::new(), condition: None, within: Some(step.id), ..step };
        let member = Placed { step: member, index: index + 1, at, needs_at: Vec::new() };
        Some(vec![Placed { step: group, index, at, needs_at }, member])
    }

    fn rounds(&mut self, node: &'a Node, index: usize, name: &str) -> Option<Rounds> {
        let here =
            Here { context: Context::Step { index, item: false, round: true }, key: format!("steps.{name}.repeat") };
        let mut table = Table::of(node, self.file, "`repeat`", self.out)?;
        let until = table.need("until", "`repeat`", self.out);
        let until = until.and_then(|node| self.expression(node, &here.key("until"), here.context));
        let max = table.need("max", "`repeat`", self.out).and_then(|node| self.number(node, 1..=MOST_ROUNDS));
        table.finish("`repeat`", self.out);
        Some(Rounds { until: until?, max: max? })
    }

    /// Who is outside of a group waits for the group, not for one of its rounds.
    pub(super) fn check_need(&mut self, placed: &Placed, needed: &Placed, at: Place) {
        if let Some(group) = &needed.step.within
            && placed.step.within.as_ref() != Some(group)
        {
            let need = StepKey::of(needed.step.id.clone());
            let error = self.file.error(at, format!("`{need}` is repeated, and done only when `{group}` is"));
            self.out.push(error.with_help(format!("need `{group}` instead")));
        }
    }
}

fn has(node: &Node, key: &str) -> bool {
    matches!(&node.kind, Kind::Map(fields) if fields.iter().any(|(known, _)| known.text == key))
}
