//! The audit as its users meet it: commands that find what was done to a store,
//! who did what when, and the erasure of a task's data.

use std::path::Path;
use std::process::Output;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use suite::binary::{command, run};
use suite::fixtures::scheduler::RunningScheduler;

const CANARY: &str = "canary-4711@example.com";
const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
const PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

const HELLO: &str = "\
name: hello
steps:
  - id: greet
    set: { text: \"Hello {{ input.mail }}\" }
  - id: research
    agent: researcher
    prompt: \"Research {{ input.mail }}\"
  - id: fail
    run: { command: [sh, -c, \"echo no >&2; exit 3\"] }
";

const RESEARCHER: &str = "---\nname: researcher\ndescription: x\nmodel: m\n---\nYou look things up.\n";
const CONFIG: &str = "models:\n  m: { provider: rehearsal, model: rehearsal }\n";

fn files() -> [(&'static str, &'static str); 3] {
    [("pipelines/hello.yaml", HELLO), ("agents/researcher.md", RESEARCHER), ("teamster.yaml", CONFIG)]
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn json(output: &Output) -> Result<Value> {
    let text = || format!("{}\n{}", stdout(output), String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).with_context(text)
}

/// A project whose journals are signed, and its store.
struct Signed {
    dir: tempfile::TempDir,
}

impl Signed {
    fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        for (path, text) in files() {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().context("a folder")?)?;
            std::fs::write(path, text)?;
        }
        let config = format!("{CONFIG}audit: {{ key: env:TEAMSTER_AUDIT_KEY }}\n");
        std::fs::write(dir.path().join("teamster.yaml"), config)?;
        Ok(Self { dir })
    }

    fn database(&self) -> std::path::PathBuf {
        self.dir.path().join("tasks.db")
    }

    fn run(&self, key: bool, arguments: &[&str]) -> Result<Output> {
        let (dir, store) = (self.dir.path().display().to_string(), format!("sqlite:{}", self.database().display()));
        let mut command = command(&[arguments, &["--dir", &dir, "--store", &store]].concat())?;
        command.env_remove("TEAMSTER_AUDIT_KEY");
        if key {
            command.env("TEAMSTER_AUDIT_KEY", SEED);
        }
        Ok(command.output()?)
    }

    /// A task that was submitted and cancelled.
    fn cancelled(&self, key: bool) -> Result<String> {
        let input = json!({"mail": CANARY}).to_string();
        let submitted = self.run(key, &["submit", "hello", "--input", &input, "--json"])?;
        let id = json(&submitted)?["id"].as_str().context("an id")?.to_owned();
        let cancelled = self.run(key, &["tasks", "cancel", &id, "--by", "ada", "--reason", CANARY])?;
        assert!(cancelled.status.success(), "{cancelled:?}");
        Ok(id)
    }

    fn alter(&self, statement: &str) -> Result<()> {
        let db = rusqlite::Connection::open(self.database())?;
        db.execute_batch(statement)?;
        Ok(())
    }
}

fn contains(path: &Path, text: &str) -> Result<bool> {
    let folder = path.parent().context("a folder")?;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_file() && path.display().to_string().contains("tasks.db") {
            let bytes = std::fs::read(path)?;
            if bytes.windows(text.len()).any(|window| window == text.as_bytes()) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

#[test]
fn what_was_done_to_a_store_is_found_and_said() -> Result<()> {
    let project = Signed::new()?;
    // The file is made by the first command that serves it.
    rusqlite::Connection::open(project.database())?;
    assert!(project.run(false, &["apply"])?.status.success());
    let task = project.cancelled(true)?;
    let intact = project.run(false, &["audit", "verify", &task, "--public-key", PUBLIC, "--signed"])?;
    assert!(intact.status.success() && stdout(&intact).contains("the signature holds"), "{intact:?}");
    assert!(project.run(true, &["audit", "verify", "--all", "--signed"])?.status.success());
    let other = project.run(false, &["audit", "verify", &task, "--public-key", &PUBLIC.replace('a', "b")])?;
    assert_eq!(other.status.code(), Some(1), "{other:?}");

    let cases = [
        ("UPDATE journal SET event = replace(event, 'canary', 'canory') WHERE seq = 1", "altered", 1),
        ("UPDATE journal SET at = at + 1 WHERE seq = 2", "altered", 2),
        ("DELETE FROM journal WHERE seq = 2", "cut_off", 2),
        ("DELETE FROM journal WHERE seq = 1", "missing", 1),
        ("UPDATE journal SET seq = 3 - seq + 10; UPDATE journal SET seq = seq - 10", "moved", 2),
        ("INSERT INTO journal SELECT task, 3, at, event, hash FROM journal WHERE seq = 2", "inserted", 2),
    ];
    for (statement, kind, event) in cases {
        let before = std::fs::read(project.database())?;
        project.alter(statement)?;
        let found = project.run(false, &["audit", "verify", "--all", "--json"])?;
        assert_eq!(found.status.code(), Some(1), "{statement}");
        let found = json(&found)?;
        let faults = found["tasks"][0]["faults"].as_array().context("faults")?;
        let said = faults.iter().any(|fault| fault["kind"] == kind && fault["event"] == event);
        assert!(said && found["faulty"] == 1, "{statement}: {found}");
        std::fs::write(project.database(), before)?;
    }
    // Anew, hashes and all: only the signature tells.
    project.alter("UPDATE tasks SET seal = NULL")?;
    let unsigned = project.run(true, &["audit", "verify", &task])?;
    assert!(unsigned.status.success() && stdout(&unsigned).contains("unsigned head"), "{unsigned:?}");
    assert_eq!(project.run(true, &["audit", "verify", &task, "--signed"])?.status.code(), Some(1));
    assert_eq!(project.run(false, &["audit", "verify", &task, "--signed"])?.status.code(), Some(2));
    let unknown = "0198c0de-7b3a-7000-8000-000000000000";
    assert_eq!(project.run(false, &["audit", "verify", unknown])?.status.code(), Some(3));
    Ok(())
}

#[test]
fn who_has_no_key_writes_unsigned_and_a_wrong_key_is_refused() -> Result<()> {
    let project = Signed::new()?;
    rusqlite::Connection::open(project.database())?;
    assert!(project.run(false, &["apply"])?.status.success());
    let task = project.cancelled(false)?;
    let looked = json(&project.run(true, &["audit", "verify", &task, "--json"])?)?;
    assert_eq!((&looked["unsigned_heads"], &looked["faulty"]), (&json!(1), &json!(0)), "{looked}");
    let (dir, store) = (project.dir.path().display().to_string(), format!("sqlite:{}", project.database().display()));
    let wrong =
        command(&["tasks", "list", "--dir", &dir, "--store", &store])?.env("TEAMSTER_AUDIT_KEY", "hunter2").output()?;
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(wrong.status.code() == Some(4) && said.contains("audit.key") && !said.contains("hunter2"), "{said}");
    Ok(())
}

#[test]
fn a_new_pair_of_keys_signs_and_verifies() -> Result<()> {
    let pair = json(&run(&["audit", "key", "--json"])?)?;
    let key = common::journal::SealKey::parse(pair["key"].as_str().context("a key")?)?;
    assert_eq!(pair["public_key"], key.public().to_string());
    assert_ne!(json(&run(&["audit", "key", "--json"])?)?["key"], pair["key"]);
    Ok(())
}

#[test]
fn erased_data_is_nowhere_in_the_file() -> Result<()> {
    let project = Signed::new()?;
    rusqlite::Connection::open(project.database())?;
    assert!(project.run(false, &["apply"])?.status.success());
    let task = project.cancelled(true)?;
    assert!(contains(&project.database(), CANARY)?);
    let hesitant = project.run(true, &["tasks", "erase", &task])?;
    assert_eq!(hesitant.status.code(), Some(2), "{hesitant:?}");
    let erased = project.run(true, &["tasks", "erase", &task, "--yes", "--by", "ada", "--json"])?;
    assert_eq!(json(&erased)?, json!({"id": task, "now": true}));
    let again = project.run(true, &["tasks", "erase", &task, "--yes", "--json"])?;
    assert_eq!(json(&again)?["now"], false);
    assert!(!contains(&project.database(), CANARY)?);
    let shown = stdout(&project.run(true, &["tasks", "show", &task])?);
    assert!(shown.contains("cancelled (erased)") && shown.contains("at the wish of ada"), "{shown}");
    let verified = project.run(true, &["audit", "verify", &task, "--signed"])?;
    assert!(verified.status.success() && stdout(&verified).contains("its data was erased"), "{verified:?}");
    let retried = project.run(true, &["tasks", "retry", &task])?;
    let said = String::from_utf8_lossy(&retried.stderr).into_owned();
    assert!(retried.status.code() == Some(4) && said.contains("its data was erased"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_did_what_when_is_exported_and_the_same_after_erasure() -> Result<()> {
    let api = RunningScheduler::start(&files()).await;
    let worker = api.worker();
    let task = api.submit(&json!({"pipeline": "hello", "input": {"mail": CANARY}})).await;
    api.watch(&task, None, "died").await;
    let store = format!("sqlite:{}", api.database().display());
    let read = async || -> Result<Vec<Value>> {
        let arguments = ["audit", "export", "--store", &store, "--task", &task].map(str::to_owned);
        let export = move || run(&arguments.each_ref().map(String::as_str));
        let output = tokio::task::spawn_blocking(export).await??;
        stdout(&output).lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    };
    let before = read().await?;
    assert!(before.iter().all(|record| record["session"] == task && record["event_hash"].is_string()), "{before:?}");
    let of = |kind: &str| before.iter().rfind(|record| record["event"] == kind).cloned().unwrap_or_default();
    let input = common::id::Digest::of(json!({"mail": CANARY}).to_string().as_bytes());
    assert_eq!(of("submitted")["input_hash"], input.as_str());
    assert_eq!(of("agent_started")["agent"], "researcher");
    assert!(of("turn_finished")["output_hash"].is_string());
    assert_eq!((&of("call_finished")["tool"], &of("call_finished")["step"]), (&json!("run"), &json!("fail")));

    let refused = api.send(api.request("DELETE", "/v1/tasks/0198c0de-7b3a-7000-8000-000000000000/data")).await;
    refused.problem(404);
    let path = format!("/v1/tasks/{task}/data?by=ada");
    assert_eq!(api.send(api.request("DELETE", &path)).await.json(), json!({"id": task, "now": true}));
    assert_eq!(api.send(api.request("DELETE", &path)).await.json(), json!({"id": task, "now": false}));
    let shown = api.get(&format!("/v1/tasks/{task}")).await.json();
    assert!(shown["erased_at"].is_string() && !shown.to_string().contains(CANARY), "{shown}");
    let journal = api.get(&format!("/v1/tasks/{task}/journal")).await.json();
    assert!(!journal.to_string().contains(CANARY) && journal.to_string().contains("$erased"), "{journal}");
    api.send(api.request("POST", &format!("/v1/dead-letters/{task}/replay"))).await.problem(409);

    let after = read().await?;
    let (last, same) = after.split_last().context("events")?;
    assert_eq!(
        (&last["event"], &last["person"], &last["decision"]),
        (&json!("erased"), &json!("ada"), &json!("erase"))
    );
    // What a model asked a tool of class `read` stands in its answer alone, which has one digest now.
    let without_inputs = |records: &[Value]| -> Vec<Value> {
        let calls = records.iter().cloned().map(|mut record| {
            if record["event"] == "call_finished" {
                record["input_hash"] = Value::Null;
            }
            record
        });
        calls.collect()
    };
    assert_eq!(without_inputs(same), without_inputs(&before));
    drop(worker);
    let arguments = ["audit", "verify", "--store", &store, "--all", "--json"].map(str::to_owned);
    let verify = move || run(&arguments.each_ref().map(String::as_str));
    let verified = json(&tokio::task::spawn_blocking(verify).await??)?;
    assert_eq!((&verified["verified"], &verified["faulty"], &verified["erased"]), (&json!(1), &json!(0), &json!(1)));
    Ok(())
}
