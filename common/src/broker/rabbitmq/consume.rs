//! Consuming: one supervised channel for one queue of the broker.
//!
//! The channel is opened when somebody wants messages, and again, with growing
//! pauses, when it or its connection is lost, when the server cancels the
//! consumer (a queue was deleted), or when nothing comes although it should:
//! connected but not consuming. What was held of an older channel is forgotten;
//! the server gives it again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use super::dead;
use super::link::{Link, Pauses};
use super::publish::Publisher;
use super::topology::{Names, Part, declare};
use crate::broker::{BrokerError, BrokerOptions, Letter, Receipt};

/// Settlements that are taken up at once.
const SETTLED: usize = 256;
/// Looks in a row at which messages waited and none came, after which a channel is given up.
const STRIKES: u32 = 2;
/// Looks in a row at which nothing had come, after which a channel is made anew.
/// There are faults that cannot be seen from here: a queue that is deleted and
/// declared again at once leaves a consumer behind that the server counts and
/// hands messages to, and that never get here. (`RabbitMQ` 3.10 does so.)
const IDLE: u32 = 6;
/// How often a consumer looks at what it holds.
const TICK: Duration = Duration::from_millis(250);
/// The pause before a message comes again that could not be moved to the dead letters.
const DEAD_LATER: Duration = Duration::from_secs(1);

/// What all consumers of a broker share.
#[derive(Debug, Clone)]
pub(super) struct Ground {
    pub(super) link: Arc<Link>,
    pub(super) publisher: Arc<Publisher>,
    pub(super) names: Names,
    pub(super) options: BrokerOptions,
    pub(super) troubles: Arc<Mutex<BTreeMap<u64, String>>>,
}

/// What makes consumers of one owner one: who is told, and how many messages are wanted.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    /// Rings when a message has come.
    pub(super) bell: Arc<Notify>,
    /// How many messages somebody can use now.
    pub(super) wanted: watch::Receiver<usize>,
    /// The most that are held unacknowledged.
    pub(super) window: usize,
    /// How long one may be held that nobody asks for; `None` for ever.
    pub(super) hold: Option<Duration>,
}

/// A message that was received.
#[derive(Debug, Clone)]
pub(super) struct Received {
    pub(super) receipt: Receipt,
    pub(super) body: Vec<u8>,
    pub(super) properties: BasicProperties,
    at: Instant,
}

impl Received {
    /// A message that was handed out, as it was.
    pub(super) fn again(letter: Letter) -> Self {
        Self { receipt: letter.receipt, body: letter.body, properties: letter.properties, at: Instant::now() }
    }
}

/// What became of a message.
#[derive(Debug)]
pub(super) enum Settle {
    /// It is done with.
    Acknowledge(Receipt),
    /// It is to come again.
    GiveBack(Receipt),
    /// It goes to the dead letters, for this reason.
    Refuse(Box<Received>, String),
}

/// A consumer of one queue. It ends with the value, and its messages go back.
#[derive(Debug)]
pub(super) struct Consumer {
    id: u64,
    held: Arc<Mutex<VecDeque<Received>>>,
    settled: mpsc::Sender<Settle>,
    troubles: Arc<Mutex<BTreeMap<u64, String>>>,
    _task: AbortOnDropHandle<()>,
}

