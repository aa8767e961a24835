//! What is particular to the `SQLite` store: its file, and the processes that share it.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use common::entropy::SystemEntropy;
use common::id::TaskId;
use common::store::{Filter, Finding, Severity, SqliteStore, Store, StoreError, StoreOptions};
use common::task::StateName;
use suite::conformance::Bench;
use suite::conformance::unreadable::{self, Rows};
use suite::fixtures::places::File;

fn options() -> Result<StoreOptions> {
    Ok(StoreOptions::new(Arc::new(SystemEntropy::new()?)))
}

fn open(path: &Path) -> Result<Arc<SqliteStore>, StoreError> {
    let options = options().map_err(|error| StoreError::Unavailable(error.to_string()))?;
    SqliteStore::open(path, options)
}

async fn bench(path: &Path) -> Result<Bench> {
    Bench::open(Box::new(File(path.to_owned()))).await
}

#[tokio::test]
async fn a_file_that_is_no_database_is_named_and_left_alone() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("notes.db");
    let text = b"these are my notes, not a database\n".repeat(100);
    std::fs::write(&path, &text)?;
    let error = open(&path).err().context("it must not open")?;
    ensure!(matches!(&error, StoreError::Damaged(why) if why.contains("notes.db")), "{error:?}");
    ensure!(std::fs::read(&path)? == text);
    ensure!(std::fs::read_dir(directory.path())?.count() == 1, "nothing was put beside it");
    Ok(())
}

#[tokio::test]
async fn a_damaged_database_is_named_and_left_alone() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("teamster.db");
    let bench = bench(&path).await?;
    for _ in 0..200 {
        bench.submitted().await?;
    }
    drop(bench);
    let mut file = std::fs::OpenOptions::new().read(true).write(true).open(&path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(4096))?;
    file.write_all(&vec![0xA5; usize::try_from(length - 4096)?])?;
    let mut damaged = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut damaged)?;
    let error = match open(&path) {
        Err(error) => error,
        Ok(store) => store.list(Filter::default(), None, 1_000).await.err().context("it must not be read")?,
    };
    ensure!(matches!(&error, StoreError::Damaged(why) if why.contains("teamster.db")), "{error:?}");
    ensure!(std::fs::read(&path)? == damaged);
    Ok(())
}

#[tokio::test]
async fn a_file_of_a_newer_version_is_refused_with_both_versions() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("teamster.db");
    drop(open(&path)?);
    let db = rusqlite::Connection::open(&path)?;
    let known: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    db.pragma_update(None, "user_version", 99)?;
    let error = open(&path).err().context("it must not open")?;
    let says = |word: &str| error.to_string().contains(word);
    ensure!(matches!(error, StoreError::Damaged(_)) && says("99") && says(&format!("up to {known}")), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_path_that_cannot_be_made_is_named() -> Result<()> {
    let directory = tempfile::tempdir()?;
    std::fs::write(directory.path().join("file"), "")?;
    let error = open(&directory.path().join("file/teamster.db")).err().context("it must not open")?;
    ensure!(matches!(&error, StoreError::Unavailable(why) if why.contains("file/teamster.db")), "{error:?}");
    Ok(())
}

#[cfg(unix)]
#[tokio::test]
async fn only_its_owner_can_read_the_file() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("deep/er/teamster.db");
    let store = open(&path)?;
    store.check().await?;
    for name in ["teamster.db", "teamster.db-wal"] {
        let mode = std::fs::metadata(path.with_file_name(name))?.permissions().mode();
        ensure!(mode & 0o777 == 0o600, "{name}: {mode:o}");
    }
    Ok(())
}

