//! Tasks move from store to store, on real servers, and lose nothing on the way.

use std::sync::Arc;

use anyhow::{Context, Result};
use common::entropy::SeededEntropy;
use common::id::{BatchId, Digest};
use common::store::{Definition, Filter, Next, OpenBatch, RejectedRow, Store, StoreOptions};
use common::task::{Head, Parent, Signal, StateName};
use common::transfer::{Import, Imported, TransferError, export};
use suite::conformance::Bench;
use suite::conformance::bench::{finished, key, pipeline, queue, step, valid};
use suite::servers::{postgres, redis};

/// A store in a file that lives as long as this.
struct File(tempfile::TempDir);

impl File {
    fn new() -> Result<Self> {
        Ok(Self(tempfile::tempdir()?))
    }

    fn url(&self) -> String {
        format!("sqlite:{}", self.0.path().join("tasks.db").display())
    }
}

struct Anywhere(String);

#[async_trait::async_trait]
impl suite::conformance::Backend for Anywhere {
    async fn open(&self, options: StoreOptions) -> Result<Arc<dyn Store>, common::store::StoreError> {
        common::store::open(&self.0, options).await
    }
}

async fn open(url: &str) -> Result<Arc<dyn Store>> {
    Ok(common::store::open(url, StoreOptions::new(Arc::new(SeededEntropy::new(7)))).await?)
}

async fn written(store: &dyn Store) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    export(store, Filter::default(), |line| {
        lines.push(serde_json::to_string(line)?);
        Ok(())
    })
    .await?;
    Ok(lines)
}

async fn read(store: &dyn Store, lines: &[String]) -> Result<Imported, TransferError> {
    let mut import = Import::new(store);
    for line in lines {
        import.line(line).await?;
    }
    import.finish().await
}

async fn all(store: &dyn Store) -> Result<Vec<Head>> {
    Ok(store.list(Filter::default(), None, 1_000).await?.tasks)
}

