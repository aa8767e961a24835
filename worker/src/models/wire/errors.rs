//! What can go wrong with a call, classed once, in one table.
//!
//! After the error references of the APIs and the retry rule of their official clients: `x-should-retry` is
//! obeyed, then the status decides. Both write a failure as `{"error": {"type", "message"}}`. The class says whether
//! the step's retry policy may try again; nothing is tried again here.

use std::time::Duration;

use common::clock::Timestamp;
use common::failure::{Failure, FailureClass};
use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use super::allowance::Allowance;

/// Why a stream is no reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::models) enum StreamFault {
    /// The API broke the reply off with an error.
    Api {
        /// Its type, such as `overloaded_error`.
        kind: String,
        /// Its message.
        message: String,
    },
    /// The stream is not what the protocol allows.
    Malformed(String),
    /// The stream ended before the reply did.
    CutOff,
}

/// One line of the table.
struct Row {
    status: u16,
    /// The type in the body, or in an `error` event after a 200.
    kind: &'static str,
    class: FailureClass,
    advice: &'static str,
}

const fn row(status: u16, kind: &'static str, class: FailureClass, advice: &'static str) -> Row {
    Row { status, kind, class, advice }
}

/// Statuses that are not here: from 500 `Unavailable`, else `InvalidRequest`.
/// Types of `error` events that are not here: `Unavailable`.
const TABLE: [Row; 14] = [
    row(400, "invalid_request_error", FailureClass::InvalidRequest, "the request cannot be answered as it is"),
    row(401, "authentication_error", FailureClass::Authentication, "check the key in {key}"),
    row(402, "billing_error", FailureClass::Billing, "check the account's billing details"),
    row(403, "permission_error", FailureClass::Authentication, "the key in {key} may not use this model or workspace"),
    row(404, "not_found_error", FailureClass::InvalidRequest, "check the model's name and the provider's base_url"),
    row(408, "request_timeout_error", FailureClass::Timeout, "the server did not get the request in time"),
    row(409, "conflict_error", FailureClass::Unavailable, "the request met another one"),
    row(413, "request_too_large", FailureClass::InvalidRequest, "the conversation is larger than the API takes"),
    row(429, "rate_limit_error", FailureClass::RateLimited, "lower worker.slots or ask for a higher rate limit"),
    row(500, "api_error", FailureClass::Unavailable, "the API failed"),
    row(502, "bad_gateway_error", FailureClass::Unavailable, "the API cannot be reached through its gateway"),
    row(503, "service_unavailable_error", FailureClass::Overloaded, "the API is not available"),
    row(504, "timeout_error", FailureClass::Unavailable, "the API took too long"),
    row(529, "overloaded_error", FailureClass::Overloaded, "the API is overloaded"),
];

/// How the API words it that the account, not the moment, is the obstacle. Such
/// an answer comes as 400, 403 or as a 429 without `retry-after`.
const SPEND_LIMIT_WORDING: [&str; 6] =
    ["spend limit", "spending limit", "usage limits", "credit balance", "usage tier", "exceeded your current quota"];

const SPEND_LIMIT_ADVICE: &str = "raise the account's spend limit or add credit, then retry the task";

/// The longest part of an API's message that is kept, in bytes.
const QUOTE_LIMIT: usize = 1_000;

/// Whose failure it is.
#[derive(Debug, Clone, Copy)]
pub(in crate::models) struct Origin<'a> {
    /// The provider's name.
    pub provider: &'a str,
    /// Where its key comes from, never the key.
    pub key: &'a str,
}

/// What the headers of an answer say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::models) struct Hints {
    /// The API's id of the request.
    pub request_id: Option<String>,
    /// How much more the API takes.
    pub allowance: Allowance,
    should_retry: Option<bool>,
    retry_after: Option<Duration>,
}

