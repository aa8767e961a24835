//! A TCP proxy on the loopback address that passes bytes on, until it is told to do otherwise.
//!
//! It never changes a byte. Each direction of a connection has one buffer of
//! fixed size, so a side that does not read makes the other side wait.

use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::servers::port::Port;

/// The connections that it takes at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 1024;

/// What it holds of each direction of a connection, at most.
const BUFFER: usize = 16 * 1024;

/// What happens to connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Pass(Duration),
    Stall,
    Refuse,
}

#[derive(Debug, Clone, Copy)]
struct Rules {
    mode: Mode,
    /// How often all connections were reset: one that was taken before the last time must go.
    resets: u64,
    /// Counts the changes, to know which is in force.
    version: u64,
}

#[derive(Debug, Default)]
struct Traffic {
    connections: AtomicU64,
    requests: AtomicU64,
    answers: AtomicU64,
    /// The bytes of answers that still pass before the connection that carries them is broken.
    cut: Mutex<Option<usize>>,
}

/// What went through a proxy since it was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Connections taken.
    pub connections: u64,
    /// Bytes to the target.
    pub requests: u64,
    /// Bytes from the target.
    pub answers: u64,
}

/// A proxy in front of one address. It ends with the value, and its connections with it.
#[derive(Debug)]
pub struct Proxy {
    port: Arc<Port>,
    target: String,
    rules: watch::Sender<Rules>,
    in_force: watch::Receiver<u64>,
    traffic: Arc<Traffic>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Starts one that passes everything on to the target, `HOST:PORT`.
    ///
    /// # Panics
    /// When it cannot listen.
    pub async fn start(target: &str) -> Self {
        let port = Arc::new(Port::claim());
        let (rules, watched) = watch::channel(Rules { mode: Mode::Pass(Duration::ZERO), resets: 0, version: 1 });
        let (applied, in_force) = watch::channel(0);
        let traffic = Arc::new(Traffic::default());
        let listening =
            Listening { port: port.clone(), target: target.to_owned(), rules: watched, traffic: traffic.clone() };
        let task = tokio::spawn(listening.run(applied));
        let proxy = Self { port, target: target.to_owned(), rules, in_force, traffic, task };
        proxy.change(|_| ()).await;
        proxy
    }

    /// Where it listens: `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port.number())
    }

    /// A URL of the target, through the proxy.
    ///
    /// # Panics
    /// When the URL does not name the target.
    pub fn through(&self, url: &str) -> String {
        assert!(url.contains(&self.target), "{url} does not name {}", self.target);
        url.replacen(&self.target, &self.address(), 1)
    }

    /// Passes everything on, at once. Ends all other rules.
    pub async fn pass(&self) {
        self.set_cut(None);
        self.change(|rules| rules.mode = Mode::Pass(Duration::ZERO)).await;
    }

    /// Passes everything on, each piece of up to 16 KiB this much later.
    pub async fn delay(&self, by: Duration) {
        self.change(|rules| rules.mode = Mode::Pass(by)).await;
    }

    /// Holds what comes from either side; takes connections and says nothing on them.
    pub async fn stall(&self) {
        self.change(|rules| rules.mode = Mode::Stall).await;
    }

    /// Refuses new connections; those that are open go on.
    pub async fn refuse(&self) {
        self.change(|rules| rules.mode = Mode::Refuse).await;
    }

    /// Breaks all connections with a reset on both sides, and comes back when they are gone.
    /// New ones are treated as before.
    pub async fn reset(&self) {
        self.change(|rules| rules.resets += 1).await;
    }

    /// Passes this many more bytes of answers on, then resets the connection that carries the next, once.
    /// The reset may overtake what the client has not read yet.
    pub fn cut_after(&self, bytes: usize) {
        self.set_cut(Some(bytes));
    }

    /// What went through so far.
    pub fn counts(&self) -> Counts {
        let Traffic { connections, requests, answers, .. } = &*self.traffic;
        Counts {
            connections: connections.load(Ordering::Relaxed),
            requests: requests.load(Ordering::Relaxed),
            answers: answers.load(Ordering::Relaxed),
        }
    }

    fn set_cut(&self, bytes: Option<usize>) {
        *self.traffic.cut.lock().unwrap_or_else(PoisonError::into_inner) = bytes;
    }

    /// Changes the rules and waits until they are in force.
    async fn change(&self, change: impl FnOnce(&mut Rules)) {
        let mut version = 0;
        self.rules.send_modify(|rules| {
            change(rules);
            rules.version += 1;
            version = rules.version;
        });
        let mut in_force = self.in_force.clone();
        in_force.wait_for(|applied| *applied >= version).await.expect("the proxy runs as long as it is held");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // The connections are tasks of this one.
        self.task.abort();
    }
}

