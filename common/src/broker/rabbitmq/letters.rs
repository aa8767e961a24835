//! Tasks that other systems publish, as one scheduler receives them.

use std::sync::Arc;

use async_trait::async_trait;
use lapin::types::AMQPValue;
use tokio::sync::{Notify, watch};

use super::consume::{Consumer, Ground, Received, Settle, Wish};
use super::topology::Part;
use crate::broker::{Inbox, Letter, Receipt};

/// The messages of the ingress.
#[derive(Debug)]
pub(super) struct Letters {
    consumer: Consumer,
    bell: Arc<Notify>,
    _wanted: watch::Sender<usize>,
}

impl Letters {
    pub(super) fn new(ground: Ground, id: u64, window: usize) -> Self {
        let bell = Arc::new(Notify::new());
        let window = window.max(1);
        let wanted = watch::Sender::new(window);
        let wish = Wish { bell: Arc::clone(&bell), wanted: wanted.subscribe(), window, hold: None };
        Self { consumer: Consumer::start(id, ground, Part::Tasks, wish), bell, _wanted: wanted }
    }
}

fn letter(received: Received) -> Letter {
    let headers = received.properties.headers().as_ref();
    let traceparent = headers.and_then(|headers| match headers.inner().get("traceparent")? {
        AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    });
    Letter {
        message_id: received.properties.message_id().as_ref().map(ToString::to_string),
        traceparent,
        receipt: received.receipt,
        properties: received.properties,
        body: received.body,
    }
}

#[async_trait]
impl Inbox for Letters {
    async fn receive(&mut self, max: usize) -> Vec<Letter> {
        loop {
            let letters: Vec<Letter> = std::iter::from_fn(|| self.consumer.take()).take(max).map(letter).collect();
            if !letters.is_empty() || max == 0 {
                return letters;
            }
            self.bell.notified().await;
        }
    }

    fn acknowledge(&mut self, receipts: Vec<Receipt>) {
        for receipt in receipts {
            self.consumer.settle(Settle::Acknowledge(receipt));
        }
    }

    fn give_back(&mut self, receipts: Vec<Receipt>) {
        for receipt in receipts {
            self.consumer.settle(Settle::GiveBack(receipt));
        }
    }

    fn refuse(&mut self, letters: Vec<(Letter, String)>) {
        for (letter, why) in letters {
            let received = Received::again(letter);
            self.consumer.settle(Settle::Refuse(Box::new(received), why));
        }
    }
}
