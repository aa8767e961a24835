//! Who may use the API: whoever has the token; without one, whoever is on this
//! machine, but no web page that a browser on this machine shows.

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::app::App;
use crate::problem::{Kind, Problem};
use crate::settings::Token;

/// Lets pass what may pass. Probes need no token, and deliveries carry a signature.
pub(crate) async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let open = matches!(path, "/healthz" | "/readyz") || path.starts_with("/v1/hooks/");
    let settings = app.settings();
    let verdict = match &settings.token {
        _ if open => Ok(()),
        Some(token) => check_token(token, request.headers()),
        None => check_local(request.headers()),
    };
    match verdict {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn check_token(token: &Token, headers: &HeaderMap) -> Result<(), Problem> {
    let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (scheme, given) = given.split_once(' ').unwrap_or_default();
    if scheme.eq_ignore_ascii_case("bearer") && token.fits(given.trim()) {
        return Ok(());
    }
    Err(Problem::new(Kind::Unauthorized, "send the token of the API as `Authorization: Bearer TOKEN` (TEAMSTER_TOKEN)"))
}

/// Without a token, a page of another origin must not reach the API through a
/// browser: not by a request of its own, nor by a name that it points at this machine.
fn check_local(headers: &HeaderMap) -> Result<(), Problem> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = text(HOST).unwrap_or_default();
    let named = host.parse::<Authority>().ok().map(|authority| authority.host().to_owned()).unwrap_or_default();
    let address = named.trim_start_matches('[').trim_end_matches(']');
    if !host.is_empty() && named != "localhost" && address.parse::<std::net::IpAddr>().is_err() {
        return Err(Problem::new(
            Kind::Forbidden,
            format!("the host {host} is not this machine's; without api.token, use its address or localhost"),
        ));
    }
    match text(ORIGIN) {
        Some(origin) if origin.split_once("://").map(|(_, origin)| origin) != Some(host) => Err(Problem::new(
            Kind::Forbidden,
            "web pages of another origin may not use the API; configure api.token to serve them",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn local(pairs: &[(&'static str, &'static str)]) -> bool {
        let headers = pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        check_local(&headers).is_ok()
    }

    #[test]
    fn without_a_token_this_machine_passes_and_foreign_pages_do_not() {
        assert!(local(&[("host", "127.0.0.1:7070")]));
        assert!(local(&[("host", "[::1]:7070")]));
        assert!(local(&[("host", "localhost:7070")]));
        assert!(local(&[("host", "localhost:7070"), ("origin", "http://localhost:7070")]));
        assert!(!local(&[("host", "localhost:7070"), ("origin", "https://evil.example")]));
        assert!(!local(&[("host", "localhost:7070"), ("origin", "null")]));
        assert!(!local(&[("host", "evil.example:7070")]));
    }

    #[test]
    fn a_token_fits_only_itself() {
        let token = Token::new(&"right".to_owned().into());
        let headers = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().unwrap());
            headers
        };
        assert!(check_token(&token, &headers("Bearer right")).is_ok());
        assert!(check_token(&token, &headers("bearer right")).is_ok());
        for wrong in ["Bearer wrong", "Bearer", "right", "Basic right"] {
            assert!(check_token(&token, &headers(wrong)).is_err(), "{wrong}");
        }
        assert!(check_token(&token, &HeaderMap::new()).is_err());
    }
}
