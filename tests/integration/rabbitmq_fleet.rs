//! Tasks whose workers are woken by hints through a real `RabbitMQ`: what is
//! lost on the way costs time and no task.

use std::time::{Duration, Instant};

use common::broker::{Health, Lane};
use common::id::QueueName;
use common::span::Span;
use common::store::Filter;
use common::task::StateName;
use serde_json::json;
use suite::fixtures::amqp::{Amqp, broker};
use suite::fixtures::process::until;
use suite::fixtures::scheduler::RunningScheduler;
use suite::servers::rabbitmq::{Options, Server, place};

/// So long that a test ends before.
const NEVER: Span = Span::from_secs(3_600);

fn greetings() -> QueueName {
    "greetings".parse().unwrap()
}

async fn submit(scheduler: &RunningScheduler, count: usize) {
    for n in 0..count {
        scheduler.submit(&json!({"pipeline": "greet", "input": {"company": format!("Acme {n}")}})).await;
    }
}

async fn succeeded(scheduler: &RunningScheduler) -> usize {
    let filter = Filter { states: vec![StateName::Succeeded], ..Filter::default() };
    scheduler.store.list(filter, None, 1_000).await.unwrap().tasks.len()
}

async fn until_succeeded(scheduler: &RunningScheduler, count: usize) {
    until(&format!("{count} tasks have succeeded"), async || succeeded(scheduler).await == count).await;
}

/// Whether the broker has confirmed everything. Asking the store would keep hints from its relay.
fn outbox_is_empty(scheduler: &RunningScheduler) -> bool {
    let database = rusqlite::Connection::open(scheduler.database()).unwrap();
    database.query_row("SELECT count(*) = 0 FROM outbox", [], |row| row.get(0)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_woken_by_hints_alone() {
    let amqp = Amqp::connect(&place()).await;
    let scheduler = RunningScheduler::hinted(&[], amqp.broker()).await;
    let worker = scheduler.tuned_worker(|config| {
        config.worker.poll = NEVER;
        config.worker.slots = 4;
    });
    submit(&scheduler, 50).await;
    until_succeeded(&scheduler, 50).await;
    // Everything was confirmed, and everything was acknowledged.
    until("the outbox is empty", async || outbox_is_empty(&scheduler)).await;
    worker.drain().await;
    let lane = amqp.names.lane(&greetings(), Lane::Normal);
    until("the broker's queue is empty", async || amqp.look(&lane).await == Some((0, 0))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_for_all_queues_hears_of_new_ones() {
    let amqp = Amqp::connect(&place()).await;
    let scheduler = RunningScheduler::hinted(&[], amqp.broker()).await;
    let worker = scheduler.tuned_worker(|config| {
        config.worker.poll = NEVER;
        config.worker.queues = Vec::new();
    });
    submit(&scheduler, 1).await;
    until_succeeded(&scheduler, 1).await;
    scheduler.submit(&json!({"pipeline": "greet", "input": {"company": "Acme"}, "queue": "another"})).await;
    until_succeeded(&scheduler, 2).await;
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_whose_hints_were_purged_run_all_the_same() {
    let amqp = Amqp::connect(&place()).await;
    let scheduler = RunningScheduler::hinted(&[], amqp.broker()).await;
    submit(&scheduler, 30).await;
    let broker = amqp.broker();
    until("all hints are at the broker", async || broker.waiting(&greetings()).await.unwrap() == 30).await;
    amqp.purge(&amqp.names.lane(&greetings(), Lane::Normal)).await;
    let worker = scheduler.tuned_worker(|config| config.worker.poll = NEVER);
    until_succeeded(&scheduler, 30).await;
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hints_that_are_lost_while_workers_run_are_published_again() {
    let amqp = Amqp::connect(&place()).await;
    let scheduler = RunningScheduler::hinted(&[], amqp.broker()).await;
    let worker = scheduler.tuned_worker(|config| config.worker.poll = NEVER);
    submit(&scheduler, 1).await;
    until_succeeded(&scheduler, 1).await;
    // The hints of a paused queue are spent on claims that are refused, and resuming it tells nobody.
    scheduler.store.pause(greetings(), true).await.unwrap();
    submit(&scheduler, 20).await;
    let broker = amqp.broker();
    until("all hints are spent", async || {
        outbox_is_empty(&scheduler) && broker.waiting(&greetings()).await.unwrap() == 0
    })
    .await;
    assert_eq!(succeeded(&scheduler).await, 1);
    scheduler.store.pause(greetings(), false).await.unwrap();
    until_succeeded(&scheduler, 21).await;
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_killed_and_restarted_under_load_loses_nothing() {
    let mut server = Server::start(Options::default());
    let url = format!("{}?prefix=t", server.url());
    let scheduler = RunningScheduler::hinted(&[], broker(&url)).await;
    let worker = scheduler.tuned_worker(|config| config.worker.slots = 4);
    submit(&scheduler, 50).await;
    server.settle();
    server.kill();
    submit(&scheduler, 50).await;
    // Without a broker, workers go by the store's own queue.
    until_succeeded(&scheduler, 100).await;
    let ready = scheduler.get("/readyz").await;
    assert_eq!(ready.status, 200, "{}", ready.text);
    assert!(ready.json()["status"].as_str().unwrap().starts_with("degraded: "), "{}", ready.text);
    let restarting = tokio::task::spawn_blocking(move || {
        server.restart();
        server
    });
    submit(&scheduler, 50).await;
    until_succeeded(&scheduler, 150).await;
    let server = restarting.await.unwrap();
    submit(&scheduler, 50).await;
    until_succeeded(&scheduler, 200).await;
    let ready = || async { scheduler.get("/readyz").await.json()["status"] == "ok" };
    until("the broker is well again", ready).await;
    until("the outbox is empty", async || outbox_is_empty(&scheduler)).await;
    let tasks = scheduler.store.list(Filter::default(), None, 1_000).await.unwrap().tasks;
    assert!(tasks.iter().all(|task| task.attempts == 1), "no task ran twice");
    worker.drain().await;
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_run_longer_than_the_consumer_timeout_close_no_channel() {
    let server = Server::start(Options { consumer_timeout: Some(Duration::from_secs(2)), ..Options::default() });
    let url = format!("{}?prefix=t", server.url());
    let slow = "name: slow\nqueue: greetings\nsteps:\n  - { id: wait, run: { command: [sleep, '5'], effect: read } }\n";
    let broker = broker(&url);
    let scheduler = RunningScheduler::hinted(&[("pipelines/slow.yaml", slow)], broker.clone()).await;
    let worker = scheduler.tuned_worker(|config| config.worker.slots = 2);
    submit(&scheduler, 1).await;
    until_succeeded(&scheduler, 1).await;
    until("the broker is well", async || broker.health() == Health::Up).await;
    let started = Instant::now();
    for _ in 0..4 {
        scheduler.submit(&json!({"pipeline": "slow"})).await;
    }
    until("4 more tasks have succeeded", async || {
        assert_eq!(broker.health(), Health::Up, "after {:?}", started.elapsed());
        succeeded(&scheduler).await == 5
    })
    .await;
    assert!(started.elapsed() > Duration::from_secs(9), "two after two");
    worker.drain().await;
}
