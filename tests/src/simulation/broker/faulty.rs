//! The way from a process to the broker, with all that can go wrong on it.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use common::broker::{Broker, BrokerError, Delivery, Health, Inbox, Letter, Receipt, Subscription};
use common::id::QueueName;
use common::store::{Finding, Hint};

use super::Server;
use super::memory::{End, Memory};
use crate::simulation::process::Process;
use crate::simulation::weather::{Sabotage, Weather};

/// What becomes of a hint on its way.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// The broker has it and says so.
    Straight,
    /// The broker has it, and its word on that is lost.
    Unconfirmed,
    /// The broker never saw it.
    NotReached,
    /// The broker says that it has it, and has not.
    Vanished,
    Doubled,
    Late(Duration),
    /// Before all that came earlier.
    Overtaking,
}

impl Way {
    const fn name(self) -> &'static str {
        match self {
            Self::Straight => "hint/straight",
            Self::Unconfirmed => "fault/hint unconfirmed",
            Self::NotReached => "fault/hint not sent",
            Self::Vanished => "fault/hint lost",
            Self::Doubled => "fault/hint doubled",
            Self::Late(_) => "fault/hint late",
            Self::Overtaking => "fault/hint overtakes",
        }
    }
}

/// The broker as one process reaches it.
#[derive(Debug, Clone)]
pub(in crate::simulation) struct FaultyBroker {
    server: Arc<Server>,
    process: Arc<Process>,
    weather: Weather,
    /// How long it takes until this process notices that the broker is out of reach.
    blind: Duration,
}

impl FaultyBroker {
    pub(in crate::simulation) fn new(server: &Arc<Server>, process: &Arc<Process>, weather: Weather) -> Self {
        let blind = process.chance.millis(0..1_500);
        Self { server: Arc::clone(server), process: Arc::clone(process), weather, blind }
    }

    fn is_stormy(&self) -> bool {
        self.server.truth.clock.elapsed() < self.weather.clears
    }

    /// Whether something goes wrong that does so this often in all histories; it is counted.
    fn strikes(&self, times: u64, kind: &str) -> bool {
        let strikes = self.is_stormy() && self.process.chance.one_in(times);
        if strikes {
            self.server.truth.count(kind);
        }
        strikes
    }

    fn way(&self) -> Way {
        let chance = &self.process.chance;
        let strikes = self.is_stormy() && chance.one_in(self.weather.one_in.div_ceil(8));
        let way = match chance.below(7) {
            _ if !strikes => Way::Straight,
            0 => Way::Unconfirmed,
            1 => Way::NotReached,
            2 => Way::Vanished,
            3 => Way::Doubled,
            4 => Way::Overtaking,
            _ => Way::Late(chance.between(Duration::ZERO..self.weather.latest())),
        };
        self.server.truth.count(way.name());
        way
    }

    /// Sends a hint on its way; whether the broker says that it has it.
    fn send(&self, hint: Hint) -> bool {
        let keep = |hint, end| self.server.change(|memory| memory.publish(hint, end)).is_some();
        match self.way() {
            Way::Straight => keep(hint, End::Back),
            Way::Unconfirmed => {
                keep(hint, End::Back);
                false
            }
            Way::NotReached => false,
            Way::Vanished => self.server.down().is_none(),
            Way::Doubled => keep(hint.clone(), End::Back) && keep(hint, End::Back),
            Way::Overtaking => keep(hint, End::Front),
            Way::Late(late) => {
                // It is somewhere within the broker, whatever its sender does meanwhile.
                let server = Arc::clone(&self.server);
                let confirmed = server.down().is_none();
                tokio::spawn(async move {
                    tokio::time::sleep(late).await;
                    server.change(|memory| memory.publish(hint, End::Back));
                });
                confirmed
            }
        }
    }

    /// Waits for what `fetch` gives. Can be dropped at any time.
    async fn fetch<T>(&self, mut fetch: impl FnMut(&mut Memory) -> Vec<T>) -> Vec<T> {
        if self.strikes(self.weather.one_in * 2, "fault/consumer hangs") {
            tokio::time::sleep(self.process.chance.millis(100..6_000)).await;
        }
        loop {
            self.process.still_alive().await;
            let mut changed = pin!(self.server.changed.notified());
            changed.as_mut().enable();
            let fetched = self.server.ask(&mut fetch).unwrap_or_default();
            if !fetched.is_empty() {
                return fetched;
            }
            changed.await;
            // Who hears of it first is not always the same.
            tokio::time::sleep(self.process.chance.millis(0..3)).await;
        }
    }

    /// Settles what was delivered over a channel, unless the channel is lost just now.
    fn settle(&self, consumer: u64, work: impl FnOnce(&mut Memory)) {
        if self.process.is_dead() {
            return;
        }
        if self.strikes(self.weather.one_in, "fault/channel lost") {
            self.server.change(|memory| memory.interrupt(consumer));
        } else {
            self.server.change(work);
        }
    }
}

