//! Signals from outside the lease.

use super::connection::Stop;
use super::transaction::{Told, Transaction};
use crate::id::TaskId;
use crate::store::{Limits, SignalError, Signalled, StoreError};
use crate::task::Signal;

/// Room beside the value that a signal carries, in bytes of JSON.
const ENVELOPE: usize = 64 << 10;

/// What a person sends is as large as an input at most.
pub(super) fn check_size(signal: &Signal, limits: &Limits) -> Result<(), SignalError> {
    let encoded = serde_json::to_string(signal).map_err(|error| StoreError::Refused(error.to_string()))?;
    let limit = limits.input_bytes.saturating_add(ENVELOPE);
    if encoded.len() > limit {
        let bytes = encoded.len();
        return Err(StoreError::Refused(format!(
            "the signal has {bytes} bytes; at most {limit} are allowed (limits.input)"
        ))
        .into());
    }
    Ok(())
}

/// Gives a signal to a task: applied now, or kept for its holder.
pub(super) fn signal(tx: &mut Transaction<'_>, task: TaskId, signal: &Signal) -> Result<Signalled, Stop<SignalError>> {
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
