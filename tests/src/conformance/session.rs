//! Sessions: replaced by who knows what they replace, and kept for their time.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::id::SessionName;
use common::store::{KeepSession, KeptSession, Store};
use futures::future::try_join_all;

use super::Place;
use super::bench::Bench;

const HOUR: Duration = Duration::from_secs(3_600);

fn name(text: &str) -> SessionName {
    SessionName::new(text).unwrap_or_else(|error| panic!("{error}"))
}

fn keep(text: &str, expected: u64, body: &str) -> KeepSession {
    KeepSession { name: name(text), expected, body: body.to_owned().into(), keep: HOUR }
}

async fn read(store: &dyn Store, text: &str) -> Result<Option<KeptSession>> {
    Ok(store.session(&name(text)).await?)
}

/// What is kept is seen by all, byte for byte, also after a restart.
pub async fn a_session_is_kept_as_it_is(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let other = bench.another().await?;
    ensure!(read(&*other, "p/k").await?.is_none());
    let body = "{\"a\": \"\n\u{0}é\"}";
    ensure!(bench.store.keep_session(keep("p/k", 0, body)).await?);
    ensure!(bench.store.keep_session(keep("p/é \"k\"", 0, "")).await?);
    let kept = read(&*other, "p/k").await?.context("it is kept")?;
    ensure!(kept.version == 1 && kept.body == body.as_bytes(), "{kept:?}");
    let bench = bench.restart().await?;
    ensure!(read(&*bench.store, "p/k").await?.as_ref() == Some(&kept));
    ensure!(read(&*bench.store, "p/é \"k\"").await?.context("it is kept")?.body.is_empty());
    Ok(())
}

/// Of all who replace the same version, one does.
pub async fn a_session_is_replaced_by_one(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    let other = bench.another().await?;
    for version in 0..3 {
        let calls = (0..10).map(|n| {
            let store = if n % 2 == 0 { &bench.store } else { &other };
            store.keep_session(keep("p/k", version, &format!("{version} {n}")))
        });
        let done = try_join_all(calls).await?;
        ensure!(done.iter().filter(|done| **done).count() == 1, "{done:?}");
        let winner = done.iter().position(|done| *done).context("one won")?;
        let kept = read(&*other, "p/k").await?.context("it is kept")?;
        ensure!(kept.version == version + 1 && kept.body == format!("{version} {winner}").as_bytes(), "{kept:?}");
    }
    ensure!(!bench.store.keep_session(keep("p/k", 7, "late")).await?);
    ensure!(!bench.store.keep_session(keep("p/new", 1, "early")).await?);
    Ok(())
}

/// A session whose time is over is not there, and begins anew.
pub async fn a_session_is_gone_when_its_time_is_over(place: Place) -> Result<()> {
    let bench = Bench::open(place).await?;
    ensure!(bench.store.keep_session(keep("p/k", 0, "old")).await?);
    bench.clock.advance(HOUR / 2);
    ensure!(bench.store.keep_session(keep("p/k", 1, "newer")).await?);
    bench.clock.advance(HOUR * 3 / 4);
    ensure!(read(&*bench.store, "p/k").await?.is_some(), "each time it is kept anew");
    bench.clock.advance(HOUR);
    ensure!(read(&*bench.store, "p/k").await?.is_none());
    ensure!(!bench.store.keep_session(keep("p/k", 2, "late")).await?);
    ensure!(bench.store.keep_session(keep("p/k", 0, "new")).await?);
    ensure!(read(&*bench.store, "p/k").await?.context("it is kept")?.version == 1);
    Ok(())
}
