//! What is counted of all tasks together.

use common::clock::Timestamp;
use common::store::Reading;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A meter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Meter {
    /// What is counted: `budget NAME usd`, `rate NAME requests`, `concurrency PIPELINE/KEY`, `task ID tokens`, …
    /// Dollars are counted in millionths.
    pub name: String,
    /// When it is forgotten: `total`, `every 1d`, `idle 30d`, `places` (given back at the end of a call or task).
    pub window: String,
    /// How much is used or reserved.
    pub used: u64,
    /// How much may be, as it was said last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Since when this is counted.
    #[schema(value_type = String, format = "date-time")]
    pub since: Timestamp,
    /// Nothing is granted before: a provider asked for a pause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "date-time")]
    pub held_until: Option<Timestamp>,
}

/// Meters by name, at most 1,000.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MeterList {
    /// Those that count something.
    pub meters: Vec<Meter>,
}

impl From<Reading> for Meter {
    fn from(reading: Reading) -> Self {
        let Reading { meter, used, limit, since, held_until } = reading;
        Self { name: meter.name.to_string(), window: meter.window.to_string(), used, limit, since, held_until }
    }
}
