//! The trace that a request is part of.

use axum::http::HeaderMap;

use crate::text::is_traceparent;

/// The `traceparent` header, if there is one and it is well-formed.
pub(crate) fn traceparent(headers: &HeaderMap) -> Option<String> {
    let header = headers.get("traceparent")?.to_str().ok()?;
    is_traceparent(header).then(|| header.to_owned())
}
