//! What a broker keeps, in memory: hints in lanes, messages of other systems, and
//! what was delivered and not settled. Knows neither time nor faults.

use std::collections::{BTreeMap, VecDeque};

use common::broker::{Delivery, Lane, Letter, Receipt};
use common::id::QueueName;
use common::store::Hint;

/// A message of another system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::simulation) struct Message {
    pub(in crate::simulation) body: Vec<u8>,
    pub(in crate::simulation) id: Option<String>,
}

/// At which end of its lane a hint gets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Behind all others, as it should be.
    Back,
    /// Before all others.
    Front,
}

/// Something that was delivered and not settled.
#[derive(Debug, Clone)]
enum Held {
    Hint(Hint),
    Message(Message),
}

/// The channel of one consumer.
#[derive(Debug, Default)]
struct Channel {
    generation: u64,
    open: BTreeMap<u64, Held>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Memory {
    lanes: BTreeMap<(Lane, QueueName), VecDeque<Hint>>,
    messages: VecDeque<Message>,
    dead: Vec<(Message, String)>,
    channels: BTreeMap<u64, Channel>,
    consumers: u64,
    tags: u64,
}

impl Memory {
    /// A new consumer.
    pub(super) fn join(&mut self) -> u64 {
        self.consumers += 1;
        self.channels.insert(self.consumers, Channel::default());
        self.consumers
    }

    /// A consumer ends; what it held comes again.
    pub(super) fn leave(&mut self, consumer: u64) {
        self.interrupt(consumer);
        self.channels.remove(&consumer);
    }

    /// A consumer loses its channel: what it held comes again, and its receipts are worth nothing.
    pub(super) fn interrupt(&mut self, consumer: u64) {
        let Some(channel) = self.channels.get_mut(&consumer) else { return };
        channel.generation += 1;
        // In their old order, before all others.
        for held in std::mem::take(&mut channel.open).into_values().rev() {
            self.again(held);
        }
    }

    /// All consumers lose their channels.
    pub(super) fn interrupt_all(&mut self) {
        for consumer in self.channels.keys().copied().collect::<Vec<_>>() {
            self.interrupt(consumer);
        }
    }

    /// What a consumer held of queues that it does not follow any more comes again.
    pub(super) fn unfollow(&mut self, consumer: u64, followed: &[QueueName]) {
        let Some(channel) = self.channels.get_mut(&consumer) else { return };
        let strange = |held: &Held| matches!(held, Held::Hint(hint) if !followed.contains(&hint.queue));
        let (strange, open) = std::mem::take(&mut channel.open).into_iter().partition(|(_, held)| strange(held));
        channel.open = open;
        let strange: BTreeMap<u64, Held> = strange;
        for held in strange.into_values().rev() {
            self.again(held);
        }
    }

    fn again(&mut self, held: Held) {
        match held {
            Held::Hint(hint) => self.publish(hint, End::Front),
            Held::Message(message) => self.messages.push_front(message),
        }
    }

    pub(super) fn publish(&mut self, hint: Hint, end: End) {
        let lane = self.lanes.entry((Lane::of(hint.priority), hint.queue.clone())).or_default();
        match end {
            End::Back => lane.push_back(hint),
            End::Front => lane.push_front(hint),
        }
    }

    pub(super) fn post(&mut self, message: Message) {
        self.messages.push_back(message);
    }

    /// Up to `free` hints, those of high lanes first and in turns among queues. A consumer holds at
    /// most `window` of each queue and lane.
    pub(super) fn fetch(&mut self, consumer: u64, queues: &[QueueName], free: usize, window: usize) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        for lane in Lane::ALL {
            let mut silent = 0;
            for queue in queues.iter().cycle() {
                if deliveries.len() == free || silent == queues.len() {
                    break;
                }
                match self.next(consumer, lane, queue, window) {
                    None => silent += 1,
                    Some(hint) => {
                        silent = 0;
                        if let Some(receipt) = self.hold(consumer, Held::Hint(hint.clone())) {
                            deliveries.push(Delivery { hint, receipt });
                        }
                    }
                }
            }
        }
        deliveries
    }

    fn next(&mut self, consumer: u64, lane: Lane, queue: &QueueName, window: usize) -> Option<Hint> {
        let of_lane =
            |held: &&Held| matches!(held, Held::Hint(hint) if Lane::of(hint.priority) == lane && hint.queue == *queue);
        let holds = self.channels.get(&consumer)?.open.values().filter(of_lane).count();
        if holds >= window {
            return None;
        }
        self.lanes.get_mut(&(lane, queue.clone()))?.pop_front()
    }

