//! Appending to a journal, under a lease.

use super::blob;
use super::connection::Stop;
use super::lease::holds;
use super::row::{Found, Stored};
use super::transaction::{Aside, Transaction};
use crate::id::TaskId;
use crate::journal::Event;
use crate::store::intake::Encoded;
use crate::store::{Append, AppendError, Appended, ledger};
use crate::task::Signal;

/// Writes it.
pub(super) fn append(
    tx: &mut Transaction<'_>,
    append: &Append,
    encoded: &Encoded,
) -> Result<Appended, Stop<AppendError>> {
    let lost = || Stop::Refused(AppendError::LeaseLost(append.task));
    let stored = match tx.find(append.task)? {
        Found::Missing => return Err(lost()),
        Found::Unreadable(unreadable) => return Err(Stop::Refused(unreadable.damage().into())),
        Found::Readable(stored) => *stored,
    };
    if let Some(last) = stored.last_append
        && last.id == append.id
    {
        // The answer was lost: it is given again, whatever happened to the lease since.
        return Ok(Appended { recorded: tx.events(append.task, last.from, last.to)? });
    }
    if !holds(tx, &stored, append.token) {
        return Err(lost());
    }
    if stored.head.version != append.expected {
        return Err(Stop::Refused(AppendError::Conflict {
            task: append.task,
            expected: append.expected,
            actual: stored.head.version,
        }));
    }
    let limit = tx.options.limits.journal_bytes;
    if encoded.counted_bytes > 0 && stored.journal_bytes.saturating_add(encoded.counted_bytes) > limit {
        return Err(Stop::Refused(AppendError::JournalFull { task: append.task, limit }));
    }
    blob::expect(tx, &encoded.blobs)?;
    let mut kept = tx.kept(&stored)?;
    kept.extend(ended_children(tx, &stored, &append.events)?);
    let mut after = stored.head.clone();
    let recorded = ledger::append(&mut after, append.events.clone(), append.next.clone(), &kept, tx.now)
        .map_err(|illegal| Stop::Refused(illegal.into()))?;
    let aside = Aside { append: Some(append.id), encoded: &encoded.events, took_up: true, lease: None };
    let changed = tx.save(stored, after, recorded, &aside)?;
    let answer = Appended { recorded: changed.recorded.clone() };
    tx.settle(changed)?;
    Ok(answer)
}

/// A child may be done before its parent has journaled that there is one, and
/// its signal may have come and gone by then. So whoever says that a task has a
/// child is told at once how it ended: no parent waits for a child that is done.
fn ended_children(tx: &Transaction<'_>, stored: &Stored, events: &[Event]) -> rusqlite::Result<Vec<Signal>> {
    let mut signals = Vec::new();
    for event in events {
        let Event::ChildSubmitted { child, .. } = event else { continue };
        if let Some(signal) = ended(tx, *child)?
            && *child != stored.head.id
        {
            signals.push(signal);
        }
    }
    Ok(signals)
}

fn ended(tx: &Transaction<'_>, child: TaskId) -> rusqlite::Result<Option<Signal>> {
    let stored = match tx.find(child)? {
        Found::Missing => return Ok(None),
        Found::Unreadable(unreadable) => return Ok(Some(ledger::lost_child(child, &unreadable.why.to_string()))),
        Found::Readable(stored) if !stored.head.state.is_terminal() => return Ok(None),
        Found::Readable(stored) => stored,
    };
    // The newest event of a task that is done is the one that ended it.
    match tx.events(child, stored.head.version, stored.head.version + 1) {
        Ok(newest) => Ok(ledger::ended(child, &newest)),
        Err(error @ rusqlite::Error::FromSqlConversionFailure(..)) => {
            Ok(Some(ledger::lost_child(child, &error.to_string())))
        }
        Err(error) => Err(error),
    }
}