/// What the proxy's own task knows.
struct Listening {
    port: Arc<Port>,
    target: String,
    rules: watch::Receiver<Rules>,
    traffic: Arc<Traffic>,
}

impl Listening {
    async fn run(mut self, applied: watch::Sender<u64>) {
        let mut listener = None;
        let mut connections = JoinSet::new();
        let mut resets = 0;
        loop {
            let rules = *self.rules.borrow_and_update();
            if rules.mode == Mode::Refuse {
                listener = None;
            } else if listener.is_none() {
                let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port.number())).await;
                listener = Some(bound.expect("the port is claimed"));
            }
            if rules.resets != resets {
                resets = rules.resets;
                while connections.join_next().await.is_some() {}
            }
            applied.send_replace(rules.version);
            tokio::select! {
                changed = self.rules.changed() => if changed.is_err() { return },
                Some(_) = connections.join_next() => {}
                accepted = accept(listener.as_ref()), if connections.len() < CONNECTIONS => {
                    let Ok(client) = accepted else { continue };
                    self.traffic.connections.fetch_add(1, Ordering::Relaxed);
                    let (rules, traffic) = (self.rules.clone(), self.traffic.clone());
                    connections.spawn(serve(client, self.target.clone(), rules, resets, traffic));
                }
            }
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(client, _)| client),
        None => std::future::pending().await,
    }
}

/// One connection, from its beginning to its end.
async fn serve(
    mut client: TcpStream,
    target: String,
    rules: watch::Receiver<Rules>,
    resets: u64,
    traffic: Arc<Traffic>,
) {
    let mut watched = rules.clone();
    // It also ends when the proxy is gone.
    let broken = watched.wait_for(|rules| rules.resets != resets);
    let mut server = None;
    let passing = async {
        let server = server.insert(TcpStream::connect(&target).await?);
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        tokio::try_join!(
            pump(from_client, to_server, rules.clone(), |piece| {
                traffic.requests.fetch_add(piece as u64, Ordering::Relaxed);
                piece
            }),
            pump(from_server, to_client, rules.clone(), |piece| {
                let passed = traffic.allow(piece);
                traffic.answers.fetch_add(passed as u64, Ordering::Relaxed);
                passed
            }),
        )
    };
    let ended_well = tokio::select! {
        _ = broken => false,
        ended = passing => ended.is_ok(),
    };
    if !ended_well {
        // Then closing sends a reset.
        let _ = client.set_zero_linger();
        if let Some(server) = &server {
            let _ = server.set_zero_linger();
        }
    }
}

/// Carries one direction until its end. `allow` says how much of a piece may pass: less than all breaks the connection.
async fn pump(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut rules: watch::Receiver<Rules>,
    allow: impl Fn(usize) -> usize,
) -> io::Result<()> {
    let gone = || io::Error::other("the proxy is gone");
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = from.read(&mut buffer).await?;
        let mode = rules.wait_for(|rules| rules.mode != Mode::Stall).await.map_err(|_| gone())?.mode;
        if let Mode::Pass(delay) = mode
            && !delay.is_zero()
        {
            tokio::time::sleep(delay).await;
            rules.wait_for(|rules| rules.mode != Mode::Stall).await.map_err(|_| gone())?;
        }
        if length == 0 {
            return to.shutdown().await;
        }
        let passed = allow(length);
        to.write_all(&buffer[..passed]).await?;
        if passed < length {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
    }
}

impl Traffic {
    /// How much of an answer's next piece may pass.
    fn allow(&self, piece: usize) -> usize {
        let mut cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(left) = *cut else { return piece };
        if piece <= left {
            *cut = Some(left - piece);
            return piece;
        }
        *cut = None;
        left
    }
}
