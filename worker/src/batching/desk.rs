//! The desk of a provider: a loop that looks after its register while nobody else
//! does. What is to be done is said by [`super::register::due`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use common::clock::Timestamp;
use common::config::Batches as Options;
use common::id::EntryId;
use common::shutdown::Shutdown;
use common::store::StoreError;
use tokio::sync::watch;

use super::Surroundings;
use super::claim::{BEATS, Claim, Lost, Watch};
use super::documents::Documents;
use super::entries::Entries;
use super::register::{Seen, Stage, Step, due};
use super::tray::{Load, TRAYS, Waiting};
use crate::models::Provider;

/// How often somebody looks whether there is anything to look after.
const IDLE: Duration = Duration::from_secs(5);
/// How often who looks after it does.
const BUSY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// See the module.
pub(super) struct Desk<'a> {
    pub(super) provider: String,
    pub(super) options: Options,
    pub(super) around: &'a Surroundings,
    pub(super) documents: &'a Documents,
    pub(super) entries: &'a Entries,
    joined: watch::Receiver<()>,
    /// When each batch was looked at last.
    pub(super) looked: BTreeMap<u64, Timestamp>,
    /// How often each batch was looked for in vain.
    pub(super) missed: BTreeMap<u64, u32>,
    watch: Option<Watch>,
}

impl<'a> Desk<'a> {
    pub(super) fn new(
        provider: String,
        options: Options,
        around: &'a Surroundings,
        documents: &'a Documents,
        entries: &'a Entries,
        joined: watch::Receiver<()>,
    ) -> Self {
        let (looked, missed) = (BTreeMap::new(), BTreeMap::new());
        Self { provider, options, around, documents, entries, joined, looked, missed, watch: None }
    }

    /// Looks after the batches of the provider until the worker drains.
    pub(super) async fn run(mut self, shutdown: &Shutdown) {
        let mut claim = None;
        while !shutdown.is_draining() {
            match self.tick(&mut claim).await {
                Ok(()) => {}
                Err(Lost::Taken) => {
                    tracing::debug!(provider = self.provider, "another worker looks after its model batches");
                    claim = None;
                }
                Err(Lost::Store(error)) => {
                    tracing::warn!(provider = self.provider, %error, "its model batches cannot be looked after; trying again");
                    claim = None;
                }
            }
            let busy = claim.is_some() || self.watch.is_some();
            let pause = if busy { self.pause() } else { IDLE };
            tokio::select! {
                biased;
                () = shutdown.draining() => {}
                Ok(()) = self.joined.changed(), if !busy => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        if let Some(claim) = claim
            && let Err(error) = claim.leave().await
        {
            tracing::debug!(provider = self.provider, %error, "its model batches are left without a word");
        }
    }

    fn pause(&self) -> Duration {
        // Often enough to show that it lives.
        let most = (self.around.lease / BEATS).clamp(BUSY.0, BUSY.1);
        self.options.poll.get().min(self.options.linger.get()).clamp(BUSY.0, most)
    }

    async fn tick(&mut self, held: &mut Option<Claim>) -> Result<(), Lost> {
        if held.is_none() {
            *held = self.claim().await?;
        }
        let Some(claim) = held else { return Ok(()) };
        let provider = match self.around.outside.models.provider(&self.provider) {
            Ok(provider) => provider,
            Err(error) => {
                // A worker that has the key takes its place.
                tracing::warn!(provider = self.provider, %error, "its model batches cannot be looked after here");
                *held = None;
                return Ok(());
            }
        };
        claim.beat().await?;
        let trays = self.documents.trays(&self.provider).await?;
        let load = Load::of(&trays);
        if load.count == 0 && claim.register().is_idle() {
            self.looked.clear();
            self.missed.clear();
            if let Some(claim) = held.take() {
                claim.leave().await?;
            }
            return Ok(());
        }
        let halts = &self.around.halts;
        let halted = !halts.are_known() || halts.cover_all();
        let now = self.around.clock.now();
        for step in due(claim.register(), &self.options, Seen { load, looked: &self.looked, halted, now }) {
            self.perform(step, claim, &provider).await?;
        }
        Ok(())
    }

    /// Takes the register, if there is something to look after and nobody does.
    async fn claim(&mut self) -> Result<Option<Claim>, StoreError> {
        let seen = self.documents.register(&self.provider).await?;
        let register = &seen.document;
        if register.is_idle() && register.holder.is_none() {
            self.watch = None;
            if Load::of(&self.documents.trays(&self.provider).await?).count == 0 {
                return Ok(None);
            }
        }
        // Nobody takes what they cannot look after.
        if self.around.outside.models.provider(&self.provider).is_err() {
            return Ok(None);
        }
        let around = self.around;
        let taken = Claim::take(self.documents, &self.provider, &around.worker, around.lease, seen, self.watch).await?;
        match taken {
            Ok(claim) => {
                self.watch = None;
                self.looked.clear();
                self.missed.clear();
                tracing::debug!(provider = self.provider, "looks after its model batches");
                Ok(Some(claim))
            }
            Err(watch) => {
                self.watch = Some(watch);
                Ok(None)
            }
        }
    }

    async fn perform(&mut self, step: Step, claim: &mut Claim, provider: &Arc<dyn Provider>) -> Result<(), Lost> {
        let Some(batches) = provider.batches() else { return Ok(()) };
        match step {
            Step::Collect => self.collect(claim).await,
            Step::Send(number) => self.send(number, claim, batches).await,
            Step::Find(number) => self.find(number, claim, batches).await,
            Step::Look(number) => self.look(number, claim, batches).await,
        }
    }

    /// Makes a batch of what waits.
    async fn collect(&self, claim: &mut Claim) -> Result<(), Lost> {
        let mut trays = self.documents.trays(&self.provider).await?;
        // What is part of a batch already was left in its tray by a worker that died, or put there by one that was late.
        let mut known = BTreeSet::new();
        for batch in &claim.register().batches {
            known.extend(self.documents.batch(&self.provider, batch.number).await?.into_iter().map(|entry| entry.id));
        }
        let mut entries: Vec<Waiting> = trays.iter_mut().flat_map(|tray| std::mem::take(&mut tray.entries)).collect();
        entries.sort_by_key(|entry| entry.at);
        let mut taken: BTreeSet<EntryId> = known.clone();
        entries.retain(|entry| taken.insert(entry.id.clone()));
        entries.truncate(self.options.entries);
        if !entries.is_empty() {
            let number = claim.register().next_number();
            self.documents.write_batch(&self.provider, number, &entries).await?;
            let (count, from) = (entries.len() as u64, self.around.clock.now());
            claim.change(|register| register.add(number, count, Stage::Collected { from })).await?;
            tracing::debug!(provider = self.provider, number, entries = count, "requests are collected");
        }
        let gone = known.into_iter().chain(entries.into_iter().map(|entry| entry.id)).collect();
        for number in 0..TRAYS {
            self.documents.change_tray(&self.provider, number, |tray| tray.remove(&gone)).await?;
            claim.beat().await?;
        }
        Ok(())
    }
}
