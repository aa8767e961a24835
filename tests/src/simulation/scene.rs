//! One history from its beginning to its end.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use common::config::Config;
use common::pipeline::model::Pipeline;
use common::shutdown::Shutdown;
use common::store::Filter;
use common::task::{Head, StateName};
use tokio::task::JoinSet;
use worker::outside::Outside;

use super::broker::Server;
use super::chance::Chance;
use super::person::{Letter, Wish};
use super::stage::{LEASE_MS, Stage, memory};
use super::truth::Truth;
use super::weather::{Sabotage, Weather};
use super::world::World;
use super::{Tally, cast, person, verdict};

const WORKERS: usize = 3;
const SCHEDULERS: usize = 2;
const CLIENTS: usize = 2;
/// How long all may take to come to its end once the weather is clear.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a process may take to end when it is asked to.
const DRAIN: Duration = Duration::from_secs(60);
/// Tasks that one queue may hold.
pub(super) const QUEUE_DEPTH: u64 = 60;

/// What all who act in a history know.
pub(super) struct Scene {
    pub(super) seed: u64,
    pub(super) truth: Arc<Truth>,
    pub(super) world: Arc<World>,
    pub(super) weather: Weather,
    /// What carries hints, in those histories that have it.
    pub(super) broker: Option<Arc<Server>>,
    pub(super) wishes: Vec<Wish>,
    /// What another system publishes to the broker.
    pub(super) letters: Vec<Letter>,
    pub(super) config: Arc<Config>,
    pub(super) outside: Arc<Outside>,
    pub(super) folder: PathBuf,
    /// Falls when all is done.
    pub(super) curtain: Shutdown,
    pipelines: Vec<Arc<Pipeline>>,
}

impl Scene {
    pub(super) fn is_stormy(&self) -> bool {
        self.truth.clock.elapsed() < self.weather.clears
    }

    pub(super) fn pipeline(&self, name: &str) -> Arc<Pipeline> {
        Arc::clone(self.pipelines.iter().find(|pipeline| pipeline.name.as_str() == name).expect("a pipeline"))
    }

    /// All tasks that are not done.
    fn unfinished(&self) -> Vec<Head> {
        let states = vec![StateName::Scheduled, StateName::Ready, StateName::Running, StateName::Waiting];
        let filter = Filter { states, ..Filter::default() };
        self.truth.ask("look", async |store| store.list(filter, None, 1_000).await).map_or_else(
            |error| {
                self.truth.violation(format!("tasks cannot be listed: {error}"));
                Vec::new()
            },
            |page| page.tasks,
        )
    }
}

/// Plays the history of a seed; answers with what happened, or with what was broken.
pub(super) async fn play(stage: &Stage, seed: u64, sabotage: Sabotage) -> Result<Tally, Vec<String>> {
    let folder = memory();
    let chance = Chance::of(seed, "weather");
    let truth = Truth::open(&folder.path().join("teamster.db"), seed, |options| {
        options.limits.queue_depth = QUEUE_DEPTH;
    });
    let weather = Weather {
        one_in: [10, 20, 40, 100][usize::try_from(chance.below(4)).unwrap_or(0)],
        clears: chance.millis(5_000..12_000),
        lease: Duration::from_millis(LEASE_MS),
        sabotage,
    };
    let world = World::new(&truth, seed, weather.clears);
    stage.enter(Some(Arc::clone(&world)));
    let definitions = stage.definitions.clone();
    truth.ask("apply", async |store| store.apply(definitions).await).map_err(|error| vec![error.to_string()])?;
    // Half of all histories have a broker; in half of these, the workers rely on it.
    let broker = chance.one_in(2).then(|| Server::new(&truth));
    let config = if broker.is_some() && chance.one_in(2) { &stage.trusting } else { &stage.config };
    let scene = Arc::new(Scene {
        seed,
        truth: Arc::clone(&truth),
        world: Arc::clone(&world),
        weather,
        broker: broker.clone(),
        wishes: person::wishes(&chance),
        letters: person::letters(&chance),
        config: Arc::clone(config),
        outside: Arc::clone(&stage.outside),
        folder: stage.folder.path().to_owned(),
        curtain: Shutdown::new(),
        pipelines: stage.pipelines.clone(),
    });
    let mut processes = JoinSet::new();
    for number in 0..SCHEDULERS {
        processes.spawn(cast::scheduler(Arc::clone(&scene), number));
    }
    for number in 0..WORKERS {
        processes.spawn(cast::worker(Arc::clone(&scene), number));
    }
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(person::client(Arc::clone(&scene), number));
    }
    let mut people = JoinSet::new();
    people.spawn(person::person(Arc::clone(&scene)));
    people.spawn(person::operator(Arc::clone(&scene)));
    if let Some(broker) = broker {
        clients.spawn(person::stranger(Arc::clone(&scene), Arc::clone(&broker)));
        people.spawn(broker.break_now_and_then(seed, weather.clears));
    }
    until_done(&scene, stage, &mut clients).await;
    scene.curtain.request();
    let ended = tokio::time::timeout(DRAIN, async { while processes.join_next().await.is_some() {} }).await;
    if ended.is_err() {
        truth.violation(format!("a process does not end within {DRAIN:?}"));
    }
    people.shutdown().await;
    stage.enter(None);
    let digest = verdict::check(&scene);
    let violations = truth.violations();
    if violations.is_empty() {
        Ok(Tally { counts: truth.counts(), simulated: truth.clock.elapsed(), digest })
    } else {
        Err(violations)
    }
}

/// Until the weather is clear, all wishes are accepted and all tasks are done.
async fn until_done(scene: &Scene, stage: &Stage, clients: &mut JoinSet<()>) {
    tokio::time::sleep(scene.weather.clears).await;
    let ends = tokio::time::Instant::now() + PATIENCE;
    let accepted = tokio::time::timeout_at(ends, async { while clients.join_next().await.is_some() {} });
    if accepted.await.is_err() {
        return scene.truth.violation("I1: a task is not accepted".to_owned());
    }
    // The schedule ends too: a scheduler believes for a moment what was current.
    let no_tick = stage.no_tick.clone();
    if let Err(error) = scene.truth.ask("apply", async |store| store.apply(no_tick).await) {
        scene.truth.violation(format!("the schedule cannot be ended: {error}"));
    }
    tokio::time::sleep(scene.weather.latest()).await;
    while tokio::time::Instant::now() < ends {
        let taken_in = scene.broker.as_ref().is_none_or(|broker| broker.unsettled() == 0);
        if taken_in && scene.unfinished().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    for head in scene.unfinished() {
        scene.truth.violation(format!("I1: task {} ({}) does not end: {:?}", head.id, head.pipeline, head.state));
    }
}
