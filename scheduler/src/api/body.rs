//! Reading bodies: bounded in size, time and depth, and refused with the place
//! of what is wrong.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use crate::app::App;
use crate::problem::{Kind, Problem};
use crate::text::check_text;
use crate::wire::Complaint;

/// What a request may carry beside the input of a task.
const ENVELOPE: usize = 64 << 10;

/// A JSON body.
pub(crate) struct Json<T>(pub(crate) T);

/// A JSON body that may be left out.
pub(crate) struct OptionalJson<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<App> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        expect_json(request.headers())?;
        let settings = app.settings();
        let body = read(app, request, settings.config.limits.input.bytes() + ENVELOPE).await?;
        parse(&body, settings.config.limits.json_depth).map(Self)
    }
}

impl<T: DeserializeOwned + Default> FromRequest<App> for OptionalJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let settings = app.settings();
        let limit = settings.config.limits.input.bytes() + ENVELOPE;
        let headers = parts.headers.clone();
        let body = read(app, Request::from_parts(parts, body), limit).await?;
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self(T::default()));
        }
        expect_json(&headers)?;
        parse(&body, settings.config.limits.json_depth).map(Self)
    }
}

fn expect_json(headers: &HeaderMap) -> Result<(), Problem> {
    let given = media_type(headers);
    if given == "application/json" || (given.starts_with("application/") && given.ends_with("+json")) {
        return Ok(());
    }
    Err(wrong_type(&given, "application/json"))
}

/// The media type of a body in lower case, without its parameters; empty for none.
pub(crate) fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

pub(crate) fn wrong_type(given: &str, wanted: &str) -> Problem {
    let given = if given.is_empty() { "none" } else { given };
    Problem::new(Kind::MediaType, format!("the content type is {given}; send {wanted}"))
}

/// Reads a whole body of at most `limit` bytes, within the time and the memory
/// that all bodies together may take.
pub(crate) async fn read(app: &App, request: Request, limit: usize) -> Result<Bytes, Problem> {
    let too_large = || Problem::new(Kind::TooLarge, format!("the body is larger than {limit} bytes"));
    let announced = request.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let _room = app.reserve(announced.unwrap_or(limit)).await?;
    collect(request.into_body(), limit, app.http().body_timeout).await
}

async fn collect(body: Body, limit: usize, within: Duration) -> Result<Bytes, Problem> {
    match tokio::time::timeout(within, Limited::new(body, limit).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.downcast_ref::<LengthLimitError>().is_some() => {
            Err(Problem::new(Kind::TooLarge, format!("the body is larger than {limit} bytes")))
        }
        Ok(Err(error)) => Err(Problem::new(Kind::Malformed, format!("the body broke off: {error}"))),
        Err(_) => {
            Err(Problem::new(Kind::Timeout, format!("the body did not arrive within {} s", within.as_secs_f32())))
        }
    }
}

/// Parses JSON: not well-formed is 400, well-formed and wrong is 422 with a pointer.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8], depth: usize) -> Result<T, Problem> {
    check_text(body, depth).map_err(|why| Problem::new(Kind::Malformed, why))?;
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let pointer = pointer(error.path());
        refused(error.inner(), pointer)
    })?;
    reader.end().map_err(|error| refused(&error, String::new()))?;
    Ok(value)
}

fn refused(error: &serde_json::Error, mut pointer: String) -> Problem {
    if !error.is_data() {
        return Problem::new(Kind::Malformed, format!("the body is not JSON: {error}"));
    }
    let text = error.to_string();
    let message = text.rsplit_once(" at line ").map_or(text.as_str(), |(message, _)| message).to_owned();
    // The path ends at the object; the key that it does not have is what the pointer must name.
    if let Some((key, _)) = message.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`')) {
        let token = escape(key);
        if pointer.rsplit('/').next() != Some(token.as_str()) {
            pointer.push('/');
            pointer.push_str(&token);
        }
    }
    let detail = format!("{}: {message}", if pointer.is_empty() { "the body" } else { &pointer });
    Problem::invalid(detail).with_errors(vec![Complaint { pointer, message }])
}

/// A path as a JSON Pointer (RFC 6901).
fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut text = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => {
                text.push('/');
                text.push_str(&index.to_string());
            }
            Segment::Map { key } => {
                text.push('/');
                text.push_str(&escape(key));
            }
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    text
}

fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::wire::SubmitTask;

    fn complaint(body: &str) -> (String, String) {
        let problem = parse::<SubmitTask>(body.as_bytes(), 64).unwrap_err();
        let first = problem.errors().first().unwrap();
        (first.pointer.clone(), first.message.clone())
    }

    #[test]
    fn an_unknown_key_is_named_by_its_pointer() {
        let (pointer, message) = complaint(r#"{"pipeline":"p","input":{},"colour":1}"#);
        assert_eq!(pointer, "/colour");
        assert!(message.contains("unknown field `colour`"), "{message}");
    }

    #[test]
    fn a_wrong_value_is_named_by_its_pointer() {
        assert_eq!(complaint(r#"{"pipeline":"No Such","input":{}}"#).0, "/pipeline");
        assert_eq!(complaint(r#"{"pipeline":"p","labels":{"a/b":1}}"#).0, "/labels/a~1b");
        assert_eq!(complaint(r#"{"pipeline":"p","run_at":"tomorrow"}"#).0, "/run_at");
    }

    #[test]
    fn ten_thousand_levels_are_refused_before_they_are_parsed() {
        let deep = "[".repeat(10_000) + &"]".repeat(10_000);
        assert!(parse::<Value>(deep.as_bytes(), 64).is_err());
    }

    #[test]
    fn what_follows_the_value_is_refused() {
        assert!(parse::<Value>(b"{} {}", 64).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes: Vec<u8>, limit in 0_usize..20) {
            let _ = parse::<SubmitTask>(&bytes, limit);
        }
    }
}
