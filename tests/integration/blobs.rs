//! Large values on a real store: small in the journal, whole for everybody,
//! shared, and gone with their last user.

mod same;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use common::entropy::{Entropy, SeededEntropy};
use common::failure::{Failure, FailureClass};
use common::id::{CallId, TaskId};
use common::journal::{
    ApprovalDecision, CallRecord, CallResult, Effect, Event, ModelCall, Recorded, RequestHead, Run, StepOutcome, Usage,
};
use common::store::{
    AppendError, BLOB_GRACE, BlobPlace, Filter, Next, Offload, SqliteStore, Store, StoreError, StoreOptions,
};
use common::task::{DeadReason, Signal, State, StateName};
use common::transfer::{Import, export};
use serde_json::{Value, json};
use suite::conformance::Backend;
use suite::conformance::bench::{Bench, Held, finished, step, valid};
use suite::fixtures::process::until;
use suite::fixtures::scheduler::RunningScheduler;

/// A database, and a folder if the values go there.
#[derive(Clone)]
struct Whole {
    directory: Arc<tempfile::TempDir>,
    folder: bool,
}

impl Whole {
    fn new(folder: bool) -> Result<Self> {
        Ok(Self { directory: Arc::new(tempfile::tempdir()?), folder })
    }

    fn database(&self) -> PathBuf {
        self.directory.path().join("teamster.db")
    }

    fn blobs(&self) -> PathBuf {
        self.directory.path().join("blobs")
    }

    async fn bench(&self, tune: impl FnOnce(&mut StoreOptions)) -> Result<Bench> {
        Bench::tuned(Box::new(self.clone()), |options| {
            options.blobs.threshold = 1_000;
            if self.folder {
                options.blobs.place = BlobPlace::Folder(self.blobs());
            }
            tune(options);
        })
        .await
    }

    /// The events of a task as they stand in the database.
    fn stored(&self, task: TaskId) -> Result<Vec<String>> {
        let db = rusqlite::Connection::open(self.database())?;
        let mut events = db.prepare("SELECT event FROM journal WHERE task = ?1 ORDER BY seq")?;
        Ok(events.query_map([task.to_string()], |row| row.get(0))?.collect::<Result<_, _>>()?)
    }

    /// The sizes of the values that are kept.
    fn kept(&self) -> Result<Vec<i64>> {
        if self.folder {
            return Ok(files(&self.blobs())
                .iter()
                .map(|file| i64::try_from(file.metadata().unwrap().len()).unwrap())
                .collect());
        }
        let db = rusqlite::Connection::open(self.database())?;
        let mut sizes = db.prepare("SELECT length(data) FROM blob_data")?;
        Ok(sizes.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
    }
}

#[async_trait]
impl Backend for Whole {
    async fn open(&self, options: StoreOptions) -> Result<Arc<dyn Store>, StoreError> {
        Ok(Offload::around(SqliteStore::open(&self.database(), options.clone())?, &options)?)
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(self::files(&path)) } else { files.push(path) }
    }
    files
}

fn large(number: u32) -> Value {
    json!({"number": number, "text": "words and words, ".repeat(10_000)})
}

async fn submit(bench: &Bench, input: Value) -> Result<TaskId> {
    Ok(bench.submit(bench.task_with(|s| s.input = input)).await?.id)
}

async fn claim(bench: &Bench, task: TaskId) -> Result<(Held, Run)> {
    let request = common::store::ClaimTasks {
        worker: suite::conformance::bench::worker("w"),
        tasks: vec![task],
        lease: suite::conformance::bench::LEASE,
    };
    let claims = bench.store.claim(request).await?;
    let claim = claims.first().context("the task is given out")?;
    Ok((Held::from(claim), Run::fold(task, &claim.journal)?))
}

