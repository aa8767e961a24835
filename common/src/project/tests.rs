#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::Path;

use super::*;
use crate::id::StepId;
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
const PR_REVIEW: &str = r#"name: pr-review
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
"#;

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
    let needs: Vec<Vec<&str>> = lead.steps.iter().map(|s| s.needs.iter().map(StepId::as_str).collect()).collect();
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

#[test]
fn names_that_lead_nowhere_are_reported_in_their_place() {
    for (file, from, to, place, message) in [
        ("pipelines/lead-intake.yaml", "webhook: typeform", "webhook: typefrom", (5, 14), "no webhook `typefrom`"),
        ("pipelines/lead-intake.yaml", "env.CRM_URL", "env.CRM", (28, 36), "`env.CRM` is not listed"),
        ("pipelines/lead-intake.yaml", "agent: drafter", "agent: draftr", (20, 12), "no agent draftr"),
        (
            "pipelines/lead-intake.yaml",
            "output: schemas/draft.json",
            "output: schemas/drafts.json",
            (22, 13),
            "no schema file",
        ),
        ("pipelines/lead-intake.yaml", "prompt: \"…\"", "prompt: \"…\"\n    model: gpt", (22, 12), "no model `gpt`"),
        (
            "pipelines/pr-review.yaml",
            "set: { repo: \"{{ input.repo }}\" }",
            "pipeline: lead-intakes",
            (11, 15),
            "no pipeline `lead-intakes`",
        ),
        ("pipelines/pr-review.yaml", "name: pr-review", "name: lead-intake", (1, 1), "another pipeline lead-intake"),
        (".claude/agents/drafter.md", "model: sonnet", "model: sonet", (3, 8), "no model `sonet`"),
        (".claude/agents/drafter.md", "model: sonnet", "mcpServers: memry", (3, 13), "no MCP server `memry`"),
        ("teamster.yaml", "store: ", "stor: ", (2, 1), "unknown key `stor`"),
    ] {
        let dir = example();
        let path = dir.path().join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file}: {from}");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        let problems = Project::load(dir.path()).unwrap_err();
        let found = problems.iter().find(|problem| problem.message.contains(message));
        let found = found.unwrap_or_else(|| panic!("{message}\n{problems}"));
        assert_eq!((found.file.as_str(), found.line, found.column), (file, Some(place.0), Some(place.1)), "{found}");
    }
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let dir = example();
    fs::write(dir.path().join("pipelines/bytes.yaml"), b"name: a\nx: \xff\n").unwrap();
    fs::write(dir.path().join("schemas/large.json"), " ".repeat((1 << 20) + 1)).unwrap();
    fs::write(dir.path().join("agents/unused.md"), "no front matter").unwrap();
    fs::write(dir.path().join("pipelines/.#lock.yaml"), "[").unwrap();
    let problems = Project::load(dir.path()).unwrap_err().to_string();
    for part in
        ["pipelines/bytes.yaml\n", "not UTF-8: line 2", "schemas/large.json", "1024 KiB", "agents/unused.md:1:1"]
    {
        assert!(problems.contains(part), "{part}\n{problems}");
    }
    assert!(!problems.contains("lock"), "{problems}");
}

#[test]
fn a_directory_without_anything_is_a_project_without_pipelines() {
    let dir = tempfile::tempdir().unwrap();
    let project = Project::load(dir.path()).unwrap();
    assert!(project.pipelines.is_empty() && project.config == Config::default());
    assert!(Project::load(&dir.path().join("nowhere")).is_err());
}

#[test]
fn problems_are_also_written_for_programs() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "pipelines/a.yaml", "name: a\nsteps: []\n");
    let problems = Project::load(dir.path()).unwrap_err();
    let expected = serde_json::json!([{
        "severity": "error", "file": "pipelines/a.yaml", "line": 2, "column": 8, "source": "steps: []",
        "message": "a pipeline has 1 to 1000 steps, and this one has 0",
    }]);
    assert_eq!(serde_json::to_value(&problems).unwrap(), expected);
}
