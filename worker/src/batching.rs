//! Model batches: requests of many tasks that go to a provider together and are
//! answered within a day, for half the price.
//!
//! A request waits in a *tray* until there are enough or the first has waited long
//! enough; then it is one *entry* of a batch. Both are documents in the store (kept
//! like sessions: bytes under a name, replaced only for who names what it replaces),
//! and hold ids only: the requests themselves are in the journals of their tasks and
//! made anew from there, byte for byte. What becomes of the batches of a provider
//! stands in its *register*, and one worker at a time looks after it: its *desk*.
//!
//! Any worker may die between any two lines. So a batch is noted before it is sent,
//! and looked for at the provider before it is sent again; and answers are told to
//! tasks as signals, which a task takes once.

mod claim;
mod delivery;
mod desk;
mod documents;
mod entries;
mod joining;
mod register;
mod sending;
mod tray;

use std::sync::Arc;
use std::time::Duration;

use common::clock::Clock;
use common::failure::Failure;
use common::id::{EntryId, ReservationId, WorkerId};
use common::shutdown::Shutdown;
use common::store::Store;
use futures::future::join_all;

use self::desk::Desk;
use self::documents::Documents;
use self::entries::Entries;
use self::joining::Joining;
use crate::definitions::Definitions;
use crate::fault::Fault;
use crate::halt::Halts;
use crate::outside::Outside;
use crate::quota::Quotas;

pub use self::joining::{Full, Inbox};

/// What model batches of a worker need of it.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Where tasks and documents are.
    pub store: Arc<dyn Store>,
    /// Models and their providers, and what is private.
    pub outside: Arc<Outside>,
    /// What answers count for.
    pub quotas: Arc<Quotas>,
    /// What must not be sent.
    pub halts: Arc<Halts>,
    /// Where the process dies, in drills.
    pub fault: Arc<Fault>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Who this is.
    pub worker: WorkerId,
    /// For how long a desk may be silent before another worker takes its place.
    pub lease: Duration,
}

/// The model batches of a worker.
#[derive(Debug)]
pub struct Batching {
    joining: Joining,
    around: Surroundings,
}

impl Batching {
    /// Nothing is looked after before [`Batching::run`].
    pub fn new(around: Surroundings) -> (Self, Inbox) {
        let (joining, inbox) = Joining::new(Arc::clone(&around.clock));
        (Self { joining, around }, inbox)
    }

    /// Puts a request where it waits for others. The same one again changes nothing.
    ///
    /// # Errors
    /// `Unavailable`, when the store cannot be written to.
    pub async fn join(&self, provider: &str, entry: EntryId) -> Result<Result<(), Full>, Failure> {
        self.joining.join(provider, entry).await
    }

    /// Takes requests in until the future is dropped, and looks after batches until the worker drains.
    pub async fn run(&self, inbox: Inbox, shutdown: &Shutdown) {
        let around = &self.around;
        let documents = Documents::new(Arc::clone(&around.store));
        let entries = Entries::new(around, Definitions::new(Arc::clone(&around.store)));
        let desks = around.outside.models.batch_providers().into_iter().map(|provider| {
            let options = around.outside.models.batches(&provider).unwrap_or_default();
            Desk::new(provider, options, around, &documents, &entries, inbox.joined())
        });
        let desks = join_all(desks.map(|desk| desk.run(shutdown)).collect::<Vec<_>>());
        tokio::join!(inbox.run(&documents, &around.worker), desks);
    }
}

/// What is reserved for a request in a model batch. It outlives the attempt that joined, so that its name does too.
///
/// # Errors
/// None: an entry's id is a name.
pub fn reservation(entry: &EntryId) -> Result<ReservationId, common::id::InvalidId> {
    ReservationId::new(format!("{} batch {entry}", entry.task()))
}
