//! The servers that other tests stand on: each starts, answers its real client,
//! and comes back from a crash with what it promised to keep.

use std::time::Duration;

use lapin::message::Delivery;
use lapin::options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use redis::AsyncTypedCommands;
use suite::servers::redis::cluster::{self, Cluster};
use suite::servers::redis::sentinel::{MASTER, Sentinels};
use suite::servers::{self, postgres, rabbitmq};
use tokio::time::timeout;

use suite::servers::redis as redis_server;

/// The longest that a client may take.
const PATIENCE: Duration = Duration::from_secs(30);

async fn redis_client(url: &str) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(url).unwrap();
    timeout(PATIENCE, client.get_multiplexed_async_connection()).await.unwrap().unwrap()
}

async fn postgres_client(url: &str) -> tokio_postgres::Client {
    let connecting = tokio_postgres::connect(url, tokio_postgres::NoTls);
    let (client, connection) = timeout(PATIENCE, connecting).await.unwrap().unwrap();
    // It ends with the client, or with the server.
    tokio::spawn(connection);
    client
}

async fn channel(url: &str) -> (Connection, Channel) {
    servers::install_crypto_provider();
    let connecting = Connection::connect(url, ConnectionProperties::default());
    let connection = timeout(PATIENCE, connecting).await.unwrap().unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

async fn declare_quorum_queue(channel: &Channel, name: &str) {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    timeout(PATIENCE, channel.queue_declare(name.into(), options, arguments)).await.unwrap().unwrap();
}

async fn publish_confirmed(channel: &Channel, queue: &str, body: &[u8]) {
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let properties = BasicProperties::default().with_delivery_mode(2);
    let publishing =
        channel.basic_publish("".into(), queue.into(), BasicPublishOptions::default(), body, properties).await.unwrap();
    let confirmation = timeout(PATIENCE, publishing).await.unwrap().unwrap();
    assert!(matches!(confirmation, Confirmation::Ack(None)), "{confirmation:?}");
}

async fn get(channel: &Channel, queue: &str) -> Option<Delivery> {
    let getting = channel.basic_get(queue.into(), BasicGetOptions::default());
    timeout(PATIENCE, getting).await.unwrap().unwrap().map(|message| message.delivery)
}

#[tokio::test(flavor = "multi_thread")]
async fn tests_share_one_redis_and_each_has_a_prefix_of_its_own() {
    let (one, other) = (redis_server::place(), redis_server::place());
    let (url, prefix) = one.split_once("?prefix=").unwrap();
    assert_eq!(other.split_once("?prefix=").unwrap().0, url);
    assert_ne!(one, other);
    let mut client = redis_client(url).await;
    assert_eq!(client.ping().await.unwrap(), "PONG");
    client.set(format!("{prefix}:key"), "value").await.unwrap();
    assert_eq!(client.get(format!("{prefix}:key")).await.unwrap().as_deref(), Some("value"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_syncs_always_is_killed_and_comes_back_with_its_data() {
    let mut server = redis_server::Server::start(&redis_server::Options::default());
    redis_client(&server.url()).await.set("key", "value").await.unwrap();
    server.kill();
    assert!(tokio::net::TcpStream::connect(server.address()).await.is_err(), "it is not dead");
    server.restart();
    assert_eq!(redis_client(&server.url()).await.get("key").await.unwrap().as_deref(), Some("value"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_without_persistence_is_killed_and_comes_back_empty() {
    let persistence = redis_server::Persistence::None;
    let mut server = redis_server::Server::start(&redis_server::Options { persistence, ..Default::default() });
    redis_client(&server.url()).await.set("key", "value").await.unwrap();
    server.kill();
    server.restart();
    assert_eq!(redis_client(&server.url()).await.get("key").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_has_the_settings_that_it_was_started_with() {
    let options = redis_server::Options { eviction: "allkeys-lru", ..Default::default() };
    let server = redis_server::Server::start(&options);
    let policy = server.cli(&["config", "get", "maxmemory-policy"]).unwrap();
    assert_eq!(policy.split_whitespace().collect::<Vec<_>>(), ["maxmemory-policy", "allkeys-lru"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_with_tls_answers_who_trusts_its_authority_and_nobody_else() {
    servers::install_crypto_provider();
    let server = redis_server::Server::start(&redis_server::Options { tls: true, ..Default::default() });
    assert!(server.url().starts_with("rediss://"), "{}", server.url());
    let authority = std::fs::read(&server.certificate().unwrap().authority).unwrap();
    let trusting = redis::TlsCertificates { client_tls: None, root_cert: Some(authority) };
    let client = redis::Client::build_with_tls(server.url(), trusting).unwrap();
    let mut connection = timeout(PATIENCE, client.get_multiplexed_async_connection()).await.unwrap().unwrap();
    assert_eq!(connection.ping().await.unwrap(), "PONG");

    let stranger = redis::Client::open(server.url()).unwrap();
    assert!(timeout(PATIENCE, stranger.get_multiplexed_async_connection()).await.unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_cluster_has_three_masters_and_serves_keys_of_all() {
    let shared = cluster::shared();
    let nodes = shared.nodes[0].cli(&["cluster", "nodes"]).unwrap();
    assert_eq!(nodes.lines().filter(|line| line.contains("master")).count(), 3, "{nodes}");
    let client = redis::cluster::ClusterClient::new(shared.urls()).unwrap();
    let mut connection = timeout(PATIENCE, client.get_async_connection()).await.unwrap().unwrap();
    let prefix = servers::place::unique_name();
    for number in 0..64 {
        connection.set(format!("{prefix}:{number}"), number).await.unwrap();
    }
    for number in 0..64 {
        let value = connection.get(format!("{prefix}:{number}")).await.unwrap();
        assert_eq!(value, Some(number.to_string()));
    }
    let sizes = shared.nodes.iter().map(|node| node.cli(&["dbsize"]).unwrap().trim().parse::<u64>().unwrap());
    assert!(sizes.clone().all(|size| size > 0), "{:?}", sizes.collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_cluster_is_whole_again_after_one_of_its_nodes_was_killed() {
    let mut own = Cluster::start(redis_server::Persistence::Always);
    let client = redis::cluster::ClusterClient::new(own.urls()).unwrap();
    let mut connection = timeout(PATIENCE, client.get_async_connection()).await.unwrap().unwrap();
    for number in 0..16 {
        connection.set(format!("key{number}"), number).await.unwrap();
    }
    own.nodes[1].kill();
    own.nodes[1].restart();
    own.until_whole();
    let mut connection = timeout(PATIENCE, client.get_async_connection()).await.unwrap().unwrap();
    for number in 0..16 {
        assert_eq!(connection.get(format!("key{number}")).await.unwrap(), Some(number.to_string()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_name_the_master_and_its_replica_once_that_is_killed() {
    let mut all = Sentinels::start(&redis_server::Options::default(), 3);
    assert_eq!(all.master_address(), all.master.address());
    let urls: Vec<String> = all.sentinels.iter().map(redis_server::Server::url).collect();
    let mut asking = redis::sentinel::Sentinel::build(urls).unwrap();
    let master = timeout(PATIENCE, asking.async_master_for(MASTER, None)).await.unwrap().unwrap();
    let mut connection = master.get_multiplexed_async_connection().await.unwrap();
    connection.set("key", "value").await.unwrap();
    // The replica has it.
    let wait: i64 = redis::cmd("WAIT").arg(1).arg(30_000).query_async(&mut connection).await.unwrap_or(0);
    assert_eq!(wait, 1);

    all.master.kill();
    all.until_master(&all.replica);
    assert_eq!(redis_client(&all.replica.url()).await.get("key").await.unwrap().as_deref(), Some("value"));
}

#[tokio::test(flavor = "multi_thread")]
async fn tests_share_one_postgres_and_each_has_a_schema_of_its_own() {
    let (one, other) = (postgres::place(), postgres::place());
    let (url, schema) = one.split_once("?schema=").unwrap();
    assert_eq!(other.split_once("?schema=").unwrap().0, url);
    assert_ne!(one, other);
    let client = postgres_client(url).await;
    assert_eq!(client.query_one("select 1", &[]).await.unwrap().get::<_, i32>(0), 1);
    client.batch_execute(&format!("create schema {schema}")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_is_killed_and_comes_back_with_what_it_committed() {
    let mut server = postgres::Server::start(&postgres::Options::default());
    let client = postgres_client(&server.url()).await;
    client.batch_execute("create table kept (value int); insert into kept values (7)").await.unwrap();
    server.kill();
    assert!(client.query_one("select 1", &[]).await.is_err(), "it is not dead");
    server.restart();
    let client = postgres_client(&server.url()).await;
    assert_eq!(client.query_one("select value from kept", &[]).await.unwrap().get::<_, i32>(0), 7);
    let synced = client.query_one("show fsync", &[]).await.unwrap();
    assert_eq!(synced.get::<_, &str>(0), "on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_is_stopped_with_clients_connected_and_comes_back() {
    let mut server = postgres::Server::start(&postgres::Options { fsync: false, ..Default::default() });
    let client = postgres_client(&server.url()).await;
    client.batch_execute("create table kept (value int)").await.unwrap();
    server.stop();
    assert!(client.query_one("select 1", &[]).await.is_err(), "it is not down");
    server.restart();
    postgres_client(&server.url()).await.batch_execute("insert into kept values (1)").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tests_share_one_rabbitmq_and_each_has_a_prefix_of_its_own() {
    let (one, other) = (rabbitmq::place(), rabbitmq::place());
    let (url, prefix) = one.split_once("?prefix=").unwrap();
    assert_eq!(other.split_once("?prefix=").unwrap().0, url);
    assert_ne!(one, other);
    let (_connection, channel) = channel(url).await;
    let queue = format!("{prefix}.queue");
    declare_quorum_queue(&channel, &queue).await;
    publish_confirmed(&channel, &queue, b"hello").await;
    assert_eq!(get(&channel, &queue).await.unwrap().data, b"hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rabbitmq_is_killed_and_comes_back_with_what_it_confirmed() {
    let mut server = rabbitmq::Server::start(rabbitmq::Options::default());
    let (_connection, open) = channel(&server.url()).await;
    declare_quorum_queue(&open, "kept").await;
    publish_confirmed(&open, "kept", b"hello").await;
    assert_eq!(server.queues(), [("kept".to_owned(), 1)]);
    server.settle();
    server.kill();
    server.restart();
    let (connection, open) = channel(&server.url()).await;
    assert_eq!(get(&open, "kept").await.unwrap().data, b"hello");

    publish_confirmed(&open, "kept", b"gone").await;
    server.purge("kept");
    assert!(get(&open, "kept").await.is_none());

    server.close_connections("test");
    let closed = async {
        while connection.status().connected() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, closed).await.expect("the connection stays open");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rabbitmq_closes_the_channel_that_holds_a_message_longer_than_its_consumer_timeout() {
    let consumer_timeout = Some(Duration::from_secs(1));
    let server = rabbitmq::Server::start(rabbitmq::Options { consumer_timeout, ..Default::default() });
    let (_connection, open) = channel(&server.url()).await;
    declare_quorum_queue(&open, "held").await;
    publish_confirmed(&open, "held", b"hello").await;
    let _held = get(&open, "held").await.unwrap();
    let closed = async {
        while open.status().connected() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, closed).await.expect("the channel stays open");
}
