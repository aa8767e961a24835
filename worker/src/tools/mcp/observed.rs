//! What was seen of a server, for messages and for whoever decides whether it
//! is still of use.

use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use super::lines;

/// Bytes of the last lines on stderr that are kept for messages.
const LAST_WORDS: usize = 2000;

/// Why nothing more comes from a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum End {
    /// Its output ended.
    #[error(transparent)]
    Output(lines::End),
    /// It does not know the session any more, or does not take our word for who we are.
    #[error("it ended the session")]
    Session,
}

/// Shared between the connection and what runs behind it.
#[derive(Debug, Default)]
pub(super) struct Observed(Mutex<Observations>);

#[derive(Debug, Default, Clone)]
pub(super) struct Observations {
    /// Lines on stdout that were no JSON.
    pub(super) strays: u64,
    last_stray: String,
    /// The end of stderr.
    last_words: String,
    pub(super) ended: Option<(End, Instant)>,
}

impl Observed {
    pub(super) fn get(&self) -> Observations {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A line on stdout that is no JSON.
    pub(super) fn stray(&self, line: &[u8]) {
        let shown: String = String::from_utf8_lossy(line).trim_end().chars().take(120).collect();
        self.note(|seen| {
            seen.strays += 1;
            seen.last_stray = shown;
        });
    }

    /// A line on stderr.
    pub(super) fn said(&self, text: &str) {
        self.note(|seen| {
            seen.last_words.push_str(text);
            if let Some(excess) = seen.last_words.len().checked_sub(LAST_WORDS) {
                let ends = excess..=seen.last_words.len();
                let cut = ends.into_iter().find(|at| seen.last_words.is_char_boundary(*at)).unwrap_or(0);
                seen.last_words.drain(..cut);
            }
        });
    }

    /// Nothing more comes; the first reason counts.
    pub(super) fn ended(&self, end: End) {
        self.note(|seen| {
            seen.ended.get_or_insert_with(|| (end, Instant::now()));
        });
    }

    fn note(&self, note: impl FnOnce(&mut Observations)) {
        note(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Observations {
    /// What speaks for the failure beside its own words.
    pub(super) fn hints(&self) -> String {
        let mut hints = String::new();
        if let Some((end, _)) = &self.ended {
            let _ = write!(hints, ": {end}");
        }
        if self.strays > 0 {
            let _ = write!(hints, "; its stdout has lines that are no JSON-RPC, such as {:?}", self.last_stray);
        }
        if !self.last_words.is_empty() {
            let _ = write!(hints, "; its stderr ends with {:?}", self.last_words.trim_end());
        }
        hints
    }
}