impl Hints {
    /// Reads the headers. `now` turns a `retry-after` date into a wait.
    pub(in crate::models) fn read(headers: &HeaderMap, now: Timestamp) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
        Self {
            request_id: text("request-id").or_else(|| text("x-request-id")).map(|id| id.chars().take(128).collect()),
            allowance: Allowance::read(headers, now),
            should_retry: text("x-should-retry").and_then(|answer| answer.parse().ok()),
            retry_after: text("retry-after-ms")
                .and_then(|ms| positive(ms.parse::<f64>().ok()? / 1_000.0))
                .or_else(|| text("retry-after").and_then(|wait| retry_after(wait, now))),
        }
    }
}

fn retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    if let Ok(seconds) = text.parse::<f64>() {
        return positive(seconds);
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    Some(Timestamp::from(date).since(now)).filter(|wait| !wait.is_zero())
}

fn positive(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds).ok().filter(|wait| !wait.is_zero())
}

/// Classes an answer that is not 200.
pub(in crate::models) fn refused(origin: Origin<'_>, status: StatusCode, hints: &Hints, body: &[u8]) -> Failure {
    let body: Value = serde_json::from_slice(body)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(body).trim().chars().take(QUOTE_LIMIT).collect()));
    let kind = body["error"]["type"].as_str();
    let message = body["error"]["message"].as_str().or(body.as_str()).unwrap_or_default();
    let code = status.as_u16();
    if status.is_redirection() {
        let text = format!("answered {code}, a redirect, which is not followed; correct the provider's base_url");
        return failure(origin, FailureClass::Configuration, &text, hints);
    }
    let row = TABLE.iter().find(|row| row.status == code);
    let mut class = row.map_or_else(
        || if code >= 500 { FailureClass::Unavailable } else { FailureClass::InvalidRequest },
        |row| row.class,
    );
    let mut advice = row.map_or("", |row| row.advice);
    let is_too_long = code == 400 && is_too_long(&body["error"]["code"], message);
    if is_too_long {
        (class, advice) = (FailureClass::ContextWindow, TOO_LONG_ADVICE);
    } else if is_spend_limit(code, hints, message) {
        (class, advice) = (FailureClass::Billing, SPEND_LIMIT_ADVICE);
    } else if let Some(should_retry) = hints.should_retry {
        class = obey(should_retry, class);
    }
    let kind = kind.or(row.map(|row| row.kind)).unwrap_or("error");
    let text = describe(&format!("answered {code} {kind}"), message, advice, origin);
    let mut failure = failure(origin, class, &text, hints);
    let pause = || hints.allowance.pause_of_all().filter(|_| class == FailureClass::RateLimited);
    let wait = hints.retry_after.or_else(pause);
    failure.retry_after_ms = wait.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
    let detail = json!({"status": code, "type": kind, "message": quote(message), "request_id": hints.request_id});
    failure.with_detail(detail)
}

/// Classes the error of one request in a batch, as if it were the answer to a single one.
pub(in crate::models) fn of_entry(origin: Origin<'_>, kind: &str, message: &str) -> Failure {
    // Of a kind that is not in the table nobody knows whether it passes.
    let status = TABLE.iter().find(|row| row.kind == kind).map_or(500, |row| row.status);
    let body = json!({"error": {"type": kind, "message": message}}).to_string();
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    refused(origin, status, &Hints::default(), body.as_bytes())
}

/// Classes a stream that is no reply.
pub(in crate::models) fn broken(origin: Origin<'_>, fault: &StreamFault, hints: &Hints) -> Failure {
    match fault {
        StreamFault::Api { kind, message } => {
            let row = TABLE.iter().find(|row| row.kind == kind);
            let class = row.map_or(FailureClass::Unavailable, |row| row.class);
            let text = describe(&format!("broke off with {kind}"), message, row.map_or("", |row| row.advice), origin);
            failure(origin, class, &text, hints).with_detail(
                json!({"status": 200, "type": kind, "message": quote(message), "request_id": hints.request_id}),
            )
        }
        StreamFault::Malformed(why) => {
            let text = format!("sent what is no reply: {}", quote(why));
            failure(origin, FailureClass::Protocol, &text, hints)
        }
        StreamFault::CutOff => {
            let text = "closed the connection before the reply was whole";
            failure(origin, FailureClass::Connection, text, hints)
        }
    }
}