#[async_trait]
impl Broker for FaultyBroker {
    async fn publish(&self, hints: &[Hint]) -> Vec<bool> {
        self.process.still_alive().await;
        let crashes = self.process.is_mortal() && self.strikes(self.weather.one_in * 4, "fault/crash at a publish");
        tokio::time::sleep(self.process.chance.millis(0..3)).await;
        if crashes && self.process.chance.one_in(2) {
            return self.process.crash().await;
        }
        self.process.still_alive().await;
        let known = hints.iter().map(|hint| self.send(hint.clone())).collect();
        if crashes {
            return self.process.crash().await;
        }
        let slow = self.strikes(self.weather.one_in, "fault/late confirmation");
        tokio::time::sleep(self.process.chance.millis(if slow { 0..3_000 } else { 0..3 })).await;
        self.process.still_alive().await;
        known
    }

    fn subscribe(&self, window: usize) -> Box<dyn Subscription> {
        let consumer = self.server.join();
        Box::new(Hints { broker: self.clone(), consumer, window: window.max(1), queues: Vec::new() })
    }

    fn tasks(&self, window: usize) -> Box<dyn Inbox> {
        Box::new(Letters { broker: self.clone(), consumer: self.server.join(), window: window.max(1) })
    }

    async fn waiting(&self, queue: &QueueName) -> Result<u64, BrokerError> {
        let lost = || BrokerError::Unavailable("it cannot be reached".to_owned());
        self.process.still_alive().await;
        tokio::time::sleep(self.process.chance.millis(0..3)).await;
        self.process.still_alive().await;
        if self.strikes(self.weather.one_in, "fault/broker does not count") {
            return Err(lost());
        }
        if self.weather.sabotage == Sabotage::Count {
            return Ok(1);
        }
        self.server.ask(|memory| memory.waiting(queue)).map(|waiting| waiting as u64).ok_or_else(lost)
    }

    async fn examine(&self) -> Result<Vec<Finding>, BrokerError> {
        Ok(Vec::new())
    }

    fn health(&self) -> Health {
        match self.server.down() {
            Some(since) if since.elapsed() >= self.blind => Health::Down("it cannot be reached".to_owned()),
            _ => Health::Up,
        }
    }
}

/// The hints of some queues, fetched when they are asked for.
#[derive(Debug)]
struct Hints {
    broker: FaultyBroker,
    consumer: u64,
    window: usize,
    queues: Vec<QueueName>,
}

#[async_trait]
impl Subscription for Hints {
    fn follow(&mut self, queues: &[QueueName]) {
        if self.queues != queues {
            self.queues = queues.to_vec();
            self.broker.server.change(|memory| memory.unfollow(self.consumer, queues));
        }
    }

    async fn receive(&mut self, free: usize) -> Vec<Delivery> {
        let Self { broker, consumer, window, queues } = self;
        if free == 0 {
            return Vec::new();
        }
        let deliveries = broker.fetch(|memory| memory.fetch(*consumer, queues, free, *window)).await;
        for _ in &deliveries {
            broker.server.truth.count("hint/delivered");
        }
        // Whose turn it is next.
        if !queues.is_empty() {
            queues.rotate_left(1);
        }
        deliveries
    }

    fn acknowledge(&mut self, deliveries: Vec<Delivery>) {
        self.broker.settle(self.consumer, |memory| {
            for delivery in deliveries {
                memory.acknowledge(delivery.receipt);
            }
        });
    }

    fn give_back(&mut self, deliveries: Vec<Delivery>) {
        self.broker.settle(self.consumer, |memory| {
            // Those that came first are before the others again.
            for delivery in deliveries.into_iter().rev() {
                memory.give_back(delivery.receipt);
            }
        });
    }
}

impl Drop for Hints {
    fn drop(&mut self) {
        self.broker.server.leave(self.consumer);
    }
}

/// The messages of other systems.
#[derive(Debug)]
struct Letters {
    broker: FaultyBroker,
    consumer: u64,
    window: usize,
}

#[async_trait]
impl Inbox for Letters {
    async fn receive(&mut self, max: usize) -> Vec<Letter> {
        if max == 0 {
            return Vec::new();
        }
        self.broker.fetch(|memory| memory.receive(self.consumer, max, self.window)).await
    }

    fn acknowledge(&mut self, receipts: Vec<Receipt>) {
        self.broker.settle(self.consumer, |memory| {
            for receipt in receipts {
                memory.acknowledge(receipt);
            }
        });
    }

    fn give_back(&mut self, receipts: Vec<Receipt>) {
        self.broker.settle(self.consumer, |memory| {
            for receipt in receipts.into_iter().rev() {
                memory.give_back(receipt);
            }
        });
    }

    fn refuse(&mut self, letters: Vec<(Letter, String)>) {
        self.broker.settle(self.consumer, |memory| {
            for (letter, why) in letters {
                memory.refuse(letter.receipt, why);
            }
        });
    }
}

impl Drop for Letters {
    fn drop(&mut self) {
        self.broker.server.leave(self.consumer);
    }
}
