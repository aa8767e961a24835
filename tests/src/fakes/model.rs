//! A fake of the Anthropic Messages API, and of Chat Completions, that speaks the real wires: a TCP server
//! on a loopback port that records what it is asked, refuses what the real API
//! refuses, and answers as it is told, also badly.

mod batches;
mod chat;
mod rules;
mod wire;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use self::batches::Batches;
pub use self::batches::{CANCELED, EXPIRED, Made};
use self::rules::Said;
pub use self::wire::{Break, ErrorReply, Message, Reply};

/// The longest head and body that are taken in.
const HEAD_LIMIT: usize = 64 << 10;
const BODY_LIMIT: usize = 64 << 20;
/// The content type of a stream.
const EVENTS: &str = "text/event-stream; charset=utf-8";
/// How long a test waits for a request before it fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// An API that the server speaks, by the path of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// `/v1/messages`
    Messages,
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/messages/batches` and what is below; also a request within a batch, when it is answered.
    Batches,
    /// Anything else.
    Unknown,
}

impl Api {
    fn of(line: &str) -> Self {
        match line {
            "POST /v1/messages HTTP/1.1" => Self::Messages,
            "POST /v1/chat/completions HTTP/1.1" => Self::Chat,
            line if batches::is_meant(line) => Self::Batches,
            _ => Self::Unknown,
        }
    }
}

/// A request, as it came in.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its place in the order of arrival, from 0.
    pub number: usize,
    /// The API that it asks.
    pub api: Api,
    /// The request line.
    pub line: String,
    /// The headers, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body, byte for byte.
    pub body: Bytes,
    /// The body as JSON; null if it is none.
    pub json: Value,
    /// Whether a reply was written to its end.
    pub answered: bool,
}

impl Request {
    /// The messages.
    pub fn messages(&self) -> &[Value] {
        self.json["messages"].as_array().map(Vec::as_slice).unwrap_or_default()
    }

    /// How many replies of the model the conversation has: the number of the turn, from 0.
    pub fn turn(&self) -> usize {
        self.messages().iter().filter(|message| message["role"] == "assistant").count()
    }
}

type Answer = Box<dyn Fn(&Request) -> Reply + Send + Sync>;

struct Shared {
    answer: Answer,
    requests: Mutex<Vec<Request>>,
    violations: Mutex<Vec<String>>,
    said: Mutex<Said>,
    batches: Batches,
    received: watch::Sender<usize>,
    closed: watch::Sender<usize>,
}

/// The server; stops when it is dropped.
pub struct FakeModel {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

impl FakeModel {
    /// A server that answers each request with what a function says of it.
    pub async fn answering(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            answer: Box::new(answer),
            requests: Mutex::default(),
            violations: Mutex::default(),
            said: Mutex::default(),
            batches: Batches::default(),
            received: watch::Sender::new(0),
            closed: watch::Sender::new(0),
        });
        let server = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, server })
    }

    /// A server that answers with these replies, in order. A request beyond them
    /// is refused and counts as a violation.
    pub async fn scripted<R: Into<Reply>>(replies: impl IntoIterator<Item = R>) -> io::Result<Self> {
        let script: Mutex<VecDeque<Reply>> = Mutex::new(replies.into_iter().map(Into::into).collect());
        Self::answering(move |_| {
            lock(&script).pop_front().unwrap_or_else(|| Reply::error(400, BEYOND_SCRIPT, "the script is at its end"))
        })
        .await
    }

    /// What to give to a client as `base_url`.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests so far, in order of arrival.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared.requests).clone()
    }

    /// What the real API would have refused, so far.
    pub fn violations(&self) -> Vec<String> {
        lock(&self.shared.violations).clone()
    }

    /// The batches that were made so far.
    pub fn batches(&self) -> Vec<Made> {
        self.shared.batches.made()
    }

    /// While batches are held, none comes to its end.
    pub fn hold_batches(&self, held: bool) {
        self.shared.batches.hold(held);
    }

    /// The next so many batches are made, and the connection breaks before the answer.
    pub fn lose_batches(&self, answers: usize) {
        self.shared.batches.lose(answers);
    }

    /// The next so many batches are refused: overloaded.
    pub fn refuse_batches(&self, sends: usize) {
        self.shared.batches.refuse(sends);
    }

    /// A batch with a request that has this text is refused whole: 400.
    pub fn refuse_batches_with(&self, text: &str) {
        self.shared.batches.refuse_text(text);
    }

    /// How many requests were made by themselves.
    pub fn direct(&self) -> usize {
        lock(&self.shared.requests).iter().filter(|request| request.api == Api::Messages).count()
    }

    /// Waits until so many requests have come in.
    ///
    /// # Errors
    /// When they do not come.
    pub async fn received(&self, count: usize) -> anyhow::Result<()> {
        reached(&self.shared.received, count, "requests came in").await
    }

    /// Waits until so many connections have ended.
    ///
    /// # Errors
    /// When they do not end.
    pub async fn closed(&self, count: usize) -> anyhow::Result<()> {
        reached(&self.shared.closed, count, "connections ended").await
    }
}

impl Drop for FakeModel {
    fn drop(&mut self) {
        self.server.abort();
    }
}

const BEYOND_SCRIPT: &str = "script_error";

async fn reached(counter: &watch::Sender<usize>, count: usize, what: &str) -> anyhow::Result<()> {
    let mut counter = counter.subscribe();
    let enough = counter.wait_for(|so_far| *so_far >= count);
    tokio::time::timeout(PATIENCE, enough)
        .await
        .map_err(|_| anyhow::anyhow!("fewer than {count} {what} at the fake model within {PATIENCE:?}"))??;
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with this task, and with it all connections.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            // A client that goes away is not the server's concern.
            let _ = converse(stream, &shared).await;
            shared.closed.send_modify(|count| *count += 1);
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Serves one connection, request by request.
async fn converse(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut buffer = Vec::new();
    while let Some((line, headers, body)) = read_request(&mut stream, &mut buffer).await? {
        let json = serde_json::from_slice(&body).unwrap_or_default();
        let request = {
            let mut requests = lock(&shared.requests);
            let request =
                Request { number: requests.len(), api: Api::of(&line), line, headers, body, json, answered: false };
            requests.push(request.clone());
            request
        };
        shared.received.send_modify(|count| *count += 1);
        let Some(reply) = reply(shared, &request) else { return Ok(()) };
        let request_id = format!("req_fake_{}", request.number);
        if !write_reply(&mut stream, &request, &request_id, reply).await? {
            return Ok(());
        }
        lock(&shared.requests)[request.number].answered = true;
    }
    Ok(())
}

/// What to say; nothing: the connection breaks.
fn reply(shared: &Shared, request: &Request) -> Option<Reply> {
    if request.api == Api::Unknown {
        return Some(Reply::error(404, "not_found_error", "Not Found"));
    }
    let header = |name: &str| request.headers.get(name).map(String::as_str).unwrap_or_default();
    if header("x-api-key").is_empty() && !header("authorization").starts_with("Bearer ") {
        return Some(Reply::error(401, "authentication_error", "x-api-key header is required"));
    }
    if request.api == Api::Batches {
        return batches::reply(shared, request);
    }
    let violation = match request.api {
        Api::Chat => chat::violation(&request.json),
        _ => lock(&shared.said).violation(header("anthropic-version"), &request.json),
    };
    if let Some(violation) = violation {
        lock(&shared.violations).push(format!("request {}: {violation}", request.number));
        return Some(Reply::error(400, "invalid_request_error", &violation));
    }
    let reply = (shared.answer)(request);
    match &reply {
        Reply::Message(message) | Reply::Held(message, _) | Reply::Slow(message, _) => {
            lock(&shared.said).note(message.content(), message.stop_reason());
        }
        Reply::Error(error) if error.kind == BEYOND_SCRIPT => {
            lock(&shared.violations).push(format!("request {}: no reply is left in the script", request.number));
        }
        _ => {}
    }
    Some(reply)
}

/// Writes a reply; `false`: the connection is of no more use.
async fn write_reply(stream: &mut TcpStream, request: &Request, request_id: &str, reply: Reply) -> io::Result<bool> {
    let body_of = |message: &Message| {
        let id = format!("msg_fake_{}", request.number);
        let (model, tokens) = message.origin(&request.json["model"], request.body.len() / 4);
        match request.api {
            Api::Chat => chat::stream(message, &id, &model, tokens),
            _ => message.stream(&id, &model, tokens),
        }
    };
    match reply {
        Reply::Message(message) => {
            let head = wire::stream_head(EVENTS, request_id, message.headers());
            write_stream(stream, head, &body_of(&message)).await?;
        }
        Reply::Held(message, until) => {
            until.notified().await;
            let head = wire::stream_head(EVENTS, request_id, message.headers());
            write_stream(stream, head, &body_of(&message)).await?;
        }
        Reply::Raw(content_type, body) => {
            write_stream(stream, wire::stream_head(content_type, request_id, &[]), &body).await?;
        }
        Reply::Slow(message, pause) => {
            stream.write_all(wire::stream_head(EVENTS, request_id, &[]).as_bytes()).await?;
            for piece in body_of(&message).chunks(64) {
                tokio::time::sleep(pause).await;
                stream.write_all(&wire::chunked(piece)).await?;
            }
            stream.write_all(wire::LAST_CHUNK).await?;
        }
        Reply::Broken(message, how) => {
            let body = body_of(&message);
            stream.write_all(wire::stream_head(EVENTS, request_id, &[]).as_bytes()).await?;
            let half = &body[..body.len() / 2];
            if how == Break::ErrorEvent {
                let whole_events = half.windows(2).rposition(|two| two == b"\n\n").map_or(0, |at| at + 2);
                stream.write_all(&wire::chunked(&half[..whole_events])).await?;
                stream
                    .write_all(&wire::chunked(&match request.api {
                        Api::Chat => chat::error_event(),
                        _ => wire::error_event(),
                    }))
                    .await?;
            } else {
                stream.write_all(&wire::chunked(half)).await?;
            }
            stream.flush().await?;
            match how {
                Break::End | Break::ErrorEvent => stream.write_all(wire::LAST_CHUNK).await?,
                Break::Close => {}
                Break::Reset => stream.set_zero_linger()?,
                Break::Stall => hang(stream).await?,
            }
            return Ok(false);
        }
        Reply::Error(error) => stream.write_all(&error.response(request_id)).await?,
        Reply::Silence => {
            hang(stream).await?;
            return Ok(false);
        }
        Reply::Endless(limit) => {
            stream.write_all(wire::stream_head(EVENTS, request_id, &[]).as_bytes()).await?;
            let comment = [b":".as_slice(), &vec![b'x'; 64 << 10], b"\n"].concat();
            let chunk = [format!("{:x}\r\n", comment.len()).as_bytes(), &comment, b"\r\n"].concat();
            for _ in 0..limit / comment.len() {
                stream.write_all(&chunk).await?;
            }
            hang(stream).await?;
            return Ok(false);
        }
    }
    Ok(true)
}

async fn write_stream(stream: &mut TcpStream, head: String, body: &[u8]) -> io::Result<()> {
    let mut response = head.into_bytes();
    response.extend_from_slice(&wire::chunked(body));
    response.extend_from_slice(wire::LAST_CHUNK);
    stream.write_all(&response).await
}

/// Says nothing until the client goes away.
async fn hang(stream: &mut TcpStream) -> io::Result<()> {
    while stream.read(&mut [0; 1024]).await? > 0 {}
    Ok(())
}

type RawRequest = (String, BTreeMap<String, String>, Bytes);

/// Reads one request; `None`: the client has closed the connection.
async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Option<RawRequest>> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let head_end = loop {
        if let Some(at) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        if buffer.len() > HEAD_LIMIT {
            return Err(invalid("the head is too long"));
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&buffer[..head_end]).into_owned();
    let mut lines = head.split("\r\n");
    let line = lines.next().unwrap_or_default().to_owned();
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length: usize = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    if length > BODY_LIMIT {
        return Err(invalid("the body is too long"));
    }
    let end = head_end + 4 + length;
    while buffer.len() < end {
        if stream.read_buf(buffer).await? == 0 {
            return Err(invalid("the body is cut off"));
        }
    }
    let body = Bytes::copy_from_slice(&buffer[head_end + 4..end]);
    buffer.drain(..end);
    Ok(Some((line, headers, body)))
}
