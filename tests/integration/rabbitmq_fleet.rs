//! Tasks whose workers are woken by hints through a real `RabbitMQ`: what is
//! lost on the way costs time and no task.

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::broker::{Health, Lane};
use common::id::QueueName;
use common::span::Span;
use common::store::Filter;
use common::task::StateName;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use serde_json::json;
use suite::faults::proxy::Proxy;
use suite::fixtures::amqp::{Amqp, broker};
use suite::fixtures::process::until;
use suite::fixtures::scheduler::RunningScheduler;
use suite::fixtures::worker::RunningWorker;
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
    let broker = amqp.broker();
    let scheduler = RunningScheduler::hinted(&[], Arc::clone(&broker)).await;
    let start = || {
        scheduler.tuned_worker(|config| {
            config.worker.poll = NEVER;
            config.worker.slots = 4;
        })
    };
    let mut worker = start();
    // While the broker is being connected to, and once after that, the worker asks the store.
    until("the broker is well", async || broker.health() == Health::Up).await;
    submit(&scheduler, 1).await;
    until_succeeded(&scheduler, 1).await;
    submit(&scheduler, 49).await;
    until_succeeded(&scheduler, 50).await;
    // Everything was confirmed, and everything is acknowledged: what a worker holds at its end goes to the next one,
    // a hint that came twice as well.
    until("the outbox is empty", async || outbox_is_empty(&scheduler)).await;
    let lane = amqp.names.lane(&greetings(), Lane::Normal);
    for _ in 0..3 {
        until("every hint is taken up", async || matches!(amqp.look(&lane).await, Some((0, _)))).await;
        worker.drain().await;
        until("nobody consumes", async || matches!(amqp.look(&lane).await, Some((_, 0)))).await;
        if amqp.look(&lane).await == Some((0, 0)) {
            return;
        }
        worker = start();
    }
    panic!("hints are not acknowledged");
}

/// Waits until a worker says of itself that it is ready and well, or that it is ready and why it is not well.
async fn until_ready(worker: &RunningWorker, what: &str) {
    let says = async || {
        let (status, text) = worker.readiness().await;
        // A worker without a broker goes by the store: it is never unready for want of one.
        assert!(status == 200 || text.contains("not asked yet"), "{status} {text}");
        text.starts_with(what)
    };
    until(&format!("the worker says {what:?}"), says).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_says_when_its_broker_is_out_of_reach_and_when_it_is_back() {
    let amqp = Amqp::connect(&place()).await;
    let scheduler = RunningScheduler::hinted(&[], amqp.broker()).await;
    let server = amqp.url().rsplit_once('@').unwrap().1.split_once('/').unwrap().0.to_owned();
    let proxy = Proxy::start(&server).await;
    let worker = scheduler.worker_of(broker(&proxy.through(amqp.url())));
    until_ready(&worker, "ok").await;
    // Gone; then there, and silent.
    for (round, silent) in [false, true].into_iter().enumerate() {
        if silent {
            proxy.stall().await;
        } else {
            proxy.refuse().await;
            proxy.reset().await;
        }
        until_ready(&worker, "degraded: ").await;
        // It goes by the store meanwhile.
        submit(&scheduler, 10).await;
        until_succeeded(&scheduler, 20 * round + 10).await;
        proxy.pass().await;
        until_ready(&worker, "ok").await;
        submit(&scheduler, 10).await;
        until_succeeded(&scheduler, 20 * round + 20).await;
    }
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_says_when_it_is_connected_and_does_not_consume() {
    let amqp = Amqp::connect(&place()).await;
    let scheduler = RunningScheduler::hinted(&[], amqp.broker()).await;
    // A queue of another kind, as somebody may have made it by hand.
    let lane = amqp.names.lane(&greetings(), Lane::Normal);
    let (queue, options) = (lane.as_str().into(), QueueDeclareOptions::durable());
    amqp.channel.queue_declare(queue, options, FieldTable::default()).await.unwrap();
    let worker = scheduler.worker_of(broker(amqp.url()));
    until_ready(&worker, &format!("degraded: nothing is consumed from {lane}: ")).await;
    let (_, said) = worker.readiness().await;
    assert!(said.contains("delete it"), "it says what to do: {said}");
    submit(&scheduler, 10).await;
    until_succeeded(&scheduler, 10).await;
    amqp.delete(&lane).await;
    until_ready(&worker, "ok").await;
    submit(&scheduler, 10).await;
    until_succeeded(&scheduler, 20).await;
    worker.drain().await;
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
    until_ready(&worker, "degraded: ").await;
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
    until_ready(&worker, "ok").await;
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
