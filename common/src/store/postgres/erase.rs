//! Erasing the data of a task that is done.

use super::blob;
use super::connection::Connection;
use super::fault::Stop;
use super::job::refused;
use super::read;
use super::transaction::{Rings, Transaction, Wanted};
use crate::id::TaskId;
use crate::store::{Erasure, SignalError, StoreError, StoreOptions};

/// Erases it.
pub(super) async fn erase(
    connection: &Connection,
    options: &StoreOptions,
    task: TaskId,
    by: &str,
) -> Result<(Result<Erasure, SignalError>, Rings), Stop<StoreError>> {
    let mut tx = Transaction::begin(connection, options).await?;
    tx.load(&Wanted::all(&[task])).await?;
    // Under the lock: nobody adds to it meanwhile.
    let journal = read::chain(connection, task, 0, usize::MAX).await?;
    let answer = refused(tx.settle(|book| book.erase(task, by, &journal)).await)?;
    if matches!(answer, Ok(Erasure::Erased)) {
        blob::end_use(&tx, &[task.as_uuid()]).await?;
    }
    Ok((answer, tx.commit().await?))
}
