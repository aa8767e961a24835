//! What is particular to the Postgres store: its schema, and the connections that
//! it loses.

mod accidents;
mod growth;
mod opening;
mod tls;
mod unreadable;

use std::sync::Arc;

use anyhow::{Context, Result};
use common::store::StoreOptions;
use suite::conformance::Bench;
use suite::fixtures::places::Schema;

async fn bench(url: &str) -> Result<Bench> {
    Bench::open(Box::new(Schema(url.to_owned()))).await
}

fn options() -> Result<StoreOptions> {
    Ok(StoreOptions::new(Arc::new(common::entropy::SystemEntropy::new()?)))
}

/// The schema that a URL names.
fn schema(url: &str) -> Result<&str> {
    url.split("schema=").nth(1).and_then(|rest| rest.split('&').next()).context("the URL names a schema")
}

/// A plain client of the same server, in the same schema.
async fn client(url: &str) -> Result<tokio_postgres::Client> {
    let (server, _) = url.split_once('?').context("the URL has parameters")?;
    let (client, connection) = tokio_postgres::connect(server, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    client.batch_execute(&format!("SET search_path TO {}", schema(url)?)).await?;
    Ok(client)
}
