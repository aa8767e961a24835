//! The doorbell: tells those who wait in `ready` that something may be ready.
//! All who wait in a process share one subscription, on a connection of its own;
//! the scripts publish the names of queues that were empty before.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

use super::RedisStore;
use super::connection::Link;
use crate::id::QueueName;

/// A waiting `ready` looks for itself at least this often.
const LOOK: Duration = Duration::from_millis(900);
/// Rings that one who waits may be behind.
const RINGS: usize = 256;
/// How long nobody listens after a subscription failed, at first and at most.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug)]
pub(super) struct Bell {
    rings: broadcast::Sender<Arc<str>>,
    listener: OnceLock<Listener>,
}

/// Ends the subscription when it goes.
#[derive(Debug)]
struct Listener(JoinHandle<()>);

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Bell {
    pub(super) fn new() -> Self {
        Self { rings: broadcast::Sender::new(RINGS), listener: OnceLock::new() }
    }

    /// What rings from now on is heard. The subscription begins when somebody waits for the first time.
    fn listen(&self, link: &Arc<Link>, channel: String) -> broadcast::Receiver<Arc<str>> {
        let rings = self.rings.subscribe();
        self.listener.get_or_init(|| {
            let (link, rings) = (Arc::clone(link), self.rings.clone());
            Listener(tokio::spawn(async move { subscribe(&link, &channel, &rings).await }))
        });
        rings
    }
}

/// Passes on what the server publishes; subscribes anew when the connection is lost.
async fn subscribe(link: &Link, channel: &str, rings: &broadcast::Sender<Arc<str>>) {
    let mut pause = PAUSE;
    loop {
        match link.subscribe(channel).await {
            Ok(mut messages) => {
                pause = PAUSE;
                // What was published before the subscription stood is looked for.
                let _ = rings.send(Arc::from(""));
                let mut stream = messages.on_message();
                while let Some(message) = stream.next().await {
                    let _ = rings.send(String::from_utf8_lossy(message.get_payload_bytes()).into());
                }
            }
            Err(error) => {
                tracing::debug!(%error, "no subscription to the store; looking each second instead");
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST);
    }
}

impl RedisStore {
    /// Returns when something may be ready in one of the queues.
    pub(super) async fn wait_until_ready(&self, queues: &[QueueName]) {
        // Listening starts before looking: what becomes ready in between is heard.
        let mut rings = self.bell.listen(&self.link, self.keys.channel());
        loop {
            match self.any_ready(queues).await {
                Ok(true) => return,
                Ok(false) => {}
                // Whoever takes next will be told; meanwhile nobody spins.
                Err(_) => return tokio::time::sleep(LOOK).await,
            }
            let wanted = async {
                while let Ok(rung) = rings.recv().await {
                    let names = |queue: &QueueName| rung.split(',').any(|name| name == queue.as_str());
                    if rung.is_empty() || queues.is_empty() || queues.iter().any(names) {
                        return;
                    }
                }
            };
            let _ = tokio::time::timeout(LOOK, wanted).await;
        }
    }
}
