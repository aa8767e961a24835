//! What all histories share: the pipelines, the configuration, and the tools.

use std::sync::{Arc, Mutex, PoisonError};

use common::config::Config;
use common::journal::Effect;
use common::pipeline::model::Pipeline;
use common::span::Span;
use common::store::Definition;
use worker::outside::Outside;

use super::world::{Door, SimulatedTool, World};
use crate::project::ProjectDir;

/// How long a lease lasts.
pub(super) const LEASE_MS: u64 = 1_200;

const CONFIG: &str = "\
models: { sim: { provider: rehearsal, model: rehearsal, options: { walk: all, turns: 3, latency_ms: 15 } } }
worker: { lease: 1200ms, slots: 4, drain: 2s }
";

/// Where the tasks of these pipelines queue.
pub(super) const QUEUES: [&str; 3] = ["default", "money", "leaves"];

const PIPELINES: [(&str, &str); 9] = [
    ("pipelines/plain.yaml", "
name: plain
steps:
  - { id: a, set: '{{ input.n + 1 }}' }
  - { id: nap, sleep: 700ms }
  - { id: b, set: '{{ steps.a.output * 2 }}' }
output: '{{ steps.b.output }}'
"),
    ("pipelines/charge.yaml", "
name: charge
queue: money
retry: { attempts: 4, backoff: { initial: 100ms, factor: 2, jitter: full } }
steps:
  - { id: look, tool: lookup, with: { mark: look } }
  - { id: pay, tool: charge, with: { mark: pay } }
  - { id: tell, tool: note, with: { mark: tell } }
output: '{{ steps.pay.output.receipt }}'
"),
    ("pipelines/ask.yaml", "
name: ask
steps:
  - { id: ask, approval: { title: 'Pay {{ input.n }}?', show: input.n, expires: 6s, on_expiry: reject } }
  - { id: pay, if: steps.ask.output.approved, tool: charge, with: { mark: pay } }
output: '{{ steps.ask.output.approved }}'
"),
    ("pipelines/fan.yaml", "
name: fan
retry: { attempts: 4, backoff: { initial: 50ms, jitter: full } }
steps:
  - { id: each, foreach: input.list, max_parallel: 2, tool: note, with: { mark: 'each-{{ item }}' } }
  - { id: sum, set: '{{ steps.each.output | length }}' }
output: '{{ steps.sum.output }}'
"),
    ("pipelines/family.yaml", "
name: family
steps:
  - { id: one, pipeline: charge, input: { n: '{{ input.n }}' }, on_error: continue }
  - { id: many, foreach: input.list, max_parallel: 3, pipeline: leaf, input: { n: '{{ item }}' } }
output: '{{ steps.many.output | length }}'
"),
    ("pipelines/leaf.yaml", "
name: leaf
queue: leaves
steps:
  - { id: nap, sleep: 200ms }
  - { id: a, set: '{{ input.n }}' }
output: '{{ steps.a.output }}'
"),
    ("pipelines/think.yaml", "
name: think
retry: { attempts: 3, backoff: { initial: 50ms, jitter: none } }
steps:
  - { id: think, agent: thinker, prompt: 'Task {{ input.n }}', output: { type: object, properties: { score: { type: integer } }, required: [score] } }
output: '{{ steps.think.output.score }}'
"),
    ("pipelines/brittle.yaml", "
name: brittle
retry: { attempts: 1 }
steps:
  - { id: first, tool: note, with: { mark: first } }
  - { id: pay, tool: charge, with: { mark: pay } }
  - { id: one, pipeline: leaf, input: { n: '{{ input.n }}' } }
  - { id: last, tool: note, with: { mark: last } }
output: '{{ steps.pay.output.receipt }}'
"),
    ("pipelines/tick.yaml", "
name: tick
on:
  - schedule: { cron: '*/3 * * * * *', missed: all, input: {} }
steps:
  - { id: a, set: '1' }
"),
];

const THINKER: &str = "---\nname: thinker\ndescription: thinks\ntools: lookup, charge, note\nmodel: sim\n---\nThink.\n";

/// The pipeline of the schedule.
pub(super) const TICK: &str = "tick";
/// It again, without the schedule.
const NO_TICK: &str = "name: tick\nsteps:\n  - { id: a, set: '2' }\n";

/// Made once, for many histories one after the other.
#[derive(Debug)]
pub struct Stage {
    pub(super) definitions: Vec<Definition>,
    pub(super) pipelines: Vec<Arc<Pipeline>>,
    /// What ends the schedule.
    pub(super) no_tick: Vec<Definition>,
    pub(super) config: Arc<Config>,
    /// For workers that trust the broker: they look into the store by themselves when they start, and hardly again.
    pub(super) trusting: Arc<Config>,
    pub(super) outside: Arc<Outside>,
    /// Where workers have their directories.
    pub(super) folder: tempfile::TempDir,
    door: Door,
}

impl Stage {
    /// Reads the pipelines and makes the tools.
    pub fn new() -> Self {
        let mut files = vec![("teamster.yaml", CONFIG), ("agents/thinker.md", THINKER)];
        files.extend(PIPELINES);
        let project = ProjectDir::new(&files).load();
        let door = Arc::new(Mutex::new(None));
        let mut outside = Outside::from_config(&project.config).expect("an outside world");
        for (name, effect) in [("lookup", Effect::Read), ("note", Effect::Keyed), ("charge", Effect::Once)] {
            outside.tools.add(Arc::new(SimulatedTool::new(name, effect, &door))).expect("a free name");
        }
        let no_tick = ProjectDir::new(&[("teamster.yaml", CONFIG), ("pipelines/tick.yaml", NO_TICK)]).load();
        let mut trusting = project.config.clone();
        trusting.worker.poll = Span::from_secs(600);
        Self {
            definitions: project.definitions,
            pipelines: project.pipelines.into_iter().map(Arc::new).collect(),
            no_tick: no_tick.definitions,
            config: Arc::new(project.config),
            trusting: Arc::new(trusting),
            outside: Arc::new(outside),
            folder: memory(),
            door,
        }
    }

    /// Opens the door to another world.
    pub(super) fn enter(&self, world: Option<Arc<World>>) {
        *self.door.lock().unwrap_or_else(PoisonError::into_inner) = world;
    }
}

impl Default for Stage {
    fn default() -> Self {
        Self::new()
    }
}

/// A folder in memory where there is one: what a commit is worth is tested elsewhere.
pub(super) fn memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder")
}
