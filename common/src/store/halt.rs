//! The emergency stop: of the whole fleet, or of one pipeline. Pure; a store
//! keeps one halt of each, and what becomes of it is decided here.
//!
//! Workers look at the halts in force and start nothing that a halt covers; what
//! had to wait for it is woken when it is lifted. Until all of it is awake the
//! halt is [`HaltState::Lifting`], so that whoever wakes can be interrupted at any time.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::PipelineName;

/// A halt, in force or over: the newest of its kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Halt {
    /// Which pipeline; nothing for the whole fleet.
    pub pipeline: Option<PipelineName>,
    /// Since when, by the store's clock.
    pub at: Timestamp,
    /// Who halted it, as they call themselves.
    pub by: String,
    /// Why, in their words.
    pub reason: String,
    /// Whether it is still in force.
    pub state: HaltState,
}

/// Whether a halt is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum HaltState {
    /// No new model or tool call starts.
    InForce,
    /// Lifted; what waited for it is being woken.
    Lifting {
        /// When it was lifted.
        at: Timestamp,
        /// Who lifted it.
        by: String,
    },
    /// All that waited for it goes on.
    Over {
        /// When it was lifted.
        at: Timestamp,
        /// Who lifted it.
        by: String,
    },
}

/// What is to become of a halt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HaltChange {
    /// It begins. One that is in force already stays as it is.
    Begin {
        /// Which pipeline; nothing for the whole fleet.
        pipeline: Option<PipelineName>,
        /// Who asks.
        by: String,
        /// Why.
        reason: String,
    },
    /// It is lifted, if it is in force; one that is lifted already stays as it is.
    Lift {
        /// Which pipeline; nothing for the whole fleet.
        pipeline: Option<PipelineName>,
        /// Who asks.
        by: String,
    },
    /// All that waited is awake, if it was lifted at that time and has not begun anew.
    End {
        /// Which pipeline; nothing for the whole fleet.
        pipeline: Option<PipelineName>,
        /// When it was lifted.
        lifted_at: Timestamp,
    },
}

impl Halt {
    /// Whether it is in force.
    pub fn is_in_force(&self) -> bool {
        self.state == HaltState::InForce
    }

    /// Whether it is about the tasks of a pipeline.
    pub fn covers(&self, pipeline: &PipelineName) -> bool {
        self.pipeline.as_ref().is_none_or(|own| own == pipeline)
    }
}

impl HaltChange {
    /// Which pipeline it is about; nothing for the whole fleet.
    pub fn pipeline(&self) -> Option<&PipelineName> {
        match self {
            Self::Begin { pipeline, .. } | Self::Lift { pipeline, .. } | Self::End { pipeline, .. } => {
                pipeline.as_ref()
            }
        }
    }

    /// The halt as it is to be, given the one that is known; nothing if there is nothing to be changed.
    pub fn apply(self, known: Option<&Halt>, now: Timestamp) -> Option<Halt> {
        match (self, known) {
            (Self::Begin { .. }, Some(known)) if known.is_in_force() => Some(known.clone()),
            (Self::Begin { pipeline, by, reason }, _) => {
                Some(Halt { pipeline, at: now, by, reason, state: HaltState::InForce })
            }
            (Self::Lift { by, .. }, Some(known)) if known.is_in_force() => {
                Some(Halt { state: HaltState::Lifting { at: now, by }, ..known.clone() })
            }
            // Asked again, since the answer was lost.
            (Self::Lift { .. }, Some(known)) if matches!(known.state, HaltState::Lifting { .. }) => Some(known.clone()),
            (Self::End { lifted_at, .. }, Some(known)) => match &known.state {
                HaltState::Lifting { at, by } if *at == lifted_at => {
                    Some(Halt { state: HaltState::Over { at: *at, by: by.clone() }, ..known.clone() })
                }
                _ => None,
            },
            (Self::Lift { .. } | Self::End { .. }, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn begin(by: &str) -> HaltChange {
        HaltChange::Begin { pipeline: None, by: by.to_owned(), reason: "why".to_owned() }
    }

    fn lift() -> HaltChange {
        HaltChange::Lift { pipeline: None, by: "b".to_owned() }
    }

    const fn end(lifted_at: Timestamp) -> HaltChange {
        HaltChange::End { pipeline: None, lifted_at }
    }

    #[test]
    fn a_halt_begins_once_is_lifted_once_and_ends_once() {
        let halt = begin("a").apply(None, at(1)).unwrap();
        assert!(halt.is_in_force());
        assert_eq!(begin("z").apply(Some(&halt), at(2)).unwrap(), halt, "the first one says who and why");
        assert_eq!(end(at(1)).apply(Some(&halt), at(2)), None);
        let lifted = lift().apply(Some(&halt), at(3)).unwrap();
        assert!(!lifted.is_in_force());
        assert_eq!(lift().apply(Some(&lifted), at(4)).unwrap(), lifted);
        assert_eq!(end(at(2)).apply(Some(&lifted), at(4)), None, "that was another one");
        let over = end(at(3)).apply(Some(&lifted), at(4)).unwrap();
        assert_eq!(over.state, HaltState::Over { at: at(3), by: "b".to_owned() });
        assert_eq!(end(at(3)).apply(Some(&over), at(4)), None);
        assert_eq!(lift().apply(Some(&over), at(4)), None);
    }

    #[test]
    fn who_wakes_does_not_end_a_halt_that_began_anew() {
        let lifted = lift().apply(begin("a").apply(None, at(1)).as_ref(), at(2)).unwrap();
        let anew = begin("c").apply(Some(&lifted), at(3)).unwrap();
        assert!(anew.is_in_force());
        assert_eq!(end(at(2)).apply(Some(&anew), at(4)), None);
    }

    #[test]
    fn a_halt_covers_its_pipeline_or_all() {
        let (one, other) = (PipelineName::new("one").unwrap(), PipelineName::new("other").unwrap());
        let mut halt = begin("a").apply(None, at(1)).unwrap();
        assert!(halt.covers(&one) && halt.covers(&other));
        halt.pipeline = Some(one.clone());
        assert!(halt.covers(&one) && !halt.covers(&other));
    }
}
