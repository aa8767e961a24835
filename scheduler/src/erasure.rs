//! Erasing the data of a task: also of the conversations that it left to later
//! tasks, which lie outside of its journal. Sessions first: what is erased of a
//! journal can be asked for again, and finds them all the same.

use std::collections::BTreeSet;
use std::time::Duration;

use common::id::{SessionName, TaskId};
use common::journal::Event;
use common::store::session::Session;
use common::store::{Erasure, KeepSession, SignalError, Store, StoreError};

/// Events that are read at once.
const PAGE: usize = 1_000;
/// How often a session is changed anew because somebody else did so meanwhile.
const TRIES: usize = 20;

/// Erases the data of a task that is done. Sessions are kept for `keep` from now on, without their conversations.
pub(crate) async fn erase(store: &dyn Store, task: TaskId, by: &str, keep: Duration) -> Result<Erasure, SignalError> {
    let head = store.head(task).await?;
    if head.is_some_and(|head| head.state.is_terminal()) {
        for name in sessions(store, task).await? {
            forget(store, &name, keep).await?;
        }
    }
    store.erase(task, by).await
}

/// The sessions that a task has gone on with.
async fn sessions(store: &dyn Store, task: TaskId) -> Result<BTreeSet<SessionName>, StoreError> {
    let mut names = BTreeSet::new();
    let mut after = 0;
    loop {
        let page = store.journal(task, after, PAGE).await?;
        for recorded in &page {
            after = recorded.seq;
            if let Event::SessionOpened { session, .. } | Event::SessionSaved { session, .. } = &recorded.event {
                names.insert(session.clone());
            }
        }
        if page.len() < PAGE {
            return Ok(names);
        }
    }
}

async fn forget(store: &dyn Store, name: &SessionName, keep: Duration) -> Result<(), StoreError> {
    for _ in 0..TRIES {
        let Some(kept) = store.session(name).await? else { return Ok(()) };
        let mut session = Session::read(&kept.body)?;
        if !session.forget() {
            return Ok(());
        }
        let body =
            session.write().ok_or_else(|| StoreError::Damaged(format!("the session {name} cannot be written")))?;
        if store.keep_session(KeepSession { name: name.clone(), expected: kept.version, body, keep }).await? {
            return Ok(());
        }
    }
    Err(StoreError::Unavailable(format!("others changed the session {name} again and again; erase the task once more")))
}
