//! Signals from outside the lease.

use super::blob;
use super::connection::Stop;
use super::transaction::{Told, Transaction};
use crate::id::TaskId;
use crate::journal::Reference;
use crate::store::{SignalError, Signalled};
use crate::task::Signal;

/// Gives a signal to a task: applied now, or kept for its holder.
pub(super) fn signal(tx: &mut Transaction<'_>, task: TaskId, signal: &Signal) -> Result<Signalled, Stop<SignalError>> {
    blob::expect(tx, &Reference::in_signal(signal))?;
    match tx.tell(task, signal)? {
        Told::Applied(changed) => {
            let state = changed.after.state.name();
            tx.settle(*changed)?;
            Ok(Signalled::Applied(state))
        }
        Told::Kept => Ok(Signalled::Requested),
        Told::Refused(refusal) => Err(Stop::Refused(refusal.into())),
        Told::Missing => Err(Stop::Refused(SignalError::NotFound(task))),
        Told::Unreadable(unreadable) => Err(Stop::Refused(unreadable.damage().into())),
    }
}
