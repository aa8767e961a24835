//! What comes of several layers, from top to bottom.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::direction::{Direction, ceiling, combine, direction, path};
use super::{Layer, Level, Lift, Setting};
use crate::diagnostic::Place;
use crate::document::{Key, Kind, Node};

/// What holds, and what would have lifted it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Merged {
    /// Every value with its origin, by key; rules and hooks in the order in which they hold.
    pub settings: Vec<Setting>,
    /// Values that do not hold.
    #[serde(skip)]
    pub lifts: Vec<Lift>,
}

impl Merged {
    /// What makes it impossible that as many people approve as must.
    pub(crate) fn too_few_people(&self) -> Option<&Setting> {
        let find = |key: &str| self.settings.iter().find(|setting| setting.key == key);
        let (votes, approvers) = (find("permissions.votes")?, find("permissions.approvers")?);
        let people = approvers.value.as_array()?.len() as u64;
        (people > 0 && votes.value.as_u64()? > people).then_some(votes.max_by_layer(approvers))
    }
}

impl Merged {
    /// Guards of which nobody says what they check.
    pub(crate) fn unknown_guards(&self) -> impl Iterator<Item = &Setting> {
        let guards = self.settings.iter().filter(|setting| setting.key.starts_with("guards."));
        guards.filter(|setting| crate::config::guards::only_tightens(&setting.value))
    }
}

impl Setting {
    /// The one that was said further down.
    fn max_by_layer<'a>(&'a self, other: &'a Self) -> &'a Self {
        if other.layer > self.layer { other } else { self }
    }
}

/// Merges layers, the uppermost first, with the values that hold where nobody below the organisation says anything.
pub fn merge(layers: &[&Layer], defaults: &[Setting]) -> Merged {
    let mut each: Vec<Setting> = Vec::new();
    let mut one: BTreeMap<String, Setting> = BTreeMap::new();
    let mut lifts = Vec::new();
    let above = layers.iter().take_while(|layer| layer.level == Level::Organisation).count();
    let (organisation, others) = layers.split_at(above);
    for layer in organisation {
        add(layer, &mut each, &mut one, &mut lifts);
    }
    // A default is no word against a ceiling, and a ceiling is no word for more than the default.
    for default in defaults.iter().filter(|default| !said_below(others, &default.key)) {
        let Some(direction) = direction(&default.key) else { continue };
        match one.get(&ceiling(&default.key)) {
            Some(upper) if combine(direction, &upper.value, &default.value).lifts => {}
            _ => drop(one.insert(default.key.clone(), default.clone())),
        }
    }
    for layer in others {
        add(layer, &mut each, &mut one, &mut lifts);
    }
    let mut settings: Vec<Setting> = each;
    settings.extend(one.into_values());
    settings.sort_by(|a, b| a.key.cmp(&b.key));
    Merged { settings, lifts }
}

fn said_below(layers: &[&Layer], key: &str) -> bool {
    layers.iter().any(|layer| layer.level == Level::Project && layer.settings.iter().any(|setting| setting.key == key))
}

fn add(layer: &Layer, each: &mut Vec<Setting>, one: &mut BTreeMap<String, Setting>, lifts: &mut Vec<Lift>) {
    // What a layer says of one key does not bound what it says of another.
    let upper = one.clone();
    for setting in &layer.settings {
        let Some(direction) = direction(&setting.key) else { continue };
        if direction == Direction::Each {
            let named = setting.key.starts_with("budgets.") || setting.key.starts_with("rate_limits.");
            match each.iter().find(|other| named && other.key == setting.key && other.value != setting.value) {
                // A name stands for one thing: that of the upper layer.
                Some(other) => lifts.push(Lift { upper: other.clone(), lower: setting.clone() }),
                None => each.push(setting.clone()),
            }
            continue;
        }
        let Some(upper) = upper.get(&ceiling(&setting.key)) else {
            one.insert(setting.key.clone(), setting.clone());
            continue;
        };
        let combined = combine(direction, &upper.value, &setting.value);
        if combined.lifts {
            lifts.push(Lift { upper: upper.clone(), lower: setting.clone() });
        }
        let origin = if combined.lower_holds { setting } else { upper };
        one.insert(setting.key.clone(), Setting { key: setting.key.clone(), value: combined.value, ..origin.clone() });
    }
}

/// Writes into a project's file what its organisation holds it to, so that whoever reads it reads what holds.
pub(crate) fn patch(root: &mut Node, merged: &Merged) {
    let rules = |key: &str| {
        key.starts_with("hooks.")
            || matches!(key, "permissions.allow" | "permissions.ask" | "permissions.deny" | "permissions.mode")
    };
    let of_lifts = merged.lifts.iter().map(|lift| lift.lower.key.as_str());
    let lifted: Vec<&str> = of_lifts.collect();
    for setting in merged.settings.iter().filter(|setting| !rules(&setting.key)) {
        let path = path(&setting.key);
        // A project that tightens a guard says nothing of what it checks.
        let is_partly_above = || path.first() == Some(&"guards") && said(root, &path) != Some(setting.value.clone());
        if setting.layer != Level::Organisation && !lifted.contains(&setting.key.as_str()) && !is_partly_above() {
            continue;
        }
        let at = setting.at.unwrap_or(root.at);
        set(root, &path, node(&setting.value, at));
    }
}

/// What stands under a key.
fn said(root: &Node, path: &[&str]) -> Option<Value> {
    let [first, rest @ ..] = path else { return Some(root.to_json()) };
    let Kind::Map(fields) = &root.kind else { return None };
    let (_, value) = fields.iter().find(|(key, _)| key.text == *first)?;
    said(value, rest)
}

fn set(root: &mut Node, path: &[&str], value: Node) {
    let [first, rest @ ..] = path else {
        *root = value;
        return;
    };
    if !matches!(root.kind, Kind::Map(_)) {
        root.kind = Kind::Map(Vec::new());
    }
    let Kind::Map(fields) = &mut root.kind else { return };
    let at = value.at;
    let index = fields.iter().position(|(key, _)| key.text == *first).unwrap_or_else(|| {
        fields.push((Key { at, text: (*first).to_owned() }, Node { at, kind: Kind::Null }));
        fields.len() - 1
    });
    set(&mut fields[index].1, rest, value);
}

fn node(value: &Value, at: Place) -> Node {
    let kind = match value {
        Value::Null => Kind::Null,
        Value::Bool(value) => Kind::Bool(*value),
        Value::Number(value) => Kind::Number(value.clone()),
        Value::String(value) => Kind::Text(value.clone()),
        Value::Array(items) => Kind::List(items.iter().map(|item| node(item, at)).collect()),
        Value::Object(fields) => {
            Kind::Map(fields.iter().map(|(key, value)| (Key { at, text: key.clone() }, node(value, at))).collect())
        }
    };
    Node { at, kind }
}
