//! Which of two values is the tighter one, by their key.

use std::path::Path;

use serde_json::Value;

use crate::config::Size;
use crate::span::Span;

/// How values of a key come together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// All of them hold: rules, hooks, budgets by name.
    Each,
    /// The last of these words is the tightest.
    Words(&'static [&'static str]),
    /// `false` is tighter.
    False,
    /// More is tighter.
    Most,
    /// Less is tighter.
    Least(Unit),
    /// Only what the upper list has; an empty one is everybody.
    People,
    /// Only what is below a place of the upper list.
    Places,
    /// The same check, with a stricter `then`.
    Guard,
}

/// How a number is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Plain,
    Bytes,
    Time,
}

/// What comes of two values.
pub(super) struct Combined {
    pub(super) value: Value,
    /// Whether the lower one counts, at least in part.
    pub(super) lower_holds: bool,
    /// Whether the lower one would have let more happen.
    pub(super) lifts: bool,
}

const MODES: &[&str] = &["bypassPermissions", "acceptEdits", "default", "dontAsk", "plan"];
/// Of a guard that trips.
const ENDS: &[&str] = &["mark", "ask", "fail"];
const CONFINED: &[&str] = &["off", "prefer", "require"];

/// How values of a key come together; nothing for a key that is no policy.
pub(super) fn direction(key: &str) -> Option<Direction> {
    let parts = path(key);
    Some(match parts[..] {
        ["permissions", "allow" | "ask" | "deny"] | ["hooks" | "budgets" | "rate_limits", _] => Direction::Each,
        ["guards", _] => Direction::Guard,
        ["permissions", "mode"] => Direction::Words(MODES),
        ["permissions", "allow_bypass"] => Direction::False,
        ["permissions", "approvers"] => Direction::People,
        ["permissions", "votes"] => Direction::Most,
        ["permissions", "expires"] => Direction::Least(Unit::Time),
        ["limits", "webhook_body" | "input" | "journal" | "values" | "batch_body" | "tool_output"] => {
            Direction::Least(Unit::Bytes)
        }
        ["limits", _] | ["budget", "usd" | "tokens"] => Direction::Least(Unit::Plain),
        ["sandbox", _, key] | ["mcp_servers", _, "sandbox", key] => match key {
            "mode" => Direction::Words(CONFINED),
            "network" => Direction::False,
            "read" | "write" => Direction::Places,
            "memory" | "file_size" => Direction::Least(Unit::Bytes),
            "processes" | "open_files" => Direction::Least(Unit::Plain),
            "cpu" => Direction::Least(Unit::Time),
            _ => return None,
        },
        _ => return None,
    })
}

/// The parts of a key. Names of budgets may have points in them.
pub(super) fn path(key: &str) -> Vec<&str> {
    match key.split_once('.') {
        Some((section @ ("budgets" | "rate_limits" | "guards"), name)) => vec![section, name],
        _ => key.split('.').collect(),
    }
}

/// The key of an upper layer that bounds this one.
pub(super) fn ceiling(key: &str) -> String {
    match key.strip_prefix("mcp_servers.").and_then(|rest| rest.split_once(".sandbox.")) {
        Some((_, key)) => format!("sandbox.mcp.{key}"),
        None => key.to_owned(),
    }
}

/// Brings a lower value under an upper one.
pub(super) fn combine(direction: Direction, upper: &Value, lower: &Value) -> Combined {
    match direction {
        Direction::Each => Combined { value: lower.clone(), lower_holds: true, lifts: false },
        Direction::People | Direction::Places => narrow(direction, upper, lower),
        Direction::Guard => guard(upper, lower),
        _ => {
            let looser = tightness(direction, lower) < tightness(direction, upper);
            let value = if looser { upper } else { lower };
            Combined { value: value.clone(), lower_holds: !looser, lifts: looser }
        }
    }
}

/// How tight a single value is; one that cannot be read is the loosest.
fn tightness(direction: Direction, value: &Value) -> f64 {
    let number = match direction {
        Direction::Words(words) => {
            words.iter().position(|word| value == word).map(|at| f64::from(u32::try_from(at).unwrap_or(0)))
        }
        Direction::False => value.as_bool().map(|allowed| if allowed { 0.0 } else { 1.0 }),
        Direction::Most => value.as_f64(),
        Direction::Least(unit) => amount(unit, value).map(|amount| -amount),
        Direction::Each | Direction::People | Direction::Places | Direction::Guard => None,
    };
    number.unwrap_or(f64::NEG_INFINITY)
}

fn amount(unit: Unit, value: &Value) -> Option<f64> {
    match unit {
        Unit::Plain => value.as_f64(),
        #[expect(clippy::cast_precision_loss, reason = "sizes beyond 2^53 bytes need not be told apart")]
        Unit::Bytes => Size::try_from(value.clone()).ok().map(|size| size.0 as f64),
        Unit::Time => value.as_str()?.parse::<Span>().ok().map(|span| span.get().as_secs_f64()),
    }
}

/// What a lower layer says of a guard: nothing of what it checks, and no milder end.
fn guard(upper: &Value, lower: &Value) -> Combined {
    let kept = |lifts| Combined { value: upper.clone(), lower_holds: false, lifts };
    let (Some(above), Some(below)) = (upper.as_object(), lower.as_object()) else { return kept(true) };
    let strictness = |then: &Value| tightness(Direction::Words(ENDS), then);
    let strictest = Value::from("fail");
    let mut merged = above.clone();
    for (key, value) in below {
        let before = above.get(key);
        let tightens = match key.as_str() {
            "then" => strictness(value) >= strictness(before.unwrap_or(&strictest)),
            "required" => value == true || before != Some(&Value::Bool(true)),
            _ => before == Some(value),
        };
        if !tightens {
            return kept(true);
        }
        merged.insert(key.clone(), value.clone());
    }
    let value = Value::Object(merged);
    Combined { lower_holds: value != *upper, value, lifts: false }
}

fn narrow(direction: Direction, upper: &Value, lower: &Value) -> Combined {
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
    };
    let (above, below) = (texts(upper), texts(lower));
    if direction == Direction::People && above.is_empty() {
        return Combined { value: lower.clone(), lower_holds: true, lifts: false };
    }
    let within = |item: &&String| match direction {
        Direction::People => above.contains(item),
        _ => above.iter().any(|place| Path::new(item.as_str()).starts_with(place)),
    };
    let kept: Vec<&String> = below.iter().filter(within).collect();
    // Everybody, or nobody at all, is not fewer people.
    let nobody = direction == Direction::People && kept.is_empty();
    let lifts = kept.len() < below.len() || nobody;
    let value = if nobody { upper.clone() } else { Value::from(kept.into_iter().cloned().collect::<Vec<_>>()) };
    Combined { value, lower_holds: !nobody, lifts }
}