/// Tasks in every state, a family, a batch, keys, definitions old and current, a paused queue.
async fn furnish(url: &str) -> Result<Bench> {
    let bench = Bench::open(Box::new(Anywhere(url.to_owned()))).await?;
    let definition =
        |text: &str| Definition { name: pipeline("p"), digest: Digest::of(text.as_bytes()), body: Arc::from(text) };
    bench.store.apply(vec![definition("p")]).await?;
    bench.store.apply(vec![definition("p, newer")]).await?;
    let batch = valid(BatchId::new("b-1"));
    bench.store.open_batch(OpenBatch { id: batch.clone(), pipeline: pipeline("p") }).await?;
    for line in 1..=3 {
        bench.submit(bench.task_with(|task| (task.batch, task.line) = (Some(batch.clone()), Some(line)))).await?;
    }
    bench.store.reject_rows(&batch, vec![RejectedRow { line: 4, reason: "no email".to_owned() }]).await?;
    bench.store.close_batch(&batch).await?;
    let later = bench.now().plus(std::time::Duration::from_secs(60));
    bench.submit(bench.task_with(|task| task.run_at = Some(later))).await?;
    bench.submit(bench.task_with(|task| task.key = Some(key("k")))).await?;
    let (mut done, mut dead, mut parent) = (bench.taken().await?, bench.taken().await?, bench.taken().await?);
    bench.succeed(&mut done).await?;
    bench.die(&mut dead).await?;
    let family = Parent { task: parent.task, step: step("sub"), depth: 1 };
    bench.submit(bench.task_with(|task| task.parent = Some(family))).await?;
    bench.append(&mut parent, vec![finished("a")], Next::Continue).await?;
    bench.store.pause(queue("paused"), true).await?;
    Ok(bench)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_are_the_same_after_a_journey_through_all_stores() -> Result<()> {
    let (first, last) = (File::new()?, File::new()?);
    let bench = furnish(&first.url()).await?;
    let lines = written(&*bench.store).await?;
    let mut before = all(&*bench.store).await?;
    let mut carried = lines.clone();
    for url in [redis::place(), postgres::place(), last.url()] {
        let store = open(&url).await?;
        let imported = read(&*store, &carried).await?;
        assert_eq!((imported.tasks, imported.known, imported.batches), (before.len() as u64, 0, 1), "{url}");
        assert_eq!(imported.definitions, 2, "{url}");
        let again = read(&*store, &carried).await?;
        assert_eq!((again.tasks, again.known, again.definitions), (0, before.len() as u64, 0), "{url}");
        let after = all(&*store).await?;
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(before.id, after.id);
            if before.state.name() == StateName::Running {
                assert_eq!(after.state.name(), StateName::Ready, "nobody holds it here");
            } else {
                assert_eq!(before, after, "{url}");
            }
        }
        assert_eq!(store.current(&pipeline("p")).await?.context("p")?.digest, Digest::of(b"p, newer"));
        let batch = store.batch(&valid(BatchId::new("b-1"))).await?.context("the batch")?;
        assert_eq!((batch.closed, batch.rejected, batch.tasks.values().sum::<u64>()), (true, 1, 3), "{url}");
        assert!(store.queues().await?.iter().any(|q| q.name == queue("paused") && q.paused));
        for head in &after {
            let verified = common::audit::verify(&*store, head.id, &[]).await?.context("it is there")?;
            assert_eq!((verified.faults, verified.starts), (Vec::new(), Some(1)), "{url}");
        }
        carried = written(&*store).await?;
        before = after;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_changed_on_the_way_is_refused_and_a_text_without_hashes_is_taken() -> Result<()> {
    let file = File::new()?;
    let bench = furnish(&file.url()).await?;
    let lines = written(&*bench.store).await?;
    let target = File::new()?;
    let store = open(&target.url()).await?;
    let mut changed = lines.clone();
    for line in changed.iter_mut().filter(|line| line.contains("\"succeeded\"")) {
        *line = line.replace("\"done\"", "\"gone\"");
    }
    assert_ne!(changed, lines);
    let error = read(&*store, &changed).await.unwrap_err().to_string();
    assert!(error.contains("is not what was written") && error.contains("altered"), "{error}");
    // As the first version of the format had it.
    let older = |line: &String| -> Result<String> {
        let mut line: serde_json::Value = serde_json::from_str(line)?;
        if let Some(task) = line.get_mut("task").and_then(serde_json::Value::as_object_mut) {
            task.remove("hashes").context("hashes")?;
        }
        if let Some(first) = line.get_mut("teamster_export") {
            first["version"] = 1.into();
        }
        Ok(line.to_string())
    };
    let older = lines.iter().map(older).collect::<Result<Vec<_>>>()?;
    read(&*store, &older).await?;
    for head in all(&*store).await? {
        let verified = common::audit::verify(&*store, head.id, &[]).await?.context("it is there")?;
        assert_eq!((verified.faults, verified.starts), (Vec::new(), Some(1)));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_moved_goes_on_where_it_is() -> Result<()> {
    let file = File::new()?;
    let bench = furnish(&file.url()).await?;
    let lines = written(&*bench.store).await?;
    let there = Bench::open(Box::new(Anywhere(postgres::place()))).await?;
    read(&*there.store, &lines).await?;
    let known = there.submit(there.task_with(|task| task.key = Some(key("k")))).await?;
    assert!(!known.created, "the key came along");
    let parent = all(&*there.store).await?.into_iter().find(|head| head.attempts == 1 && !head.state.is_terminal());
    let parent = parent.context("the task that ran")?.id;
    let cancel = Signal::Cancel { by: "x".to_owned(), reason: "y".to_owned() };
    there.store.signal(parent, cancel).await?;
    let family = there.all(Filter { parent: Some(parent), ..Filter::default() }).await?;
    assert_eq!(family.iter().map(|head| head.state.name()).collect::<Vec<_>>(), [StateName::Cancelled]);
    there.verify().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_that_is_damaged_says_where_and_loses_nothing() -> Result<()> {
    let file = File::new()?;
    let bench = furnish(&file.url()).await?;
    let lines = written(&*bench.store).await?;
    let target = File::new()?;
    let store = open(&target.url()).await?;

    let cut = &lines[..lines.len() - 2];
    let error = read(&*store, cut).await.unwrap_err();
    assert!(error.to_string().contains("ends in the middle"), "{error}");
    let kept = all(&*store).await?.len();
    assert_eq!(kept, all(&*bench.store).await?.len() - 1, "what was read before the cut is there");

    let mut broken = lines.clone();
    broken[1] = broken[1].replace("\"digest\":\"", "\"digest\":\"00");
    let error = read(&*store, &broken).await.unwrap_err();
    assert!(error.to_string().starts_with("line 2: "), "{error}");
    let error = read(&*store, &lines[1..]).await.unwrap_err();
    assert!(error.to_string().contains("an export starts with"), "{error}");
    let error = read(&*store, &["{\"teamster_export\":{\"version\":9}}".to_owned()]).await.unwrap_err();
    assert!(error.to_string().contains("version 9"), "{error}");
    assert_eq!(all(&*store).await?.len(), kept);
    Ok(())
}
