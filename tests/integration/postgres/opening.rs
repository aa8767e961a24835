//! Opening: a schema is made, brought forward, or refused and left alone.

use anyhow::{Context, Result, ensure};
use common::store::{Finding, PostgresStore, Severity, Store, StoreError};
use suite::servers::postgres::{self, Options, Server};

use super::{client, options, schema};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_processes_may_open_a_new_schema_at_once() -> Result<()> {
    let url = postgres::place();
    let mut opening = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (url, options) = (url.clone(), options()?);
        opening.spawn(async move { PostgresStore::open(&url, options).await });
    }
    while let Some(store) = opening.join_next().await {
        store??.check().await?;
    }
    // And again, now that it is there.
    PostgresStore::open(&url, options()?).await?.check().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_of_a_newer_version_is_refused_with_both_versions() -> Result<()> {
    let url = postgres::place();
    drop(PostgresStore::open(&url, options()?).await?);
    let mark = format!("SELECT obj_description('{}'::regnamespace, 'pg_namespace')", schema(&url)?);
    let mark: String = client(&url).await?.query_one(&mark, &[]).await?.get(0);
    let known = mark.rsplit(' ').next().context("the mark ends with the version")?.to_owned();
    let comment = format!("COMMENT ON SCHEMA {} IS 'the tables of Teamster, version 99'", schema(&url)?);
    client(&url).await?.batch_execute(&comment).await?;
    let error = PostgresStore::open(&url, options()?).await.err().context("it must not open")?;
    let says = |word: &str| error.to_string().contains(word);
    ensure!(matches!(error, StoreError::Damaged(_)) && says("99") && says(&format!("up to {known}")), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_of_another_program_is_refused_and_left_alone() -> Result<()> {
    let url = postgres::place();
    let name = schema(&url)?;
    let client = client(&url).await?;
    client.batch_execute(&format!("CREATE SCHEMA {name}; CREATE TABLE {name}.tasks (theirs int)")).await?;
    let error = PostgresStore::open(&url, options()?).await.err().context("it must not open")?;
    ensure!(matches!(&error, StoreError::Damaged(why) if why.contains(name)), "{error:?}");
    let tables = client.query("SELECT count(*) FROM pg_tables WHERE schemaname = $1", &[&name]).await?;
    ensure!(tables[0].get::<_, i64>(0) == 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_there_is_unavailable_and_its_password_is_not_said() -> Result<()> {
    let url = "postgres://u:hunter2@127.0.0.1:1/db";
    let error = PostgresStore::open(url, options()?).await.err().context("nobody listens there")?;
    ensure!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    ensure!(!format!("{error:?}").contains("hunter2"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unsafe_settings_are_named_with_what_they_can_lose() -> Result<()> {
    let unsafe_settings = Options { fsync: false, synchronous_commit: false, ..Options::default() };
    let server = tokio::task::spawn_blocking(move || Server::start(&unsafe_settings)).await?;
    let store = PostgresStore::open(&format!("{}?schema=x", server.url()), options()?).await?;
    let findings = store.examine().await?;
    for (subject, setting) in [(Finding::MACHINE, "fsync"), (Finding::PROCESS, "synchronous_commit")] {
        let finding = findings.iter().find(|finding| finding.subject == subject).context("it is looked at")?;
        ensure!(finding.severity == Severity::Warning && finding.advice.is_some(), "{finding:?}");
        ensure!(finding.said.contains(setting) && finding.said.contains("lost"), "{finding:?}");
    }
    let version = findings.iter().find(|finding| finding.subject == "server_version").context("the version")?;
    ensure!(version.severity == Severity::Good, "{version:?}");
    Ok(())
}