impl Consumer {
    pub(super) fn start(id: u64, ground: Ground, part: Part, wish: Wish) -> Self {
        let held = Arc::new(Mutex::new(VecDeque::new()));
        // Each message of this and of the last channel is settled once.
        let (settled, settlements) = mpsc::channel(wish.window.saturating_mul(2).saturating_add(SETTLED));
        let troubles = Arc::clone(&ground.troubles);
        let task = Task {
            id,
            queue: part.queue(&ground.names),
            ground,
            part,
            wish,
            held: Arc::clone(&held),
            settled: settled.downgrade(),
        };
        Self { id, held, settled, troubles, _task: AbortOnDropHandle::new(tokio::spawn(task.run(settlements))) }
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// The oldest message that is held.
    pub(super) fn take(&self) -> Option<Received> {
        lock(&self.held).pop_front()
    }

    /// Says what became of a message. One of an older channel is forgotten.
    pub(super) fn settle(&self, settle: Settle) {
        if self.settled.try_send(settle).is_err() {
            // Cannot be, by the size of the channel; the message would come again with the next one.
            tracing::warn!("a message could not be settled");
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        lock(&self.troubles).remove(&self.id);
    }
}

/// How a channel ended.
#[derive(Debug)]
enum Ended {
    /// Nobody wants what it holds.
    Unwanted,
    /// More is wanted than it fetches at once.
    TooSmall,
    /// Nothing has come for long, which may be for want of messages.
    Idle,
    /// It was lost.
    Lost(String),
}

impl From<BrokerError> for Ended {
    fn from(error: BrokerError) -> Self {
        Self::Lost(error.to_string())
    }
}

struct Task {
    id: u64,
    queue: String,
    ground: Ground,
    part: Part,
    wish: Wish,
    held: Arc<Mutex<VecDeque<Received>>>,
    settled: mpsc::WeakSender<Settle>,
}

/// One channel, while it lasts.
struct Session {
    channel: Channel,
    generation: u64,
    prefetch: usize,
    /// Delivered and not settled.
    open: BTreeSet<u64>,
    /// Whether a message has come since the last look.
    arrived: bool,
    /// Looks in a row at which messages waited and none had come.
    strikes: u32,
    /// Looks in a row at which none had come.
    idle: u32,
    looked: Instant,
}

impl Task {
    async fn run(mut self, mut settlements: mpsc::Receiver<Settle>) {
        let mut pauses = Pauses::new(&self.ground.options);
        for generation in 0_u64.. {
            if self.wish.wanted.wait_for(|wanted| *wanted > 0).await.is_err() {
                return;
            }
            self.ground.link.up().await;
            let began = Instant::now();
            let ended = match self.open(generation).await {
                Ok((mut session, consumer)) => {
                    lock(&self.ground.troubles).remove(&self.id);
                    let ended = self.serve(&mut session, consumer, &mut settlements).await;
                    lock(&self.held).clear();
                    let _ = self.ground.link.answer(session.channel.close(200, "".into())).await;
                    ended
                }
                Err(ended) => ended,
            };
            tracing::debug!(queue = self.queue, ?ended, "a channel has ended");
            match ended {
                Ended::TooSmall | Ended::Idle => {}
                Ended::Unwanted => {
                    if self.wish.wanted.changed().await.is_err() {
                        return;
                    }
                }
                Ended::Lost(why) => {
                    tracing::warn!(queue = self.queue, why, "a consumer is lost and comes again");
                    lock(&self.ground.troubles)
                        .insert(self.id, format!("nothing is consumed from {}: {why}", self.queue));
                    tokio::time::sleep(pauses.after(began.elapsed())).await;
                }
            }
        }
    }

    async fn open(&self, generation: u64) -> Result<(Session, lapin::Consumer), Ended> {
        let link = &self.ground.link;
        let channel = link.channel().await?;
        link.within(declare(&channel, &self.ground.names, &self.part)).await?;
        let prefetch = (*self.wish.wanted.borrow()).clamp(1, self.wish.window);
        let count = u16::try_from(prefetch).unwrap_or(u16::MAX);
        link.answer(channel.basic_qos(count, BasicQosOptions::default())).await?;
        let queue = self.queue.as_str().into();
        let consuming = channel.basic_consume(queue, "".into(), BasicConsumeOptions::default(), FieldTable::default());
        let consumer = link.answer(consuming).await?;
        let now = Instant::now();
        let session = Session {
            channel,
            generation,
            prefetch,
            open: BTreeSet::new(),
            arrived: true,
            strikes: 0,
            idle: 0,
            looked: now,
        };
        Ok((session, consumer))
    }

    async fn serve(
        &mut self,
        session: &mut Session,
        mut consumer: lapin::Consumer,
        settlements: &mut mpsc::Receiver<Settle>,
    ) -> Ended {
        let mut ticks = tokio::time::interval(TICK.min(self.ground.options.watch));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(SETTLED);
        loop {
            let ended = tokio::select! {
                delivery = consumer.next() => match delivery {
                    Some(Ok(delivery)) => {
                        self.hold(session, delivery);
                        Ok(())
                    }
                    Some(Err(error)) => Err(Ended::Lost(error.to_string())),
                    None => Err(Ended::Lost("the server cancelled the consumer (was the queue deleted?)".to_owned())),
                },
                count = settlements.recv_many(&mut batch, SETTLED) => match count {
                    0 => Err(Ended::Unwanted),
                    _ => self.settle(session, batch.drain(..)).await,
                },
                _ = ticks.tick() => self.tick(session).await,
            };
            if let Err(ended) = ended {
                return ended;
            }
        }
    }

    fn hold(&self, session: &mut Session, delivery: lapin::message::Delivery) {
        session.arrived = true;
        session.open.insert(delivery.delivery_tag);
        let receipt = Receipt { consumer: self.id, generation: session.generation, tag: delivery.delivery_tag };
        let received = Received { receipt, body: delivery.data, properties: delivery.properties, at: Instant::now() };
        lock(&self.held).push_back(received);
        self.wish.bell.notify_one();
    }

    /// Tells the server what became of messages: of this channel, since tags of another mean nothing here.
    async fn settle(&self, session: &mut Session, settled: impl Iterator<Item = Settle>) -> Result<(), Ended> {
        let mut acknowledged = BTreeSet::new();
        let mut back = Vec::new();
        for settle in settled {
            match settle {
                Settle::Acknowledge(receipt) if receipt.generation == session.generation => {
                    acknowledged.insert(receipt.tag);
                }
                Settle::GiveBack(receipt) if receipt.generation == session.generation => back.push(receipt.tag),
                Settle::Refuse(received, why) if received.receipt.generation == session.generation => {
                    self.refuse(&received, &why);
                }
                _ => {}
            }
        }
        let link = &self.ground.link;
        acknowledged.retain(|tag| session.open.remove(tag));
        for (tag, multiple) in acknowledgements(&acknowledged, &session.open) {
            link.answer(session.channel.basic_ack(tag, BasicAckOptions { multiple })).await?;
        }
        for tag in back {
            if session.open.remove(&tag) {
                let options = BasicNackOptions { multiple: false, requeue: true };
                link.answer(session.channel.basic_nack(tag, options)).await?;
            }
        }
        Ok(())
    }

    /// Moves a message to the dead letters, beside everything else: it takes a
    /// confirmation. So many of these run at once as messages are held at most.
    fn refuse(&self, received: &Received, why: &str) {
        let (publisher, settled) = (Arc::clone(&self.ground.publisher), self.settled.clone());
        let message = dead::letter(&self.ground.names, &self.queue, received, why);
        let receipt = received.receipt;
        tokio::spawn(async move {
            let kept = publisher.publish(vec![message]).await == [true];
            if !kept {
                tokio::time::sleep(DEAD_LATER).await;
            }
            let settle = if kept { Settle::Acknowledge(receipt) } else { Settle::GiveBack(receipt) };
            if let Some(settled) = settled.upgrade() {
                // If its consumer has ended, so has the channel, and the message comes again.
                let _ = settled.send(settle).await;
            }
        });
    }

    async fn tick(&mut self, session: &mut Session) -> Result<(), Ended> {
        // Seen before the look: whoever wants messages after it starts this again.
        let wanted = (*self.wish.wanted.borrow_and_update()).min(self.wish.window);
        let oldest = lock(&self.held).front().map(|received| received.at.elapsed());
        if let (Some(oldest), Some(hold)) = (oldest, self.wish.hold)
            && oldest >= hold
        {
            return Err(Ended::Unwanted);
        }
        if session.open.is_empty() && wanted >= session.prefetch.saturating_mul(2) {
            return Err(Ended::TooSmall);
        }
        if session.looked.elapsed() < self.ground.options.watch {
            return Ok(());
        }
        session.looked = Instant::now();
        if std::mem::take(&mut session.arrived) {
            (session.strikes, session.idle) = (0, 0);
            return Ok(());
        }
        session.idle += 1;
        if session.idle >= IDLE && session.open.is_empty() {
            return Err(Ended::Idle);
        }
        let queue = self.queue.as_str().into();
        let passive = QueueDeclareOptions::durable().passive();
        let asked = session.channel.queue_declare(queue, passive, FieldTable::default());
        let answer = self.ground.link.answer(asked).await?;
        let credit = session.open.len() < session.prefetch;
        session.strikes = strikes(session.strikes, answer.consumer_count(), answer.message_count(), credit);
        if session.strikes >= STRIKES {
            return Err(Ended::Lost("it is connected, and the server sends it nothing".to_owned()));
        }
        Ok(())
    }
}

/// How suspicious a consumer is to which nothing came since the last look.
fn strikes(before: u32, consumers: u32, waiting: u32, credit: bool) -> u32 {
    match (consumers, waiting) {
        // The server does not know it.
        (0, _) => STRIKES,
        // It could have had one.
        (_, 1..) if credit => before.saturating_add(1),
        _ => 0,
    }
}

/// The acknowledgements to send: one for all up to the oldest message that is
/// open, and one for each after that.
fn acknowledgements(done: &BTreeSet<u64>, open: &BTreeSet<u64>) -> Vec<(u64, bool)> {
    let oldest = open.first().copied().unwrap_or(u64::MAX);
    let together = done.range(..oldest).next_back().map(|tag| (*tag, true));
    together.into_iter().chain(done.range(oldest..).map(|tag| (*tag, false))).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing that can panic runs under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_are_put_together_up_to_the_oldest_open_message() {
        let tags = |tags: &[u64]| tags.iter().copied().collect::<BTreeSet<_>>();
        assert_eq!(acknowledgements(&tags(&[1, 2, 3]), &tags(&[])), [(3, true)]);
        assert_eq!(acknowledgements(&tags(&[1, 2, 5, 6]), &tags(&[3])), [(2, true), (5, false), (6, false)]);
        assert_eq!(acknowledgements(&tags(&[5]), &tags(&[3, 9])), [(5, false)]);
        assert_eq!(acknowledgements(&tags(&[]), &tags(&[3])), []);
    }

    #[test]
    fn a_consumer_that_gets_nothing_is_suspected_only_if_it_should() {
        assert_eq!(strikes(0, 0, 0, true), STRIKES);
        assert_eq!(strikes(0, 1, 5, true), 1);
        assert_eq!(strikes(1, 1, 5, true), STRIKES);
        assert_eq!(strikes(1, 1, 5, false), 0);
        assert_eq!(strikes(1, 3, 0, true), 0);
    }
}
