//! The same history on every store: see `suite::differential`.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_history_gives_the_same_on_every_store() {
    if let Err(difference) = suite::differential::compare(suite::differential::seeds()).await {
        panic!("{difference:#}");
    }
}
