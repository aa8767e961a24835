//! The processes: workers and schedulers, each started anew when it has crashed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::broker::{self, Broker};
use common::id::WorkerId;
use common::shutdown::Shutdown;
use common::store::Store;
use futures::FutureExt;
use futures::future::BoxFuture;
use scheduler::{HttpLimits, Scheduler, SchedulerOptions};
use worker::service::{Worker, WorkerOptions};

use super::broker::FaultyBroker;
use super::chance::Chance;
use super::faulty::Faulty;
use super::process::Process;
use super::scene::Scene;
use crate::fixtures::worker::metrics;

/// What a process reaches: the store, the broker if the history has one, and what passes hints on
/// from the one to the other as long as the process lives.
pub(super) struct Connection {
    pub(super) store: Arc<dyn Store>,
    broker: Option<Arc<dyn Broker>>,
    pub(super) passing: BoxFuture<'static, ()>,
}

impl Connection {
    pub(super) fn of(scene: &Scene, process: &Arc<Process>) -> Self {
        let Some(server) = &scene.broker else {
            let store = Faulty::new(&scene.truth, process, scene.weather, None);
            return Self { store, broker: None, passing: std::future::pending().boxed() };
        };
        let (bell, calls) = broker::doorbell();
        let store: Arc<dyn Store> = Faulty::new(&scene.truth, process, scene.weather, Some(bell));
        let broker: Arc<dyn Broker> = Arc::new(FaultyBroker::new(server, process, scene.weather));
        let passing = broker::pass_on(calls, Arc::clone(&broker), Arc::clone(&store)).boxed();
        Self { store, broker: Some(broker), passing }
    }
}

/// Until `life` ends, hints are passed on.
pub(super) async fn beside(passing: BoxFuture<'static, ()>, life: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        () = life => {}
        () = passing => {}
    }
}

/// What may happen to a process from outside.
enum Fate {
    /// It is killed.
    Killed,
    /// It is asked to end, as at a deploy.
    Deployed,
    /// Nothing.
    Spared,
}

/// Waits for what is to happen, if anything.
async fn fate(scene: &Scene, chance: &Chance) -> Fate {
    let (fate, after) = match chance.below(3) {
        0 => (Fate::Killed, chance.millis(50..6_000)),
        1 => (Fate::Deployed, chance.millis(50..6_000)),
        _ => (Fate::Spared, Duration::MAX),
    };
    tokio::time::sleep(after).await;
    if scene.is_stormy() { fate } else { std::future::pending().await }
}

/// Runs a process until the curtain falls, and starts it anew when it ends before.
async fn keep_alive<F>(scene: Arc<Scene>, name: String, start: impl Fn(Arc<Process>, String, Shutdown) -> F)
where
    F: Future<Output = ()>,
{
    for incarnation in 0.. {
        let id = format!("{name}.{incarnation}");
        let process = Process::start(scene.seed, &id, true);
        let shutdown = Shutdown::new();
        let life = async {
            let mut running = std::pin::pin!(start(Arc::clone(&process), id, shutdown.clone()));
            tokio::select! {
                biased;
                () = &mut running => return,
                fate = fate(&scene, &process.chance) => match fate {
                    Fate::Killed => return scene.truth.count("fault/killed"),
                    Fate::Deployed => scene.truth.count("fault/deployed"),
                    Fate::Spared => {}
                },
                () = scene.curtain.draining() => {}
            }
            shutdown.request();
            running.await;
        };
        tokio::select! {
            biased;
            () = process.died() => {}
            () = life => {}
        }
        process.kill();
        if scene.curtain.is_draining() {
            return;
        }
        tokio::time::sleep(process.chance.millis(20..1_500)).await;
    }
}

/// A worker whose clock may be wrong.
pub(super) async fn worker(scene: Arc<Scene>, number: usize) {
    // In some histories all clocks of workers are wrong by the same: then no other worker makes up for it.
    let all = Chance::of(scene.seed, "clocks");
    let own = Chance::of(scene.seed, &format!("clock-{number}"));
    let chance = if all.one_in(6) { &all } else { &own };
    let off = if chance.one_in(3) { i64::try_from(chance.below(60_000)).unwrap_or(0) - 30_000 } else { 0 };
    let clock = Arc::new(scene.truth.clock.off_by(off));
    let start = |process: Arc<Process>, id: String, shutdown: Shutdown| {
        let Connection { store, broker, passing } = Connection::of(&scene, &process);
        let options = WorkerOptions {
            store,
            broker,
            config: Arc::clone(&scene.config),
            env: BTreeMap::new(),
            dir: scene.folder.clone(),
            id: WorkerId::new(id).expect("an id"),
            clock: clock.clone(),
            entropy: process.chance.entropy(),
            metrics: metrics(),
        };
        let worker = Worker::with_outside(options, Arc::clone(&scene.outside)).expect("a worker");
        beside(passing, worker.run(shutdown))
    };
    keep_alive(Arc::clone(&scene), format!("worker-{number}"), start).await;
}

/// A scheduler.
pub(super) async fn scheduler(scene: Arc<Scene>, number: usize) {
    let start = |process: Arc<Process>, _: String, shutdown: Shutdown| {
        let Connection { store, broker, passing } = Connection::of(&scene, &process);
        let options = SchedulerOptions {
            store,
            broker,
            config: Arc::clone(&scene.config),
            listen: ([127, 0, 0, 1], 0).into(),
            clock: Arc::new(scene.truth.clock.clone()),
            entropy: process.chance.entropy(),
            http: HttpLimits::default(),
            metrics: metrics(),
        };
        let running = async move { Scheduler::bind(options).await.expect("a scheduler").run(shutdown).await };
        beside(passing, running)
    };
    keep_alive(Arc::clone(&scene), format!("scheduler-{number}"), start).await;
}
