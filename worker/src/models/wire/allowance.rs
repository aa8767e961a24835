//! What a provider says of the requests and tokens that it still takes, in the
//! headers of its answers: pure. Whoever heeds them runs into no 429.
//!
//! Anthropic: `anthropic-ratelimit-{requests,tokens,input-tokens,output-tokens}-{limit,remaining,reset}`, with
//! resets as RFC 3339 times. OpenAI, and what speaks its wire: `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`,
//! with resets as spans such as `6m0s` or `20ms`. A header that is nonsense says nothing.

use std::time::Duration;

use common::clock::Timestamp;
use common::journal::Usage;
use reqwest::header::HeaderMap;

/// The longest pause that follows from headers: after it, the provider is asked what it says by then.
const LONGEST: Duration = Duration::from_secs(3_600);
/// A reset that is further off than this is a mistake, and none is known.
const ABSURD: Duration = Duration::from_secs(7 * 24 * 3_600);

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Requests,
    Tokens,
    InputTokens,
    OutputTokens,
}

/// What is counted, by its name in the headers.
const COUNTED: [(What, &str); 4] = [
    (What::Requests, "requests"),
    (What::Tokens, "tokens"),
    (What::InputTokens, "input-tokens"),
    (What::OutputTokens, "output-tokens"),
];

/// How a header is named, by what it says (`limit`, `remaining` or `reset`) and of what.
type Naming = fn(&str, &str) -> String;

const NAMINGS: [Naming; 2] =
    [|says, of| format!("anthropic-ratelimit-{of}-{says}"), |says, of| format!("x-ratelimit-{says}-{of}")];

/// What is left, as the headers of one answer say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::models) struct Allowance {
    left: Vec<Left>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Left {
    what: What,
    limit: Option<u64>,
    remaining: u64,
    /// From now.
    reset: Duration,
}

impl Allowance {
    /// Reads the headers. `now` turns the time of a reset into a wait.
    pub(in crate::models) fn read(headers: &HeaderMap, now: Timestamp) -> Self {
        let text = |name: String| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
        let number = |name: String| text(name)?.parse::<u64>().ok();
        let read = |what: What, named: &dyn Fn(&str) -> String| {
            let (limit, remaining) = (number(named("limit")), number(named("remaining"))?);
            // More than there ever is: one of the two is wrong.
            if limit.is_some_and(|limit| remaining > limit) {
                return None;
            }
            let reset = until(text(named("reset"))?, now)?;
            Some(Left { what, limit, remaining, reset })
        };
        let left = NAMINGS
            .iter()
            .flat_map(|naming| COUNTED.iter().filter_map(|(what, of)| read(*what, &|says: &str| naming(says, of))));
        Self { left: left.collect() }
    }

    /// For how long no other call like this one fits, if it does not.
    pub(in crate::models) fn pause_after(&self, usage: &Usage) -> Option<Duration> {
        self.pause(|what| match what {
            What::Requests => 1,
            What::Tokens => usage.tokens(),
            // What is read from a cache does not count.
            What::InputTokens => usage.input_tokens.saturating_add(usage.cache_write_tokens),
            What::OutputTokens => usage.output_tokens,
        })
    }

    /// For how long nothing fits, if nothing does.
    pub(in crate::models) fn pause_of_all(&self) -> Option<Duration> {
        self.pause(|_| 1)
    }

    fn pause(&self, wanted: impl Fn(What) -> u64) -> Option<Duration> {
        let spent = self.left.iter().filter(|left| {
            // A call that is larger than the limit goes when all of it is there.
            let wanted = wanted(left.what).max(1).min(left.limit.unwrap_or(u64::MAX));
            left.remaining < wanted
        });
        spent.map(|left| left.reset.min(LONGEST)).max().filter(|pause| !pause.is_zero())
    }
}

/// For how long it is until a reset; nothing if that cannot be known.
fn until(text: &str, now: Timestamp) -> Option<Duration> {
    let wait = span(text).or_else(|| Some(text.parse::<Timestamp>().ok()?.since(now)))?;
    (wait <= ABSURD).then_some(wait)
}

