//! What is particular to the Redis store: its server, and what may happen to that.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::clock::{Clock, SystemClock};
use common::entropy::{Entropy, SystemEntropy};
use common::id::TaskId;
use common::store::{
    Finding, Keep, Next, Receipt, RedisStore, Renewal, Retention, Severity, Store, StoreClock, StoreError,
    StoreOptions, Submission, Take,
};
use common::task::StateName;
use suite::conformance::Bench;
use suite::conformance::bench::{finished, queue, worker};
use suite::faults::proxy::Proxy;
use suite::fixtures::places::Prefix;
use suite::servers::install_crypto_provider;
use suite::servers::place::with_parameter;
use suite::servers::redis::sentinel::Sentinels;
use suite::servers::redis::{self as servers, Options, Server};

/// Servers block the thread that starts them.
fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::spawn(work).join().expect("it did not panic")
}

fn server(options: Options) -> Server {
    aside(move || Server::start(&options))
}

async fn bench(url: &str) -> Result<Bench> {
    Bench::open(Box::new(Prefix(url.to_owned()))).await
}

fn options() -> Result<StoreOptions> {
    Ok(StoreOptions::new(Arc::new(SystemEntropy::new()?)))
}

/// As [`Bench::task`], with an id of the present: these tests go by the server's clock.
fn task(bench: &Bench) -> Result<Submission> {
    let entropy: &dyn Entropy = &SystemEntropy::new()?;
    Ok(Submission::new(TaskId::new(SystemClock.now(), entropy.bytes()), bench.task().task().clone()))
}

async fn submit(store: &dyn Store, task: Submission) -> Result<Receipt, StoreError> {
    let receipts = store.submit(vec![task]).await?;
    receipts.into_iter().next().ok_or_else(|| StoreError::Damaged("no receipt".to_owned()))
}

fn from_q(max: usize) -> Take {
    Take { worker: worker("w"), queues: vec![queue("q")], max, lease: Duration::from_secs(30) }
}

