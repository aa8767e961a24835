//! What model calls cost: tables by effective date, shipped as data, and what
//! the operator says instead. Prices change what is reported and budgeted, never
//! what is done.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use common::clock::Timestamp;
use common::config::Price;
use common::failure::{Failure, FailureClass};
use common::journal::Usage;
use serde::Deserialize;

/// Reading from the cache, as a part of the price of input.
const CACHE_READ: f64 = 0.1;
/// Writing to the cache for five minutes.
const CACHE_WRITE_5M: f64 = 1.25;
/// Writing to the cache for an hour.
const CACHE_WRITE_1H: f64 = 2.0;

/// Unknown models that were warned of; more are not, so that this stays small.
const WARNINGS: usize = 1_000;
/// How a rehearsal calls itself.
pub(super) const REHEARSAL: &str = "rehearsal";

/// The tokens of one reply, as they are billed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Read at full price.
    pub input: u64,
    /// Written.
    pub output: u64,
    /// Read from the cache.
    pub cache_read: u64,
    /// Written to the cache for five minutes.
    pub cache_write_5m: u64,
    /// Written to the cache for an hour.
    pub cache_write_1h: u64,
}

/// Prices from one day on.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    effective: jiff::civil::Date,
    /// What a request in a model batch costs, as a part of these prices.
    part_in_batches: f64,
    /// By the model's name, without its date.
    dollars_per_million_tokens: BTreeMap<String, Price>,
}

/// What is known of prices.
#[derive(Debug, Default)]
pub struct Prices {
    tables: Vec<Table>,
    /// The operator's, by the model's alias.
    overrides: BTreeMap<String, Price>,
    warned: Mutex<BTreeSet<String>>,
}

impl Prices {
    /// The tables that ship.
    ///
    /// # Errors
    /// `Internal`, when the data in this program is broken; a test excludes that.
    pub fn shipped() -> Result<Self, Failure> {
        let mut tables: Vec<Table> = serde_json::from_str(include_str!("prices.json"))
            .map_err(|e| Failure::new(FailureClass::Internal, format!("the price table that ships is broken: {e}")))?;
        tables.sort_by_key(|table| table.effective);
        Ok(Self { tables, ..Self::default() })
    }

    /// Adds what the operator says of models, by alias; it wins.
    #[must_use]
    pub fn with_overrides(mut self, overrides: impl IntoIterator<Item = (String, Price)>) -> Self {
        self.overrides.extend(overrides);
        self
    }

    /// The price of a model at a time; `None`: nobody said.
    pub fn of(&self, alias: &str, model: &str, at: Timestamp) -> Option<Price> {
        if let Some(price) = self.overrides.get(alias) {
            return Some(*price);
        }
        self.in_force(at)?.dollars_per_million_tokens.get(undated(model)).copied()
    }

    /// The same for a request in a model batch: all of it costs a part of the usual price.
    pub fn in_batch(&self, alias: &str, model: &str, at: Timestamp) -> Option<Price> {
        let part = self.part_in_batches(at);
        let Price { input, output, cache_read, cache_write } = self.of(alias, model, at)?;
        let less = |dollars: Option<f64>| dollars.map(|dollars| dollars * part);
        Some(Price {
            input: input * part,
            output: output * part,
            cache_read: less(cache_read),
            cache_write: less(cache_write),
        })
    }

    fn in_force(&self, at: Timestamp) -> Option<&Table> {
        let day = at.to_jiff().to_zoned(jiff::tz::TimeZone::UTC).date();
        // A call before the first table is priced by the first.
        self.tables.iter().rev().find(|table| table.effective <= day).or(self.tables.first())
    }

    fn part_in_batches(&self, at: Timestamp) -> f64 {
        self.in_force(at).map_or(1.0, |table| table.part_in_batches)
    }

    /// The tokens of a reply in a model batch with their price.
    pub fn bill_in_batch(&self, alias: &str, model: &str, tokens: Tokens, at: Timestamp) -> Usage {
        let usage = self.bill(alias, model, tokens, at);
        Usage { cost_usd: usage.cost_usd * self.part_in_batches(at), ..usage }
    }

