//! The exchanges and queues at the broker: their names, and how they are declared.
//!
//! Declaring is idempotent, and checks: one that exists with other arguments is
//! an error of the server, and what is said about it says what to do.
//!
//! | name | what |
//! |---|---|
//! | `PREFIX.hints` | direct exchange; the routing key is `QUEUE.LANE` |
//! | `PREFIX.hints.QUEUE.LANE` | quorum queue: the hints of one task queue and lane |
//! | `PREFIX.tasks` | topic exchange and quorum queue: tasks that other systems publish, under any routing key |
//! | `PREFIX.dead` | fanout exchange and quorum queue: messages that nobody could use, the newest 100,000 |

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{Channel, Error, ErrorKind, ExchangeKind};

use crate::broker::{BrokerError, Lane};
use crate::id::QueueName;

/// Deliveries after which a queue would drop a message. Handing a hint on is no
/// failure, and `RabbitMQ` 4 would drop it after 20 by default; what a server
/// before 4 understands as a number is a number.
const DELIVERIES: i64 = 1_000_000_000;
/// Dead letters that the broker keeps; the oldest go first.
const DEAD_LETTERS: i64 = 100_000;
/// AMQP's reply code for something that exists otherwise.
const PRECONDITION_FAILED: u16 = 406;

/// The names below one prefix.
#[derive(Debug, Clone)]
pub struct Names {
    prefix: String,
}

impl Names {
    /// Below this prefix.
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// The exchange for hints.
    pub fn hints(&self) -> String {
        format!("{}.hints", self.prefix)
    }

    /// The routing key of hints.
    pub fn key(queue: &QueueName, lane: Lane) -> String {
        format!("{queue}.{}", lane.as_str())
    }

    /// The queue for the hints of one task queue and lane.
    pub fn lane(&self, queue: &QueueName, lane: Lane) -> String {
        format!("{}.hints.{}", self.prefix, Self::key(queue, lane))
    }

    /// The exchange and the queue for tasks that other systems publish.
    pub fn tasks(&self) -> String {
        format!("{}.tasks", self.prefix)
    }

    /// The exchange and the queue for messages that nobody could use.
    pub fn dead(&self) -> String {
        format!("{}.dead", self.prefix)
    }
}

/// What is declared together, beside the exchange for hints and what is there for dead letters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// One queue for hints.
    Lane(QueueName, Lane),
    /// The ingress.
    Tasks,
    /// Nothing else.
    Dead,
}

impl Part {
    /// The queue.
    pub(super) fn queue(&self, names: &Names) -> String {
        match self {
            Self::Lane(queue, lane) => names.lane(queue, *lane),
            Self::Tasks => names.tasks(),
            Self::Dead => names.dead(),
        }
    }
}

/// Declares a part, and checks that it is as it should be. An error closes the channel.
pub(super) async fn declare(channel: &Channel, names: &Names, part: &Part) -> Result<(), BrokerError> {
    let dead = names.dead();
    exchange(channel, &dead, ExchangeKind::Fanout).await?;
    let bound = [("x-max-length", DEAD_LETTERS.into()), ("x-overflow", text("drop-head"))];
    queue(channel, &dead, &dead, "", bound).await?;
    exchange(channel, &names.hints(), ExchangeKind::Direct).await?;
    let kept = [("x-delivery-limit", DELIVERIES.into()), ("x-dead-letter-exchange", text(&dead))];
    match part {
        Part::Lane(name, lane) => {
            let key = Names::key(name, *lane);
            queue(channel, &names.lane(name, *lane), &names.hints(), &key, kept).await
        }
        Part::Tasks => {
            exchange(channel, &names.tasks(), ExchangeKind::Topic).await?;
            queue(channel, &names.tasks(), &names.tasks(), "#", kept).await
        }
        Part::Dead => Ok(()),
    }
}

async fn exchange(channel: &Channel, name: &str, kind: ExchangeKind) -> Result<(), BrokerError> {
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let declared = channel.exchange_declare(name.into(), kind, options, FieldTable::default()).await;
    declared.map_err(|error| explain("exchange", name, &error))
}

async fn queue<const N: usize>(
    channel: &Channel,
    name: &str,
    exchange: &str,
    key: &str,
    more: [(&str, AMQPValue); N],
) -> Result<(), BrokerError> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    for (argument, value) in more {
        arguments.insert(argument.into(), value);
    }
    let declared = channel.queue_declare(name.into(), QueueDeclareOptions::durable(), arguments).await;
    declared.map_err(|error| explain("queue", name, &error))?;
    let bound = channel
        .queue_bind(name.into(), exchange.into(), key.into(), QueueBindOptions::default(), FieldTable::default())
        .await;
    bound.map_err(|error| explain("queue", name, &error))
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(value))
}

/// What a refused declaration means, and what to do about it.
fn explain(kind: &str, name: &str, error: &Error) -> BrokerError {
    match error.kind() {
        ErrorKind::ProtocolError(refusal) if refusal.get_id() == PRECONDITION_FAILED => {
            BrokerError::Misconfigured(format!(
                "the {kind} {name} exists at the broker and is not as it must be ({}); delete it (hints come again, \
                 tasks that other systems published and dead letters do not: move those first), or use another \
                 `?prefix=` in the broker's URL",
                refusal.get_message()
            ))
        }
        ErrorKind::ProtocolError(refusal) => {
            BrokerError::Unavailable(format!("the {kind} {name} cannot be declared: {}", refusal.get_message()))
        }
        _ => BrokerError::Unavailable(format!("the {kind} {name} cannot be declared: {error}")),
    }
}

/// A short string of AMQP: cut where it would be too long.
pub(super) fn short(text: &str) -> ShortString {
    let end = (0..=text.len().min(255)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.get(..end).unwrap_or_default().into()
}
