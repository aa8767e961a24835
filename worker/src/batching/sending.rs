//! Sending a batch, once: it is noted before, and looked for before it is sent again.

use std::time::Duration;

use common::clock::Timestamp;
use common::failure::{Failure, FailureClass};
use common::store::StoreError;
use futures::StreamExt;
use futures::stream;

use super::claim::{Claim, Lost};
use super::desk::Desk;
use super::entries::Draft;
use super::register::{Batch, Register, Stage};
use super::tray::Waiting;
use crate::models::batches::{Batches, LARGEST_BODY, Listed, Unsent};

/// Tasks that are read at once.
const AT_ONCE: usize = 16;
/// How often a batch is sent that the provider does not take for now; then its requests have failed.
const TRIES: u32 = 8;
/// The first wait before it is sent again; each time twice as long.
const WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// A batch that was made so long before the note that it is being sent, by the provider's clock, is another one.
const SKEW: Duration = Duration::from_secs(3_600);
/// How often a batch is looked for before it is sent again.
const LOOKS: u32 = 2;

/// The requests of a batch, as far as they go out.
#[derive(Default)]
struct Drafted {
    goes: Vec<Waiting>,
    requests: Vec<Vec<u8>>,
    bytes: usize,
    later: Vec<Waiting>,
    gone: Vec<Waiting>,
    wrong: Vec<(Waiting, Failure)>,
}

