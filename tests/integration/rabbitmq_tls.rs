//! `amqps://`: a real `RabbitMQ` that shows a certificate of an authority of its own.

use std::collections::HashSet;

use common::broker::{BrokerError, BrokerOptions, Health, RabbitMq};
use suite::fixtures::amqp::{broker, hint};
use suite::fixtures::process::{PATIENCE, until};
use suite::fixtures::worker::entropy;
use suite::servers::certificate::Certificate;
use suite::servers::rabbitmq::{Options, Server};
use tokio::net::{TcpListener, TcpStream};

async fn server() -> Server {
    let options = Options { tls: true, ..Options::default() };
    tokio::task::spawn_blocking(move || Server::start(options)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn hints_travel_protected_to_a_server_whose_authority_the_url_names() {
    let server = server().await;
    let authority = server.certificate().unwrap().authority.display().to_string();
    let broker = broker(&format!("{}?prefix=t&ca={authority}", server.tls_url()));
    until("the broker is well", async || broker.health() == Health::Up).await;
    let sent: Vec<_> = (0..2_000).map(|_| hint("leads", 4)).collect();
    // What a busy server does not confirm in time is sent again, and may come twice.
    until("every hint is confirmed", async || broker.publish(&sent).await.into_iter().all(|kept| kept)).await;
    let mut subscription = broker.subscribe(100);
    subscription.follow(&["leads".parse().unwrap()]);
    let mut missing: HashSet<_> = sent.iter().map(|hint| hint.task).collect();
    while !missing.is_empty() {
        let hints = tokio::time::timeout(PATIENCE, subscription.receive(100)).await.expect("a hint comes");
        for delivery in &hints {
            missing.remove(&delivery.hint.task);
        }
        subscription.acknowledge(hints);
    }
    let table = server.ctl(&["list_connections", "ssl", "ssl_protocol"]).unwrap();
    let mut connections = table.lines().filter(|line| line.contains("tlsv1.") || line.starts_with("false")).peekable();
    assert!(connections.peek().is_some() && connections.all(|line| line.starts_with("true\ttlsv1.")), "{table}");
}

/// Passes connections on from an address that the server's certificate is not made out for.
async fn elsewhere(target: String) -> String {
    let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = TcpStream::connect(&target).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_nobody_trusted_vouches_for_is_told_nothing() {
    let server = server().await;
    let folder = tempfile::tempdir().unwrap();
    let stranger = Certificate::make(folder.path()).unwrap().authority.display().to_string();
    let authority = server.certificate().unwrap().authority.display().to_string();
    let url = server.tls_url();
    let other_name = url.replace(&server.tls_address(), &elsewhere(server.tls_address()).await);
    for (url, why) in [
        (format!("{url}?ca={stranger}"), "invalid peer certificate"),
        // The system knows nothing of it.
        (url, "invalid peer certificate"),
        (format!("{other_name}?ca={authority}"), "not valid for name"),
    ] {
        let broker = broker(&url);
        until(&format!("{url} is refused: {why}"), async || {
            let Health::Down(said) = broker.health() else { panic!("{url} is trusted") };
            assert!(!said.contains("guest"), "{said}");
            said.contains(why)
        })
        .await;
        assert_eq!(broker.publish(&[hint("leads", 4)]).await, [false], "{url}");
    }
    let table = server.ctl(&["list_connections", "pid"]).unwrap();
    assert!(!table.contains('<'), "somebody has logged in: {table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_cannot_be_read_are_named_when_the_broker_is_opened() {
    let url = "amqps://ada:hunter2@mq.example/%2f?ca=/nowhere/ca.pem";
    let Err(BrokerError::Misconfigured(why)) = RabbitMq::open(url, BrokerOptions::new(entropy())) else {
        panic!("it must not open");
    };
    assert!(why.contains("/nowhere/ca.pem") && !why.contains("hunter2"), "{why}");
}
