//! The load: tasks submitted over HTTP with idempotency keys, again and again
//! until there is an answer, to whichever scheduler.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use common::id::TaskId;
use futures::StreamExt;
use serde_json::{Value, json};

use super::{Counts, Length, PATIENCE};

/// Tasks of the short form that come at once, whatever the weather.
const SHORT: u64 = 100;
/// The pause before each task, and before those that come after [`SHORT`], until the weather clears.
const PAUSE: Duration = Duration::from_millis(60);
const LATER: Duration = Duration::from_millis(300);
/// Submits at once.
const IN_FLIGHT: usize = 12;
/// How long an answer may take before the request is repeated.
const ANSWER: Duration = Duration::from_secs(3);

/// See the module.
#[derive(Debug)]
pub(super) struct Load {
    client: reqwest::Client,
    schedulers: Vec<String>,
    world: String,
    folder: PathBuf,
    /// The tasks that each key was answered with.
    accepted: Mutex<BTreeMap<String, BTreeSet<TaskId>>>,
    repeated: AtomicU64,
    cleared: AtomicBool,
}

impl Load {
    pub(super) fn new(schedulers: Vec<String>, world: String, folder: PathBuf) -> Self {
        let client = reqwest::Client::builder().timeout(ANSWER).build().expect("a client");
        Self {
            client,
            schedulers,
            world,
            folder,
            accepted: Mutex::default(),
            repeated: AtomicU64::new(0),
            cleared: AtomicBool::new(false),
        }
    }

    /// Submits everything.
    ///
    /// # Errors
    /// When a submit is refused, or not answered for too long.
    pub(super) async fn run(self: Arc<Self>, length: Length) -> Result<()> {
        let load = &self;
        let mut numbers = futures::stream::iter((0..).take_while(|number| load.goes_on(*number, length)))
            .then(|number| async move {
                let pause = if length == Length::Short && number >= SHORT { LATER } else { PAUSE };
                tokio::time::sleep(pause).await;
                number
            })
            .map(|number| {
                let load = Arc::clone(&self);
                async move { load.errand(number).await }
            })
            .buffer_unordered(IN_FLIGHT)
            .boxed();
        while let Some(submitted) = numbers.next().await {
            submitted?;
        }
        Ok(())
    }

    fn goes_on(&self, number: u64, length: Length) -> bool {
        let in_time = !self.cleared.load(Ordering::Relaxed);
        in_time || (length == Length::Short && number < SHORT)
    }

    /// The weather has cleared: nothing more has to come.
    pub(super) fn clear(&self) {
        self.cleared.store(true, Ordering::Relaxed);
    }

    async fn errand(&self, number: u64) -> Result<()> {
        let name = format!("errand{number}");
        let parts: Vec<u64> = if number.is_multiple_of(4) { (0..=number % 3).collect() } else { Vec::new() };
        let input = json!({
            "name": name,
            "world": self.world,
            "folder": self.folder,
            "ask": number.is_multiple_of(5),
            "long": number % 20 == 3,
            "parts": parts,
        });
        let body = json!({"pipeline": "errand", "input": input, "idempotency_key": name, "priority": number % 10});
        self.submit(&name, &body, usize::try_from(number)?).await?;
        if number.is_multiple_of(6) {
            // As a sender does that has not seen the answer.
            self.submit(&name, &body, usize::try_from(number)? + 1).await?;
        }
        Ok(())
    }

    async fn submit(&self, key: &str, body: &Value, first: usize) -> Result<()> {
        let started = Instant::now();
        for attempt in first.. {
            let scheduler = &self.schedulers[attempt % self.schedulers.len()];
            match self.post(scheduler, body).await {
                Ok((200 | 202, answer)) => {
                    let task: TaskId = answer["id"].as_str().unwrap_or_default().parse()?;
                    let mut accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
                    accepted.entry(key.to_owned()).or_default().insert(task);
                    return Ok(());
                }
                Ok((status @ (400..=428 | 430..=499), answer)) => bail!("submit {key} is refused: {status} {answer}"),
                Ok(_) | Err(_) if started.elapsed() < PATIENCE => {
                    self.repeated.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Ok((status, answer)) => bail!("submit {key} is not accepted in time: {status} {answer}"),
                Err(error) => bail!("submit {key} is not answered in time: {error}"),
            }
        }
        Ok(())
    }

    async fn post(&self, scheduler: &str, body: &Value) -> Result<(u16, Value), reqwest::Error> {
        let response = self.client.post(format!("{scheduler}/v1/tasks")).json(body).send().await?;
        let status = response.status().as_u16();
        Ok((status, response.json().await?))
    }

    /// The tasks that each key was answered with.
    pub(super) fn accepted(&self) -> BTreeMap<String, BTreeSet<TaskId>> {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn counts(&self) -> Counts {
        [("submits repeated".to_owned(), self.repeated.load(Ordering::Relaxed))].into()
    }
}
