//! What a failed statement means, by what is done next.

use tokio_postgres::error::{Error, SqlState};

use crate::store::StoreError;

/// Why statements failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// The transaction was undone because of another one: it is done again.
    Conflict(String),
    /// No connection can be made; nothing was begun.
    Unreachable(String),
    /// The connection is gone; what was under way may or may not have been committed.
    Lost(String),
    /// It does not work now, for all that this connection knows.
    Unavailable(String),
    /// A person must look.
    Damaged(String),
}

/// Why an operation did not come to an answer.
#[derive(Debug)]
pub(super) enum Stop<E> {
    /// It is refused; nothing was changed.
    Refused(E),
    /// See [`Fault`].
    Fault(Fault),
}

impl<E> From<Fault> for Stop<E> {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl<E: From<StoreError>> Stop<E> {
    /// What the caller is told.
    pub(super) fn into_error(self) -> E {
        match self {
            Self::Refused(error) => error,
            Self::Fault(fault) => StoreError::from(fault).into(),
        }
    }
}

impl Fault {
    /// A row that cannot be read.
    pub(super) fn damaged(what: &str, why: &dyn std::fmt::Display) -> Self {
        Self::Damaged(format!("{what} cannot be read by this version: {why}"))
    }

    /// The same for a connection that was about to be made.
    pub(super) fn while_connecting(self) -> Self {
        match self {
            Self::Lost(why) | Self::Unavailable(why) | Self::Conflict(why) | Self::Unreachable(why) => {
                Self::Unreachable(why)
            }
            Self::Damaged(why) => Self::Damaged(why),
        }
    }

    /// Whether nothing was changed and doing it again may help.
    pub(super) const fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict(_))
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Damaged(why) => Self::Damaged(why),
            Fault::Lost(why) => Self::Unavailable(format!(
                "{why}; whether the last write was done is not known, and it is safe to repeat it"
            )),
            Fault::Unreachable(why) => Self::Unavailable(format!("Postgres cannot be reached: {why}")),
            Fault::Conflict(why) | Fault::Unavailable(why) => Self::Unavailable(why),
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let Some(state) = error.code() else {
            let why = chain(&error);
            // Without a word from the server it is the connection, or a value that does not fit its column.
            return if error.is_closed() || std::error::Error::source(&error).is_some_and(is_io) {
                Self::Lost(format!("the connection to Postgres is lost: {why}"))
            } else {
                Self::Unavailable(why)
            };
        };
        let said = chain(&error);
        let code = state.code();
        let advice = match *state {
            SqlState::T_R_SERIALIZATION_FAILURE | SqlState::T_R_DEADLOCK_DETECTED | SqlState::UNIQUE_VIOLATION => {
                return Self::Conflict(said);
            }
            SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN | SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT => {
                return Self::Lost(format!("Postgres ended the connection: {said}"));
            }
            SqlState::READ_ONLY_SQL_TRANSACTION => {
                return Self::Lost(format!(
                    "{said}: this server is read-only (a standby, or a failover is under way); name the primary in the \
                     URL, or all hosts with target_session_attrs=read-write"
                ));
            }
            SqlState::DATA_CORRUPTED | SqlState::INDEX_CORRUPTED => {
                return Self::Damaged(format!("{said}; restore the database from a backup"));
            }
            SqlState::UNDEFINED_TABLE | SqlState::UNDEFINED_COLUMN => {
                return Self::Damaged(format!("{said}; the schema was changed by something else"));
            }
            SqlState::CANNOT_CONNECT_NOW => "the server is starting or stopping; wait for it",
            SqlState::TOO_MANY_CONNECTIONS | SqlState::CONFIGURATION_LIMIT_EXCEEDED => {
                "raise max_connections of the server, or run fewer processes or writers (?writers=)"
            }
            SqlState::DISK_FULL => "free space on the server's disk",
            SqlState::OUT_OF_MEMORY | SqlState::INSUFFICIENT_RESOURCES => "the server is short of memory",
            SqlState::LOCK_NOT_AVAILABLE => "another transaction holds a lock for too long; look into pg_locks",
            SqlState::QUERY_CANCELED => "the server was too slow, or someone cancelled the statement",
            SqlState::INSUFFICIENT_PRIVILEGE => "grant the role CREATE and USAGE on the schema and its tables",
            SqlState::INVALID_SQL_STATEMENT_NAME | SqlState::DUPLICATE_PSTATEMENT => {
                "a pooler in transaction mode stands in between (PgBouncer?); connect to Postgres itself, or use session \
                 pooling"
            }
            _ if code.starts_with("08") => return Self::Lost(said),
            _ => return Self::Unavailable(format!("{said} (SQLSTATE {code})")),
        };
        Self::Unavailable(format!("{said}; {advice}"))
    }
}

fn is_io(source: &(dyn std::error::Error + 'static)) -> bool {
    source.is::<std::io::Error>()
}

/// An error with all that caused it: `tokio_postgres` says only "db error" by itself.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        said = format!("{said}: {source}");
        cause = source.source();
    }
    said.trim_start_matches("db error: ").to_owned()
}
