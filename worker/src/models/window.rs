//! How much models can read: a table that ships as data, and what the operator
//! says instead. The windows are those that every account has; larger ones are
//! an operator's to name (`models.NAME.context_window`).

use std::collections::BTreeMap;

use common::failure::{Failure, FailureClass};

use super::price::undated;

/// Context windows by model.
#[derive(Debug, Default)]
pub struct Windows(BTreeMap<String, u64>);

impl Windows {
    /// The table that ships.
    ///
    /// # Errors
    /// `Internal`, when the data in this program is broken; a test excludes that.
    pub fn shipped() -> Result<Self, Failure> {
        serde_json::from_str(include_str!("context_windows.json"))
            .map(Self)
            .map_err(|e| Failure::new(FailureClass::Internal, format!("the table of context windows is broken: {e}")))
    }

    /// How many tokens a model reads and writes together; `None`: nobody said.
    pub fn of(&self, model: &str) -> Option<u64> {
        self.0.get(undated(model)).copied()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_table_that_ships_can_be_read_and_knows_the_models_that_have_a_price() {
        let windows = Windows::shipped().unwrap();
        assert_eq!(windows.of("claude-haiku-4-5-20251001"), Some(200_000));
        assert_eq!(windows.of("llama3"), None);
    }
}
