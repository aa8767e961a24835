//! The outside world of the tasks: it counts what is done to it, is slow now and
//! then, and sometimes breaks off before it has answered.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path as UrlPath, State as Shared};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use common::id::{StepId, StepKey};

use crate::invariants::Seen;

/// One in so many first calls is acted on and not answered.
const BROKEN_OFF: u64 = 9;
/// The longest that an answer takes.
const SLOW: u64 = 150;

/// By name of the task and step: the idempotency key of each call.
type Hits = BTreeMap<(String, String), Vec<String>>;

/// See the module.
#[derive(Debug)]
pub(super) struct World {
    hits: Mutex<Hits>,
    address: String,
    folder: tempfile::TempDir,
}

impl World {
    pub(super) async fn start() -> Arc<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = format!("http://{}", listener.local_addr().expect("it is bound"));
        let folder = tempfile::tempdir().expect("a temporary directory");
        let world = Arc::new(Self { hits: Mutex::default(), address, folder });
        let app = Router::new().route("/{name}/{step}", any(call)).with_state(Arc::clone(&world));
        tokio::spawn(async move { axum::serve(listener, app).await });
        world
    }

    /// `http://HOST:PORT`
    pub(super) fn address(&self) -> String {
        self.address.clone()
    }

    /// Where programs leave a line for each time that they ran: `NAME.STEP`.
    pub(super) fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// How often a step of a task was done.
    pub(super) fn times(&self, name: &str, step: &str) -> usize {
        self.hits().get(&(name.to_owned(), step.to_owned())).map_or(0, Vec::len)
            + lines(&self.folder.path().join(format!("{name}.{step}")))
    }

    /// What was seen of a task, but for what changes nothing.
    pub(super) fn seen(&self, name: &str) -> BTreeMap<StepKey, Seen> {
        let mut seen: BTreeMap<StepKey, Seen> = BTreeMap::new();
        for step in ["charge", "write", "note"] {
            let mut keys = self.hits().get(&(name.to_owned(), step.to_owned())).cloned().unwrap_or_default();
            let noted = lines(&self.folder.path().join(format!("{name}.{step}")));
            keys.extend(std::iter::repeat_n(String::new(), noted));
            seen.insert(StepKey::of(StepId::new(step).expect("a step's id")), Seen { keys });
        }
        seen
    }

    fn hits(&self) -> std::sync::MutexGuard<'_, Hits> {
        self.hits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lines(file: &Path) -> usize {
    std::fs::read_to_string(file).map_or(0, |text| text.lines().count())
}

async fn call(
    Shared(world): Shared<Arc<World>>,
    UrlPath((name, step)): UrlPath<(String, String)>,
    headers: HeaderMap,
) -> Response {
    let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok()).unwrap_or_default().to_owned();
    // What it does is chosen by the name, so that the same tasks meet the same world.
    let dice = name.bytes().chain(step.bytes()).fold(7_u64, |dice, byte| dice.wrapping_mul(31) + u64::from(byte));
    let times = {
        let mut hits = world.hits();
        let hits = hits.entry((name, step)).or_default();
        hits.push(key);
        hits.len()
    };
    tokio::time::sleep(Duration::from_millis(dice % SLOW)).await;
    if times == 1 && dice.is_multiple_of(BROKEN_OFF) {
        let broken = futures::stream::once(async { Err::<String, _>(std::io::Error::other("broken off")) });
        return Body::from_stream(broken).into_response();
    }
    "{}".into_response()
}