    /// Up to `max` messages of other systems; a consumer holds at most `window`.
    pub(super) fn receive(&mut self, consumer: u64, max: usize, window: usize) -> Vec<Letter> {
        let holds = self.channels.get(&consumer).map_or(window, |channel| channel.open.len());
        let max = max.min(window.saturating_sub(holds));
        let mut letters = Vec::new();
        while letters.len() < max
            && let Some(message) = self.messages.pop_front()
        {
            if let Some(receipt) = self.hold(consumer, Held::Message(message.clone())) {
                letters.push(Letter::new(message.body, message.id, None, receipt));
            }
        }
        letters
    }

    fn hold(&mut self, consumer: u64, held: Held) -> Option<Receipt> {
        self.tags += 1;
        let channel = self.channels.get_mut(&consumer)?;
        channel.open.insert(self.tags, held);
        Some(Receipt { consumer, generation: channel.generation, tag: self.tags })
    }

    /// Takes back what a receipt stands for; nothing for one of an older channel.
    fn settle(&mut self, receipt: Receipt) -> Option<Held> {
        let channel = self.channels.get_mut(&receipt.consumer)?;
        (channel.generation == receipt.generation).then(|| channel.open.remove(&receipt.tag))?
    }

    pub(super) fn acknowledge(&mut self, receipt: Receipt) {
        self.settle(receipt);
    }

    pub(super) fn give_back(&mut self, receipt: Receipt) {
        if let Some(held) = self.settle(receipt) {
            self.again(held);
        }
    }

    pub(super) fn refuse(&mut self, receipt: Receipt, why: String) {
        if let Some(Held::Message(message)) = self.settle(receipt) {
            self.dead.push((message, why));
        }
    }

    /// The lane that has the most hints loses them all. Answers with their number.
    pub(super) fn purge(&mut self) -> usize {
        self.lanes.values_mut().max_by_key(|lane| lane.len()).map_or(0, |lane| lane.drain(..).count())
    }

    /// All hints are lost, those that are being delivered too.
    pub(super) fn lose(&mut self) {
        self.interrupt_all();
        self.lanes.clear();
    }

    /// How many hints of a queue wait.
    pub(super) fn waiting(&self, queue: &QueueName) -> usize {
        self.lanes.iter().filter(|((_, of), _)| of == queue).map(|(_, lane)| lane.len()).sum()
    }

    /// How many hints there are.
    pub(super) fn len(&self) -> usize {
        let open = self.channels.values().map(|channel| channel.open.len()).sum::<usize>();
        self.lanes.values().map(VecDeque::len).sum::<usize>() + open
    }

    /// Messages that nobody has settled yet.
    pub(super) fn unsettled(&self) -> usize {
        let held = |channel: &Channel| channel.open.values().filter(|held| matches!(held, Held::Message(_))).count();
        self.messages.len() + self.channels.values().map(held).sum::<usize>()
    }

    /// Messages that could never become tasks, and why.
    pub(super) fn dead(&self) -> &[(Message, String)] {
        &self.dead
    }
}

#[cfg(test)]
mod tests {
    use common::clock::Timestamp;
    use common::id::TaskId;

    use super::*;

    fn hint(number: u64, priority: u8) -> Hint {
        let task = TaskId::new(Timestamp::from_millis(1), [7; 10]);
        Hint { task, version: number, queue: "q".parse().unwrap(), priority }
    }

    fn versions(deliveries: &[Delivery]) -> Vec<u64> {
        deliveries.iter().map(|delivery| delivery.hint.version).collect()
    }

    #[test]
    fn what_was_held_comes_again_in_its_order_and_old_receipts_settle_nothing() {
        let queues = ["q".parse().unwrap()];
        let mut memory = Memory::default();
        let consumer = memory.join();
        for (number, priority) in [(1, 4), (2, 4), (3, 9), (4, 4)] {
            memory.publish(hint(number, priority), End::Back);
        }
        let first = memory.fetch(consumer, &queues, 3, 10);
        assert_eq!(versions(&first), [3, 1, 2], "high lanes first");
        memory.interrupt(consumer);
        memory.acknowledge(first[0].receipt);
        let second = memory.fetch(consumer, &queues, 10, 10);
        assert_eq!(versions(&second), [3, 1, 2, 4]);
        memory.acknowledge(second[1].receipt);
        memory.leave(consumer);
        assert_eq!(memory.waiting(&queues[0]), 3);
    }

    #[test]
    fn a_consumer_holds_no_more_of_a_lane_than_its_window() {
        let queues = ["q".parse().unwrap()];
        let mut memory = Memory::default();
        let consumer = memory.join();
        (1..=4).for_each(|number| memory.publish(hint(number, 4), End::Back));
        let held = memory.fetch(consumer, &queues, 10, 2);
        assert_eq!(versions(&held), [1, 2]);
        memory.give_back(held[1].receipt);
        assert_eq!(versions(&memory.fetch(consumer, &queues, 10, 2)), [2]);
    }
}