impl Desk<'_> {
    /// Sends a batch, as far as its requests are still wanted.
    pub(super) async fn send(&mut self, number: u64, claim: &mut Claim, batches: &dyn Batches) -> Result<(), Lost> {
        let entries = self.documents.batch(&self.provider, number).await?;
        let count = entries.len();
        let drafted = claim.during(self.draft(entries, batches)).await??;
        let Drafted { goes, requests, later, gone, wrong, .. } = drafted;
        let back = self.around.clock.now();
        // Before the batch goes on without them: should this worker die in between, they are found in both places.
        self.documents.change_tray(&self.provider, 0, |tray| tray.put_back(&later, back)).await?;
        for entry in gone {
            claim.during(self.entries.give_back(&entry.id)).await??;
        }
        for (entry, failure) in wrong {
            claim.during(self.entries.deliver(&entry.id, Err(failure))).await??;
        }
        if goes.is_empty() {
            return self.close(number, claim).await;
        }
        let (sent, since) = (goes.len() as u64, self.around.clock.now());
        let mut now = number;
        if goes.len() < count {
            now = claim.register().next_number();
            self.documents.write_batch(&self.provider, now, &goes).await?;
        }
        let noted = |register: &mut Register| {
            register.replace(number, now, sent);
            register.enter(now, Stage::Sending { since });
        };
        claim.change(noted).await?;
        if now != number {
            self.documents.forget_batch(&self.provider, number).await?;
        }
        self.missed.remove(&now);
        let nth = self.around.fault.before_send();
        let answer = claim.during(batches.send(&requests)).await?;
        self.around.fault.after_send(nth);
        match answer {
            Ok(listed) => {
                tracing::info!(provider = self.provider, batch = listed.id, requests = sent, "a model batch is sent");
                self.is_sent(now, listed.id, claim).await
            }
            Err(Unsent::Refused(failure)) => self.refused(now, failure, claim).await,
            Err(Unsent::Unknown(failure)) => {
                tracing::warn!(provider = self.provider, %failure, "it is not known whether a model batch was sent");
                self.looked.insert(now, self.around.clock.now());
                Ok(())
            }
        }
    }

    async fn draft(&self, entries: Vec<Waiting>, batches: &dyn Batches) -> Result<Drafted, StoreError> {
        let one = |entry: Waiting| async move {
            let draft = self.entries.draft(&entry, batches).await?;
            Ok::<_, StoreError>((entry, draft))
        };
        let mut drafts = std::pin::pin!(stream::iter(entries.iter().cloned()).map(one).buffered(AT_ONCE).enumerate());
        let mut drafted = Drafted::default();
        while let Some((number, next)) = drafts.next().await {
            match next? {
                (entry, Draft::Goes(request)) => {
                    if drafted.bytes + request.len() > LARGEST_BODY && !drafted.goes.is_empty() {
                        drafted.later.extend(entries.iter().skip(number).cloned());
                        break;
                    }
                    drafted.bytes += request.len() + 1;
                    drafted.requests.push(request);
                    drafted.goes.push(entry);
                }
                (entry, Draft::Later) => drafted.later.push(entry),
                (entry, Draft::Gone) => drafted.gone.push(entry),
                (entry, Draft::Wrong(failure)) => drafted.wrong.push((entry, failure)),
            }
        }
        Ok(drafted)
    }

    async fn is_sent(&mut self, number: u64, id: String, claim: &mut Claim) -> Result<(), Lost> {
        let at = self.around.clock.now();
        self.looked.insert(number, at);
        claim.change(|register| register.enter(number, Stage::Sent { id, at })).await
    }

    /// The provider did not take a batch: later, if that may help; else its requests have failed.
    async fn refused(&mut self, number: u64, failure: Failure, claim: &mut Claim) -> Result<(), Lost> {
        let tries = claim.register().batch(number).map_or(TRIES, |batch| batch.tries) + 1;
        let passes = matches!(
            failure.class,
            FailureClass::RateLimited | FailureClass::Overloaded | FailureClass::Unavailable | FailureClass::Timeout
        );
        if passes && tries < TRIES {
            let asked = failure.retry_after_ms.map(Duration::from_millis);
            let wait = asked.unwrap_or_else(|| WAIT.0.saturating_mul(1 << tries.min(6))).min(WAIT.1);
            tracing::warn!(provider = self.provider, %failure, "a model batch is not taken for now");
            let from = self.around.clock.now().plus(wait);
            return claim.change(|register| register.postpone(number, tries, from)).await;
        }
        tracing::warn!(provider = self.provider, %failure, "a model batch is refused");
        let entries = self.documents.batch(&self.provider, number).await?;
        if failure.class == FailureClass::InvalidRequest && entries.len() > 1 {
            return self.halve(number, &entries, claim).await;
        }
        self.fail(number, &failure, claim).await
    }

    /// A batch is refused whole for what may be wrong with one request: half of it is sent, and the rest later, until
    /// the wrong one is alone.
    async fn halve(&mut self, number: u64, entries: &[Waiting], claim: &mut Claim) -> Result<(), Lost> {
        let (first, second) = entries.split_at(entries.len() / 2);
        let (half, back) = (claim.register().next_number(), self.around.clock.now());
        // Found in both places should this worker die in between, as when it is sent.
        self.documents.change_tray(&self.provider, 0, |tray| tray.put_back(second, back)).await?;
        self.documents.write_batch(&self.provider, half, first).await?;
        let count = first.len() as u64;
        let halved = |register: &mut Register| {
            register.replace(number, half, count);
            register.postpone(half, 0, back);
        };
        claim.change(halved).await?;
        Ok(self.documents.forget_batch(&self.provider, number).await?)
    }

    /// All requests of a batch have failed.
    pub(super) async fn fail(&mut self, number: u64, failure: &Failure, claim: &mut Claim) -> Result<(), Lost> {
        for entry in self.documents.batch(&self.provider, number).await? {
            claim.during(self.entries.deliver(&entry.id, Err(failure.clone()))).await??;
        }
        self.close(number, claim).await
    }

    /// A batch is done with.
    pub(super) async fn close(&mut self, number: u64, claim: &mut Claim) -> Result<(), Lost> {
        claim.change(|register| register.remove(number)).await?;
        self.looked.remove(&number);
        self.missed.remove(&number);
        Ok(self.documents.forget_batch(&self.provider, number).await?)
    }

    /// Looks at the provider for a batch that may have been sent; if it is not there, it may be sent again.
    pub(super) async fn find(&mut self, number: u64, claim: &mut Claim, batches: &dyn Batches) -> Result<(), Lost> {
        let Some(batch) = claim.register().batch(number).cloned() else { return Ok(()) };
        let Stage::Sending { since } = batch.stage else { return Ok(()) };
        self.looked.insert(number, self.around.clock.now());
        let listed = match claim.during(batches.since(before(since))).await? {
            Ok(listed) => listed,
            Err(failure) => {
                tracing::warn!(provider = self.provider, %failure, "its batches cannot be listed; trying again");
                return Ok(());
            }
        };
        let register = claim.register();
        let fits = |known: &&Listed| known.count == batch.entries && !register.is_other(&batch, &known.id);
        let apart = |known: &&Listed| known.created.since(since).max(since.since(known.created));
        if let Some(found) = listed.iter().filter(fits).min_by_key(apart) {
            tracing::info!(provider = self.provider, batch = found.id, "a model batch had been sent before");
            return self.is_sent(number, found.id.clone(), claim).await;
        }
        let missed = self.missed.entry(number).or_default();
        *missed += 1;
        if *missed < LOOKS {
            return Ok(());
        }
        self.missed.remove(&number);
        let Batch { tries, .. } = batch;
        let from = self.around.clock.now();
        claim.change(|register| register.postpone(number, tries, from)).await
    }
}

fn before(time: Timestamp) -> Timestamp {
    let skew = i64::try_from(SKEW.as_millis()).unwrap_or(0);
    Timestamp::from_millis(time.as_millis() - skew)
}
