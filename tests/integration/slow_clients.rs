//! Clients that send or read too slowly are cut off; the others are served.

use std::time::Duration;

use scheduler::HttpLimits;
use serde_json::json;
use suite::fixtures::scheduler::RunningScheduler;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(20);

fn impatient() -> HttpLimits {
    let short = Duration::from_millis(300);
    HttpLimits { connections: 4, header_timeout: short, body_timeout: short, ..HttpLimits::default() }
}

/// All that comes until the other side ends the connection.
async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    let _ = read.expect("the connection was not cut off");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn headers_that_never_end_are_cut_off_and_give_their_places_back() {
    let api = RunningScheduler::tuned(&[], impatient()).await;
    let mut slow = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(api.address).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-slow: ").await.unwrap();
        slow.push(stream);
    }
    // Every place is taken: this one is served when the slow ones have been cut off.
    assert_eq!(api.get("/healthz").await.status, 200);
    for stream in &mut slow {
        assert!(!rest(stream).await.starts_with("HTTP/1.1 2"));
    }
}

#[tokio::test]
async fn a_body_that_never_ends_is_answered_with_408() {
    let api = RunningScheduler::tuned(&[], impatient()).await;
    for (path, kind) in [("/v1/tasks", "application/json"), ("/v1/batches?pipeline=greet", "application/x-ndjson")] {
        let mut stream = TcpStream::connect(api.address).await.unwrap();
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\ncontent-length: 100\r\n\r\n{{");
        stream.write_all(head.as_bytes()).await.unwrap();
        assert!(rest(&mut stream).await.starts_with("HTTP/1.1 408"), "{path}");
    }
    assert_eq!(api.tasks().await, 0);
}

#[tokio::test]
async fn a_scheduler_that_is_drained_ends_its_live_streams() {
    let api = RunningScheduler::start(&[]).await;
    let id = api.submit(&json!({"pipeline": "greet", "input": {"company": "Acme"}})).await;
    let mut stream = TcpStream::connect(api.address).await.unwrap();
    stream
        .write_all(format!("GET /v1/tasks/{id}/events HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut seen = String::new();
    let mut buffer = [0; 1_024];
    while !seen.contains("event: submitted") {
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(read > 0);
        seen.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    tokio::time::timeout(PATIENCE, api.drain()).await.expect("it must not wait for its watchers");
    rest(&mut stream).await;
}
