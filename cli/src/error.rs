//! Why a command did not do what it was asked for. The kind decides the exit
//! code, so that scripts need not read messages.

use std::fmt;
use std::process::ExitCode;

use serde_json::{Value, json};

/// What the end of a command means; the number is the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// What was asked for did not succeed.
    Failed = 1,
    /// The command line cannot be understood (clap uses the same number).
    Usage = 2,
    /// There is no such task, approval, batch, pipeline or file.
    NotFound = 3,
    /// The input is not valid, or the state of the task does not allow it.
    Refused = 4,
    /// The store or the API cannot be used right now: try again.
    Unavailable = 5,
    /// The API wants a token, or another one.
    Denied = 6,
    /// The task that was waited for was cancelled.
    Cancelled = 7,
    /// The time for waiting is over; the task goes on.
    NotDone = 8,
    /// Stopped by a signal.
    Interrupted = 130,
}

/// The text that `--help` ends with.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0    done; with --wait: every task succeeded
  1    what was asked for failed; with --wait: a task is dead
  2    the command line is wrong
  3    there is no such task, approval, batch, pipeline or file
  4    refused: invalid input or definition, or the task's state does not allow it
  5    the store or the API cannot be used right now; trying again may help
  6    the API wants a token (TEAMSTER_TOKEN), or another one
  7    with --wait: the task was cancelled
  8    with --wait --timeout: not done in time; it goes on
  130  interrupted";

impl Exit {
    /// The kind as `--json` names it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::NotFound => "not_found",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
            Self::Denied => "denied",
            Self::Cancelled => "cancelled",
            Self::NotDone => "not_done",
            Self::Interrupted => "interrupted",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A command that did not succeed.
#[derive(Debug)]
pub(crate) struct CommandError {
    /// The exit code.
    pub(crate) exit: Exit,
    /// What was wrong, where, and what to do about it. Empty where the output has said it all.
    pub(crate) message: String,
}

impl CommandError {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// The outcome was printed already; only the exit code is left to give.
    pub(crate) fn silent(exit: Exit) -> Self {
        Self::new(exit, "")
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::new(Exit::Refused, message)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Exit::Unavailable, message)
    }

    /// As `--json` prints it, on stderr.
    pub(crate) fn to_json(&self) -> Value {
        json!({"error": {"kind": self.exit.as_str(), "code": self.exit as u8, "message": self.message}})
    }

    /// Whether only the reader of our output went away (`teamster tasks list | head`).
    pub(crate) fn is_broken_pipe(error: &std::io::Error) -> bool {
        error.kind() == std::io::ErrorKind::BrokenPipe
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CommandError {}

impl From<anyhow::Error> for CommandError {
    fn from(error: anyhow::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(own) => own,
            Err(other) => Self::new(Exit::Failed, format!("{other:#}")),
        }
    }
}

impl From<std::io::Error> for CommandError {
    fn from(error: std::io::Error) -> Self {
        if Self::is_broken_pipe(&error) {
            return Self::silent(Exit::Failed);
        }
        Self::new(Exit::Failed, error.to_string())
    }
}

impl From<common::transfer::TransferError> for CommandError {
    fn from(error: common::transfer::TransferError) -> Self {
        use common::transfer::TransferError::{Store, Text, Write};
        match error {
            Store(error) => error.into(),
            Write(error) => error.into(),
            Text { .. } => Self::refused(error.to_string()),
        }
    }
}

impl From<common::broker::BrokerError> for CommandError {
    fn from(error: common::broker::BrokerError) -> Self {
        use common::broker::BrokerError::{Misconfigured, Unavailable};
        let exit = match error {
            Unavailable(_) => Exit::Unavailable,
            Misconfigured(_) => Exit::Refused,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<common::store::StoreError> for CommandError {
    fn from(error: common::store::StoreError) -> Self {
        use common::store::StoreError::{Damaged, Refused, Unavailable};
        let exit = match error {
            Unavailable(_) | Damaged(_) => Exit::Unavailable,
            Refused(_) => Exit::Refused,
        };
        Self::new(exit, error.to_string())
    }
}
