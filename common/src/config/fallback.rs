//! Which models are asked when one does not answer.

use std::fmt;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::failure::FailureClass;

/// The most models of one list.
pub(crate) const MOST: usize = 10;

/// `fallback: [haiku, local]`, or with more to say `fallback: { models: [haiku], on: [overloaded], tries: 1 }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fallback {
    /// The models by their names in `teamster.yaml`, the first one first.
    pub models: Vec<String>,
    /// After which failures. Default: `overloaded` (529, 503) and `refused`.
    pub on: Vec<FailureClass>,
    /// How often one model is tried before the next is; nothing: as the retry policy says. With 1, the next
    /// is asked at once.
    pub tries: Option<u32>,
}

const DEFAULT_ON: [FailureClass; 2] = [FailureClass::Overloaded, FailureClass::Refused];

impl Fallback {
    /// What is wrong with it, if anything.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.models.is_empty() || self.models.len() > MOST {
            return Err(format!("`fallback` names 1 to {MOST} models, and this one {}", self.models.len()));
        }
        if self.tries == Some(0) {
            return Err("`tries` must be at least 1".to_owned());
        }
        if self.on.is_empty() {
            return Err("`on` names no failure: no other model would ever be asked".to_owned());
        }
        Ok(())
    }
}

/// The long form.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Long {
    models: Vec<String>,
    #[serde(default)]
    on: Option<Vec<FailureClass>>,
    #[serde(default)]
    tries: Option<u32>,
}

// By hand, since an untagged enum hides why a value does not fit.
impl<'de> Deserialize<'de> for Fallback {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FallbackVisitor;

        impl<'de> Visitor<'de> for FallbackVisitor {
            type Value = Fallback;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of models, or a mapping with the key `models`")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Fallback, A::Error> {
                let models = Vec::deserialize(SeqAccessDeserializer::new(seq))?;
                Ok(Fallback { models, on: DEFAULT_ON.to_vec(), tries: None })
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Fallback, A::Error> {
                let Long { models, on, tries } = Long::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Fallback { models, on: on.unwrap_or_else(|| DEFAULT_ON.to_vec()), tries })
            }
        }

        deserializer.deserialize_any(FallbackVisitor)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn read(value: serde_json::Value) -> Result<Fallback, String> {
        let fallback: Fallback = serde_json::from_value(value).map_err(|error| error.to_string())?;
        fallback.check().map(|()| fallback)
    }

    #[test]
    fn a_list_means_overload_and_refusal_after_the_retries() {
        let short = read(json!(["haiku"])).unwrap();
        assert_eq!(short, Fallback { models: vec!["haiku".to_owned()], on: DEFAULT_ON.to_vec(), tries: None });
        let long = read(json!({"models": ["a", "b"], "on": ["unavailable"], "tries": 1})).unwrap();
        assert_eq!((long.on, long.tries), (vec![FailureClass::Unavailable], Some(1)));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for wrong in [
            json!([]),
            json!({"models": ["a"], "tries": 0}),
            json!({"models": ["a"], "on": []}),
            json!({"models": ["a"], "on": ["sometimes"]}),
            json!({"models": ["a"], "when": 1}),
            json!("haiku"),
        ] {
            assert!(read(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
