//! Looking whether a batch is done, and telling its tasks what came of it. All of
//! it can be done again at any time: a task takes an answer once.

use std::collections::BTreeSet;

use common::failure::{Failure, FailureClass};
use common::id::EntryId;
use common::store::StoreError;
use futures::{StreamExt, TryStreamExt};

use super::claim::{Claim, Lost};
use super::desk::Desk;
use super::register::Stage;
use crate::models::batches::Batches;

/// Tasks that are told at once.
const AT_ONCE: usize = 16;

/// Why answers were not all told.
#[derive(Debug, thiserror::Error)]
enum Undelivered {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Provider(Failure),
}

impl Desk<'_> {
    /// Looks whether a batch is done; if so, tells its tasks.
    pub(super) async fn look(&mut self, number: u64, claim: &mut Claim, batches: &dyn Batches) -> Result<(), Lost> {
        let Some(Stage::Sent { id, .. }) = claim.register().batch(number).map(|batch| batch.stage.clone()) else {
            return Ok(());
        };
        self.looked.insert(number, self.around.clock.now());
        match claim.during(batches.look(&id)).await? {
            Ok(Some(listed)) if !listed.ended => return Ok(()),
            Ok(Some(_)) => {}
            Ok(None) => {
                let message = format!("provider {}: it knows nothing of the model batch {id} any more", self.provider);
                return self.fail(number, &Failure::new(FailureClass::Unavailable, message), claim).await;
            }
            Err(failure) => {
                tracing::warn!(provider = self.provider, batch = id, %failure, "a model batch cannot be looked at; trying again");
                return Ok(());
            }
        }
        let entries = self.documents.batch(&self.provider, number).await?;
        let entries: BTreeSet<EntryId> = entries.into_iter().map(|entry| entry.id).collect();
        match claim.during(self.deliver(&id, &entries, batches)).await? {
            Ok(told) if told.is_empty() && !entries.is_empty() => {
                tracing::warn!(provider = self.provider, batch = id, "a model batch was taken for another one");
                let now = self.around.clock.now();
                claim.change(|register| register.mistook(number, &id, now)).await
            }
            Ok(told) => {
                let message =
                    format!("provider {}: the model batch {id} came back without this request", self.provider);
                let failure = Failure::new(FailureClass::Protocol, message);
                for entry in entries.difference(&told) {
                    claim.during(self.entries.deliver(entry, Err(failure.clone()))).await??;
                }
                tracing::info!(provider = self.provider, batch = id, answers = told.len(), "a model batch is done");
                self.close(number, claim).await
            }
            Err(Undelivered::Store(error)) => Err(error.into()),
            Err(Undelivered::Provider(failure)) => {
                tracing::warn!(provider = self.provider, batch = id, %failure, "the answers of a model batch broke off; trying again");
                Ok(())
            }
        }
    }

    /// Tells the tasks of a batch what came of their requests; which were told.
    async fn deliver(
        &self,
        id: &str,
        entries: &BTreeSet<EntryId>,
        batches: &dyn Batches,
    ) -> Result<BTreeSet<EntryId>, Undelivered> {
        let results = batches.results(id).await.map_err(Undelivered::Provider)?;
        let told = results.map_err(Undelivered::Provider).map(|ended| async move {
            let ended = ended?;
            let Some(entry) = ended.id.parse::<EntryId>().ok().filter(|entry| entries.contains(entry)) else {
                return Ok(None);
            };
            self.entries.deliver(&entry, ended.answer).await?;
            Ok(Some(entry))
        });
        told.buffer_unordered(AT_ONCE).try_filter_map(|told| async move { Ok(told) }).try_collect().await
    }
}