#[cfg(unix)]
#[tokio::test]
async fn a_look_finds_what_is_wrong_with_the_file() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("teamster.db");
    let store = open(&path)?;
    let of = |findings: &[Finding], subject: &str| {
        findings.iter().find(|finding| finding.subject == subject).map(|finding| finding.severity)
    };
    let findings = store.examine().await?;
    for subject in ["version", "durability", "permissions"] {
        ensure!(of(&findings, subject) == Some(Severity::Good), "{subject}: {findings:?}");
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))?;
    ensure!(of(&store.examine().await?, "permissions") == Some(Severity::Warning));
    let memory = tempfile::tempdir_in("/dev/shm");
    if let Ok(memory) = memory {
        let findings = open(&memory.path().join("teamster.db"))?.examine().await?;
        ensure!(of(&findings, "file system") == Some(Severity::Warning), "{findings:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_locked_file_is_unavailable_and_usable_again_later() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("teamster.db");
    let bench = bench(&path).await?;
    let before = bench.submitted().await?;
    let other = rusqlite::Connection::open(&path)?;
    other.execute_batch("BEGIN IMMEDIATE")?;
    let refused = bench.store.submit(vec![bench.task()]).await;
    ensure!(matches!(&refused, Err(StoreError::Unavailable(why)) if why.contains("locked")), "{refused:?}");
    ensure!(bench.state(before).await? == StateName::Ready, "readers do not wait");
    other.execute_batch("ROLLBACK")?;
    bench.submitted().await?;
    bench.verify().await
}

/// The file, changed behind the store's back.
struct Behind(PathBuf);

impl Behind {
    fn update(&self, sql: &str, task: TaskId, text: &str) -> Result<()> {
        rusqlite::Connection::open(&self.0)?.execute(sql, [&task.to_string(), text])?;
        Ok(())
    }
}

#[async_trait]
impl Rows for Behind {
    async fn write_event(&self, task: TaskId, text: &str) -> Result<()> {
        self.update("UPDATE journal SET event = ?2 WHERE task = ?1 AND seq = 1", task, text)
    }

    async fn write_head(&self, task: TaskId, text: &str) -> Result<()> {
        self.update("UPDATE tasks SET head = ?2 WHERE id = ?1", task, text)
    }

    async fn head(&self, task: TaskId) -> Result<String> {
        let db = rusqlite::Connection::open(&self.0)?;
        Ok(db.query_row("SELECT head FROM tasks WHERE id = ?1", [task.to_string()], |row| row.get(0))?)
    }
}

#[tokio::test]
async fn a_task_whose_journal_cannot_be_read_is_a_dead_letter_and_stops_no_other() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("teamster.db");
    unreadable::a_journal(&bench(&path).await?, &Behind(path)).await
}

#[tokio::test]
async fn a_task_whose_head_cannot_be_read_is_a_dead_letter_and_stops_no_other() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("teamster.db");
    unreadable::a_head(&bench(&path).await?, &Behind(path)).await
}

// ---- processes of their own ---------------------------------------------------

/// Runs one of the ignored tests below in a process of its own, on a file.
fn process(name: &str, path: &Path) -> Result<Child> {
    let child = Command::new(std::env::current_exe()?)
        .args([&format!("sqlite::{name}"), "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env("STORE_PATH", path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    Ok(child)
}

fn ids(line: &str) -> Option<TaskId> {
    line.trim().strip_prefix("task ")?.parse().ok()
}

#[expect(clippy::print_stdout, reason = "the parent process reads it")]
fn report(task: TaskId) -> Result<()> {
    println!("\ntask {task}");
    Ok(std::io::stdout().flush()?)
}

/// Submits until it is killed, and says what was accepted.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a process of its own, started by other tests"]
async fn submit_for_ever() -> Result<()> {
    let Some(path) = std::env::var_os("STORE_PATH") else { return Ok(()) };
    let seed = u64::from(std::process::id());
    let mut options = options()?;
    options.entropy = Arc::new(common::entropy::SeededEntropy::new(seed));
    let bench = bench(Path::new(&path)).await?;
    loop {
        report(bench.submitted().await?)?;
    }
}

/// Takes and finishes until there is nothing left, and says which.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a process of its own, started by other tests"]
async fn take_all() -> Result<()> {
    let Some(path) = std::env::var_os("STORE_PATH") else { return Ok(()) };
    let bench = bench(Path::new(&path)).await?;
    loop {
        let claims = bench.take(3).await?;
        if claims.is_empty() {
            return Ok(());
        }
        for claim in &claims {
            bench.succeed(&mut claim.into()).await?;
            report(claim.task)?;
        }
    }
}

#[tokio::test]
async fn what_was_accepted_is_there_after_kill_9() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("teamster.db");
    let mut child = process("submit_for_ever", &path)?;
    let output = child.stdout.take().context("it writes")?;
    let mut accepted = Vec::new();
    for line in BufReader::new(output).lines() {
        accepted.extend(ids(&line?));
        if accepted.len() == 100 {
            child.kill()?;
        }
    }
    child.wait()?;
    ensure!(accepted.len() >= 100, "{} accepted", accepted.len());
    let bench = bench(&path).await?;
    for task in accepted {
        ensure!(bench.state(task).await? == StateName::Ready);
    }
    bench.verify().await
}

#[tokio::test]
async fn processes_that_share_a_file_never_take_the_same_task() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("teamster.db");
    let bench = bench(&path).await?;
    let tasks: Vec<_> = (0..300).map(|_| bench.task()).collect();
    bench.store.submit(tasks).await?;
    let children = (0..3).map(|_| process("take_all", &path)).collect::<Result<Vec<_>>>()?;
    let mut taken = Vec::new();
    for child in children {
        let output = child.wait_with_output()?;
        ensure!(output.status.success());
        taken.extend(String::from_utf8(output.stdout)?.lines().filter_map(ids));
    }
    let different: HashSet<TaskId> = taken.iter().copied().collect();
    ensure!(taken.len() == 300 && different.len() == 300, "{} taken, {} different", taken.len(), different.len());
    bench.verify().await
}
