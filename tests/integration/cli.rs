//! The command line: exit codes, errors in their place, and the shapes of `--json`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Output};

use anyhow::{Context, Result};
use serde_json::Value;
use suite::binary::{command, run, start};

const HELLO: &str = "\
name: hello
input: { type: object, required: [name], properties: { name: { type: string } } }
steps:
  - id: greet
    set: { text: \"Hello {{ input.name }}\" }
  - id: fail
    if: input.name == \"Mallory\"
    run: { command: [sh, -c, \"echo no >&2; exit 3\"] }
output: \"{{ steps.greet.output.text }}\"
";

/// A port where nobody listens.
const NOBODY: &str = "http://127.0.0.1:9";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

fn project(pipeline: &str) -> Result<tempfile::TempDir> {
    let dir = tempfile::tempdir()?;
    fs::create_dir(dir.path().join("pipelines"))?;
    fs::write(dir.path().join("pipelines/hello.yaml"), pipeline)?;
    Ok(dir)
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(output: &Output) -> Result<Value> {
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("no JSON: {}\nstderr: {}", stdout(output), stderr(output)))
}

/// `teamster dev` that ends with the test.
struct Dev {
    child: Child,
    api: String,
    _project: tempfile::TempDir,
}

impl Dev {
    fn start() -> Result<Self> {
        let project = project(HELLO)?;
        let dir = project.path().display().to_string();
        let (child, api) = start(&mut command(&["dev", "--json", "--listen", "127.0.0.1:0", "--dir", &dir])?)?;
        Ok(Self { child, api, _project: project })
    }

    fn run(&self, arguments: &[&str]) -> Result<Output> {
        run(&[arguments, &["--api", &self.api]].concat())
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn check_names_file_line_and_column_and_fails_with_4() -> Result<()> {
    let dir = project("name: hello\nstepz: []\nsteps:\n  - id: a\n    set: 1\n")?;
    let path = dir.path().display().to_string();
    let output = run(&["check", &path])?;
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    let text = stdout(&output);
    assert!(text.contains("pipelines/hello.yaml:2:1") && text.contains("stepz"), "{text}");

    let output = run(&["check", "--json", &path])?;
    assert_eq!(output.status.code(), Some(4));
    let report = json(&output)?;
    assert_eq!(report["ok"], false);
    let first = &report["diagnostics"][0];
    assert_eq!((&first["file"], &first["line"]), (&"pipelines/hello.yaml".into(), &2.into()), "{first}");
    assert_eq!(first["column"], 1, "{first}");
    Ok(())
}

#[test]
fn check_refuses_rules_that_a_worker_could_not_read() -> Result<()> {
    for (config, named) in [
        ("permissions: { deny: ['Bash('] }\n", "permissions: \"Bash(\" is not a rule"),
        ("permissions: { ask: [Agent] }\n", "disallowedTools"),
        ("effects: { 'Read(..)': read }\n", "effects: \"Read(..)\" is not a rule"),
    ] {
        let dir = project("name: hello\nsteps:\n  - id: a\n    set: 1\n")?;
        fs::write(dir.path().join("teamster.yaml"), config)?;
        let output = run(&["check", &dir.path().display().to_string()])?;
        assert_eq!(output.status.code(), Some(4), "{config}");
        let text = stdout(&output);
        assert!(text.contains(named) && text.contains("teamster.yaml"), "{text}");
    }
    Ok(())
}

#[test]
fn the_examples_and_the_pipeline_of_the_readme_are_valid() -> Result<()> {
    for example in ["examples/lead-intake", "examples/pr-review"] {
        let dir = repository().join(example).display().to_string();
        let output = run(&["check", "--deny-warnings", &dir])?;
        assert_eq!(output.status.code(), Some(0), "{example}:\n{}", stdout(&output));
    }
    let readme = fs::read_to_string(repository().join("README.md"))?;
    let (_, rest) = readme.split_once("```yaml\n").context("README.md shows no pipeline")?;
    let (pipeline, _) = rest.split_once("```").context("the pipeline of README.md has no end")?;
    let dir = project(pipeline)?;
    let output = run(&["check", "--deny-warnings", &dir.path().display().to_string()])?;
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    Ok(())
}

#[test]
fn exit_codes_tell_wrong_usage_missing_things_and_missing_services_apart() -> Result<()> {
    let cases: [(&[&str], i32); 6] = [
        (&["--help"], 0),
        (&["no-such-command"], 2),
        (&["tasks", "show", "not-an-id"], 2),
        (&["check", "/does/not/exist"], 3),
        (&["submit", "x", "--input", "{", "--api", NOBODY], 4),
        (&["queues", "list", "--api", NOBODY], 5),
    ];
    for (arguments, code) in cases {
        let output = run(arguments)?;
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
    }
    let text = stderr(&run(&["queues", "list", "--api", NOBODY])?);
    assert!(text.contains("no scheduler answers at http://127.0.0.1:9") && text.contains("teamster dev"), "{text}");
    Ok(())
}

#[test]
fn an_error_is_json_too_when_json_is_asked_for() -> Result<()> {
    let output = run(&["--json", "queues", "list", "--api", NOBODY])?;
    let error: Value = serde_json::from_slice(&output.stderr)?;
    assert_eq!((&error["error"]["kind"], &error["error"]["code"]), (&"unavailable".into(), &5.into()), "{error}");
    assert!(output.stdout.is_empty());
    Ok(())
}

#[test]
fn a_store_that_is_not_there_is_not_made_by_looking_into_it() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("typo.db");
    let output = run(&["tasks", "list", "--store", &format!("sqlite:{}", path.display())])?;
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(!path.exists());
    Ok(())
}

#[test]
fn tasks_can_be_submitted_awaited_listed_and_shown() -> Result<()> {
    let dev = Dev::start()?;
    let output =
        dev.run(&["submit", "hello", "--input", r#"{"name": "Ada"}"#, "--wait", "--timeout", "60s", "--json"])?;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let task = json(&output)?;
    assert_eq!((&task["state"], &task["output"]), (&"succeeded".into(), &"Hello Ada".into()), "{task}");
    let id = task["id"].as_str().context("no id")?;

    let list = json(&dev.run(&["tasks", "list", "--json", "--pipeline", "hello"])?)?;
    assert_eq!(list["tasks"][0]["id"], id);
    let piped = stdout(&dev.run(&["tasks", "list"])?);
    assert!(piped.starts_with("TASK\tPIPELINE\t") && piped.contains(id), "{piped}");
    let shown = stdout(&dev.run(&["tasks", "show", id])?);
    assert!(shown.contains("attempt 1") && shown.contains("greet") && shown.contains("succeeded"), "{shown}");
    let journal = stdout(&dev.run(&["tasks", "show", id, "--journal"])?);
    let first: Value = serde_json::from_str(journal.lines().next().context("an empty journal")?)?;
    assert_eq!((&first["seq"], &first["event"]["type"]), (&1.into(), &"submitted".into()));
    let watched = dev.run(&["tasks", "watch", id])?;
    assert_eq!(watched.status.code(), Some(0), "{}", stderr(&watched));
    assert!(stdout(&watched).contains("succeeded"), "{}", stdout(&watched));
    Ok(())
}

#[test]
fn the_same_key_is_answered_with_the_same_task_and_bad_input_is_refused() -> Result<()> {
    let dev = Dev::start()?;
    let submit = || dev.run(&["submit", "hello", "--input", r#"{"name": "Ada"}"#, "--key", "k1", "--json"]);
    assert_eq!(json(&submit()?)?["id"], json(&submit()?)?["id"]);
    let output = dev.run(&["submit", "hello", "--input", r#"{"nome": "Ada"}"#])?;
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert!(stderr(&output).contains("name"), "{}", stderr(&output));
    let output = dev.run(&["submit", "nobody", "--input", "{}"])?;
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    Ok(())
}

#[test]
fn a_dead_letter_is_told_by_the_exit_code_listed_and_replayed() -> Result<()> {
    let dev = Dev::start()?;
    let output =
        dev.run(&["submit", "hello", "--input", r#"{"name": "Mallory"}"#, "--wait", "--timeout", "60s", "--json"])?;
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let task = json(&output)?;
    let id = task["id"].as_str().context("no id")?;
    let letters = json(&dev.run(&["dlq", "list", "--json"])?)?;
    assert_eq!(letters["dead_letters"][0]["id"], id, "{letters}");
    assert_eq!(letters["dead_letters"][0]["dead_step"], "fail");
    let shown = stdout(&dev.run(&["dlq", "show", id])?);
    assert!(shown.contains(&format!("teamster dlq replay {id} --from fail")), "{shown}");
    let output = dev.run(&["dlq", "replay", id, "--from", "greet", "--input", r#"{"name": "Ada"}"#, "--json"])?;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let watched = dev.run(&["tasks", "watch", id])?;
    assert_eq!(watched.status.code(), Some(0), "{}", stdout(&watched));
    Ok(())
}

#[test]
fn bad_rows_of_a_batch_are_listed_with_their_lines_and_exit_code_4() -> Result<()> {
    let dev = Dev::start()?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("names.jsonl");
    fs::write(&file, "{\"name\": \"Ada\"}\n{\"nome\": \"Bob\"}\n{\"name\": \"Eve\"}\n")?;
    let path = file.display().to_string();
    let output = dev.run(&["batch", "hello", &path, "--json"])?;
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    let receipt = json(&output)?;
    assert_eq!((&receipt["accepted"], &receipt["rejected"]), (&2.into(), &1.into()), "{receipt}");
    assert_eq!(receipt["rejections"][0]["line"], 2);
    let again = json(&dev.run(&["batch", "hello", &path, "--json"])?)?;
    assert_eq!((&again["accepted"], &again["duplicates"]), (&0.into(), &2.into()), "{again}");
    Ok(())
}