/// A span as Go writes them (`1h2m3.5s`, `20ms`); a number alone is in seconds.
fn span(text: &str) -> Option<Duration> {
    if text.len() > 40 {
        return None;
    }
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, behind) = rest.split_at(digits);
        let unit = behind.find(|c: char| c.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(unit);
        let seconds = match unit {
            "h" => 3_600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        sum = sum.checked_add(Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?)?;
        rest = behind;
    }
    (!text.is_empty()).then_some(sum)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use reqwest::header::{HeaderName, HeaderValue};

    use super::*;

    /// 12:00:00 on the day of the table below.
    fn read(headers: &[(&str, &str)]) -> Allowance {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap()))
            .collect();
        Allowance::read(&headers, "2026-11-21T12:00:00Z".parse().unwrap())
    }

    fn used(input: u64, output: u64) -> Usage {
        Usage { input_tokens: input, output_tokens: output, cache_read_tokens: 9_000, ..Usage::default() }
    }

    fn millis(pause: Option<Duration>) -> Option<u128> {
        pause.map(|pause| pause.as_millis())
    }

    #[test]
    fn a_call_that_no_longer_fits_waits_for_the_reset() {
        let anthropic = |what: &str, limit: &str, remaining: &str, reset: &str| {
            let name = |of: &str| format!("anthropic-ratelimit-{what}-{of}");
            let (a, b, c) = (name("limit"), name("remaining"), name("reset"));
            millis(read(&[(&a, limit), (&b, remaining), (&c, reset)]).pause_after(&used(100, 50)))
        };
        let openai = |what: &str, limit: &str, remaining: &str, reset: &str| {
            let name = |of: &str| format!("x-ratelimit-{of}-{what}");
            let (a, b, c) = (name("limit"), name("remaining"), name("reset"));
            millis(read(&[(&a, limit), (&b, remaining), (&c, reset)]).pause_after(&used(100, 50)))
        };
        let soon = "2026-11-21T12:00:07Z";
        for (what, limit, remaining, reset, pause) in [
            ("requests", "50", "1", soon, None),
            ("requests", "50", "0", soon, Some(7_000)),
            ("requests", "50", "0", "2026-11-21T13:00:00.250+01:00", Some(250)),
            // Already there.
            ("requests", "50", "0", "2026-11-21T11:59:00Z", None),
            // Far off: an hour, and then it is asked again. Farther: a mistake.
            ("requests", "50", "0", "2026-11-22T12:00:00Z", Some(3_600_000)),
            ("requests", "50", "0", "2096-11-21T12:00:00Z", None),
            ("requests", "50", "0", "soon", None),
            ("requests", "50", "none", soon, None),
            ("requests", "50", "-1", soon, None),
            ("requests", "50", "51", soon, None),
            ("requests", "0", "0", soon, None),
            ("requests", "many", "0", soon, Some(7_000)),
            ("tokens", "100000", "9150", soon, None),
            ("tokens", "100000", "9149", soon, Some(7_000)),
            ("input-tokens", "100000", "100", soon, None),
            ("input-tokens", "100000", "99", soon, Some(7_000)),
            ("output-tokens", "100000", "49", soon, Some(7_000)),
            // A call that never fits in goes when the window is its own.
            ("output-tokens", "10", "10", soon, None),
            ("output-tokens", "10", "9", soon, Some(7_000)),
            ("thoughts", "10", "0", soon, None),
        ] {
            assert_eq!(anthropic(what, limit, remaining, reset), pause, "{what} {limit} {remaining} {reset}");
        }
        for (what, remaining, reset, pause) in [
            ("requests", "0", "1s", Some(1_000)),
            ("requests", "0", "6m0s", Some(360_000)),
            ("requests", "0", "20ms", Some(20)),
            ("requests", "0", "1h1m1s", Some(3_600_000)),
            ("requests", "0", "2m59.56s", Some(179_560)),
            ("requests", "0", "12", Some(12_000)),
            ("requests", "0", "1795262400", None),
            ("requests", "0", "0s", None),
            ("requests", "0", "-3s", None),
            ("requests", "0", "inf", None),
            ("requests", "0", "NaN", None),
            ("requests", "0", "", None),
            ("requests", "0", "s", None),
            ("requests", "0", "5", Some(5_000)),
            ("requests", "0", "5 s", None),
            ("requests", "0", "1.2.3s", None),
            ("requests", "0", "99999999999999999999999h", None),
            ("requests", "1", "1s", None),
            ("tokens", "9149", "1s", Some(1_000)),
            ("tokens", "9150", "1s", None),
        ] {
            assert_eq!(openai(what, "60000", remaining, reset), pause, "{what} {remaining} {reset}");
        }
    }

    #[test]
    fn the_longest_pause_of_what_is_spent_counts() {
        let headers = [
            ("x-ratelimit-remaining-requests", "0"),
            ("x-ratelimit-reset-requests", "1s"),
            ("x-ratelimit-remaining-tokens", "10"),
            ("x-ratelimit-reset-tokens", "9s"),
        ];
        assert_eq!(millis(read(&headers).pause_after(&used(100, 50))), Some(9_000));
        assert_eq!(millis(read(&headers).pause_of_all()), Some(1_000), "of a call that was refused nothing is known");
        assert_eq!(read(&[]).pause_of_all(), None);
        assert_eq!(read(&headers[..1]).pause_of_all(), None, "without a reset");
    }
}
