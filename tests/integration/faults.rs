//! The fault proxy itself, in front of a server that sends back what it gets.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use suite::faults::proxy::Proxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

/// The longest that bytes may take that are to arrive.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long nothing must come that is held back.
const SILENCE: Duration = Duration::from_millis(200);

struct Echo {
    address: String,
    task: AbortHandle,
}

impl Echo {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let serving = async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                connections.spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        };
        Self { address, task: tokio::spawn(serving).abort_handle() }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn connect(proxy: &Proxy) -> TcpStream {
    timeout(PATIENCE, TcpStream::connect(proxy.address())).await.unwrap().unwrap()
}

async fn read(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    timeout(PATIENCE, stream.read_exact(&mut bytes)).await.unwrap().unwrap();
    bytes
}

async fn echo(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
    assert_eq!(read(stream, bytes.len()).await, bytes);
}

/// How a connection ends from which nothing more comes.
async fn end(stream: &mut TcpStream) -> Result<usize, ErrorKind> {
    timeout(PATIENCE, stream.read(&mut [0])).await.unwrap().map_err(|error| error.kind())
}

#[tokio::test]
async fn it_passes_bytes_on_unchanged_and_counts_them() {
    let server = Echo::start().await;
    let proxy = Proxy::start(&server.address).await;
    let mut client = connect(&proxy).await;
    echo(&mut client, b"hello").await;
    let counts = proxy.counts();
    assert_eq!((counts.connections, counts.requests, counts.answers), (1, 5, 5));
    client.shutdown().await.unwrap();
    assert_eq!(end(&mut client).await, Ok(0), "an end is passed on as an end");
    assert_eq!(proxy.through(&format!("redis://{}/0", server.address)), format!("redis://{}/0", proxy.address()));
}

#[tokio::test]
async fn more_than_its_buffers_hold_gets_through() {
    let server = Echo::start().await;
    let proxy = Proxy::start(&server.address).await;
    let (mut from, mut to) = connect(&proxy).await.into_split();
    let sent: Vec<u8> = (0..4_000_000_u32).map(|number| number.to_be_bytes()[3]).collect();
    let mut got = vec![0; sent.len()];
    let both = async { tokio::join!(to.write_all(&sent), from.read_exact(&mut got)) };
    let (written, read) = timeout(PATIENCE, both).await.unwrap();
    written.unwrap();
    read.unwrap();
    assert!(got == sent, "bytes were changed");
}

#[tokio::test]
async fn a_stall_holds_bytes_of_old_and_new_connections_and_passing_lets_them_go() {
    let server = Echo::start().await;
    let proxy = Proxy::start(&server.address).await;
    let mut old = connect(&proxy).await;
    echo(&mut old, b"before").await;
    proxy.stall().await;
    let mut new = connect(&proxy).await;
    old.write_all(b"old").await.unwrap();
    new.write_all(b"new").await.unwrap();
    assert!(timeout(SILENCE, old.read(&mut [0])).await.is_err(), "bytes came through");
    assert!(timeout(SILENCE, new.read(&mut [0])).await.is_err(), "bytes came through");
    proxy.pass().await;
    assert_eq!(read(&mut old, 3).await, b"old");
    assert_eq!(read(&mut new, 3).await, b"new");
}

#[tokio::test]
async fn a_reset_breaks_open_connections_and_takes_new_ones() {
    let server = Echo::start().await;
    let proxy = Proxy::start(&server.address).await;
    let mut client = connect(&proxy).await;
    echo(&mut client, b"before").await;
    proxy.reset().await;
    assert_eq!(end(&mut client).await, Err(ErrorKind::ConnectionReset));
    echo(&mut connect(&proxy).await, b"after").await;
}

#[tokio::test]
async fn a_stalled_connection_can_be_reset() {
    let server = Echo::start().await;
    let proxy = Proxy::start(&server.address).await;
    let mut client = connect(&proxy).await;
    echo(&mut client, b"before").await;
    proxy.stall().await;
    client.write_all(b"held").await.unwrap();
    proxy.reset().await;
    assert_eq!(end(&mut client).await, Err(ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn refusing_turns_new_connections_away_and_keeps_open_ones() {
    let server = Echo::start().await;
    let proxy = Proxy::start(&server.address).await;
    let mut client = connect(&proxy).await;
    echo(&mut client, b"before").await;
    proxy.refuse().await;
    let refused = timeout(PATIENCE, TcpStream::connect(proxy.address())).await.unwrap();
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    echo(&mut client, b"still").await;
    proxy.pass().await;
    echo(&mut connect(&proxy).await, b"again").await;
}

#[tokio::test]
async fn a_delay_makes_each_way_longer() {
    let server = Echo::start().await;
    let proxy = Proxy::start(&server.address).await;
    let mut client = connect(&proxy).await;
    proxy.delay(Duration::from_millis(50)).await;
    let started = Instant::now();
    echo(&mut client, b"slow").await;
    assert!(started.elapsed() >= Duration::from_millis(100), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_cut_breaks_a_connection_in_the_middle_of_an_answer_once() {
    let server = Echo::start().await;
    let proxy = Proxy::start(&server.address).await;
    let mut client = connect(&proxy).await;
    proxy.cut_after(8);
    echo(&mut client, b"whole").await;
    client.write_all(b"broken").await.unwrap();
    // A reset may overtake the part that passed.
    let mut part = Vec::new();
    let ended = timeout(PATIENCE, client.read_to_end(&mut part)).await.unwrap();
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(b"bro".starts_with(&part), "{part:?}");
    assert_eq!(proxy.counts().answers, 8);
    echo(&mut connect(&proxy).await, b"whole again").await;
}

#[tokio::test]
async fn a_target_that_is_not_there_breaks_the_connection() {
    let server = Echo::start().await;
    let proxy = Proxy::start(&server.address).await;
    drop(server);
    let mut client = connect(&proxy).await;
    assert!(matches!(end(&mut client).await, Ok(0) | Err(ErrorKind::ConnectionReset)));
}

#[tokio::test]
async fn its_connections_and_its_port_go_with_it() {
    let server = Echo::start().await;
    let proxy = Proxy::start(&server.address).await;
    let address = proxy.address();
    let mut client = connect(&proxy).await;
    echo(&mut client, b"before").await;
    drop(proxy);
    assert!(matches!(end(&mut client).await, Ok(0) | Err(_)));
    let refused = timeout(PATIENCE, TcpStream::connect(address)).await.unwrap();
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}
