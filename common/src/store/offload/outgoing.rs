//! On the way in: large values leave what carries them, and are kept.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::Value;

use super::cache::Held;
use super::carrier::Carrier;
use super::{AT_ONCE, Offload, codec};
use crate::id::{BlobHouse, BlobName, Shard};
use crate::journal::{Reference, Slot, SlotMut};
use crate::store::StoreError;

/// What was just kept, to be put back without being read.
pub(super) type Kept = HashMap<BlobName, Held>;

/// Why a value was not kept.
#[derive(Debug)]
pub(super) enum Unkept {
    /// It has so many bytes.
    TooLarge(usize),
    /// See [`StoreError`].
    Store(StoreError),
}

impl Offload {
    /// Whether a slot is not for a journal.
    fn is_large(&self, slot: &Slot<'_>) -> bool {
        Reference::is_imitated_by(slot) || slot.is_larger_than(self.options.threshold)
    }

    /// Whether something carries a value that is not for a journal. Costs next to nothing.
    pub(super) fn has_large(&self, carrier: &impl Carrier) -> bool {
        let mut found = false;
        carrier.slots(&mut |slot| found = found || self.is_large(&slot));
        found
    }

    /// Keeps every large value, of at most `most` bytes, and leaves references.
    pub(super) async fn keep_large(
        &self,
        carrier: &mut impl Carrier,
        shard: Shard,
        most: usize,
    ) -> Result<Kept, Unkept> {
        // Values that are no references of ours and look like one cannot be there after this: a
        // slot is numbered by its place in the visit, which is the same each time.
        let mut large = Vec::new();
        let mut number = 0_usize;
        carrier.slots(&mut |slot| {
            if self.is_large(&slot) {
                large.push(number);
            }
            number += 1;
        });
        let mut values = Vec::with_capacity(large.len());
        each_of(carrier, &large, &mut |slot| {
            values.push(match slot {
                SlotMut::Value(value) => std::mem::take(value),
                SlotMut::Text(text) => Value::String(std::mem::take(text)),
            });
        });
        let kept: Vec<(BlobName, Held)> =
            stream::iter(values).map(|value| self.keep(value, shard, most)).buffered(AT_ONCE).try_collect().await?;
        let mut names = kept.iter().map(|(name, _)| name);
        each_of(carrier, &large, &mut |slot| {
            if let Some(name) = names.next() {
                Reference(name.clone()).put(slot);
            }
        });
        Ok(kept.into_iter().collect())
    }

    /// Keeps a value. It is there when this answers, and stays for
    /// [`crate::store::BLOB_GRACE`] at least.
    async fn keep(&self, value: Value, shard: Shard, most: usize) -> Result<(BlobName, Held), Unkept> {
        let unencodable = |why: String| Unkept::Store(StoreError::Refused(format!("a value cannot be encoded: {why}")));
        let packing = tokio::task::spawn_blocking(move || codec::pack(&value).map(|packed| (value, packed)));
        let packed = packing.await.map_err(|error| unencodable(error.to_string()))?;
        let (value, packed) = packed.map_err(unencodable)?;
        if packed.length > most {
            return Err(Unkept::TooLarge(packed.length));
        }
        let generation = self.entropy.bytes();
        let name = |house| BlobName::new(house, shard, generation, packed.digest.clone());
        let data = Bytes::from(packed.data);
        let _permit = self.requests.acquire().await;
        let kept = match &self.objects {
            None => self.inner.keep_blob(&name(BlobHouse::Store), Some(data)).await.map_err(Unkept::Store)?,
            Some(objects) => {
                let kept = self.inner.keep_blob(&name(BlobHouse::Object), None).await.map_err(Unkept::Store)?;
                // Also if it is known already: whoever made it known may not have come to write it.
                objects.put(&kept, data).await.map_err(Unkept::Store)?;
                kept
            }
        };
        let held = Held { value: Arc::new(value), length: packed.length };
        self.cache.put(kept.clone(), held.clone());
        Ok((kept, held))
    }
}

/// Visits the slots of these numbers, which ascend.
fn each_of(carrier: &mut impl Carrier, numbers: &[usize], visit: &mut dyn FnMut(SlotMut<'_>)) {
    let mut numbers = numbers.iter().copied().peekable();
    let mut number = 0_usize;
    carrier.slots_mut(&mut |slot| {
        if numbers.next_if_eq(&number).is_some() {
            visit(slot);
        }
        number += 1;
    });
}