/// A failure that names the provider and, where there is one, the request.
pub(in crate::models) fn failure(origin: Origin<'_>, class: FailureClass, text: &str, hints: &Hints) -> Failure {
    let request = hints.request_id.as_ref().map_or_else(String::new, |id| format!(" [request {id}]"));
    Failure::new(class, format!("provider {}: {text}{request}", origin.provider))
}

fn is_spend_limit(status: u16, hints: &Hints, message: &str) -> bool {
    let may_be = matches!(status, 400 | 403) || (status == 429 && hints.retry_after.is_none());
    let message = message.to_ascii_lowercase();
    may_be && SPEND_LIMIT_WORDING.iter().any(|wording| message.contains(wording))
}

/// How APIs word it that a conversation does not fit the model.
const TOO_LONG_WORDING: [&str; 5] = [
    "prompt is too long",
    "exceed context limit",
    "exceeds the context window",
    "maximum context length",
    "context_length_exceeded",
];

const TOO_LONG_ADVICE: &str = "give the agent fewer or smaller tool results, or a model with a larger context window";

fn is_too_long(code: &Value, message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    code == "context_length_exceeded" || TOO_LONG_WORDING.iter().any(|wording| message.contains(wording))
}

/// The API knows better than the status whether repeating can help.
fn obey(should_retry: bool, class: FailureClass) -> FailureClass {
    match (should_retry, class) {
        (true, class) if !class.is_transient() => FailureClass::Unavailable,
        // A rate limit that waiting does not lift is one of the account.
        (false, FailureClass::RateLimited) => FailureClass::Billing,
        (false, class) if class.is_transient() => FailureClass::InvalidRequest,
        (_, class) => class,
    }
}

fn describe(what: &str, message: &str, advice: &str, origin: Origin<'_>) -> String {
    let mut text = what.to_owned();
    if !message.is_empty() {
        text = format!("{text}: {}", quote(message));
    }
    if !advice.is_empty() {
        text = format!("{text} ({})", advice.replace("{key}", origin.key));
    }
    text
}