    /// The tokens with their price. A model without one is warned of once.
    pub fn bill(&self, alias: &str, model: &str, tokens: Tokens, at: Timestamp) -> Usage {
        let price = self.of(alias, model, at);
        if price.is_none() {
            self.warn(model);
        }
        Usage {
            input_tokens: tokens.input,
            output_tokens: tokens.output,
            cache_read_tokens: tokens.cache_read,
            cache_write_tokens: tokens.cache_write_5m + tokens.cache_write_1h,
            cost_usd: price.map_or(0.0, |price| cost(&price, tokens)),
        }
    }

    fn warn(&self, model: &str) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.len() < WARNINGS && warned.insert(model.to_owned()) {
            drop(warned);
            tracing::warn!(model, "no price is known for this model: its calls count as free; set models.NAME.price");
        }
    }
}

/// What tokens cost, in dollars.
pub fn cost(price: &Price, tokens: Tokens) -> f64 {
    let write = price.cache_write.unwrap_or(price.input * CACHE_WRITE_5M);
    // The operator's price of a write is that of five minutes; an hour costs in proportion.
    let write_hour = write * (CACHE_WRITE_1H / CACHE_WRITE_5M);
    let parts = [
        (tokens.input, price.input),
        (tokens.output, price.output),
        (tokens.cache_read, price.cache_read.unwrap_or(price.input * CACHE_READ)),
        (tokens.cache_write_5m, write),
        (tokens.cache_write_1h, write_hour),
    ];
    parts.into_iter().map(|(count, per_million)| millions(count) * per_million).sum()
}

#[expect(clippy::cast_precision_loss, reason = "counts of one call are far below 2^53")]
fn millions(count: u64) -> f64 {
    count as f64 / 1_000_000.0
}

/// The name without the date of a snapshot: `claude-haiku-4-5-20251001`, `gpt-4o-2024-08-06`, `…-latest`.
pub(super) fn undated(model: &str) -> &str {
    let digits = |text: &str, count| text.len() == count && text.bytes().all(|b| b.is_ascii_digit());
    let named = model.strip_suffix(":latest").unwrap_or(model);
    let mut parts = named.rsplitn(4, '-');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some("latest"), Some(_), ..) => &named[..named.len() - "-latest".len()],
        (Some(date), Some(_), ..) if digits(date, 8) => &named[..named.len() - 9],
        (Some(day), Some(month), Some(year), Some(name))
            if digits(day, 2) && digits(month, 2) && digits(year, 4) && !name.is_empty() =>
        {
            name
        }
        _ => named,
    }
}

