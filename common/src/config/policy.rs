//! Policy in layers: the organisation, the project, a team, a task. Each says
//! what holds; a lower layer can tighten what an upper one says, never lift it.
//!
//! Pure: reads layers, and says what comes of them and where each value is
//! from. A layer is written in the words of `teamster.yaml`.

mod defaults;
mod direction;
mod layer;
mod merge;

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use super::{Guards, Permissions, guards};
use crate::diagnostic::{Diagnostic, Place, SourceFile};

pub use self::defaults::defaults;
pub(crate) use self::layer::{organisation, project, task, task_guards, team};
pub(crate) use self::merge::patch;
pub use self::merge::{Merged, merge};

/// Who says something, from top to bottom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// `/etc/teamster/policy.yaml`, and the file that `TEAMSTER_POLICY` names.
    Organisation,
    /// `teamster.yaml`.
    Project,
    /// `teams/NAME.yaml`, for the pipelines that say `team: NAME`.
    Team,
    /// The pipeline itself.
    Task,
    /// Nobody: what holds where nothing is said.
    Default,
}

/// One value that somebody wrote.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Setting {
    /// Its key, with points: `permissions.votes`, `sandbox.bash.network`.
    pub key: String,
    /// The value; of a list of rules or hooks, one of them.
    pub value: Value,
    /// Who wrote it.
    pub layer: Level,
    /// Where: the file; empty for a default.
    pub file: String,
    /// Where in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    #[serde(skip)]
    pub(crate) at: Option<Place>,
}

/// What one file says of policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    level: Level,
    file: SourceFile,
    settings: Vec<Setting>,
}

/// A value that would lift what an upper layer says.
#[derive(Debug, Clone, PartialEq)]
pub struct Lift {
    /// What holds.
    pub upper: Setting,
    /// What does not.
    pub lower: Setting,
}

impl Level {
    /// The word for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Organisation => "organisation",
            Self::Project => "project",
            Self::Team => "team",
            Self::Task => "task",
            Self::Default => "default",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Setting {
    /// `file:line`; nothing for a default.
    pub fn place(&self) -> String {
        match self.line {
            Some(line) => format!("{}:{line}", self.file),
            None => self.file.clone(),
        }
    }
}

impl Layer {
    /// The file that it stands in.
    pub fn file(&self) -> &str {
        &self.file.name
    }

    /// Whose it is.
    pub const fn level(&self) -> Level {
        self.level
    }

    /// What it says.
    pub fn settings(&self) -> &[Setting] {
        &self.settings
    }

    /// Its rules about calls, with defaults for what it does not say.
    pub fn permissions(&self) -> Permissions {
        let mut said = serde_json::Map::new();
        for setting in &self.settings {
            let Some(key) = setting.key.strip_prefix("permissions.") else { continue };
            if matches!(key, "allow" | "ask" | "deny") {
                let list = said.entry(key).or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(list) = list {
                    list.push(setting.value.clone());
                }
            } else {
                said.insert(key.to_owned(), setting.value.clone());
            }
        }
        // It was read before, with all that could be wrong.
        serde_json::from_value(Value::Object(said)).unwrap_or_default()
    }

    /// The names of the guards that it says something of.
    pub fn guard_names(&self) -> impl Iterator<Item = &str> {
        self.settings.iter().filter_map(|setting| setting.key.strip_prefix("guards."))
    }

    /// The guards of everything above with those of this layer, a team or a pipeline, under them.
    pub fn guards(&self, above: &Guards) -> Guards {
        let said =
            self.settings.iter().filter_map(|setting| Some((setting.key.strip_prefix("guards.")?, &setting.value)));
        guards::under(above, said)
    }

    /// The permissions of everything above with those of this layer under them: who is asked, and until when.
    pub fn tighten(&self, above: &Permissions) -> Permissions {
        let own = self.permissions();
        let says = |key: &str| self.settings.iter().any(|setting| setting.key == key);
        let mut all = above.clone();
        if says("permissions.allow_bypass") {
            all.allow_bypass &= own.allow_bypass;
        }
        if says("permissions.votes") {
            all.votes = all.votes.max(own.votes);
        }
        if says("permissions.expires") {
            all.expires = all.expires.min(own.expires);
        }
        if says("permissions.approvers") && !own.approvers.is_empty() {
            let known = |name: &String| above.approvers.is_empty() || above.approvers.contains(name);
            let both: Vec<String> = own.approvers.into_iter().filter(known).collect();
            // Nobody is no ceiling: who is above holds.
            if !both.is_empty() {
                all.approvers = both;
            }
        }
        all
    }
}

impl Lift {
    /// As a problem, in the place of the lower value.
    pub(crate) fn problem(&self, file: &SourceFile) -> Diagnostic {
        let Self { upper, lower } = self;
        let message = format!("`{}: {}` lifts what the {} says: {}", lower.key, lower.value, upper.layer, upper.value);
        file.error(lower.at, message).with_help(format!(
            "{} holds, from {}; only a tighter value can stand here",
            upper.value,
            upper.place()
        ))
    }
}

#[cfg(test)]
mod tests;
