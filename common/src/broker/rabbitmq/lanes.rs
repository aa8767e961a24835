//! Hints of several queues, as one worker receives them: high lanes first, and
//! in turns among queues.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use tokio::sync::{Notify, watch};

use super::consume::{Consumer, Ground, Received, Settle, Wish};
use super::topology::Part;
use crate::broker::{Delivery, Lane, Subscription, decode};
use crate::id::QueueName;

/// The hints of some queues.
#[derive(Debug)]
pub(super) struct Lanes {
    ground: Ground,
    ids: Arc<AtomicU64>,
    window: usize,
    bell: Arc<Notify>,
    wanted: watch::Sender<usize>,
    consumers: BTreeMap<(Lane, QueueName), Consumer>,
    /// Whose turn it is.
    turn: usize,
}

impl Lanes {
    pub(super) fn new(ground: Ground, ids: Arc<AtomicU64>, window: usize) -> Self {
        Self {
            ground,
            ids,
            window: window.max(1),
            bell: Arc::default(),
            wanted: watch::Sender::new(0),
            consumers: BTreeMap::new(),
            turn: 0,
        }
    }

    fn start(&self, queue: &QueueName, lane: Lane) -> Consumer {
        let wish = Wish {
            bell: Arc::clone(&self.bell),
            wanted: self.wanted.subscribe(),
            window: self.window,
            hold: Some(self.ground.options.hold),
        };
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        Consumer::start(id, self.ground.clone(), Part::Lane(queue.clone(), lane), wish)
    }

    /// Up to `free` of the hints that are here.
    fn collect(&mut self, free: usize) -> Vec<Delivery> {
        let mut hints = Vec::new();
        for lane in Lane::ALL {
            let lanes: Vec<(&QueueName, &Consumer)> =
                self.consumers.iter().filter(|((of, _), _)| *of == lane).map(|((_, q), c)| (q, c)).collect();
            let mut silent = 0;
            while hints.len() < free && silent < lanes.len() {
                self.turn = self.turn.wrapping_add(1);
                let Some((queue, consumer)) = lanes.get(self.turn % lanes.len()) else { break };
                match consumer.take() {
                    None => silent += 1,
                    Some(received) => {
                        silent = 0;
                        match read(queue, &received) {
                            Ok(delivery) => hints.push(delivery),
                            Err(why) => consumer.settle(Settle::Refuse(Box::new(received), why)),
                        }
                    }
                }
            }
        }
        hints
    }

    fn settle(&self, deliveries: Vec<Delivery>, how: fn(crate::broker::Receipt) -> Settle) {
        for delivery in deliveries {
            let consumer = self.consumers.values().find(|consumer| consumer.id() == delivery.receipt.consumer);
            if let Some(consumer) = consumer {
                consumer.settle(how(delivery.receipt));
            }
        }
    }
}

fn read(queue: &QueueName, received: &Received) -> Result<Delivery, String> {
    let hint = decode(&received.body).map_err(|error| error.to_string())?;
    if hint.queue != *queue {
        return Err(format!("this hint names the queue {}, and lies in that of {queue}", hint.queue));
    }
    Ok(Delivery { hint, receipt: received.receipt })
}

#[async_trait]
impl Subscription for Lanes {
    fn follow(&mut self, queues: &[QueueName]) {
        self.consumers.retain(|(_, queue), _| queues.contains(queue));
        for queue in queues {
            for lane in Lane::ALL {
                let key = (lane, queue.clone());
                if !self.consumers.contains_key(&key) {
                    let consumer = self.start(queue, lane);
                    self.consumers.insert(key, consumer);
                }
            }
        }
    }

    async fn receive(&mut self, free: usize) -> Vec<Delivery> {
        self.wanted.send_replace(free);
        if free == 0 {
            return Vec::new();
        }
        loop {
            // The bell keeps one ring, so that none is missed between the look and the wait.
            let hints = self.collect(free);
            if !hints.is_empty() {
                return hints;
            }
            self.bell.notified().await;
        }
    }

    fn acknowledge(&mut self, deliveries: Vec<Delivery>) {
        self.settle(deliveries, Settle::Acknowledge);
    }

    fn give_back(&mut self, deliveries: Vec<Delivery>) {
        self.settle(deliveries, Settle::GiveBack);
    }
}
