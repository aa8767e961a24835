//! The pipelines of the load: every kind of step that can break in an own way.

use crate::project::ProjectDir;

/// How long the leases of the fleet last.
pub(super) const LEASE: std::time::Duration = std::time::Duration::from_secs(2);

const CONFIG: &str = "\
worker: { lease: 2s, slots: 8, poll: 1s }
retention: { finished: { count: 1000000 } }
";

/// `ask`, `long` and `parts` of the input say what a task has beside the common steps.
const ERRAND: &str = r#"
name: errand
queue: errands
retry: { attempts: 40, backoff: { initial: 50ms, factor: 1.5, max: 1s, jitter: full } }
steps:
  - { id: greet, set: "Hello {{ input.name }}" }
  - { id: look, http: { method: GET, url: "{{ input.world }}/{{ input.name }}/look", effect: read } }
  - { id: charge, http: { method: POST, url: "{{ input.world }}/{{ input.name }}/charge", json: "{{ input.name }}", effect: once } }
  - { id: nap, sleep: 30ms }
  - { id: write, http: { method: POST, url: "{{ input.world }}/{{ input.name }}/write", json: "{{ steps.greet.output }}", effect: keyed } }
  - { id: note, run: { command: [sh, -c, 'echo noted >> "$1"', sh, "{{ input.folder }}/{{ input.name }}.note"], effect: once } }
  - { id: long, needs: [note], if: input.long, run: { command: [sleep, '5'], effect: read } }
  - { id: ask, needs: [note], if: input.ask, approval: { title: "{{ input.name }}?", show: input.name, expires: 1h } }
  - id: parts
    needs: [note]
    foreach: input.parts
    max_parallel: 2
    pipeline: part
    input: { name: "{{ input.name }}-{{ item }}", world: "{{ input.world }}", folder: "{{ input.folder }}" }
output: "{{ steps.greet.output }}"
"#;

const PART: &str = r#"
name: part
queue: parts
retry: { attempts: 40, backoff: { initial: 50ms, factor: 1.5, max: 1s, jitter: full } }
steps:
  - { id: write, http: { method: POST, url: "{{ input.world }}/{{ input.name }}/write", json: "{{ input.name }}", effect: keyed } }
  - { id: charge, http: { method: POST, url: "{{ input.world }}/{{ input.name }}/charge", json: "{{ input.name }}", effect: once } }
"#;

/// The smallest task, for what is about numbers.
const TINY: &str = "name: tiny\nqueue: tiny\nsteps:\n  - { id: set, set: \"{{ input.n }}\" }\n";

/// Writes the project.
pub(super) fn write() -> ProjectDir {
    ProjectDir::new(&[
        ("teamster.yaml", CONFIG),
        ("pipelines/errand.yaml", ERRAND),
        ("pipelines/part.yaml", PART),
        ("pipelines/tiny.yaml", TINY),
    ])
}

/// A project for the soak: only what is tiny, of which little is kept.
pub(super) fn write_for_soak(keep: u64) -> ProjectDir {
    // The rows of a batch stay for the age of what is finished, however few tasks are kept.
    let config = format!(
        "worker: {{ lease: 2s, slots: 64, poll: 1s }}\nretention: {{ finished: {{ count: {keep}, age: 20s }}, dead: {{ count: {keep} }} }}\n"
    );
    ProjectDir::new(&[("teamster.yaml", &config), ("pipelines/tiny.yaml", TINY)])
}
