//! The emergency stop.

use common::clock::Timestamp;
use common::id::PipelineName;
use common::store::{self, HaltState};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /v1/halt`: no new model or tool call starts. The body may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BeginHalt {
    /// Only of the tasks of this pipeline; without it, of the whole fleet.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub pipeline: Option<PipelineName>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Who asks, as they call themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// A halt: the newest of the fleet or of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Halt {
    /// The pipeline; nothing for the whole fleet.
    #[schema(value_type = Option<String>)]
    pub pipeline: Option<PipelineName>,
    /// Whether it is in force.
    pub in_force: bool,
    /// Since when.
    #[schema(value_type = String, format = "date-time")]
    pub at: Timestamp,
    /// Who halted it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When it was lifted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "date-time")]
    pub lifted_at: Option<Timestamp>,
    /// Who lifted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifted_by: Option<String>,
}

/// Halts: of the fleet, then of pipelines by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HaltList {
    /// The newest of each, in force or not.
    pub halts: Vec<Halt>,
}

impl From<store::Halt> for Halt {
    fn from(halt: store::Halt) -> Self {
        let in_force = halt.is_in_force();
        let store::Halt { pipeline, at, by, reason, state } = halt;
        let (lifted_at, lifted_by) = match state {
            HaltState::InForce => (None, None),
            HaltState::Lifting { at, by } | HaltState::Over { at, by } => (Some(at), Some(by)),
        };
        Self { pipeline, in_force, at, by, reason, lifted_at, lifted_by }
    }
}
