//! Signals from outside the lease.

use super::connection::Stop;
use super::entries::{Entries, Reach};
use super::transaction::Transaction;
use crate::id::TaskId;
use crate::journal::Reference;
use crate::store::{SignalError, Signalled};
use crate::task::Signal;

/// Gives a signal to a task: applied now, or kept for its holder.
pub(super) fn signal(tx: &mut Transaction<'_>, task: TaskId, signal: &Signal) -> Result<Signalled, Stop<SignalError>> {
    let mut entries = Entries::open(tx);
    entries.load(task, Reach::Family)?;
    let signalled = entries.perform(|book| book.signal(task, signal))?;
    entries.expect_blobs(&Reference::in_signal(signal))?;
    entries.write()?;
    Ok(signalled)
}
