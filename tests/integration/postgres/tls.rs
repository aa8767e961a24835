//! `sslmode` and `ca`, with a server that shows a certificate of an authority of its own.

use anyhow::{Context, Result, ensure};
use common::store::{PostgresStore, Severity, Store, StoreError};
use suite::servers::certificate::Certificate;
use suite::servers::place::{unique_name, with_parameter};
use suite::servers::postgres::{Options, Server};

use super::{bench, client, options};

async fn server(tls: bool) -> Result<Server> {
    let options = Options { tls, ..Options::default() };
    Ok(tokio::task::spawn_blocking(move || Server::start(&options)).await?)
}

/// A place of its own, with these parameters.
fn place(server: &Server, parameters: &str) -> String {
    format!("{}&{parameters}", with_parameter(&server.url(), "schema", &unique_name()))
}

/// Which of the connections that a store has made are protected.
async fn protected(server: &Server) -> Result<Vec<bool>> {
    let observer = client(&place(server, "")).await?;
    let rows = observer
        .query("SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'teamster'", &[])
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Opening must be refused or fail, and what is said must hold this.
async fn refused(url: &str, why: &str) -> Result<()> {
    let error = PostgresStore::open(url, options()?).await.err().with_context(|| format!("{url} is trusted"))?;
    ensure!(matches!(error, StoreError::Unavailable(_) | StoreError::Refused(_)), "{error:?}");
    ensure!(error.to_string().contains(why), "{url}: {error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verify_full_trusts_the_authority_that_the_url_names_and_nobody_else() -> Result<()> {
    let server = server(true).await?;
    let files = server.certificate().context("it has one")?;
    let ca = files.authority.display().to_string();
    let bench = bench(&place(&server, &format!("sslmode=verify-full&ca={ca}"))).await?;
    bench.succeed(&mut bench.taken().await?).await?;
    bench.verify().await?;
    let protected = protected(&server).await?;
    ensure!(!protected.is_empty() && protected.iter().all(|is| *is), "{protected:?}");
    let findings = bench.store.examine().await?;
    let said = findings.iter().find(|finding| finding.subject == "sslmode").context("it is looked at")?;
    ensure!(said.severity == Severity::Good && said.said.contains("proved"), "{said:?}");

    // One that signed nothing here, and the system's.
    let folder = tempfile::tempdir()?;
    let stranger = Certificate::make(folder.path())?.authority.display().to_string();
    refused(&place(&server, &format!("sslmode=verify-full&ca={stranger}")), "invalid peer certificate").await?;
    refused(&place(&server, &format!("sslmode=verify-ca&ca={stranger}")), "invalid peer certificate").await?;
    refused(&place(&server, "sslmode=verify-full"), "certificate").await?;
    // A ca is never ignored.
    refused(&place(&server, &format!("sslmode=require&ca={stranger}")), "invalid peer certificate").await?;
    refused(&place(&server, &format!("ca={stranger}")), "invalid peer certificate").await?;
    refused(&place(&server, "sslmode=verify-full&ca=/nowhere/ca.pem"), "/nowhere/ca.pem").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verify_full_asks_for_the_host_and_verify_ca_does_not() -> Result<()> {
    let server = server(true).await?;
    let ca = server.certificate().context("it has one")?.authority.display();
    // The same server under a name that its certificate is not made out for.
    let renamed = |mode: &str| {
        let url = place(&server, &format!("hostaddr=127.0.0.1&sslmode={mode}&ca={ca}"));
        url.replacen("@127.0.0.1", "@db.example.com", 1)
    };
    refused(&renamed("verify-full"), "not valid for name").await?;
    PostgresStore::open(&renamed("verify-ca"), options()?).await?.check().await?;
    let localhost = place(&server, &format!("sslmode=verify-full&ca={ca}")).replacen("@127.0.0.1", "@localhost", 1);
    PostgresStore::open(&localhost, options()?).await?.check().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_verification_tls_is_used_where_it_is_offered_and_insisted_on_where_it_is_required() -> Result<()> {
    let (with, without) = tokio::try_join!(server(true), server(false))?;
    for (server, mode, encrypted) in [
        (&with, "require", Some(true)),
        (&with, "prefer", Some(true)),
        (&with, "disable", Some(false)),
        (&without, "prefer", Some(false)),
        (&without, "disable", Some(false)),
        (&without, "require", None),
    ] {
        let url = place(server, &format!("sslmode={mode}"));
        let Some(encrypted) = encrypted else {
            refused(&url, "TLS").await?;
            continue;
        };
        let store = PostgresStore::open(&url, options()?).await?;
        store.check().await?;
        let found = protected(server).await?;
        ensure!(!found.is_empty() && found.iter().all(|is| *is == encrypted), "{mode}: {found:?}");
        drop(store);
        suite::fixtures::process::until("its connections are gone", async || {
            protected(server).await.is_ok_and(|left| left.is_empty())
        })
        .await;
    }
    Ok(())
}
