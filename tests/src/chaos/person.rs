//! The person: approves what is asked, and says what became of calls of unknown
//! outcome, as somebody would who looks at the outside world.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Counts;
use super::world::World;

/// How often the person looks.
const LOOK: Duration = Duration::from_millis(150);
/// How long the person waits before saying that something did not happen: what is on its way must have arrived.
const GRACE: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Debug)]
pub(super) struct Person {
    enough: watch::Sender<bool>,
    work: JoinHandle<()>,
    said: Arc<Said>,
}

#[derive(Debug, Default)]
struct Said {
    approved: AtomicU64,
    happened: AtomicU64,
    did_not_happen: AtomicU64,
}

struct Desk {
    client: reqwest::Client,
    schedulers: Vec<String>,
    world: Arc<World>,
    said: Arc<Said>,
    /// Since when a call is in question.
    since: HashMap<String, Instant>,
}

impl Person {
    pub(super) fn start(schedulers: Vec<String>, world: Arc<World>) -> Self {
        let (enough, mut told) = watch::channel(false);
        let client = reqwest::Client::builder().timeout(Duration::from_secs(3)).build().expect("a client");
        let said = Arc::new(Said::default());
        let mut desk = Desk { client, schedulers, world, said: Arc::clone(&said), since: HashMap::new() };
        let work = tokio::spawn(async move {
            for turn in 0.. {
                // Whoever does not answer is asked again later.
                let _ = desk.look(turn).await;
                if tokio::time::timeout(LOOK, told.changed()).await.is_ok() {
                    return;
                }
            }
        });
        Self { enough, work, said }
    }

    /// What was said.
    pub(super) async fn stop(self) -> Counts {
        self.enough.send_replace(true);
        let _ = self.work.await;
        let counts = [
            ("approvals decided", &self.said.approved),
            ("outcomes: it happened", &self.said.happened),
            ("outcomes: it did not happen", &self.said.did_not_happen),
        ];
        counts.into_iter().map(|(kind, count)| (kind.to_owned(), count.load(Ordering::Relaxed))).collect()
    }
}

impl Desk {
    async fn look(&mut self, turn: usize) -> Result<(), reqwest::Error> {
        let scheduler = self.schedulers[turn % self.schedulers.len()].clone();
        let page = self.get(&format!("{scheduler}/v1/approvals?limit=100")).await?;
        for approval in page["approvals"].as_array().into_iter().flatten() {
            let id = approval["id"].as_str().unwrap_or_default();
            let answer = self.post(&format!("{scheduler}/v1/approvals/{id}"), &json!({"decision": "approve"})).await?;
            self.said.approved.fetch_add(u64::from(answer), Ordering::Relaxed);
        }
        let page = self.get(&format!("{scheduler}/v1/tasks?state=waiting&limit=1000")).await?;
        for task in page["tasks"].as_array().into_iter().flatten() {
            for call in task["unknown_outcomes"].as_array().into_iter().flatten() {
                self.resolve(&scheduler, task["id"].as_str().unwrap_or_default(), call).await?;
            }
        }
        Ok(())
    }

    async fn resolve(&mut self, scheduler: &str, id: &str, unknown: &Value) -> Result<(), reqwest::Error> {
        let (step, call) = (unknown["step"].as_str().unwrap_or_default(), &unknown["call"]);
        let task = self.get(&format!("{scheduler}/v1/tasks/{id}")).await?;
        let name = task["input"]["name"].as_str().unwrap_or_default();
        let happened = self.world.times(name, step) > 0;
        let since = self.since.entry(format!("{id} {step} {call}")).or_insert_with(Instant::now);
        if !happened && since.elapsed() < GRACE {
            return Ok(());
        }
        let mut word = json!({"call": call, "step": step, "happened": happened, "by": "the person"});
        if happened {
            word["result"] = json!({"status": 200, "headers": {}, "body": {}});
        }
        let taken = self.post(&format!("{scheduler}/v1/tasks/{id}/resolve"), &word).await?;
        let count = if happened { &self.said.happened } else { &self.said.did_not_happen };
        count.fetch_add(u64::from(taken), Ordering::Relaxed);
        Ok(())
    }

    async fn get(&self, url: &str) -> Result<Value, reqwest::Error> {
        self.client.get(url).send().await?.json().await
    }

    /// Whether it was taken: it may have been decided before, by an answer that got lost.
    async fn post(&self, url: &str, body: &Value) -> Result<bool, reqwest::Error> {
        Ok(self.client.post(url).json(body).send().await?.status().is_success())
    }
}