async fn sweep(bench: &Bench) -> Result<()> {
    for _ in 0..3 {
        bench.store.due(1_000).await?;
        bench.clock.advance(Duration::from_secs(11));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_tool_result_is_a_small_event_and_whole_for_worker_and_api() {
    let pipeline = "name: large\nsteps:\n  \
        - { id: big, run: { command: [python3, -c, 'print(\"\\\"\" + \"x\" * 1000000 + \"\\\"\")'], effect: read } }\n  \
        - { id: count, set: '{{ steps.big.output | length }}' }\n\
        output: '{{ steps.big.output }}'\n";
    let scheduler = RunningScheduler::start(&[("pipelines/large.yaml", pipeline)]).await;
    let worker = scheduler.worker();
    let task: TaskId = scheduler.submit(&json!({"pipeline": "large", "input": {}})).await.parse().unwrap();
    let state = async || scheduler.store.head(task).await.unwrap().unwrap().state;
    until("the task is done", async || state().await.is_terminal()).await;
    assert_eq!(state().await.name(), StateName::Succeeded, "{:?}", state().await);
    let told = scheduler.get(&format!("/v1/tasks/{task}")).await.json();
    assert_eq!(told["output"].as_str().map(str::len), Some(1_000_000));
    assert_eq!(told["steps"][1]["output"], 1_000_000, "{}", told["steps"][1]);
    let journal = scheduler.get(&format!("/v1/tasks/{task}/journal")).await.text;
    assert!(journal.len() > 2_000_000, "{}", journal.len());
    let db = rusqlite::Connection::open(scheduler.database()).unwrap();
    let longest: i64 = db.query_row("SELECT max(length(event)) FROM journal", [], |row| row.get(0)).unwrap();
    assert!(longest < 2_000, "{longest}");
    let (count, bytes): (i64, i64) = db
        .query_row("SELECT count(*), sum(length(data)) FROM blob_data", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap();
    assert!(count == 1 && bytes < 10_000, "{count} of {bytes} bytes: equal values are one, and compressed");
    worker.drain().await;
}

async fn sharing(folder: bool) -> Result<()> {
    let whole = Whole::new(folder)?;
    let bench = whole.bench(|_| {}).await?;
    let (first, second) = (submit(&bench, large(1)).await?, submit(&bench, large(1)).await?);
    let other = submit(&bench, large(2)).await?;
    ensure!(whole.kept()?.len() == 2);
    for task in [first, second, other] {
        let stored = whole.stored(task)?;
        ensure!(stored.iter().all(|event| event.len() < 1_000), "{stored:?}");
        let (mut held, run) = claim(&bench, task).await?;
        ensure!(*run.input == large(if task == other { 2 } else { 1 }));
        bench.die(&mut held).await?;
    }
    ensure!(bench.store.forget(first).await?);
    bench.clock.advance(BLOB_GRACE * 2);
    sweep(&bench).await?;
    ensure!(whole.kept()?.len() == 2, "the other one needs it");
    ensure!(bench.store.forget(second).await?);
    sweep(&bench).await?;
    ensure!(whole.kept()?.len() == 2, "the time of grace");
    bench.clock.advance(BLOB_GRACE);
    sweep(&bench).await?;
    ensure!(whole.kept()?.len() == 1);
    ensure!(bench.journal(other).await?.iter().any(|r| matches!(&r.event, Event::Submitted(s) if s.input == large(2))));
    bench.verify().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_share_a_value_and_the_last_takes_it_along() -> Result<()> {
    sharing(false).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_share_a_file_and_the_last_takes_it_along() -> Result<()> {
    sharing(true).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_kept_and_never_written_into_a_journal_goes_in_time() -> Result<()> {
    for folder in [false, true] {
        let whole = Whole::new(folder)?;
        let bench = whole.bench(|_| {}).await?;
        // The value is kept, and then the store refuses the append: as if the writer had died in between.
        let mut held = bench.taken().await?;
        let lost = Held { token: common::id::LeaseToken::new([9; 16]), ..held.clone() };
        let request = bench.request_append(&lost, Vec::new(), Next::Succeed { output: large(1) });
        let refused = bench.store.append(request).await;
        ensure!(matches!(refused, Err(AppendError::LeaseLost(_))), "{refused:?}");
        ensure!(whole.kept()?.len() == 1);
        bench.clock.advance(BLOB_GRACE / 2);
        ensure!(bench.renew(&held).await.is_ok());
        sweep(&bench).await?;
        ensure!(whole.kept()?.len() == 1, "whoever keeps it may still be at it");
        bench.clock.advance(BLOB_GRACE);
        sweep(&bench).await?;
        ensure!(whole.kept()?.is_empty(), "garbage goes");
        held = Held::from(bench.take(1).await?.first().context("its lease is over")?);
        bench.append(&mut held, Vec::new(), Next::Succeed { output: large(1) }).await?;
        let run = Run::fold(held.task, &bench.journal(held.task).await?)?;
        ensure!(run.output == Some(large(1)));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_removal_does_not_take_what_was_kept_anew() -> Result<()> {
    let whole = Whole::new(true)?;
    let bench = whole.bench(|_| {}).await?;
    let first = submit(&bench, large(1)).await?;
    let (mut held, _) = claim(&bench, first).await?;
    bench.die(&mut held).await?;
    bench.store.forget(first).await?;
    bench.clock.advance(BLOB_GRACE * 2);
    // The sweep of a process that stops before it removes the file.
    let mut options = StoreOptions::new(Arc::new(SeededEntropy::new(5)));
    options.clock = common::store::StoreClock::Given(Arc::new(bench.clock.clone()));
    let stopped = SqliteStore::open(&whole.database(), options)?;
    stopped.due(100).await?;
    ensure!(stopped.condemned_blobs(10).await?.len() == 1 && whole.kept()?.len() == 1);
    let second = submit(&bench, large(1)).await?;
    ensure!(whole.kept()?.len() == 2, "under another name");
    sweep(&bench).await?;
    ensure!(stopped.condemned_blobs(10).await?.is_empty() && whole.kept()?.len() == 1);
    let another = bench.another().await?;
    let journal = another.journal(second, 0, 10).await?;
    ensure!(matches!(&journal[0].event, Event::Submitted(s) if s.input == large(1)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_is_missing_or_damaged_makes_a_dead_letter_and_stops_no_other() -> Result<()> {
    for damage in [None, Some(b"not what it was".as_slice())] {
        let whole = Whole::new(true)?;
        let bench = whole.bench(|_| {}).await?;
        let victim = submit(&bench, large(1)).await?;
        let file = files(&whole.blobs()).pop().context("a file")?;
        let neighbour = submit(&bench, large(2)).await?;
        let content = std::fs::read(&file)?;
        match damage {
            None => std::fs::remove_file(&file)?,
            Some(bytes) => std::fs::write(&file, bytes)?,
        }
        // A process that has nothing at hand.
        let other = bench.another().await?;
        let claims = other.take(bench.request(10)).await?;
        ensure!(claims.iter().map(|claim| claim.task).eq([neighbour]), "{claims:?}");
        let head = bench.head(victim).await?;
        let State::Dead { reason: DeadReason::Unreadable, error, .. } = &head.state else {
            anyhow::bail!("{:?}", head.state)
        };
        let word = if damage.is_none() { "missing" } else { "damaged" };
        let place = whole.blobs().display().to_string();
        ensure!(error.message.contains(word) && error.message.contains(&place), "{error}");
        let unreadable = other.journal(victim, 0, 10).await;
        ensure!(matches!(unreadable, Err(StoreError::Damaged(_))), "{unreadable:?}");
        std::fs::write(&file, content)?;
        other
            .signal(
                victim,
                Signal::Replay {
                    by: "ann".to_owned(),
                    reset: Vec::new(),
                    input: None,
                    sealed: common::journal::SealedValues::default(),
                },
            )
            .await?;
        let claims = other.take(bench.request(10)).await?;
        ensure!(claims.iter().map(|claim| claim.task).eq([victim]));
        ensure!(*Run::fold(victim, &claims[0].journal)?.input == large(1));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gets_at_anothers_value_by_its_name() -> Result<()> {
    let whole = Whole::new(false)?;
    let bench = whole.bench(|_| {}).await?;
    let secret = submit(&bench, large(7)).await?;
    let stored = whole.stored(secret)?.remove(0);
    let name = stored.split("$blob\":\"").nth(1).and_then(|rest| rest.split('"').next()).context("a reference")?;
    let forged = [json!({"$blob": name}), json!({"$blob": name, "more": 1}), json!({"$blob": 1}), json!(name)];
    for forged in forged {
        let task = submit(&bench, forged.clone()).await?;
        let (mut held, run) = claim(&bench, task).await?;
        ensure!(*run.input == forged, "{}", run.input);
        let text = format!("$blob:{name}");
        let said = Event::AgentStarted { step: step("a"), head: Box::new(request_head(&text)), prompt: text.clone() };
        bench.append(&mut held, vec![said.clone()], Next::Succeed { output: forged.clone() }).await?;
        let another = bench.another().await?;
        let journal = another.journal(task, 0, 100).await?;
        ensure!(journal[2].event == said && journal[3].event == Event::Succeeded { output: forged });
    }
    Ok(())
}

fn request_head(system: &str) -> RequestHead {
    RequestHead {
        alias: "m".to_owned(),
        provider: "p".to_owned(),
        model: "m".to_owned(),
        max_tokens: 10,
        system: system.to_owned(),
        tools: vec![json!({"name": "t", "input_schema": {"description": system}})],
        output_schema: Some(json!({"type": system})),
        options: std::iter::once(("effort".to_owned(), json!(system))).collect(),
        ..RequestHead::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_about_whole_inputs_and_small_journals() -> Result<()> {
    let whole = Whole::new(false)?;
    let bench = whole
        .bench(|options| {
            options.limits.input_bytes = 10_000;
            options.limits.journal_bytes = 20_000;
            options.limits.values_bytes = 100_000;
        })
        .await?;
    let refused = bench.store.submit(vec![bench.task(), bench.task_with(|s| s.input = json!("x".repeat(9_999)))]).await;
    let says = |error: &StoreError| error.to_string().contains("input of task 2 of the call has 10001 bytes");
    ensure!(refused.as_ref().is_err_and(says), "{refused:?}");
    ensure!(bench.all(Filter::default()).await?.is_empty());
    let task = submit(&bench, json!("x".repeat(9_998))).await?;
    let (mut held, _) = claim(&bench, task).await?;
    let output = |number: usize, length: usize| {
        let output = json!(format!("{number:05}{}", "y".repeat(length)));
        Event::StepFinished { step: step(&format!("s{number}")), outcome: StepOutcome::Succeeded { output } }
    };
    let full = bench.append(&mut held, vec![output(0, 20_000)], Next::Continue).await;
    ensure!(matches!(full, Err(AppendError::JournalFull { limit: 20_000, .. })), "{full:?}");
    for number in 1..=8 {
        // Together far more than the limit of the journal.
        bench.append(&mut held, vec![output(number, 10_000)], Next::Continue).await?;
    }
    bench.append(&mut held, vec![output(9, 15_000)], Next::Release { reason: "x".to_owned() }).await?;
    let other = bench.another().await?;
    ensure!(other.take(bench.request(10)).await?.is_empty(), "more than limits.values");
    let head = bench.head(task).await?;
    ensure!(
        matches!(&head.state, State::Dead { reason: DeadReason::Limit, error, .. } if error.message.contains("limits.values"))
    );
    let mut held = bench.taken().await?;
    bench.die(&mut held).await?;
    let signal = Signal::Replay {
        by: "x".to_owned(),
        reset: Vec::new(),
        input: Some(json!("x".repeat(100_000))),
        sealed: common::journal::SealedValues::default(),
    };
    let refused = bench.store.signal(held.task, signal).await;
    ensure!(refused.is_err_and(|error| error.to_string().contains("limits.input")));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_take_their_values_along_to_another_store() -> Result<()> {
    let (from, to) = (Whole::new(true)?, Whole::new(false)?);
    let (source, target) = (from.bench(|_| {}).await?, to.bench(|_| {}).await?);
    let task = submit(&source, large(1)).await?;
    let (mut held, _) = claim(&source, task).await?;
    source.append(&mut held, Vec::new(), Next::Succeed { output: large(2) }).await?;
    let mut text = Vec::new();
    export(&*source.store, Filter::default(), |line| {
        text.push(serde_json::to_string(line)?);
        Ok(())
    })
    .await?;
    let mut import = Import::new(&*target.store);
    for line in &text {
        import.line(line).await?;
    }
    import.finish().await?;
    ensure!(target.journal(task).await? == source.journal(task).await?);
    ensure!(to.kept()?.len() == 2 && to.stored(task)?.iter().all(|event| event.len() < 1_000));
    Ok(())
}
