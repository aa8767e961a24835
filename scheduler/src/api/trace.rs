//! The trace that a request is part of.

use axum::http::HeaderMap;

/// The `traceparent` header, if there is one and it is well-formed:
/// <https://www.w3.org/TR/trace-context/#traceparent-header>.
pub(crate) fn traceparent(headers: &HeaderMap) -> Option<String> {
    let header = headers.get("traceparent")?.to_str().ok()?;
    let parts: Vec<&str> = header.split('-').collect();
    let [version, trace, parent, flags, ..] = parts.as_slice() else { return None };
    let hex = |text: &str, length| text.len() == length && text.bytes().all(|b| b.is_ascii_hexdigit());
    let known = hex(version, 2) && hex(trace, 32) && hex(parent, 16) && hex(flags, 2) && header.len() <= 256;
    known.then(|| header.to_owned())
}
