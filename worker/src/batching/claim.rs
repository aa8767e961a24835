//! Who looks after a register: one worker at a time.
//!
//! No clocks are compared. The holder changes the register again and again; who
//! sees it stand still for the length of a lease, by their own watch, takes its
//! place. Whoever lost it finds out at the next change, which names the version
//! that it replaces, and does nothing more.

use std::time::Duration;

use common::id::WorkerId;
use common::store::StoreError;
use tokio::time::Instant;

use super::documents::{Documents, Versioned};
use super::register::Register;

/// A holder shows that it lives so many times before others would take its place.
pub(super) const BEATS: u32 = 4;

/// Why nothing more can be done with a register.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    /// Another worker looks after it.
    #[error("another worker looks after them")]
    Taken,
    /// Nobody knows: look at it anew.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A register that this worker looks after.
#[derive(Debug)]
pub(super) struct Claim {
    documents: Documents,
    provider: String,
    lease: Duration,
    version: u64,
    register: Register,
    /// When it was last changed.
    beaten: Instant,
}

/// A register of another worker, as it was seen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Watch {
    version: u64,
    since: Instant,
}

impl Claim {
    /// Takes a register that nobody looks after, or whose holder has been silent for too long; else what was seen.
    pub(super) async fn take(
        documents: &Documents,
        provider: &str,
        worker: &WorkerId,
        lease: Duration,
        seen: Versioned<Register>,
        watch: Option<Watch>,
    ) -> Result<Result<Self, Watch>, StoreError> {
        let Versioned { version, document: register } = seen;
        let since = watch.filter(|watch| watch.version == version).map_or_else(Instant::now, |watch| watch.since);
        let free = register.holder.as_ref().is_none_or(|holder| holder == worker) || since.elapsed() >= lease;
        let watch = Watch { version, since };
        if !free {
            return Ok(Err(watch));
        }
        let mut claim = Self {
            documents: documents.clone(),
            provider: provider.to_owned(),
            lease,
            version,
            register,
            beaten: Instant::now(),
        };
        match claim.change(|register| register.holder = Some(worker.clone())).await {
            Ok(()) => Ok(Ok(claim)),
            Err(Lost::Taken) => Ok(Err(watch)),
            Err(Lost::Store(error)) => Err(error),
        }
    }

    pub(super) const fn register(&self) -> &Register {
        &self.register
    }

    /// Changes the register, if it is still this worker's.
    pub(super) async fn change(&mut self, change: impl FnOnce(&mut Register)) -> Result<(), Lost> {
        let mut register = self.register.clone();
        change(&mut register);
        register.beats += 1;
        if !self.documents.replace_register(&self.provider, self.version, &register).await? {
            return Err(Lost::Taken);
        }
        (self.version, self.register, self.beaten) = (self.version + 1, register, Instant::now());
        Ok(())
    }

    /// Does something that may take long, and shows all the while that this worker lives. What was begun is dropped if
    /// the register is lost.
    pub(super) async fn during<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Lost> {
        let mut work = std::pin::pin!(work);
        loop {
            let next = self.beaten + self.lease / BEATS;
            // In this order: one that was stopped for long finds out that it has lost the register before it does anything.
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(next) => self.change(|_| {}).await?,
                done = &mut work => return Ok(done),
            }
        }
    }

    /// Shows that this worker lives, if that was long ago.
    pub(super) async fn beat(&mut self) -> Result<(), Lost> {
        if self.beaten.elapsed() < self.lease / BEATS {
            return Ok(());
        }
        self.change(|_| {}).await
    }

    /// Leaves the register to whoever wants it.
    pub(super) async fn leave(mut self) -> Result<(), Lost> {
        self.change(|register| register.holder = None).await
    }
}
