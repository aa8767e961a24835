//! Every error answer of the API: problem details (RFC 9457), one kind a cause.
//!
//! A handler answers with a [`Problem`]; the outermost layer writes it, with the
//! path that was asked for. Nothing here decides what is an error.

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use common::store::{SignalError, StoreError};
use common::task::Refusal;

use crate::catalog::CatalogError;
use crate::wire::{self, Complaint};

/// At most so many complaints in one answer.
const COMPLAINTS: usize = 100;

/// How long a client shall wait before it asks a store again that is out of reach, in seconds.
const RETRY_AFTER_SECONDS: &str = "1";

/// What a request got wrong, or what went wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The body is no JSON, no UTF-8, or nested too deep.
    Malformed,
    /// No token, or a wrong one.
    Unauthorized,
    /// A bad or missing signature.
    Signature,
    /// A web page of another origin, or a name that is not this machine's.
    Forbidden,
    /// Somebody else must decide.
    NotYours,
    /// There is no such thing.
    NotFound,
    /// There is such a thing, but not with that method.
    MethodNotAllowed,
    /// The body did not come in time.
    Timeout,
    /// The state of the task does not allow it.
    Conflict,
    /// The body is larger than its limit.
    TooLarge,
    /// The body is of a kind that is not read here.
    MediaType,
    /// The request is well-formed and wrong.
    Invalid,
    /// A fault of this program, or of its data.
    Internal,
    /// Try again soon.
    Unavailable,
}

impl Kind {
    const fn parts(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Malformed => (StatusCode::BAD_REQUEST, "malformed", "The body cannot be read"),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized", "A token is needed"),
            Self::Signature => (StatusCode::UNAUTHORIZED, "signature", "The signature does not fit"),
            Self::Forbidden => (StatusCode::FORBIDDEN, "forbidden", "Not from there"),
            Self::NotYours => (StatusCode::FORBIDDEN, "not-yours", "Somebody else must decide"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not-found", "There is no such thing"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Not with that method"),
            Self::Timeout => (StatusCode::REQUEST_TIMEOUT, "timeout", "The request took too long"),
            Self::Conflict => (StatusCode::CONFLICT, "conflict", "The state does not allow it"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too-large", "The body is too large"),
            Self::MediaType => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", "Bodies of that type are not read")
            }
            Self::Invalid => (StatusCode::UNPROCESSABLE_ENTITY, "invalid", "The request is not valid"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal", "Something is broken"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Not right now"),
        }
    }
}

/// An error answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    kind: Kind,
    detail: String,
    errors: Vec<Complaint>,
}

impl Problem {
    /// The status of the answer.
    pub(crate) const fn status(&self) -> StatusCode {
        self.kind.parts().0
    }

    pub(crate) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), errors: Vec::new() }
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, detail)
    }

    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, detail)
    }

    /// One thing that is wrong at one place of the body.
    pub(crate) fn at(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        let message = message.into();
        Self::invalid(message.clone()).with_errors(vec![Complaint { pointer: pointer.into(), message }])
    }

    /// Several things that are wrong at several places of the body.
    pub(crate) fn complaints(what: &str, errors: Vec<Complaint>) -> Self {
        let first = errors.first().map(|c| format!(": {}: {}", c.pointer, c.message)).unwrap_or_default();
        Self::invalid(format!("{what}{first}")).with_errors(errors)
    }

    #[must_use]
    pub(crate) fn with_errors(mut self, mut errors: Vec<Complaint>) -> Self {
        errors.truncate(COMPLAINTS);
        self.errors = errors;
        self
    }

    #[cfg(test)]
    pub(crate) fn errors(&self) -> &[Complaint] {
        &self.errors
    }

    /// The same with more to say.
    #[must_use]
    pub(crate) fn and(mut self, more: &str) -> Self {
        self.detail.push_str(more);
        self
    }

    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    fn into_wire(self, instance: Option<String>) -> (Kind, wire::Problem) {
        let (status, name, title) = self.kind.parts();
        let problem = wire::Problem {
            kind: format!("urn:teamster:problem:{name}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: self.detail,
            instance,
            errors: self.errors,
        };
        (self.kind, problem)
    }

    fn render(self, instance: Option<String>) -> Response {
        let (kind, problem) = self.into_wire(instance);
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = kind.parts().0;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        match kind {
            Kind::Unavailable => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
            }
            Kind::Unauthorized => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        response
    }
}

impl IntoResponse for Problem {
    /// An empty answer that [`write`] fills in: only there is the path known.
    fn into_response(self) -> Response {
        let mut response = self.kind.parts().0.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// The outermost layer: writes the problems that handlers and layers answer with.
pub(crate) async fn write(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let mut response = next.run(request).await;
    let Some(problem) = response.extensions_mut().remove::<Problem>() else { return response };
    if matches!(problem.kind, Kind::Internal | Kind::Unavailable) {
        tracing::warn!(path, problem = problem.detail, "a request could not be served");
    }
    let allow = response.headers_mut().remove(axum::http::header::ALLOW);
    let mut rendered = problem.render(Some(path));
    if let Some(allow) = allow {
        rendered.headers_mut().insert(axum::http::header::ALLOW, allow);
    }
    rendered
}

/// What is said of a panic: a fault of this program, that the log has and the caller must not see.
#[expect(clippy::needless_pass_by_value, reason = "the signature that the layer asks for")]
pub(crate) fn of_panic(panic: Box<dyn std::any::Any + Send>) -> Response {
    let message = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    tracing::error!(panic = message, "a handler panicked");
    Problem::new(Kind::Internal, "a fault of the program; its log says more").into_response()
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let kind = match &error {
            StoreError::Unavailable(_) => Kind::Unavailable,
            StoreError::Damaged(_) => Kind::Internal,
            StoreError::Refused(_) => Kind::Invalid,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<CatalogError> for Problem {
    fn from(error: CatalogError) -> Self {
        match error {
            CatalogError::Store(error) => error.into(),
            CatalogError::Unknown(_) => Self::not_found(error.to_string()),
            CatalogError::Unreadable { .. } => Self::new(Kind::Internal, error.to_string()),
        }
    }
}

impl From<SignalError> for Problem {
    fn from(error: SignalError) -> Self {
        match error {
            SignalError::NotFound(_) | SignalError::Refused(Refusal::Unknown(_)) => Self::not_found(error.to_string()),
            SignalError::Refused(_) => Self::new(Kind::Conflict, error.to_string()),
            SignalError::Store(error) => error.into(),
        }
    }
}
