//! What an agent's requests to a model have in common, fixed when the agent
//! starts: the journal says it whole, so that a changed deploy or a changed tool
//! list of an MCP server cannot change a conversation that is under way.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::failure::{Failure, FailureClass};

/// What stays the same in every request of one agent step. Only a change of models, which is an
/// event of its own, alters it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct RequestHead {
    /// The model's name in `teamster.yaml`.
    pub alias: String,
    /// The provider's name in `teamster.yaml`.
    pub provider: String,
    /// The model's name at the provider.
    pub model: String,
    /// The most tokens that one reply may have.
    pub max_tokens: u32,
    /// The system prompt; empty for none.
    pub system: String,
    /// The tools offered: `{name, description, input_schema}` each, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Value>,
    /// The JSON Schema that the final output must fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_schema: Option<Value>,
    /// Provider options that the agent or pipeline set (`effort`, `temperature`, …).
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub options: Map<String, Value>,
    /// What else is known of the model.
    #[serde(default, skip_serializing_if = "is_default")]
    pub settings: ModelSettings,
    /// The models that are asked when this one does not answer.
    #[serde(default, skip_serializing_if = "Fallback::is_none")]
    pub fallback: Fallback,
    /// How a long conversation is kept within what the model can read.
    #[serde(default, skip_serializing_if = "is_default")]
    pub context: ContextRules,
}

/// How a long conversation is kept within what the model can read.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContextRules {
    /// When it is summarised; nothing: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compaction: Option<Compaction>,
    /// The most bytes of a tool's result that the model sees at once; nothing: all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shown: Option<usize>,
}

/// When a conversation is summarised, and what stays as it is. What users write under `compaction:`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Compaction {
    /// At which part of the model's context window. Default 0.8.
    pub at: f64,
    /// How many of the last turns stay verbatim; fewer, if they alone fill the window. Default 4.
    pub keep_turns: u32,
}

impl Default for Compaction {
    fn default() -> Self {
        Self { at: 0.8, keep_turns: 4 }
    }
}

impl Compaction {
    /// What is wrong with it, if anything.
    pub fn check(&self) -> Result<(), String> {
        if !(0.1..=1.0).contains(&self.at) {
            return Err(format!("`at` is {}, and must be a part of the context window from 0.1 to 1", self.at));
        }
        if self.keep_turns > 1_000 {
            return Err(format!("`keep_turns` is {}, and may be at most 1000", self.keep_turns));
        }
        Ok(())
    }
}

/// A model that an agent can talk to.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ModelChoice {
    /// The model's name in `teamster.yaml`.
    pub alias: String,
    /// The provider's name in `teamster.yaml`.
    pub provider: String,
    /// The model's name at the provider.
    pub model: String,
    /// Provider options.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub options: Map<String, Value>,
    /// What else is known of it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub settings: ModelSettings,
}

/// What is known of a model beside its name and options.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelSettings {
    /// What a reply from another model does.
    #[serde(skip_serializing_if = "is_default")]
    pub on_other_model: OnOtherModel,
    /// How it is held to the schema of an output.
    #[serde(skip_serializing_if = "is_default")]
    pub structured: Structured,
    /// How many tokens it can read and write together; nothing: nobody said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_window: Option<u64>,
    /// For how long its provider keeps what was read of a conversation.
    #[serde(skip_serializing_if = "is_default")]
    pub cache: CacheTtl,
}

/// For how long a provider keeps the beginning of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum CacheTtl {
    /// Five minutes since it was last used.
    #[default]
    #[serde(rename = "5m")]
    Minutes,
    /// An hour since it was last used; what is written costs more.
    #[serde(rename = "1h")]
    Hour,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What a reply from another model than the one that was asked does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnOtherModel {
    /// Nothing.
    Accept,
    /// It is journaled, and the step goes on.
    #[default]
    Warn,
    /// It is journaled, and the step fails.
    Fail,
}

/// How a model is held to the schema of an output. The step validates the output in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Structured {
    /// By the API's own format; by a tool, where the format cannot express the schema.
    #[default]
    Native,
    /// It must call a tool whose arguments are the output.
    Tool,
    /// It is told in words.
    Prompt,
}

/// Which models are asked when one does not answer, and after what.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Fallback {
    /// The models that are left, the next one first.
    pub models: Vec<ModelChoice>,
    /// After which failures.
    pub on: Vec<FailureClass>,
    /// How often one model is tried before the next is; nothing: as the retry policy says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tries: Option<u32>,
}

impl Fallback {
    /// Whether there is no other model.
    pub const fn is_none(&self) -> bool {
        self.models.is_empty()
    }

    /// The model that is next after a failure that was the `failed_tries`-th of this one. `over` says that the retry
    /// policy has nothing more to say.
    pub fn after(&self, failure: &Failure, failed_tries: u32, over: bool) -> Option<&ModelChoice> {
        let exhausted = over || self.tries.is_some_and(|tries| failed_tries >= tries);
        self.models.first().filter(|_| exhausted && self.on.contains(&failure.class))
    }
}

impl RequestHead {
    /// Asks another model from now on; those before it in the list of fallbacks are not asked any more.
    pub fn change_model(&mut self, to: &ModelChoice) {
        let ModelChoice { alias, provider, model, options, settings } = to.clone();
        if let Some(at) = self.fallback.models.iter().position(|known| known == to) {
            self.fallback.models.drain(..=at);
        }
        *self = Self { alias, provider, model, options, settings, ..std::mem::take(self) };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn choice(alias: &str) -> ModelChoice {
        ModelChoice { alias: alias.to_owned(), model: format!("model-{alias}"), ..ModelChoice::default() }
    }

    fn head(tries: Option<u32>) -> RequestHead {
        let on = vec![FailureClass::Overloaded, FailureClass::Refused];
        let fallback = Fallback { models: vec![choice("b"), choice("c")], on, tries };
        RequestHead { alias: "a".to_owned(), system: "s".to_owned(), fallback, ..RequestHead::default() }
    }

    fn overloaded() -> Failure {
        Failure::new(FailureClass::Overloaded, "529")
    }

    #[test]
    fn the_next_model_is_asked_when_the_retry_policy_is_through_or_after_so_many_tries() {
        let next = |tries, failed, over| head(tries).fallback.after(&overloaded(), failed, over).cloned();
        assert_eq!(next(None, 3, false), None);
        assert_eq!(next(None, 4, true), Some(choice("b")));
        assert_eq!(next(Some(2), 1, false), None);
        assert_eq!(next(Some(2), 2, false), Some(choice("b")));
        let other = Failure::new(FailureClass::Billing, "402");
        assert_eq!(head(Some(1)).fallback.after(&other, 9, true), None);
    }

    #[test]
    fn a_change_keeps_all_but_the_model_and_uses_the_list_up() {
        let mut head = head(None);
        head.change_model(&choice("b"));
        assert_eq!((head.alias.as_str(), head.model.as_str(), head.system.as_str()), ("b", "model-b", "s"));
        assert_eq!(head.fallback.models, [choice("c")]);
        head.change_model(&choice("c"));
        assert!(head.fallback.is_none());
    }

    #[test]
    fn a_head_that_was_written_before_there_were_fallbacks_is_read_as_one_without() {
        let old = r#"{"alias":"a","provider":"p","model":"m","max_tokens":1,"system":""}"#;
        let head: RequestHead = serde_json::from_str(old).unwrap();
        assert!(head.fallback.is_none());
        assert_eq!(serde_json::to_string(&head).unwrap(), old);
    }
}
