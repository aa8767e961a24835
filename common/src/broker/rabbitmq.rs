//! `RabbitMQ`: hints and tasks as messages of AMQP 0-9-1.
//!
//! | file | what |
//! |---|---|
//! | `address` | the URL |
//! | `link` | one supervised connection |
//! | `topology` | names, and how exchanges and queues are declared |
//! | `publish` | one supervised channel with publisher confirms |
//! | `consume` | one supervised channel for one queue |
//! | `lanes`, `letters` | what a worker and a scheduler receive |
//! | `dead` | messages that nobody could use |
//!
//! Publishing and consuming have a connection each: a server that runs short of
//! memory or disk stops to read from connections that publish, and
//! acknowledgements must go on.

mod address;
mod consume;
mod dead;
mod lanes;
mod letters;
mod link;
mod publish;
mod topology;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError};

use async_trait::async_trait;
use lapin::BasicProperties;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;

pub use topology::Names;

use self::address::Address;
use self::consume::Ground;
use self::lanes::Lanes;
use self::letters::Letters;
use self::link::{Link, Tls};
use self::publish::{Message, PERSISTENT, Publisher};
use self::topology::{Part, declare};
use super::{Broker, BrokerError, BrokerOptions, Health, Inbox, Lane, Subscription, encode};
use crate::id::QueueName;
use crate::store::{Finding, Hint, Severity};

/// A `RabbitMQ` server or cluster.
#[derive(Debug)]
pub struct RabbitMq {
    address: Address,
    tls: Option<Tls>,
    names: Names,
    options: BrokerOptions,
    publishing: Arc<Link>,
    publisher: Arc<Publisher>,
    consuming: OnceLock<Ground>,
    ids: Arc<AtomicU64>,
}

impl RabbitMq {
    /// Begins to connect to the server that a URL names; see [`super::open`].
    ///
    /// # Errors
    /// [`BrokerError::Misconfigured`] for a URL that names none, or certificates that cannot be read.
    pub fn open(url: &str, options: BrokerOptions) -> Result<Self, BrokerError> {
        let address = Address::parse(url)?;
        let names = Names::new(&address.prefix);
        let tls = Tls::of(&address)?;
        let publishing = Arc::new(Link::start(&address, tls.as_ref(), "publishes", &options));
        let publisher = Arc::new(Publisher::start(Arc::clone(&publishing), names.clone(), options.patience));
        Ok(Self {
            address,
            tls,
            names,
            options,
            publishing,
            publisher,
            consuming: OnceLock::new(),
            ids: Arc::default(),
        })
    }

    /// The names of what is declared there.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// What consumers share; the connection for it is made for the first of them.
    fn ground(&self) -> Ground {
        let start = || Ground {
            link: Arc::new(Link::start(&self.address, self.tls.as_ref(), "consumes", &self.options)),
            publisher: Arc::clone(&self.publisher),
            names: self.names.clone(),
            options: self.options.clone(),
            troubles: Arc::default(),
        };
        self.consuming.get_or_init(start).clone()
    }

    /// How many messages wait in the queue of a part, which is declared first.
    async fn count(&self, part: &Part) -> Result<u64, BrokerError> {
        let channel = self.publishing.channel().await?;
        self.publishing.within(declare(&channel, &self.names, part)).await?;
        let queue = part.queue(&self.names);
        let passive = QueueDeclareOptions::durable().passive();
        let asked = channel.queue_declare(queue.as_str().into(), passive, FieldTable::default());
        Ok(u64::from(self.publishing.answer(asked).await?.message_count()))
    }
}

#[async_trait]
impl Broker for RabbitMq {
    async fn publish(&self, hints: &[Hint]) -> Vec<bool> {
        let message = |hint: &Hint| {
            let lane = Lane::of(hint.priority);
            let properties = BasicProperties::default()
                .with_content_type("application/json".into())
                .with_delivery_mode(PERSISTENT)
                .with_type("hint".into())
                .with_message_id(format!("{}.{}", hint.task, hint.version).into());
            Message {
                route: (self.names.hints(), Names::key(&hint.queue, lane)),
                part: Part::Lane(hint.queue.clone(), lane),
                properties,
                body: encode(hint),
            }
        };
        self.publisher.publish(hints.iter().map(message).collect()).await
    }

    fn subscribe(&self, window: usize) -> Box<dyn Subscription> {
        Box::new(Lanes::new(self.ground(), Arc::clone(&self.ids), window))
    }

    fn tasks(&self, window: usize) -> Box<dyn Inbox> {
        Box::new(Letters::new(self.ground(), self.ids.fetch_add(1, Ordering::Relaxed), window))
    }

    async fn waiting(&self, queue: &QueueName) -> Result<u64, BrokerError> {
        let mut waiting = 0;
        for lane in Lane::ALL {
            waiting += self.count(&Part::Lane(queue.clone(), lane)).await?;
        }
        Ok(waiting)
    }

    async fn examine(&self) -> Result<Vec<Finding>, BrokerError> {
        let dead = self.count(&Part::Dead).await?;
        let tasks = self.count(&Part::Tasks).await?;
        let good = |subject: &str, said: String| Finding {
            severity: Severity::Good,
            subject: subject.to_owned(),
            said,
            advice: None,
        };
        let mut findings = vec![
            good("broker", format!("{} answers", self.address.shown())),
            good(
                "broker queues",
                format!("quorum queues with publisher confirms; {tasks} tasks of other systems wait to be taken in"),
            ),
            good(
                "broker loss",
                "the broker carries hints only: if it is lost or emptied, tasks start later and none is lost; tasks \
                 that other systems published and no scheduler has taken in yet are as safe as its disks"
                    .to_owned(),
            ),
        ];
        if dead > 0 {
            findings.push(Finding {
                severity: Severity::Warning,
                subject: "broker dead letters".to_owned(),
                said: format!("{dead} messages that nobody could use lie in the queue {}", self.names.dead()),
                advice: Some("look at their header x-teamster-reason, then purge the queue".to_owned()),
            });
        }
        if self.address.is_exposed() {
            findings.push(Finding {
                severity: Severity::Warning,
                subject: "broker connection".to_owned(),
                said: "what is sent to the broker, the password too, can be read on the way".to_owned(),
                advice: Some("use amqps://".to_owned()),
            });
        }
        Ok(findings)
    }

    fn health(&self) -> Health {
        let consuming = self.consuming.get();
        let lost = || {
            let troubles = consuming?.troubles.lock().unwrap_or_else(PoisonError::into_inner);
            troubles.values().next().cloned()
        };
        let trouble = self.publishing.trouble().or_else(|| consuming?.link.trouble()).or_else(lost);
        match trouble.or_else(|| self.publisher.trouble()) {
            None => Health::Up,
            Some(why) => Health::Down(why),
        }
    }
}
