//! Hints through a real `RabbitMQ`, and what it does to them.

use std::time::{Duration, Instant};

use common::broker::{BrokerOptions, Delivery, Health, Lane, Subscription};
use common::id::QueueName;
use lapin::BasicProperties;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use suite::fixtures::amqp::{Amqp, broker, header, hint};
use suite::fixtures::process::{PATIENCE, until};
use suite::servers::rabbitmq::{Options, Server, place};

fn queue(name: &str) -> QueueName {
    name.parse().unwrap()
}

async fn receive(subscription: &mut Box<dyn Subscription>, free: usize) -> Vec<Delivery> {
    tokio::time::timeout(PATIENCE, subscription.receive(free)).await.expect("a hint comes")
}

/// Receives until so many hints have come, and acknowledges them.
async fn receive_all(subscription: &mut Box<dyn Subscription>, count: usize) -> Vec<Delivery> {
    let mut all = Vec::new();
    while all.len() < count {
        let hints = receive(subscription, count - all.len()).await;
        subscription.acknowledge(hints.clone());
        all.extend(hints);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hint_is_confirmed_routed_and_received() {
    let amqp = Amqp::connect(&place()).await;
    let broker = amqp.broker();
    // Nobody has declared this queue before: the first of them cannot be routed until somebody does.
    let hints: Vec<_> = (0..2_500).map(|n| hint(if n % 2 == 0 { "leads" } else { "reviews" }, 4)).collect();
    assert_eq!(broker.publish(&hints).await, vec![true; 2_500]);
    assert_eq!(broker.waiting(&queue("leads")).await.unwrap(), 1_250);
    let mut subscription = broker.subscribe(100);
    subscription.follow(&[queue("leads"), queue("reviews")]);
    let mut received: Vec<_> = receive_all(&mut subscription, 2_500).await.into_iter().map(|d| d.hint).collect();
    let mut sent = hints;
    received.sort_by_key(|hint| hint.task);
    sent.sort_by_key(|hint| hint.task);
    assert_eq!(received, sent);
    assert_eq!(broker.health(), Health::Up);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hint_for_a_queue_that_was_deleted_is_published_to_a_new_one() {
    let amqp = Amqp::connect(&place()).await;
    let broker = amqp.broker();
    assert_eq!(broker.publish(&[hint("leads", 4)]).await, [true]);
    let lane = amqp.names.lane(&queue("leads"), Lane::Normal);
    amqp.delete(&lane).await;
    assert_eq!(broker.publish(&[hint("leads", 4), hint("leads", 9), hint("leads", 4)]).await, [true; 3]);
    assert!(broker.waiting(&queue("leads")).await.unwrap() >= 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_of_another_kind_is_named_with_what_to_do_and_stops_no_other() {
    let amqp = Amqp::connect(&place()).await;
    let broker = amqp.broker();
    let lane = amqp.names.lane(&queue("leads"), Lane::Normal);
    // A classic queue, as somebody may have made it by hand.
    amqp.channel
        .queue_declare(lane.as_str().into(), QueueDeclareOptions::durable(), FieldTable::default())
        .await
        .unwrap();
    assert_eq!(broker.publish(&[hint("leads", 4), hint("reviews", 4)]).await, [false, true]);
    let Health::Down(why) = broker.health() else { panic!("it is not well") };
    assert!(why.contains(&lane) && why.contains("delete it"), "{why}");
    let error = broker.waiting(&queue("leads")).await.unwrap_err().to_string();
    assert!(error.contains(&lane) && error.contains("delete it"), "{error}");
    amqp.delete(&lane).await;
    assert_eq!(broker.publish(&[hint("leads", 4)]).await, [true]);
    assert_eq!(broker.health(), Health::Up);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_message_lies_among_the_dead_letters_with_the_reason() {
    let amqp = Amqp::connect(&place()).await;
    let broker = amqp.broker();
    let good = hint("leads", 4);
    broker.publish(std::slice::from_ref(&good)).await;
    let properties = BasicProperties::default().with_message_id("m-1".into());
    amqp.publish(&amqp.names.hints(), "leads.normal", properties, b"hello").await;
    let stray = common::broker::encode(&hint("reviews", 4));
    amqp.publish(&amqp.names.hints(), "leads.normal", BasicProperties::default(), &stray).await;
    let mut subscription = broker.subscribe(10);
    subscription.follow(&[queue("leads")]);
    assert_eq!(receive_all(&mut subscription, 1).await[0].hint, good);
    // Taking the foreign ones up needs somebody who asks.
    let asking = tokio::spawn(async move { subscription.receive(10).await });
    let mut dead = Vec::new();
    until("two dead letters", async || {
        dead.extend(amqp.pull(&amqp.names.dead()).await);
        dead.len() == 2
    })
    .await;
    dead.sort_by_key(|letter| letter.data.len());
    assert_eq!(dead[0].data, b"hello");
    assert_eq!(dead[0].properties.message_id().as_ref().unwrap().as_str(), "m-1");
    assert!(header(&dead[0], "x-teamster-reason").unwrap().contains("not a hint"));
    assert_eq!(header(&dead[0], "x-teamster-queue").unwrap(), amqp.names.lane(&queue("leads"), Lane::Normal));
    assert!(header(&dead[1], "x-teamster-reason").unwrap().contains("names the queue reviews"));
    // Moved, not copied: with the consumer gone, nothing comes back.
    asking.abort();
    until("the consumer is gone", async || {
        amqp.look(&amqp.names.lane(&queue("leads"), Lane::Normal)).await == Some((0, 0))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn high_priority_comes_first() {
    let amqp = Amqp::connect(&place()).await;
    // What is held for nobody stays here for long enough.
    let broker = common::broker::open(amqp.url(), BrokerOptions::new(suite::fixtures::worker::entropy())).unwrap();
    let mut subscription = broker.subscribe(10);
    subscription.follow(&[queue("leads")]);
    broker.publish(&[hint("leads", 4)]).await;
    let first = receive(&mut subscription, 10).await;
    subscription.acknowledge(first);
    let hints: Vec<_> = [0, 4, 9, 3, 5, 4].map(|priority| hint("leads", priority)).to_vec();
    until("all lanes are consumed", async || {
        let lanes = Lane::ALL.map(|lane| amqp.names.lane(&queue("leads"), lane));
        let looks = futures::future::join_all(lanes.iter().map(|lane| amqp.look(lane))).await;
        looks.iter().all(|look| look.is_some_and(|(_, consumers)| consumers == 1))
    })
    .await;
    broker.publish(&hints).await;
    until("all hints are here", async || broker.waiting(&queue("leads")).await.unwrap() == 0).await;
    let lanes: Vec<Lane> =
        receive_all(&mut subscription, 6).await.iter().map(|delivery| Lane::of(delivery.hint.priority)).collect();
    let mut sorted = lanes.clone();
    sorted.sort();
    assert_eq!(lanes, sorted);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_held_than_can_be_worked_on_and_nothing_for_long() {
    let amqp = Amqp::connect(&place()).await;
    let broker = amqp.broker();
    let hints: Vec<_> = (0..50).map(|_| hint("leads", 4)).collect();
    broker.publish(&hints).await;
    let lane = amqp.names.lane(&queue("leads"), Lane::Normal);
    let mut subscription = broker.subscribe(64);
    subscription.follow(&[queue("leads")]);
    let first = receive(&mut subscription, 5).await;
    // Five are fetched and no more, whatever the window allows.
    assert!(amqp.look(&lane).await.unwrap().0 >= 45);
    let rest = u32::try_from(50 - first.len()).unwrap();
    subscription.acknowledge(first);
    // All slots are taken now: what is held goes back, and the consumer with it.
    until("nothing is held", async || amqp.look(&lane).await == Some((rest, 0))).await;
    receive_all(&mut subscription, rest as usize).await;
    until("nothing is left", async || amqp.look(&lane).await == Some((0, 1))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_deleted_under_its_consumer_is_declared_and_consumed_again() {
    let amqp = Amqp::connect(&place()).await;
    let broker = amqp.broker();
    let mut subscription = broker.subscribe(10);
    subscription.follow(&[queue("leads"), queue("reviews")]);
    broker.publish(&[hint("leads", 4), hint("reviews", 4)]).await;
    receive_all(&mut subscription, 2).await;
    let lane = amqp.names.lane(&queue("leads"), Lane::Normal);
    amqp.delete(&lane).await;
    until("it is consumed again", async || amqp.look(&lane).await == Some((0, 1))).await;
    let next = hint("leads", 4);
    assert_eq!(broker.publish(std::slice::from_ref(&next)).await, [true]);
    assert_eq!(receive_all(&mut subscription, 1).await[0].hint, next);
    until("the broker is well", async || broker.health() == Health::Up).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_deleted_and_declared_again_at_once_is_consumed_all_the_same() {
    let amqp = Amqp::connect(&place()).await;
    let broker = amqp.broker();
    let mut subscription = broker.subscribe(10);
    subscription.follow(&[queue("leads")]);
    broker.publish(&[hint("leads", 4)]).await;
    receive_all(&mut subscription, 1).await;
    // The server then thinks that the consumer goes on, and hands it messages that never get here.
    amqp.delete(&amqp.names.lane(&queue("leads"), Lane::Normal)).await;
    let next = hint("leads", 4);
    assert_eq!(broker.publish(std::slice::from_ref(&next)).await, [true]);
    assert_eq!(receive_all(&mut subscription, 1).await[0].hint, next);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_the_server_closes_stops_no_other_consumer() {
    let server = Server::start(Options { consumer_timeout: Some(Duration::from_secs(2)), ..Options::default() });
    let amqp = Amqp::connect(&format!("{}?prefix=t", server.url())).await;
    let broker = amqp.broker();
    let mut subscription = broker.subscribe(10);
    subscription.follow(&[queue("leads"), queue("reviews")]);
    let slow = hint("leads", 4);
    broker.publish(std::slice::from_ref(&slow)).await;
    let held = receive(&mut subscription, 10).await;
    assert_eq!(held[0].hint, slow);
    // It is held for longer than the server allows, which closes this one channel and gives it again.
    let started = Instant::now();
    let again = receive(&mut subscription, 10).await;
    assert_eq!(again[0].hint, slow);
    assert!(started.elapsed() > Duration::from_secs(1));
    assert_ne!(held[0].receipt, again[0].receipt);
    let other = hint("reviews", 4);
    broker.publish(std::slice::from_ref(&other)).await;
    assert_eq!(receive_all(&mut subscription, 1).await[0].hint, other);
    // The old receipt means nothing in the new channel: neither an error nor another's acknowledgement.
    subscription.acknowledge(held);
    subscription.acknowledge(again);
    let lane = amqp.names.lane(&queue("leads"), Lane::Normal);
    until("the queue is empty", async || {
        server.queues().iter().any(|(name, messages)| *name == lane && *messages == 0)
    })
    .await;
    assert_eq!(broker.health(), Health::Up);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_the_server_closes_come_again() {
    let server = Server::start(Options::default());
    let url = format!("{}?prefix=t", server.url());
    let broker = broker(&url);
    let mut subscription = broker.subscribe(10);
    subscription.follow(&[queue("leads")]);
    broker.publish(&[hint("leads", 4)]).await;
    let held = receive(&mut subscription, 1).await;
    for _ in 0..3 {
        server.close_connections("a test");
        let next = hint("leads", 4);
        until("the hint is kept", async || broker.publish(std::slice::from_ref(&next)).await == [true]).await;
        let mut seen = false;
        while !seen {
            let hints = receive(&mut subscription, 1).await;
            seen = hints[0].hint == next;
            subscription.acknowledge(hints);
        }
        // The tag that it came under is of a channel that is gone.
        subscription.acknowledge(held.clone());
    }
    until("the broker is well", async || broker.health() == Health::Up).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_the_server_has_forgotten_is_noticed_and_made_again() {
    let server = Server::start(Options::default());
    let broker = broker(&format!("{}?prefix=t", server.url()));
    let mut subscription = broker.subscribe(10);
    subscription.follow(&[queue("leads")]);
    broker.publish(&[hint("leads", 4)]).await;
    receive_all(&mut subscription, 1).await;
    // The queue's state machine drops its consumer; connection and channel stay, and nobody is told.
    let forget = "{ok, Q} = rabbit_amqqueue:lookup(rabbit_misc:r(<<\"/\">>, queue, <<\"t.hints.leads.normal\">>)), \
        [begin Pid = element(1, C), Tag = element(2, C), \
        ra:process_command(amqqueue:get_pid(Q), rabbit_fifo:make_checkout({Tag, Pid}, cancel, #{})) end \
        || C <- rabbit_amqqueue:consumers(Q)].";
    let said = server.ctl(&["eval", forget]).unwrap();
    assert!(said.contains("ok"), "{said}");
    let next = hint("leads", 4);
    assert_eq!(broker.publish(std::slice::from_ref(&next)).await, [true]);
    assert_eq!(receive_all(&mut subscription, 1).await[0].hint, next);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_killed_is_down_at_once_and_up_again_by_itself() {
    let mut server = Server::start(Options::default());
    let broker = broker(&format!("{}?prefix=t", server.url()));
    let mut subscription = broker.subscribe(10);
    subscription.follow(&[queue("leads")]);
    let kept = hint("leads", 4);
    assert_eq!(broker.publish(std::slice::from_ref(&kept)).await, [true]);
    server.settle();
    server.kill();
    until("the broker is down", async || matches!(broker.health(), Health::Down(_))).await;
    let started = Instant::now();
    assert_eq!(broker.publish(&[hint("leads", 4)]).await, [false]);
    assert!(started.elapsed() < Duration::from_secs(4), "nobody waits for a broker that is down");
    let Health::Down(why) = broker.health() else { panic!("it is down") };
    assert!(!why.contains("guest"), "{why}");
    server.restart();
    // What was confirmed is there after a kill.
    assert_eq!(receive_all(&mut subscription, 1).await[0].hint, kept);
    until("the broker is well", async || broker.health() == Health::Up).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_sees_dead_letters_and_a_wrong_password() {
    let amqp = Amqp::connect(&place()).await;
    let broker = amqp.broker();
    let findings = broker.examine().await.unwrap();
    assert!(findings.iter().all(|finding| finding.advice.is_none()), "{findings:?}");
    amqp.publish(&amqp.names.dead(), "", BasicProperties::default(), b"x").await;
    let findings = broker.examine().await.unwrap();
    assert!(findings.iter().any(|finding| finding.said.contains("1 messages")), "{findings:?}");
    let wrong = suite::fixtures::amqp::broker(&place().replace("guest:guest", "ada:hunter2"));
    let error = wrong.examine().await.unwrap_err().to_string();
    assert!(error.contains("ACCESS_REFUSED") && !error.contains("hunter2"), "{error}");
}