fn finding<'a>(findings: &'a [Finding], subject: &str) -> &'a Finding {
    findings.iter().find(|finding| finding.subject == subject).expect("it was looked at")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_number_of_partitions_is_fixed_at_first_use() -> Result<()> {
    let url = aside(servers::place);
    drop(bench(&with_parameter(&url, "partitions", "3")).await?);
    let error = RedisStore::open(&with_parameter(&url, "partitions", "4"), options()?).await.err();
    let error = error.context("it must not open")?;
    ensure!(matches!(&error, StoreError::Refused(why) if why.contains("3 partitions")), "{error:?}");
    RedisStore::open(&url, options()?).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_another_version_are_refused_and_left_alone() -> Result<()> {
    let server = server(Options::default());
    drop(bench(&server.url()).await?);
    server.cli(&["hset", "teamster:meta", "schema", "99"])?;
    let error = RedisStore::open(&server.url(), options()?).await.err().context("it must not open")?;
    ensure!(matches!(&error, StoreError::Damaged(why) if why.contains("99")), "{error:?}");
    ensure!(server.cli(&["hget", "teamster:meta", "schema"])?.trim() == "99");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_that_the_server_forgot_are_loaded_again() -> Result<()> {
    let server = server(Options::default());
    let bench = bench(&server.url()).await?;
    bench.submitted().await?;
    server.cli(&["script", "flush"])?;
    let mut held = bench.take_one().await?;
    server.cli(&["script", "flush"])?;
    bench.append(&mut held, vec![finished("a")], Next::Continue).await?;
    server.cli(&["script", "flush"])?;
    ensure!(matches!(bench.renew(&held).await?, Renewal::Renewed { .. }));
    bench.verify().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_accepted_survives_a_killed_server() -> Result<()> {
    let mut server = server(Options::default());
    let bench = bench(&server.url()).await?;
    let task = bench.submitted().await?;
    let mut held = bench.claimed(task).await?;
    bench.append(&mut held, vec![finished("a")], Next::Continue).await?;
    server.kill();
    let lost = bench.store.submit(vec![bench.task()]).await;
    ensure!(matches!(lost, Err(StoreError::Unavailable(_))), "{lost:?}");
    let server = aside(move || {
        server.restart();
        server
    });
    bench.append(&mut held, vec![finished("b")], Next::Continue).await?;
    bench.succeed(&mut held).await?;
    ensure!(bench.state(task).await? == StateName::Succeeded);
    bench.verify().await?;
    drop(server);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_whose_answer_was_lost_is_written_once() -> Result<()> {
    let url = aside(servers::place);
    let target = url.split(['/', '?']).find(|part| part.contains("127.0.0.1")).context("a host")?.to_owned();
    let proxy = Proxy::start(&target).await;
    let bench = bench(&proxy.through(&url)).await?;
    let mut held = bench.taken().await?;
    for n in 0..20 {
        // The answer is cut off: the call is sent again, finds that it was done, and says what it did.
        proxy.cut_after(1);
        let appended = bench.append(&mut held, vec![finished(&format!("s{n}"))], Next::Continue).await?;
        ensure!(appended.recorded.len() == 1, "{appended:?}");
    }
    proxy.reset().await;
    bench.succeed(&mut held).await?;
    ensure!(bench.journal(held.task).await?.len() == 2 + 20 + 1);
    let submission = bench.task();
    proxy.cut_after(1);
    bench.submit(submission).await?;
    ensure!(bench.all(<_>::default()).await?.len() == 2);
    bench.verify().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_are_told_for_what_they_are() -> Result<()> {
    let server = server(Options { eviction: "allkeys-lru", ..Options::default() });
    let store = RedisStore::open(&server.url(), options()?).await?;
    let findings = store.examine().await?;
    ensure!(finding(&findings, Finding::EVICTION).severity == Severity::Fatal, "{findings:#?}");
    ensure!(finding(&findings, Finding::PROCESS).severity == Severity::Good, "{findings:#?}");
    ensure!(finding(&findings, "permissions").severity == Severity::Good, "{findings:#?}");
    server.cli(&["config", "set", "maxmemory-policy", "noeviction"])?;
    server.cli(&["config", "set", "appendonly", "no"])?;
    server.cli(&["acl", "setuser", "weak", "on", ">pw", "~other:*", "+@all"])?;
    let findings = store.examine().await?;
    ensure!(finding(&findings, Finding::EVICTION).severity == Severity::Good, "{findings:#?}");
    ensure!(finding(&findings, Finding::PROCESS).severity == Severity::Warning, "{findings:#?}");
    let weak = server.url().replace("redis://", "redis://weak:pw@");
    let error = RedisStore::open(&weak, options()?).await.err().context("it must not open")?.to_string();
    ensure!(error.contains("teamster:") && !error.contains("pw@"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_memory_refuses_and_is_told() -> Result<()> {
    let server = server(Options::default());
    let bench = bench(&server.url()).await?;
    let mut held = bench.taken().await?;
    server.cli(&["config", "set", "maxmemory", "1mb"])?;
    let refused = bench.store.submit(vec![bench.task()]).await;
    ensure!(matches!(&refused, Err(StoreError::Unavailable(why)) if why.contains("maxmemory")), "{refused:?}");
    server.cli(&["config", "set", "maxmemory", "0"])?;
    bench.succeed(&mut held).await?;
    bench.verify().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_go_by_the_clock_of_the_server() -> Result<()> {
    let url = aside(servers::place);
    let bench = bench(&url).await?;
    let mut own = options()?;
    own.clock = StoreClock::Own;
    let store = RedisStore::open(&url, own).await?;
    let receipt = submit(&*store, task(&bench)?).await?;
    let before = SystemClock.now();
    let claims = store.take(from_q(1)).await?;
    let claim = claims.first().context("a task is ready")?;
    ensure!(claim.task == receipt.id);
    let lease = claim.expires.since(before);
    ensure!(lease > Duration::from_secs(29) && lease < Duration::from_secs(40), "{lease:?}");
    ensure!(store.due(10).await?.next == Some(claim.expires));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_finished_does_not_fill_the_memory_without_a_sweep() -> Result<()> {
    let url = aside(servers::place);
    let keep = Keep { count: Some(10), age: None, bytes: None };
    let bench =
        Bench::tuned(Box::new(Prefix(url)), |options| options.retention = Retention { finished: keep, dead: keep })
            .await?;
    for _ in 0..20 {
        bench.store.submit((0..100).map(|_| bench.task()).collect()).await?;
        for claim in bench.take(100).await? {
            bench.succeed(&mut (&claim).into()).await?;
        }
    }
    let kept = bench.all(<_>::default()).await?.len();
    ensure!(kept < 1_500, "{kept} of 2,000 are kept");
    while bench.store.due(1_000).await?.removed > 0 {}
    ensure!(bench.all(<_>::default()).await?.len() == 10);
    bench.verify().await
}

/// However many processes finish tasks at once, and although no sweep runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_finishes_faster_than_retention_can_follow() -> Result<()> {
    let url = aside(servers::place);
    let keep = Keep { count: Some(100), age: None, bytes: None };
    let bench =
        Bench::tuned(Box::new(Prefix(url)), |options| options.retention = Retention { finished: keep, dead: keep })
            .await?;
    let stores = [Arc::clone(&bench.store), bench.another().await?, bench.another().await?];
    for _ in 0..16 {
        bench.store.submit((0..600).map(|_| bench.task()).collect()).await?;
        let each = stores.iter().map(|store| async {
            let claims = store.take(bench.request(200)).await?;
            let ends = claims.iter().map(|claim| {
                let end = Next::Succeed { output: "done".into() };
                store.append(bench.request_append(&claim.into(), Vec::new(), end))
            });
            futures::future::try_join_all(ends).await?;
            Ok::<_, anyhow::Error>(())
        });
        futures::future::try_join_all(each).await?;
        let kept = bench.all(<_>::default()).await?.iter().filter(|head| head.state.is_terminal()).count();
        // Twice the slack, and what was under way when that was reached.
        ensure!(kept < 100 + 2 * 1_024 + 600, "{kept} are kept");
    }
    bench.verify().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_journal_is_read_from_a_snapshot_on() -> Result<()> {
    let bench = bench(&aside(servers::place)).await?;
    let mut held = bench.taken().await?;
    for n in 0..300 {
        bench.append(&mut held, vec![finished(&format!("s{n}"))], Next::Continue).await?;
    }
    bench.verify().await?;
    let other = bench.another().await?;
    ensure!(other.head(held.task).await? == Some(bench.head(held.task).await?));
    bench.append(&mut held, Vec::new(), Next::Release { reason: "drain".to_owned() }).await?;
    let claims = bench.take(1).await?;
    ensure!(claims.first().context("it is ready")?.journal.len() == 2 + 300 + 1 + 1);
    bench.verify().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_trusts_the_authority_that_the_url_names() -> Result<()> {
    install_crypto_provider();
    let server = server(Options { tls: true, ..Options::default() });
    let authority = server.certificate().context("it has one")?.authority.display().to_string();
    let bench = bench(&with_parameter(&server.url(), "ca", &authority)).await?;
    bench.succeed(&mut bench.taken().await?).await?;
    bench.verify().await?;
    let stranger = RedisStore::open(&server.url(), options()?).await;
    ensure!(matches!(stranger, Err(StoreError::Unavailable(_) | StoreError::Refused(_))), "{stranger:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_leads_to_the_new_master() -> Result<()> {
    let mut watched = aside(|| Sentinels::start(&Options::default(), 3));
    let url = format!("redis+sentinel://{}/{}", watched.addresses().join(","), suite::servers::redis::sentinel::MASTER);
    let bench = bench(&url).await?;
    let task = bench.submitted().await?;
    let mut held = bench.claimed(task).await?;
    watched.master.cli(&["wait", "1", "5000"])?;
    watched.master.kill();
    let watched = aside(move || {
        watched.until_master(&watched.replica);
        watched
    });
    bench.append(&mut held, vec![finished("a")], Next::Continue).await?;
    bench.succeed(&mut held).await?;
    ensure!(bench.state(task).await? == StateName::Succeeded);
    bench.verify().await?;
    drop(watched);
    Ok(())
}
