//! Tasks that other systems publish to a real `RabbitMQ`.

use common::broker::Health;
use common::store::Filter;
use common::task::Head;
use lapin::BasicProperties;
use lapin::message::Delivery;
use serde_json::{Value, json};
use suite::fixtures::amqp::{Amqp, header};
use suite::fixtures::process::until;
use suite::fixtures::scheduler::RunningScheduler;
use suite::servers::rabbitmq::place;

async fn start(files: &[(&str, &str)]) -> (Amqp, RunningScheduler) {
    let amqp = Amqp::connect(&place()).await;
    let scheduler = RunningScheduler::hinted(files, amqp.broker()).await;
    let tasks = amqp.names.tasks();
    until("the ingress is there", async || amqp.look(&tasks).await == Some((0, 1))).await;
    (amqp, scheduler)
}

async fn publish(amqp: &Amqp, key: &str, properties: BasicProperties, body: &Value) {
    amqp.publish(&amqp.names.tasks(), key, properties, &serde_json::to_vec(body).unwrap()).await;
}

async fn tasks(scheduler: &RunningScheduler) -> Vec<Head> {
    scheduler.store.list(Filter::default(), None, 1_000).await.unwrap().tasks
}

async fn dead(amqp: &Amqp, count: usize) -> Vec<Delivery> {
    let mut letters = Vec::new();
    until("the dead letters are there", async || {
        letters.extend(amqp.pull(&amqp.names.dead()).await);
        letters.len() == count
    })
    .await;
    letters
}

fn greet(company: &str) -> Value {
    json!({"pipeline": "greet", "input": {"company": company}})
}

fn plain() -> BasicProperties {
    BasicProperties::default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_becomes_a_task() {
    let (amqp, scheduler) = start(&[]).await;
    let mut message = greet("Acme");
    message["queue"] = json!("vip");
    message["priority"] = json!(9);
    message["labels"] = json!({"source": "crm"});
    message["idempotency_key"] = json!("k-1");
    publish(&amqp, "anything.goes.here", plain(), &message).await;
    until("the task is there", async || tasks(&scheduler).await.len() == 1).await;
    let task = tasks(&scheduler).await.remove(0);
    assert_eq!((task.queue.as_str(), task.priority), ("vip", 9));
    assert_eq!(task.key.unwrap().as_str(), "k-1");
    assert_eq!(task.labels["source"], "crm");
    assert_eq!(task.labels["company"], "Acme");
    let queue = amqp.names.tasks();
    until("the message is acknowledged", async || amqp.look(&queue).await.unwrap().0 == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_comes_again_makes_no_second_task() {
    let (amqp, scheduler) = start(&[]).await;
    let mut keyed = greet("Acme");
    keyed["idempotency_key"] = json!("k-1");
    for _ in 0..5 {
        publish(&amqp, "", plain(), &keyed).await;
        // Without a key in the body, the id of the message is one.
        publish(&amqp, "", plain().with_message_id("m-1".into()), &greet("Bolt")).await;
    }
    publish(&amqp, "", plain(), &greet("last")).await;
    until("the last is there", async || tasks(&scheduler).await.iter().any(|task| task.labels["company"] == "last"))
        .await;
    assert_eq!(tasks(&scheduler).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_never_be_a_task_is_a_dead_letter_with_the_reason() {
    let (amqp, scheduler) = start(&[("teamster.yaml", "limits: { input: 1KiB }\n")]).await;
    let too_large = json!({"pipeline": "greet", "input": {"company": "x".repeat(70 << 10)}});
    let too_large_an_input = json!({"pipeline": "greet", "input": {"company": "x".repeat(2 << 10)}});
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"hello".to_vec(), "not a task"),
        (b"\xff\xfe".to_vec(), "UTF-8"),
        (b"{\"pipeline\":\"greet\"} {}".to_vec(), "not one JSON object"),
        ("[".repeat(200).into_bytes(), "nested deeper"),
        (json!({"pipeline": "greet", "input": {}, "colour": "red"}).to_string().into_bytes(), "colour"),
        (json!({"pipeline": "nowhere", "input": {}}).to_string().into_bytes(), "there is no pipeline nowhere"),
        (json!({"pipeline": "greet", "input": {"company": ""}}).to_string().into_bytes(), "/input/company"),
        (json!({"pipeline": "greet", "input": {"company": "a"}, "priority": 10}).to_string().into_bytes(), "priority"),
        (too_large.to_string().into_bytes(), "limits.input"),
        (too_large_an_input.to_string().into_bytes(), "limits.input"),
    ];
    for (n, (body, _)) in cases.iter().enumerate() {
        let properties = plain().with_message_id(format!("m-{n}").into()).with_expiration("60000".into());
        amqp.publish(&amqp.names.tasks(), "", properties, body).await;
    }
    // Good ones between them are taken.
    publish(&amqp, "", plain(), &greet("Acme")).await;
    let letters = dead(&amqp, cases.len()).await;
    for letter in letters {
        let id = letter.properties.message_id().as_ref().unwrap().to_string();
        let (body, why) = &cases[id.strip_prefix("m-").unwrap().parse::<usize>().unwrap()];
        assert_eq!(letter.data, *body);
        let reason = header(&letter, "x-teamster-reason").unwrap();
        assert!(reason.contains(why), "{id}: {reason}");
        assert_eq!(header(&letter, "x-teamster-queue").unwrap(), amqp.names.tasks());
        assert!(letter.properties.expiration().is_none());
    }
    until("the good one is there", async || tasks(&scheduler).await.len() == 1).await;
    assert_eq!(scheduler.broker.as_ref().unwrap().health(), Health::Up);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_store_cannot_be_written_messages_wait_at_the_broker() {
    let (amqp, scheduler) = start(&[]).await;
    // The pipeline is known, so that only the write is in doubt.
    publish(&amqp, "", plain(), &greet("first")).await;
    until("the first is there", async || tasks(&scheduler).await.len() == 1).await;
    let lock = rusqlite::Connection::open(scheduler.database()).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    for n in 0..20 {
        publish(&amqp, "", plain().with_message_id(format!("m-{n}").into()), &greet("Acme")).await;
    }
    until("readiness says so", async || scheduler.get("/readyz").await.status == 503).await;
    assert_eq!(tasks(&scheduler).await.len(), 1);
    assert_eq!(amqp.look(&amqp.names.dead()).await.unwrap().0, 0);
    lock.execute_batch("ROLLBACK").unwrap();
    until("all are there", async || tasks(&scheduler).await.len() == 21).await;
    let queue = amqp.names.tasks();
    until("all are acknowledged", async || amqp.look(&queue).await.unwrap().0 == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_messages_are_taken_in_by_two_schedulers() {
    let (amqp, scheduler) = start(&[]).await;
    let other = RunningScheduler::beside(&scheduler).await;
    let messages: Vec<Value> = (0..2_000).map(|n| greet(&format!("Acme {n}"))).collect();
    futures::future::join_all(messages.iter().map(|message| publish(&amqp, "", plain(), message))).await;
    until("all are tasks", async || {
        let depths = scheduler.store.queues().await.unwrap();
        depths.iter().flat_map(|queue| queue.depth.values()).sum::<u64>() == 2_000
    })
    .await;
    other.drain().await;
}
