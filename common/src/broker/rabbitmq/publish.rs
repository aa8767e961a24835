//! Publishing: one supervised channel with publisher confirms.
//!
//! Messages go out in batches without a wait in between, and a batch is over
//! when the server has spoken about each of its messages. One batch is in
//! flight at a time: a message that the server could not route comes back
//! beside the confirmation of *some* message of its channel (confirmations of
//! quorum queues overtake each other), so it is known by where it was sent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::link::Link;
use super::topology::{Names, Part, declare, short};
use crate::broker::BrokerError;

/// Messages in flight.
const IN_FLIGHT: usize = 1_024;
/// How long nothing is sent to a queue that was silent: it may be without a
/// leader, and every batch would wait for it.
const SILENCE: Duration = Duration::from_secs(10);
/// Orders that wait.
const ORDERS: usize = 64;
/// The delivery mode of messages that survive a restart of the server.
pub(super) const PERSISTENT: u8 = 2;

/// Where a message is sent: exchange and routing key.
pub(super) type Route = (String, String);

/// A message to be published.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) route: Route,
    /// What is declared when nothing is bound there.
    pub(super) part: Part,
    pub(super) properties: BasicProperties,
    pub(super) body: Vec<u8>,
}

/// Publishes for everybody in this process. It ends with the value.
#[derive(Debug)]
pub(super) struct Publisher {
    orders: mpsc::Sender<Order>,
    trouble: Arc<Mutex<Option<String>>>,
    patience: Duration,
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Order {
    messages: Vec<Message>,
    answer: oneshot::Sender<Vec<bool>>,
}

/// What the server said of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    /// It has it, or has sent it back.
    Ack,
    /// It could not take it.
    Nack,
    /// Nothing, and the time is up.
    Silent,
    /// Nothing that counts: the channel broke, or no confirmations were asked for.
    Nothing,
}

/// What became of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The server keeps it.
    Kept,
    /// No queue is bound where it was sent.
    Unroutable,
    /// It may or may not be there.
    Unknown,
    /// The same, and its queue may be without a leader: others must not wait for it again.
    Silent,
}

impl Publisher {
    pub(super) fn start(link: Arc<Link>, names: Names, patience: Duration) -> Self {
        let (orders, waiting) = mpsc::channel(ORDERS);
        let trouble = Arc::new(Mutex::new(None));
        let task = Task {
            link,
            names,
            patience,
            channel: None,
            silent: BTreeMap::new(),
            declared: BTreeSet::new(),
            trouble: Arc::clone(&trouble),
        };
        Self { orders, trouble, patience, _task: AbortOnDropHandle::new(tokio::spawn(task.run(waiting))) }
    }

    /// Publishes messages, and says which of them the server keeps.
    pub(super) async fn publish(&self, messages: Vec<Message>) -> Vec<bool> {
        let mut kept = Vec::with_capacity(messages.len());
        let mut messages = messages.into_iter();
        while messages.len() > 0 {
            let part: Vec<Message> = messages.by_ref().take(IN_FLIGHT).collect();
            let count = part.len();
            let (answer, answered) = oneshot::channel();
            let order = self.orders.send_timeout(Order { messages: part, answer }, self.patience).await;
            let fates = if order.is_ok() { answered.await.unwrap_or_default() } else { Vec::new() };
            kept.extend(fates.into_iter().chain(std::iter::repeat(false)).take(count));
        }
        kept
    }

    /// Why nothing can be published, if so.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Task {
    link: Arc<Link>,
    names: Names,
    patience: Duration,
    channel: Option<Channel>,
    /// Routes to which nothing is sent until then. Bounded by the queues that there are.
    silent: BTreeMap<Route, Instant>,
    /// What was there when it was last looked at. Bounded by the queues that there are.
    declared: BTreeSet<Part>,
    trouble: Arc<Mutex<Option<String>>>,
}

