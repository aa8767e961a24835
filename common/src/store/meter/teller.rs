//! The teller: takes what many callers of one process want of meters, and has it
//! done together. A meter that everybody charges is the narrowest place of a
//! store; so each process has one atomic step under way, and the next carries all
//! that came meanwhile.

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use super::till::{Answer, Order};
use crate::store::StoreError;

/// Orders that may wait; more callers wait for room.
const QUEUE: usize = 1024;
/// Orders that go into one step.
const GROUP: usize = 256;

/// Where meters are kept.
#[async_trait]
pub(in crate::store) trait Vault: Send + Sync + 'static {
    /// Does orders, all or none, in one atomic step; an answer to each, in order.
    async fn serve(&self, orders: &[Order]) -> Result<Vec<Answer>, StoreError>;
}

/// See the module. Ends when it is dropped, after what was asked for is answered.
#[derive(Debug)]
pub(in crate::store) struct Teller(mpsc::Sender<Job>);

#[derive(Debug)]
struct Job {
    order: Order,
    caller: Caller,
}

type Caller = oneshot::Sender<Result<Answer, StoreError>>;

impl Teller {
    /// Begins to serve.
    pub(in crate::store) fn start(vault: impl Vault) -> Self {
        let (sender, jobs) = mpsc::channel(QUEUE);
        tokio::spawn(serve(vault, jobs));
        Self(sender)
    }

    /// Has an order done.
    pub(in crate::store) async fn order(&self, order: Order) -> Result<Answer, StoreError> {
        let stopped = || StoreError::Unavailable("the store was closed".to_owned());
        let (caller, answer) = oneshot::channel();
        self.0.send(Job { order, caller }).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

async fn serve(vault: impl Vault, mut jobs: mpsc::Receiver<Job>) {
    while let Some(first) = jobs.recv().await {
        let mut group = vec![first];
        while group.len() < GROUP
            && let Ok(job) = jobs.try_recv()
        {
            group.push(job);
        }
        // Who has gone wants nothing any more.
        group.retain(|job| !job.caller.is_closed());
        if group.is_empty() {
            continue;
        }
        serve_group(&vault, group).await;
    }
}

async fn serve_group(vault: &impl Vault, group: Vec<Job>) {
    let (orders, callers): (Vec<Order>, Vec<Caller>) = group.into_iter().map(|job| (job.order, job.caller)).unzip();
    let answers: Vec<Result<Answer, StoreError>> = match vault.serve(&orders).await {
        Ok(answers) => answers.into_iter().map(Ok).collect(),
        Err(error @ StoreError::Unavailable(_)) => orders.iter().map(|_| Err(error.again())).collect(),
        Err(error) if orders.len() == 1 => vec![Err(error)],
        Err(_) => {
            // What cannot be read must not stand in the way of the others.
            let mut answers = Vec::with_capacity(orders.len());
            for order in &orders {
                let answer = vault.serve(std::slice::from_ref(order)).await;
                answers.push(answer.and_then(|answers| answers.into_iter().next().ok_or_else(none)));
            }
            answers
        }
    };
    for (caller, answer) in callers.into_iter().zip(answers) {
        // A caller that went away does not want to know.
        let _ = caller.send(answer);
    }
}

fn none() -> StoreError {
    StoreError::Damaged("an order was answered with nothing".to_owned())
}
