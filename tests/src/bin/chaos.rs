//! The long form of the chaos tests, and the soak: `tests/chaos` says how to call it.
#![allow(clippy::print_stdout)]

use std::time::Duration;

use anyhow::{Context, Result};
use suite::chaos::{Length, SCENARIOS, Scenario, play, soak};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    suite::servers::install_crypto_provider();
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if(|word| word == "soak").is_some() {
        let tasks = arguments.next().map_or(Ok(200_000), |text| text.parse().context("how many tasks"))?;
        return soak::soak(tasks).await;
    }
    let mut seed = None;
    if arguments.next_if(|word| word == "--seed").is_some() {
        let text = arguments.next().context("--seed takes a number")?;
        seed = Some(text.parse::<u64>().context("--seed takes a number")?);
    }
    let minutes: u64 = arguments.next().map_or(Ok(5), |text| text.parse().context("how many minutes a scenario"))?;
    let named: Vec<&Scenario> = arguments.map(|name| Scenario::named(&name)).collect::<Result<_>>()?;
    let scenarios = if named.is_empty() { SCENARIOS.iter().collect() } else { named };
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    for scenario in scenarios {
        play(scenario, Length::Long(Duration::from_secs(60 * minutes)), seed).await?;
    }
    Ok(())
}
