//! On the way out: values come back to where references stand. A task whose
//! values cannot be read is a dead letter, and stops no other; one whose values
//! are out of reach for now is handed back.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::Value;

use super::cache::Held;
use super::carrier::Carrier;
use super::outgoing::Kept;
use super::{AT_ONCE, Offload, codec};
use crate::failure::{Failure, FailureClass};
use crate::id::{AppendId, BlobHouse, BlobName};
use crate::journal::{Recorded, Reference, Slot, SlotMut};
use crate::store::{Append, Claim, Next, Renew, Renewal, StoreError};
use crate::task::DeadReason;

/// Values that are read in one request of the inner store.
const TOGETHER: usize = 32;
/// Journals of one claim that are made whole at once.
const JOURNALS: usize = 4;
/// For how long a claim waits for its values.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a journal cannot be made whole.
#[derive(Debug)]
pub(super) enum Unread {
    /// Try again later.
    OutOfReach(String),
    /// A person must bring a value back.
    Lost(String),
    /// They are too large together.
    TooLarge(u64),
}

impl From<Unread> for StoreError {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::OutOfReach(why) => Self::Unavailable(why),
            Unread::Lost(why) => Self::Damaged(why),
            Unread::TooLarge(limit) => Self::Refused(too_large(limit)),
        }
    }
}

fn too_large(limit: u64) -> String {
    format!("the large values of the journal have more than {limit} bytes together (limits.values)")
}

impl Offload {
    /// Makes the journals of claims whole. Meanwhile their leases are renewed.
    pub(super) async fn whole_claims(&self, claims: Vec<Claim>, lease: Duration) -> Vec<Claim> {
        let refers = |claim: &Claim| !references(&claim.journal).is_empty();
        if !claims.iter().any(refers) {
            return claims;
        }
        let leases: Vec<_> = claims.iter().map(|claim| (claim.task, claim.token)).collect();
        let whole = stream::iter(claims).map(|claim| self.whole_claim(claim)).buffered(JOURNALS);
        let whole = whole.filter_map(std::future::ready).collect::<Vec<Claim>>();
        tokio::pin!(whole);
        let mut expiry = HashMap::new();
        let mut claims = loop {
            tokio::select! {
                claims = &mut whole => break claims,
                () = tokio::time::sleep(lease / 3) => {}
            }
            // What is handed back meanwhile is said to be lost, which is as it should be.
            let Ok(renewed) = self.inner.renew(Renew { leases: leases.clone(), lease }).await else { continue };
            for ((task, _), renewal) in leases.iter().zip(renewed) {
                if let Renewal::Renewed { expires, .. } = renewal {
                    expiry.insert(*task, expires);
                }
            }
        };
        for claim in &mut claims {
            if let Some(expires) = expiry.get(&claim.task) {
                claim.expires = *expires;
            }
        }
        claims
    }

    async fn whole_claim(&self, mut claim: Claim) -> Option<Claim> {
        let made = tokio::time::timeout(PATIENCE, self.make_whole(&mut claim.journal, Kept::default())).await;
        let unread = match made {
            Ok(Ok(())) => return Some(claim),
            Ok(Err(unread)) => unread,
            Err(_) => Unread::OutOfReach(format!("they did not come within {} s", PATIENCE.as_secs())),
        };
        let task = claim.task;
        let die =
            |reason, class, message: String| Next::Die { reason, error: Failure::new(class, message), step: None };
        let next = match unread {
            Unread::OutOfReach(why) => {
                tracing::warn!(%task, why, "the large values of a task are out of reach; it is handed back");
                Next::Release { reason: format!("its large values are out of reach: {why}") }
            }
            Unread::Lost(why) => {
                tracing::error!(%task, why, "a large value cannot be read; its task is a dead letter now");
                let message = format!("{why}; bring it back to where it was, then replay the task");
                die(DeadReason::Unreadable, FailureClass::Internal, message)
            }
            Unread::TooLarge(limit) => {
                let message = format!("{}; raise the limit, then replay the task", too_large(limit));
                die(DeadReason::Limit, FailureClass::Limit, message)
            }
        };
        let append = Append {
            task,
            token: claim.token,
            id: AppendId::new(self.entropy.bytes()),
            expected: claim.journal.last().map_or(0, |last| last.seq),
            events: Vec::new(),
            next,
        };
        if let Err(error) = self.inner.append(append).await {
            tracing::warn!(%task, %error, "a task that cannot be given out stays leased until its lease expires");
        }
        None
    }

