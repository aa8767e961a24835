//! The private values of a task, encrypted: part of its journal, so that they
//! are kept, moved, and erased with it. What opens them is in [`crate::private`].

use std::collections::BTreeMap;
use std::collections::btree_map;

use serde::{Deserialize, Serialize};

use super::event::Event;
use crate::id::Token;

/// Ciphertexts by the token that stands for the value.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SealedValues(BTreeMap<Token, String>);

impl SealedValues {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The ciphertext of a token.
    pub fn get(&self, token: &Token) -> Option<&str> {
        self.0.get(token).map(String::as_str)
    }

    /// Whether there is one of this token.
    pub fn contains(&self, token: &Token) -> bool {
        self.0.contains_key(token)
    }

    /// Adds one. What is there already stays.
    pub fn add(&mut self, token: Token, ciphertext: String) {
        self.0.entry(token).or_insert(ciphertext);
    }

    /// Adds those of others. What is there already stays.
    pub fn add_all(&mut self, others: &Self) {
        for (token, ciphertext) in &others.0 {
            if !self.0.contains_key(token) {
                self.0.insert(token.clone(), ciphertext.clone());
            }
        }
    }

    /// Adds those that an event brings. What is there already stays.
    pub fn add_event(&mut self, event: &Event) {
        match event {
            Event::Submitted(submitted) => self.add_all(&submitted.sealed),
            Event::PrivateDataSealed { entries } => self.add_all(entries),
            Event::Replayed { sealed, .. } => self.add_all(sealed),
            _ => {}
        }
    }

    /// All of them, in the order of the tokens.
    pub fn iter(&self) -> btree_map::Iter<'_, Token, String> {
        self.0.iter()
    }

    /// The ciphertexts, in the order of the tokens.
    pub fn values(&self) -> btree_map::Values<'_, Token, String> {
        self.0.values()
    }

    /// The ciphertexts, to be changed.
    pub fn values_mut(&mut self) -> btree_map::ValuesMut<'_, Token, String> {
        self.0.values_mut()
    }
}

impl<'a> IntoIterator for &'a SealedValues {
    type Item = (&'a Token, &'a String);
    type IntoIter = btree_map::Iter<'a, Token, String>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
