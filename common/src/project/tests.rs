#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use super::*;
use crate::pipeline::{compile, model::*};

/// The example of the design, as it stands.
const LEAD_INTAKE: &str = r#"# pipelines/lead-intake.yaml
name: lead-intake
queue: leads
on:
  - webhook: typeform                  # a name under `webhooks:` in teamster.yaml
    input: { company: "{{ event.form_response.hidden.company }}", email: "{{ event.form_response.answers[0].email }}" }
input: { type: object, required: [company, email], properties: { company: {type: string}, email: {type: string}, inquiry: {type: string} } }
retry: { attempts: 4, backoff: { initial: 2s, factor: 2, max: 5m, jitter: full } }
timeout: 30m
budget: { usd: 0.25 }
steps:
  - id: research
    agent: researcher
    prompt: |
      Research {{ input.company }}. Inquiry: {{ input.inquiry | default("none") }}.
    output: schemas/research.json      # validated; one repair turn, then the step fails
    on_error: continue                 # degrade: later steps see steps.research.error
  - id: draft
    if: steps.research.error or steps.research.output.score >= 60
    agent: drafter
    prompt: "…"
    output: schemas/draft.json
  - id: review
    if: steps.draft.status == "succeeded"
    approval: { title: "Send to {{ input.company }}?", show: steps.draft.output, expires: 72h, on_expiry: reject }
  - id: crm
    if: steps.review.output.approved
    http: { method: POST, url: "{{ env.CRM_URL }}/contacts", json: "{{ steps.draft.output }}", effect: keyed }
output: "{{ { 'score': steps.research.output.score, 'approved': steps.review.output.approved } }}"
"#;

/// The triggers of the design's other example, as they stand.
const PR_REVIEW: &str = r##"name: pr-review
on:
  - webhook: github
    events: [pull_request.opened, pull_request.synchronize]
    if: not event.pull_request.draft
    input: { repo: "{{ event.repository.full_name }}", number: "{{ event.number }}", base: "{{ event.pull_request.base.sha }}", head: "{{ event.pull_request.head.sha }}" }
    supersede: "{{ event.repository.full_name }}#{{ event.number }}"
  - schedule: { cron: "0 7 * * 1-5", timezone: Europe/Berlin, missed: once }    # skip | once | all
steps:
  - id: noted
    set: { repo: "{{ input.repo }}" }
"##;

/// The configuration of the design, with what the examples need beside it.
const TEAMSTER: &str = r#"# teamster.yaml: secrets are references (env:NAME or file:/path), never values
store: sqlite:.teamster/teamster.db
env: [CRM_URL]
webhooks:
  github: { sender: github, secret: env:GITHUB_WEBHOOK_SECRET }     # or a list: rotation
  typeform: { sender: hmac, secret: [env:A, env:B], hmac: { header: X-Signature } }
models:
  sonnet: { provider: anthropic, model: claude-sonnet-4-6 }
providers:
  anthropic: { base_url: https://api.anthropic.com, key: env:ANTHROPIC_API_KEY, headers: {} }
mcp_servers:
  memory: { command: [npx, -y, "@modelcontextprotocol/server-memory"], effects: { read_graph: read, "*": once } }
limits: { webhook_body: 5MiB, input: 1MiB, journal: 64MiB }
"#;

fn write(dir: &Path, name: &str, text: &str) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn example() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "teamster.yaml", TEAMSTER);
    write(dir.path(), "pipelines/lead-intake.yaml", LEAD_INTAKE);
    write(dir.path(), "pipelines/pr-review.yaml", PR_REVIEW);
    write(dir.path(), "schemas/research.json", r#"{"type": "object", "properties": {"score": {"type": "number"}}}"#);
    write(dir.path(), "schemas/draft.json", r#"{"type": "object"}"#);
    write(
        dir.path(),
        "agents/researcher.md",
        "---\nname: researcher\ndescription: finds out\ntools: Read, Grep\n---\n\nYou research.\n",
    );
    write(dir.path(), ".claude/agents/drafter.md", "---\r\nname: drafter\r\nmodel: sonnet\r\n---\r\nYou draft.\r\n");
    dir
}

#[test]
fn the_examples_of_the_design_load_as_they_stand() {
    let dir = example();
    let project = Project::load(dir.path()).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(project.warnings.is_empty(), "{}", project.warnings);
    let names: Vec<_> = project.pipelines.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["lead-intake", "pr-review"]);
    let lead = &project.pipelines[0];
    assert_eq!((lead.queue.as_str(), lead.priority, lead.timeout.to_string().as_str()), ("leads", 4, "30m"));
    let needs: Vec<Vec<&str>> = lead.steps.iter().map(|s| s.needs.iter().map(|n| n.as_str()).collect()).collect();
    assert_eq!(needs, [vec![], vec!["research"], vec!["draft"], vec!["review"]]);
    assert_eq!(lead.agents["researcher"].tools, Some(vec!["Read".to_owned(), "Grep".to_owned()]));
    assert_eq!(lead.agents["drafter"].model.as_deref(), Some("sonnet"));
    let StepKind::Http(http) = &lead.steps[3].kind else { panic!("{:?}", lead.steps[3]) };
    assert_eq!((http.method.as_str(), http.effect), ("POST", crate::journal::Effect::Keyed));
}

#[test]
fn a_kept_definition_compiles_without_the_directory() {
    let dir = example();
    let project = Project::load(dir.path()).unwrap();
    drop(dir);
    for (definition, pipeline) in project.definitions.iter().zip(&project.pipelines) {
        let again = compile(definition).unwrap();
        assert_eq!(format!("{again:?}"), format!("{pipeline:?}"));
    }
}

#[test]
fn the_same_files_have_the_same_digest_whatever_lies_beside_them() {
    let (one, two) = (example(), example());
    write(two.path(), "pipelines/pr-review.yaml", &PR_REVIEW.replace('\n', "\r\n"));
    write(two.path(), "agents/unused.md", "---\nname: unused\n---\nx\n");
    let digests =
        |dir: &Path| -> Vec<_> { Project::load(dir).unwrap().definitions.into_iter().map(|d| d.digest).collect() };
    assert_eq!(digests(one.path()), digests(two.path()));
    write(two.path(), "schemas/draft.json", r#"{"type": "string"}"#);
    assert_ne!(digests(one.path()), digests(two.path()));
}
