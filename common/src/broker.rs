//! The broker: what wakes workers up. It carries hints; the store stays the truth.
//!
//! A hint says that a task may be ready. One that is lost costs latency, one
//! that comes twice costs a claim that is refused; neither costs a task, so a
//! broker may be purged, killed or lost altogether. The way of a hint: a store
//! rings the [`Bell`] and keeps the hint in its outbox, [`pass_on`] publishes it
//! and takes it out of the outbox once the broker has confirmed it, a worker
//! receives it, claims the task in the store, and acknowledges it as soon as the
//! claim is decided. No message is held while a task runs.

mod doorbell;
mod hint;
pub mod rabbitmq;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

pub use doorbell::{Bell, Calls, doorbell, pass_on};
pub use hint::{Lane, NotAHint, decode, encode};
pub use rabbitmq::RabbitMq;

use crate::entropy::Entropy;
use crate::id::QueueName;
use crate::store::{Finding, Hint};

/// The operations of a broker. None of them waits without an end, but [`Subscription::receive`]
/// and [`Inbox::receive`], which wait for messages and can be dropped at any time.
#[async_trait]
pub trait Broker: Send + Sync + std::fmt::Debug {
    /// Publishes hints; the answers, in the same order, say which of them the
    /// broker has confirmed to keep. What is not confirmed may be there all the same.
    async fn publish(&self, hints: &[Hint]) -> Vec<bool>;

    /// Receives hints. At most `window` of each queue and lane are held unacknowledged.
    fn subscribe(&self, window: usize) -> Box<dyn Subscription>;

    /// Receives tasks that other systems publish. At most `window` of them are held unacknowledged.
    fn tasks(&self, window: usize) -> Box<dyn Inbox>;

    /// How many hints of a queue wait for a worker, those that are being delivered not counted.
    async fn waiting(&self, queue: &QueueName) -> Result<u64, BrokerError>;

    /// Looks at what the broker keeps and how, and says what it means for tasks.
    async fn examine(&self) -> Result<Vec<Finding>, BrokerError>;

    /// Whether it is connected, and whether everything that should consume does. Asks nobody.
    fn health(&self) -> Health;
}

/// Hints as they come for some queues: those of high priority first.
#[async_trait]
pub trait Subscription: Send + Sync + std::fmt::Debug {
    /// From which queues hints are wanted from now on.
    fn follow(&mut self, queues: &[QueueName]);

    /// Waits for hints, and gives up to `free` of them: so many tasks can be worked
    /// on now. Hints that nobody asks for go back to the broker after a while,
    /// and no new ones are fetched until somebody does.
    async fn receive(&mut self, free: usize) -> Vec<Delivery>;

    /// The claims of these hints are decided: the broker need not keep them. One
    /// that came over a channel that is gone is left alone; it comes again.
    fn acknowledge(&mut self, deliveries: Vec<Delivery>);

    /// The claims of these hints could not be decided: somebody shall get them again.
    fn give_back(&mut self, deliveries: Vec<Delivery>);
}

/// Tasks that other systems publish, as they come.
#[async_trait]
pub trait Inbox: Send + Sync + std::fmt::Debug {
    /// Waits for messages, and gives up to `max` of them.
    async fn receive(&mut self, max: usize) -> Vec<Letter>;

    /// The tasks of these messages are durable. A receipt of a channel that is gone is left alone.
    fn acknowledge(&mut self, receipts: Vec<Receipt>);

    /// Nothing could be done about these messages: they are to come again.
    fn give_back(&mut self, receipts: Vec<Receipt>);

    /// These messages can never become tasks: they go to the dead letters of the
    /// broker, with the reason in the header `x-teamster-reason`.
    fn refuse(&mut self, letters: Vec<(Letter, String)>);
}

/// A hint that was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// What it says.
    pub hint: Hint,
    /// By which it is acknowledged.
    pub receipt: Receipt,
}

/// A message that was received.
#[derive(Debug, Clone, PartialEq)]
pub struct Letter {
    /// What it says.
    pub body: Vec<u8>,
    /// The sender's id for it.
    pub message_id: Option<String>,
    /// The W3C `traceparent` header, unchecked.
    pub traceparent: Option<String>,
    /// By which it is acknowledged.
    pub receipt: Receipt,
    /// The properties that it came with.
    pub(crate) properties: lapin::BasicProperties,
}

impl Letter {
    /// A message without other properties; a broker that is written elsewhere hands out such.
    pub fn new(body: Vec<u8>, message_id: Option<String>, traceparent: Option<String>, receipt: Receipt) -> Self {
        Self { body, message_id, traceparent, receipt, properties: lapin::BasicProperties::default() }
    }
}

/// What a message is acknowledged by. It belongs to one channel: tags of a
/// channel that is gone mean other messages, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Which consumer of its subscription.
    pub consumer: u64,
    /// Which channel of that consumer.
    pub generation: u64,
    /// The delivery tag in that channel.
    pub tag: u64,
}

/// How a broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Connected, and everything consumes that should.
    Up,
    /// Not so, and why. It is being mended all the time.
    Down(String),
}

/// Why a broker did not do what was asked, by what the caller does next.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BrokerError {
    /// Try again: out of reach, busy, or starting.
    #[error("the broker cannot be used right now: {0}")]
    Unavailable(String),
    /// A person must look: wrong credentials, a queue of another kind, a wrong URL.
    #[error("{0}")]
    Misconfigured(String),
}

/// What a broker is opened with.
#[derive(Debug, Clone)]
pub struct BrokerOptions {
    /// Spreads the waits between tries.
    pub entropy: Arc<dyn Entropy>,
    /// How long a connection, an answer or a confirmation may take. Default 5 s.
    pub patience: Duration,
    /// How long a hint is held for a slot that does not come free. Default 2 s.
    pub hold: Duration,
    /// How often a consumer to which nothing comes is checked: does the broker know it? Default 5 s.
    pub watch: Duration,
}

impl BrokerOptions {
    /// The defaults.
    pub fn new(entropy: Arc<dyn Entropy>) -> Self {
        Self { entropy, patience: Duration::from_secs(5), hold: Duration::from_secs(2), watch: Duration::from_secs(5) }
    }
}

/// Opens the broker that a URL names: `amqp://` or `amqps://`, with
/// `?prefix=NAME` in front of all names there (default `teamster`). With TLS, the
/// server's certificate must be made out for the host and signed by somebody whom
/// the system trusts, or by one of the certificates in `?ca=FILE` (PEM,
/// percent-encoded) if that is given. Connects in the background: a broker that is
/// not there yet is no error.
///
/// # Errors
/// [`BrokerError::Misconfigured`] for a URL that names no broker, or certificates that cannot be read.
pub fn open(url: &str, options: BrokerOptions) -> Result<Arc<dyn Broker>, BrokerError> {
    Ok(Arc::new(RabbitMq::open(url, options)?))
}