/// Whether an answer is from the model that was asked: dates of snapshots and the names of vendors that gateways put
/// before it aside. Who does not say who answers is believed.
pub fn is_same_model(asked: &str, answered: &str) -> bool {
    let bare = |model: &str| undated(model.rsplit('/').next().unwrap_or(model)).to_ascii_lowercase();
    // A rehearsal stands in for any model, because the operator wants it to.
    answered.is_empty() || answered == REHEARSAL || bare(asked) == bare(answered)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn per_million(model: &str) -> Option<(f64, f64)> {
        let prices = Prices::shipped().unwrap();
        prices.of("alias", model, at("2026-11-21T00:00:00Z")).map(|price| (price.input, price.output))
    }

    #[test]
    fn the_table_that_ships_can_be_read() {
        assert_eq!(per_million("claude-opus-4-5-20251101"), Some((5.0, 25.0)));
        assert_eq!(per_million("claude-sonnet-4-6"), Some((3.0, 15.0)));
        assert_eq!(per_million("claude-haiku-4-5-latest"), Some((1.0, 5.0)));
        assert_eq!(per_million("claude-haiku-4-5-turbo"), None);
        assert_eq!(per_million(""), None);
    }

    #[test]
    fn a_snapshot_is_the_model_that_was_asked_and_another_model_is_not() {
        for (asked, answered) in [
            ("claude-haiku-4-5", "claude-haiku-4-5-20251001"),
            ("claude-haiku-4-5-latest", "claude-haiku-4-5-20251001"),
            ("gpt-4o", "gpt-4o-2024-08-06"),
            ("anthropic/claude-opus-5", "claude-opus-5"),
            ("llama3", "llama3:latest"),
            ("Qwen/Qwen3-8B", "qwen3-8b"),
            ("anything", ""),
        ] {
            assert!(is_same_model(asked, answered), "{asked} {answered}");
        }
        for (asked, answered) in [
            ("claude-opus-5", "claude-haiku-4-5"),
            ("gpt-4o", "gpt-4o-mini-2024-07-18"),
            ("llama3", "llama3:8b"),
            ("latest", "newest"),
        ] {
            assert!(!is_same_model(asked, answered), "{asked} {answered}");
        }
    }

    #[test]
    fn each_kind_of_token_has_its_price() {
        let price = Price { input: 4.0, output: 20.0, cache_read: None, cache_write: None };
        let million = 1_000_000;
        let of = |tokens| cost(&price, tokens);
        let close = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(close(of(Tokens { input: million, ..Tokens::default() }), 4.0));
        assert!(close(of(Tokens { output: million, ..Tokens::default() }), 20.0));
        assert!(close(of(Tokens { cache_read: million, ..Tokens::default() }), 0.4));
        assert!(close(of(Tokens { cache_write_5m: million, ..Tokens::default() }), 5.0));
        assert!(close(of(Tokens { cache_write_1h: million, ..Tokens::default() }), 8.0));
    }

    #[test]
    fn the_table_in_force_is_the_newest_that_has_begun() {
        let table = |effective: &str, input: f64| Table {
            effective: effective.parse().unwrap(),
            part_in_batches: 0.5,
            dollars_per_million_tokens: [(
                "m".to_owned(),
                Price { input, output: 1.0, cache_read: None, cache_write: None },
            )]
            .into(),
        };
        let prices = Prices { tables: vec![table("2026-01-01", 1.0), table("2026-06-01", 2.0)], ..Prices::default() };
        for (day, input) in [("2025-01-01", 1.0), ("2026-05-31", 1.0), ("2026-06-01", 2.0), ("2027-01-01", 2.0)] {
            let price = prices.of("a", "m", at(&format!("{day}T12:00:00Z"))).unwrap();
            assert!((price.input - input).abs() < f64::EPSILON, "{day}");
        }
    }

    #[test]
    fn what_is_asked_in_a_batch_costs_half() {
        let prices = Prices::shipped().unwrap();
        let (model, now) = ("claude-sonnet-4-6", at("2026-11-21T00:00:00Z"));
        let tokens =
            Tokens { input: 100_000, output: 20_000, cache_read: 70_000, cache_write_1h: 9_000, ..Tokens::default() };
        let (single, batched) = (prices.bill("m", model, tokens, now), prices.bill_in_batch("m", model, tokens, now));
        assert!((single.cost_usd / 2.0 - batched.cost_usd).abs() < 1e-12 && batched.cost_usd > 0.0);
        assert_eq!(Usage { cost_usd: 0.0, ..single }, Usage { cost_usd: 0.0, ..batched });
        let price = prices.in_batch("m", model, now).unwrap();
        assert!((cost(&price, tokens) - batched.cost_usd).abs() < 1e-12);
        let own = Price { input: 2.0, output: 4.0, cache_read: Some(1.0), cache_write: None };
        let price = Prices::shipped().unwrap().with_overrides([("own".to_owned(), own)]).in_batch("own", "x", now);
        assert_eq!(price, Some(Price { input: 1.0, output: 2.0, cache_read: Some(0.5), cache_write: None }));
    }

    #[test]
    fn the_operator_is_right_and_the_unknown_is_free() {
        let own = Price { input: 2.0, output: 2.0, cache_read: None, cache_write: None };
        let prices = Prices::shipped().unwrap().with_overrides([("local".to_owned(), own)]);
        let now = at("2026-11-21T00:00:00Z");
        let tokens = Tokens { input: 1_000_000, ..Tokens::default() };
        assert!((prices.bill("local", "claude-opus-5", tokens, now).cost_usd - 2.0).abs() < 1e-9);
        assert!(prices.bill("other", "llama", tokens, now).cost_usd.abs() < f64::EPSILON);
        assert!(prices.of("other", "llama", now).is_none() && prices.of("local", "llama", now).is_some());
    }
}