impl Task {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        while let Some(first) = orders.recv().await {
            let mut count = first.messages.len();
            let mut batch = vec![first];
            while count < IN_FLIGHT
                && let Ok(order) = orders.try_recv()
            {
                count += order.messages.len();
                batch.push(order);
            }
            self.serve(batch).await;
        }
    }

    async fn serve(&mut self, batch: Vec<Order>) {
        let (mut messages, mut answers) = (Vec::new(), Vec::with_capacity(batch.len()));
        for order in batch {
            answers.push((order.messages.len(), order.answer));
            messages.extend(order.messages);
        }
        let mut kept = match self.publish(&messages).await {
            Ok(kept) => kept.into_iter(),
            Err(error) => {
                // What there is to say of the connection, the connection says.
                tracing::debug!(%error, messages = messages.len(), "nothing can be published");
                Vec::new().into_iter()
            }
        };
        for (count, answer) in answers {
            // Who asked may be gone.
            let _ = answer.send(kept.by_ref().chain(std::iter::repeat(false)).take(count).collect());
        }
    }

    /// Publishes; what cannot be routed is published once more when there is a queue for it.
    async fn publish(&mut self, messages: &[Message]) -> Result<Vec<bool>, BrokerError> {
        let now = Instant::now();
        self.silent.retain(|_, until| *until > now);
        let is_new =
            |message: &&Message| !self.declared.contains(&message.part) && !self.silent.contains_key(&message.route);
        let new: BTreeSet<&Part> = messages.iter().filter(is_new).map(|message| &message.part).collect();
        let mut refused = self.declare(new).await?;
        let mut fates = self.attempt(messages.iter()).await?;
        let lost = |(at, _): &(usize, &Message)| fates.get(*at) == Some(&Fate::Unroutable);
        let again: Vec<(usize, &Message)> = (0..).zip(messages).filter(lost).collect();
        if !again.is_empty() {
            // Somebody deleted a queue that was there.
            let parts = again.iter().map(|(_, message)| &message.part).collect();
            refused = self.declare(parts).await?.or(refused);
            for ((at, _), fate) in again.iter().zip(self.attempt(again.iter().map(|(_, message)| *message)).await?) {
                if let Some(first) = fates.get_mut(*at) {
                    *first = fate;
                }
            }
        }
        self.note(refused.map(|error| error.to_string()));
        Ok(fates.into_iter().map(|fate| fate == Fate::Kept).collect())
    }

    /// Declares parts, and gives the last refusal: what is refused of one queue is no reason not to serve the others.
    async fn declare(&mut self, parts: BTreeSet<&Part>) -> Result<Option<BrokerError>, BrokerError> {
        let mut refused = None;
        for part in parts {
            // A refused declaration closes its channel: that of the publisher must not be it.
            let channel = self.link.channel().await?;
            match self.link.within(declare(&channel, &self.names, part)).await {
                Ok(()) => {
                    self.declared.insert(part.clone());
                }
                Err(error @ BrokerError::Misconfigured(_)) => {
                    tracing::warn!(%error, "hints are not published");
                    refused = Some(error);
                }
                Err(error) => {
                    tracing::debug!(%error, "hints are not published");
                    if let Part::Lane(queue, lane) = part
                        && self.link.trouble().is_none()
                    {
                        self.silence(&(self.names.hints(), Names::key(queue, *lane)));
                    }
                }
            }
        }
        Ok(refused)
    }

    /// Publishes once. After anything but a clear word about each message the channel is given up.
    async fn attempt<'m>(&mut self, messages: impl Iterator<Item = &'m Message>) -> Result<Vec<Fate>, BrokerError> {
        let channel = match self.channel.take().filter(|channel| channel.status().connected()) {
            Some(channel) => channel,
            None => self.open().await?,
        };
        let messages: Vec<&Message> = messages.collect();
        let heard: Vec<(usize, &Message)> = (0..)
            .zip(messages.iter().copied())
            .filter(|(_, message)| !self.silent.contains_key(&message.route))
            .collect();
        let until = Instant::now() + self.patience;
        let said = send(&channel, heard.iter().map(|(_, message)| *message), until).await;
        if said.iter().all(|(said, _)| matches!(said, Said::Ack | Said::Nack)) {
            self.channel = Some(channel);
        }
        let routes: Vec<&Route> = heard.iter().map(|(_, message)| &message.route).collect();
        let mut fates = vec![Fate::Unknown; messages.len()];
        for ((at, message), fate) in heard.iter().zip(judge(&routes, &said)) {
            if fate == Fate::Silent {
                self.silence(&message.route);
            }
            if let Some(slot) = fates.get_mut(*at) {
                *slot = fate;
            }
        }
        Ok(fates)
    }

    fn silence(&mut self, route: &Route) {
        tracing::warn!(queue = route.1, "the broker does not confirm hints for this queue (has it a leader?)");
        self.silent.insert(route.clone(), Instant::now() + SILENCE);
    }

    async fn open(&mut self) -> Result<Channel, BrokerError> {
        let channel = self.link.channel().await?;
        // Publishing to an exchange that is not there would close the channel.
        self.link.within(declare(&channel, &self.names, &Part::Dead)).await?;
        self.link.answer(channel.confirm_select(ConfirmSelectOptions::default())).await?;
        Ok(channel)
    }

    fn note(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

/// Sends messages and waits for what the server says of each, with the route of a message that came back beside it.
async fn send(
    channel: &Channel,
    messages: impl Iterator<Item = &Message>,
    until: Instant,
) -> Vec<(Said, Option<Route>)> {
    let options = BasicPublishOptions { mandatory: true, immediate: false };
    let mut under_way: FuturesUnordered<_> = messages
        .enumerate()
        .map(async |(at, message)| {
            let (exchange, key) = (short(&message.route.0), short(&message.route.1));
            let published =
                channel.basic_publish(exchange, key, options, &message.body, message.properties.clone()).await;
            match published {
                Ok(confirmation) => (at, confirmation.await),
                Err(error) => (at, Err(error)),
            }
        })
        .collect();
    let mut said = vec![(Said::Silent, None); under_way.len()];
    while let Ok(Some((at, confirmation))) = tokio::time::timeout_at(until, under_way.next()).await {
        let word = match confirmation {
            Ok(Confirmation::Ack(returned)) => (Said::Ack, returned.as_deref().map(route)),
            Ok(Confirmation::Nack(returned)) => (Said::Nack, returned.as_deref().map(route)),
            Ok(Confirmation::NotRequested) => (Said::Nothing, None),
            Err(error) => {
                tracing::debug!(%error, "a message was not confirmed");
                (Said::Nothing, None)
            }
        };
        if let Some(slot) = said.get_mut(at) {
            *slot = word;
        }
    }
    said
}

fn route(returned: &lapin::message::Delivery) -> Route {
    (returned.exchange.to_string(), returned.routing_key.to_string())
}

/// What became of each message of a batch. A returned message says that
/// nothing was bound on its route, whatever it came back with.
fn judge(routes: &[&Route], said: &[(Said, Option<Route>)]) -> Vec<Fate> {
    let returned: BTreeSet<&Route> = said.iter().filter_map(|(_, returned)| returned.as_ref()).collect();
    let fate = |(route, (said, _)): (&&Route, &(Said, Option<Route>))| match said {
        _ if returned.contains(route) => Fate::Unroutable,
        Said::Ack => Fate::Kept,
        Said::Nack | Said::Nothing => Fate::Unknown,
        Said::Silent => Fate::Silent,
    };
    routes.iter().zip(said).map(fate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(key: &str) -> Route {
        ("teamster.hints".to_owned(), key.to_owned())
    }

    #[test]
    fn a_returned_message_is_known_by_its_route_and_not_by_its_confirmation() {
        let (there, gone) = (route("a.normal"), route("b.normal"));
        // The third came back while the first was being confirmed.
        let said = [(Said::Ack, Some(gone.clone())), (Said::Ack, None), (Said::Ack, None)];
        assert_eq!(judge(&[&there, &there, &gone], &said), [Fate::Kept, Fate::Kept, Fate::Unroutable]);
    }

    #[test]
    fn only_a_clear_yes_is_one() {
        let there = route("a.normal");
        let said = [(Said::Ack, None), (Said::Nack, None), (Said::Nothing, None), (Said::Silent, None)];
        assert_eq!(judge(&[&there; 4], &said), [Fate::Kept, Fate::Unknown, Fate::Unknown, Fate::Silent]);
    }
}
