//! Appending to a journal, under a lease.

use super::connection::Stop;
use super::entries::{Entries, Reach};
use super::transaction::Transaction;
use crate::store::book::AppendAnswer;
use crate::store::intake::Encoded;
use crate::store::{Append, AppendError, Appended, Next};

/// Writes it.
pub(super) fn append(
    tx: &mut Transaction<'_>,
    append: &Append,
    encoded: &Encoded,
) -> Result<Appended, Stop<AppendError>> {
    let reach = match append.next {
        Next::Continue | Next::Park(_) | Next::Release { .. } => Reach::Alone,
        Next::Succeed { .. } | Next::Cancel { .. } | Next::Die { .. } => Reach::Family,
    };
    let mut entries = Entries::open(tx);
    entries.load(append.task, reach)?;
    let recorded = match entries.perform(|book| book.append(append, encoded))? {
        AppendAnswer::Added(recorded) => {
            entries.expect_blobs(&encoded.blobs)?;
            entries.write()?;
            recorded
        }
        // The answer was lost: it is given again, whatever happened to the lease since.
        AppendAnswer::Repeated { from, to } => tx.events(append.task, from, to)?,
    };
    Ok(Appended { recorded })
}
