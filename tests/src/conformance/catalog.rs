//! Definitions, schedules, and the health of the store.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use common::id::Digest;
use common::store::Definition;

use super::Place;
use super::bench::{Bench, pipeline};

fn definition(name: &str, body: &str) -> Definition {
    Definition { name: pipeline(name), digest: Digest::of(body.as_bytes()), body: Arc::from(body) }
}

/// A definition that a task is pinned to stays, whatever becomes current.
pub async fn definitions_are_kept_by_digest(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let (old, new) = (definition("p", "old"), definition("p", "new"));
    bench.store.apply(vec![old.clone()]).await?;
    bench.store.apply(vec![new.clone()]).await?;
    ensure!(bench.store.definition(&old.digest).await? == Some(old));
    ensure!(bench.store.definition(&new.digest).await? == Some(new));
    ensure!(bench.store.definition(&Digest::of(b"none")).await?.is_none());
    Ok(())
}

/// The one applied last is current, also if it was there before.
pub async fn the_newest_is_current(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let (old, new, other) = (definition("p", "old"), definition("p", "new"), definition("a", "other"));
    ensure!(bench.store.current(&pipeline("p")).await?.is_none());
    bench.store.apply(vec![old.clone(), other.clone()]).await?;
    bench.store.apply(vec![new.clone()]).await?;
    ensure!(bench.store.current(&pipeline("p")).await? == Some(new.clone()));
    ensure!(bench.store.definitions().await? == [other.clone(), new]);
    bench.store.apply(vec![old.clone()]).await?;
    ensure!(bench.store.current(&pipeline("p")).await? == Some(old.clone()));
    ensure!(bench.store.definitions().await? == [other, old]);
    Ok(())
}

/// What was served is not served again.
pub async fn schedules_never_go_back(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    ensure!(bench.store.schedule("p/0").await?.is_none());
    let (early, late) = (bench.now(), bench.now().plus(Duration::from_secs(60)));
    bench.store.serve_schedule("p/0", late).await?;
    bench.store.serve_schedule("p/0", early).await?;
    ensure!(bench.store.schedule("p/0").await? == Some(late));
    ensure!(bench.store.schedule("p/1").await?.is_none());
    Ok(())
}

/// A store that works says so.
pub async fn the_store_is_well(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    bench.store.check().await?;
    bench.store.check().await?;
    Ok(())
}

/// A look at the settings says what it found, in words.
pub async fn a_look_says_what_it_found(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let findings = bench.store.examine().await?;
    ensure!(!findings.is_empty());
    for finding in findings {
        ensure!(!finding.subject.is_empty() && !finding.said.is_empty(), "{finding:?}");
    }
    Ok(())
}
