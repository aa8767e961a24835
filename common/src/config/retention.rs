//! What is kept of finished tasks, as users write it.

use serde::Deserialize;

use super::Size;
use crate::span::Span;
use crate::store;

/// What is kept of finished tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// Succeeded and cancelled tasks.
    pub finished: Keep,
    /// Dead letters.
    pub dead: Keep,
}

/// How many, how long and how much; `null` is no bound. The oldest go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Keep {
    /// At most so many tasks. Default 1 million.
    pub count: Option<u64>,
    /// At most for so long. Default `30d`.
    pub age: Option<Span>,
    /// At most so much journal. Default `8GiB`.
    pub bytes: Option<Size>,
}

impl Default for Keep {
    fn default() -> Self {
        let store::Keep { count, age, bytes } = store::Keep::default();
        Self { count, age, bytes: bytes.map(Size) }
    }
}

impl From<Keep> for store::Keep {
    fn from(Keep { count, age, bytes }: Keep) -> Self {
        Self { count, age, bytes: bytes.map(|size| size.0) }
    }
}

impl From<Retention> for store::Retention {
    fn from(Retention { finished, dead }: Retention) -> Self {
        Self { finished: finished.into(), dead: dead.into() }
    }
}