fn quote(message: &str) -> &str {
    let mut end = message.len().min(QUOTE_LIMIT);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    &message[..end]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use reqwest::header::{HeaderName, HeaderValue};

    use super::*;

    const ORIGIN: Origin<'static> = Origin { provider: "anthropic", key: "ANTHROPIC_API_KEY" };

    fn hints(headers: &[(&'static str, &str)]) -> Hints {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
            .collect();
        // 2015-10-21T07:28:00Z, the date of the HTTP standard's examples.
        Hints::read(&headers, "2015-10-21T07:28:00Z".parse().unwrap())
    }

    fn answer(status: u16, message: &str, headers: &[(&'static str, &str)]) -> Failure {
        let body = json!({"type": "error", "error": {"type": "t", "message": message}}).to_string();
        refused(ORIGIN, StatusCode::from_u16(status).unwrap(), &hints(headers), body.as_bytes())
    }

    #[test]
    fn each_status_has_its_class() {
        use FailureClass as C;
        let expected = [
            (400, C::InvalidRequest),
            (401, C::Authentication),
            (402, C::Billing),
            (403, C::Authentication),
            (404, C::InvalidRequest),
            (408, C::Timeout),
            (409, C::Unavailable),
            (413, C::InvalidRequest),
            (418, C::InvalidRequest),
            (422, C::InvalidRequest),
            (429, C::RateLimited),
            (500, C::Unavailable),
            (502, C::Unavailable),
            (503, C::Overloaded),
            (504, C::Unavailable),
            (520, C::Unavailable),
            (529, C::Overloaded),
            (301, C::Configuration),
            (307, C::Configuration),
        ];
        for (status, class) in expected {
            assert_eq!(answer(status, "no", &[]).class, class, "{status}");
        }
    }

    #[test]
    fn an_error_event_has_the_class_of_its_type() {
        for (kind, class) in [
            ("overloaded_error", FailureClass::Overloaded),
            ("api_error", FailureClass::Unavailable),
            ("rate_limit_error", FailureClass::RateLimited),
            ("invalid_request_error", FailureClass::InvalidRequest),
            ("from_the_future", FailureClass::Unavailable),
        ] {
            let fault = StreamFault::Api { kind: kind.to_owned(), message: "no".to_owned() };
            assert_eq!(broken(ORIGIN, &fault, &Hints::default()).class, class, "{kind}");
        }
    }

    #[test]
    fn the_wait_that_is_asked_for_is_reported() {
        for (headers, wait) in [
            (&[("retry-after-ms", "1500"), ("retry-after", "9")][..], Some(1_500)),
            (&[("retry-after", "2")], Some(2_000)),
            (&[("retry-after", "0.25")], Some(250)),
            (&[("retry-after", "3600")], Some(3_600_000)),
            (&[("retry-after", "Wed, 21 Oct 2015 07:28:30 GMT")], Some(30_000)),
            (&[("retry-after", "Wed, 21 Oct 2015 07:27:00 GMT")], None),
            (&[("retry-after", "0")], None),
            (&[("retry-after", "-1")], None),
            (&[("retry-after", "inf")], None),
            (&[("retry-after", "NaN")], None),
            (&[("retry-after", "soon")], None),
            (&[], None),
        ] {
            assert_eq!(answer(529, "no", headers).retry_after_ms, wait, "{headers:?}");
        }
    }

    #[test]
    fn a_rate_limit_without_a_wait_lasts_until_what_is_spent_is_there_again() {
        let spent = [("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", "1m30s")];
        assert_eq!(answer(429, "no", &spent).retry_after_ms, Some(90_000));
        assert_eq!(answer(529, "no", &spent).retry_after_ms, None);
        let asked = [spent[0], spent[1], ("retry-after", "2")];
        assert_eq!(answer(429, "no", &asked).retry_after_ms, Some(2_000));
    }

    #[test]
    fn a_reached_spend_limit_is_parked_and_a_rate_limit_is_not() {
        let limit = "This request would exceed your organization's monthly spend limit";
        assert_eq!(answer(429, limit, &[]).class, FailureClass::Billing);
        assert_eq!(answer(429, limit, &[("retry-after", "5")]).class, FailureClass::RateLimited);
        assert_eq!(
            answer(429, "Number of requests has exceeded your rate limit", &[]).class,
            FailureClass::RateLimited
        );
        let credit = "Your credit balance is too low to access the Anthropic API";
        assert_eq!(answer(400, credit, &[]).class, FailureClass::Billing);
    }

    #[test]
    fn a_spent_quota_of_the_other_wire_is_one_too() {
        let quota = "You exceeded your current quota, please check your plan and billing details.";
        assert_eq!(answer(429, quota, &[]).class, FailureClass::Billing);
    }

    #[test]
    fn the_header_that_knows_better_is_obeyed() {
        assert!(answer(400, "no", &[("x-should-retry", "true")]).class.is_transient());
        assert_eq!(answer(500, "no", &[("x-should-retry", "false")]).class, FailureClass::InvalidRequest);
        assert_eq!(answer(429, "no", &[("x-should-retry", "false")]).class, FailureClass::Billing);
        assert_eq!(answer(529, "no", &[("x-should-retry", "true")]).class, FailureClass::Overloaded);
    }

    #[test]
    fn a_message_says_what_to_do_and_names_the_request() {
        let failure = answer(401, "invalid x-api-key", &[("request-id", "req_7")]);
        let expected = "provider anthropic: answered 401 t: invalid x-api-key (check the key in ANTHROPIC_API_KEY) [request req_7]";
        assert_eq!(failure.message, expected);
    }

    #[test]
    fn a_body_that_is_no_json_is_quoted_in_part() {
        let body = "é".repeat(5_000);
        let failure = refused(ORIGIN, StatusCode::BAD_GATEWAY, &Hints::default(), body.as_bytes());
        assert_eq!(failure.class, FailureClass::Unavailable);
        assert!(failure.message.len() < 1_200);
    }
}