    /// Puts the values back to where references stand.
    pub(super) async fn make_whole(&self, events: &mut Vec<Recorded>, kept: Kept) -> Result<(), Unread> {
        let wanted = references(events);
        if wanted.is_empty() {
            return Ok(());
        }
        let mut values = kept;
        let mut missing = Vec::new();
        for name in wanted {
            if values.contains_key(&name) {
                continue;
            }
            match self.cache.get(&name) {
                Some(held) => drop(values.insert(name, held)),
                None => missing.push(name),
            }
        }
        let limit = self.limits.values_bytes;
        let mut total: u64 = values.values().map(|held| held.length as u64).sum();
        let (inside, outside): (Vec<_>, Vec<_>) =
            missing.into_iter().partition(|name| name.house() == BlobHouse::Store);
        // Those outside are fetched one by one, those inside many at a time; decoded values are dropped at the limit.
        let chunks = inside.chunks(TOGETHER).chain(outside.chunks(1)).map(<[BlobName]>::to_vec).collect::<Vec<_>>();
        let mut fetched = stream::iter(chunks).map(|names| self.fetch(names)).buffer_unordered(AT_ONCE / 2);
        while let Some(found) = fetched.try_next().await? {
            for (name, held) in found {
                total += held.length as u64;
                if total > limit {
                    return Err(Unread::TooLarge(limit));
                }
                values.insert(name, held);
            }
        }
        put_back(events, &values)
    }

    /// Reads and decodes some values of one house.
    async fn fetch(&self, names: Vec<BlobName>) -> Result<Vec<(BlobName, Held)>, Unread> {
        let _permit = self.requests.acquire().await;
        let out_of_reach = |error: StoreError| match error {
            StoreError::Unavailable(why) => Unread::OutOfReach(why),
            error => Unread::Lost(error.to_string()),
        };
        let outside = names.first().is_some_and(|name| name.house() == BlobHouse::Object);
        let data: Vec<Option<Bytes>> = if outside {
            let Some(objects) = &self.objects else {
                return Err(Unread::Lost(
                    "a large value is in a folder or a bucket, and blobs.place in teamster.yaml does not say in which"
                        .to_owned(),
                ));
            };
            let mut data = Vec::with_capacity(names.len());
            for name in &names {
                data.push(objects.get(name).await.map_err(out_of_reach)?);
            }
            data
        } else {
            self.inner.blobs(&names).await.map_err(out_of_reach)?
        };
        let place = self.objects.as_ref().filter(|_| outside).map_or("the store", |objects| objects.place()).to_owned();
        let limit = self.limits.values_bytes;
        let decoding = tokio::task::spawn_blocking(move || {
            let mut data = data.into_iter();
            let mut read = Vec::with_capacity(names.len());
            for name in names {
                let Some(packed) = data.next().flatten() else {
                    return Err(Unread::Lost(format!("the large value {name} is missing from {place}")));
                };
                let unpacked = codec::unpack(&packed, name.digest(), limit);
                let (value, length) = unpacked
                    .map_err(|why| Unread::Lost(format!("the large value {name} in {place} is damaged: {why}")))?;
                read.push((name, Held { value: Arc::new(value), length }));
            }
            Ok(read)
        });
        let read = decoding.await.map_err(|error| Unread::OutOfReach(error.to_string()))??;
        for (name, held) in &read {
            self.cache.put(name.clone(), held.clone());
        }
        Ok(read)
    }
}

/// What some events refer to, each once.
fn references(events: &Vec<Recorded>) -> Vec<BlobName> {
    let mut seen = HashSet::new();
    let mut names = Vec::new();
    events.slots(&mut |slot| {
        if let Some(Reference(name)) = Reference::of(&slot)
            && seen.insert(name.clone())
        {
            names.push(name);
        }
    });
    names
}

fn put_back(events: &mut Vec<Recorded>, values: &HashMap<BlobName, Held>) -> Result<(), Unread> {
    let mut wrong = None;
    events.slots_mut(&mut |slot| {
        let reference = match &slot {
            SlotMut::Value(value) => Reference::of(&Slot::Value(value)),
            SlotMut::Text(text) => Reference::of(&Slot::Text(text)),
        };
        let Some(Reference(name)) = reference else { return };
        match (slot, values.get(&name).map(|held| &*held.value)) {
            (SlotMut::Value(slot), Some(value)) => slot.clone_from(value),
            (SlotMut::Text(slot), Some(Value::String(text))) => slot.clone_from(text),
            _ => wrong = Some(name),
        }
    });
    match wrong {
        Some(name) => Err(Unread::Lost(format!("the large value {name} is no text, as it was meant to be"))),
        None => Ok(()),
    }
}
