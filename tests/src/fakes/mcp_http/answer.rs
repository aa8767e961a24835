//! What comes back from the server.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use super::{Manners, Shared, as_json, never};

/// Tools that are always there.
const TOOLS: [&str; 22] = [
    "echo",
    "events",
    "break_once",
    "break_without_id",
    "break_for_good",
    "pause_stream",
    "drop",
    "half",
    "ignore",
    "large",
    "large_event",
    "large_news",
    "garbage",
    "html",
    "nothing",
    "elsewhere",
    "status",
    "tell",
    "rpc_error",
    "rpc_error_as_400",
    "is_error",
    "read_only",
];

fn text(text: &str) -> Value {
    json!({"content": [{"type": "text", "text": text}]})
}

fn answered(id: &Value, result: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": result})
}

fn refused(id: &Value, code: i64, message: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}})
}

/// An event, with an id if there is one.
fn event(id: Option<&str>, data: &Value) -> Bytes {
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    format!("{id}event: message\ndata: {data}\n\n").into()
}

/// Events; then the stream ends, breaks or stays open.
#[derive(Clone, Copy)]
enum Then {
    End,
    Break,
    Stay,
}

fn events(pieces: Vec<Bytes>, then: Then) -> Response {
    let pieces = futures::stream::iter(pieces.into_iter().map(Ok::<Bytes, io::Error>));
    let body = match then {
        Then::End => Body::from_stream(pieces),
        Then::Break => {
            // The pieces are out before the connection breaks.
            let broken = futures::stream::once(async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Err(io::Error::other("cut"))
            });
            Body::from_stream(pieces.chain(broken))
        }
        Then::Stay => Body::from_stream(pieces.chain(futures::stream::pending())),
    };
    ([("content-type", "text/event-stream")], body).into_response()
}

/// The answer to a request.
pub(super) async fn request(state: &Arc<Shared>, manners: &Manners, message: &Value) -> Response {
    let (id, params) = (&message["id"], &message["params"]);
    let is_modern = manners.version == "2026-07-28";
    let identity = json!({"name": manners.identity.0, "version": manners.identity.1});
    let capabilities = json!({"tools": {"listChanged": true}});
    match message["method"].as_str().unwrap_or_default() {
        "initialize" if manners.is_silent => never().await,
        "initialize" if is_modern => {
            let error = json!({"code": -32601, "message": "there is no initialize any more"});
            (StatusCode::NOT_FOUND, as_json(&json!({"jsonrpc": "2.0", "id": id, "error": error}))).into_response()
        }
        "initialize" => {
            let result =
                json!({"protocolVersion": manners.version, "serverInfo": identity, "capabilities": capabilities});
            let mut response = as_json(&answered(id, &result));
            if manners.has_sessions {
                let mut inner = state.inner.lock().unwrap();
                let session = format!("session-{}", inner.seen.len());
                inner.sessions.insert(session.clone());
                response.headers_mut().insert("mcp-session-id", session.parse().unwrap());
            }
            response
        }
        "server/discover" if is_modern => as_json(&answered(
            id,
            &json!({
                "resultType": "complete",
                "supportedVersions": [manners.version],
                "capabilities": capabilities,
                "serverInfo": identity,
                "_meta": {"io.modelcontextprotocol/serverInfo": identity},
                "ttlMs": 0,
                "cacheScope": "private",
            }),
        )),
        "tools/list" => {
            let all: Vec<&str> = TOOLS.into_iter().chain(manners.more_tools.iter().map(String::as_str)).collect();
            let second = params["cursor"] == "2";
            let (page, next) = if second { (&all[2..], None) } else { (&all[..2], Some("2")) };
            // Those of this kind want an id.
            let schema = |name: &str| match name.strip_prefix("strict_") {
                Some(_) => json!({"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]}),
                None => json!({"type": "object"}),
            };
            let tool = |name: &&str| json!({"name": name, "description": "A tool.", "inputSchema": schema(name)});
            let tools: Vec<Value> = page.iter().map(tool).collect();
            let mut result = json!({"tools": tools, "resultType": "complete", "ttlMs": 0, "cacheScope": "private"});
            if let Some(next) = next {
                result["nextCursor"] = json!(next);
            }
            as_json(&answered(id, &result))
        }
        "tools/call" => {
            let tool = params["name"].as_str().unwrap_or_default();
            *state.inner.lock().unwrap().effects.entry(tool.to_owned()).or_default() += 1;
            call(state, id, tool, params).await
        }
        "ping" => as_json(&answered(id, &json!({}))),
        _ => as_json(&refused(id, -32601, "no such method")),
    }
}

async fn call(state: &Arc<Shared>, id: &Value, tool: &str, params: &Value) -> Response {
    let arguments = &params["arguments"];
    let done = answered(id, &text("done"));
    let note =
        json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "working"}});
    let keep = |cursor: &str, answer: &Value| {
        state.inner.lock().unwrap().unfinished.insert(cursor.to_owned(), answer.clone());
    };
    match tool {
        "echo" => {
            let said = json!({"arguments": arguments, "_meta": params["_meta"]}).to_string();
            as_json(&answered(id, &text(&said)))
        }
        // Asks, before it answers, what a server may ask, and waits for the answers.
        "events" => {
            let asked = ["ping", "sampling/createMessage", "elicitation/create", "roots/list"];
            let mut pieces = vec![Bytes::from_static(b": hello\n\n"), event(None, &note)];
            for (n, method) in asked.into_iter().enumerate() {
                let params = json!({"messages": [], "maxTokens": 5, "message": "who?", "requestedSchema": {"type": "object", "properties": {}}});
                let mut question = json!({"jsonrpc": "2.0", "id": format!("ask-{n}"), "method": method});
                if n == 1 || n == 2 {
                    question["params"] = params;
                }
                pieces.push(event(None, &question));
            }
            let state = Arc::clone(state);
            let last = futures::stream::once(async move {
                let mut seen = state.seen.subscribe();
                let has_all = |state: &Shared| {
                    let inner = state.inner.lock().unwrap();
                    let answers = inner
                        .seen
                        .iter()
                        .filter(|seen| seen.message["id"].as_str().is_some_and(|id| id.starts_with("ask-")));
                    answers.count() >= 4
                };
                while !has_all(&state) {
                    seen.changed().await.unwrap();
                }
                Ok::<Bytes, io::Error>(event(None, &done))
            });
            let pieces = futures::stream::iter(pieces.into_iter().map(Ok));
            let body = Body::from_stream(pieces.chain(last));
            ([("content-type", "text/event-stream")], body).into_response()
        }
        "break_once" => {
            keep("first", &done);
            events(vec![event(Some("first"), &note)], Then::Break)
        }
        "break_without_id" => events(vec![event(None, &note)], Then::Break),
        "break_for_good" => events(vec![event(Some("gone"), &note)], Then::Break),
        // Closes the stream, as a server may that wants to be polled.
        "pause_stream" => {
            keep("paused", &done);
            events(vec![Bytes::from_static(b"id: paused\nretry: 150\ndata:\n\n")], Then::End)
        }
        // The body breaks before its first byte.
        "drop" => {
            let broken = futures::stream::once(async { Err::<Bytes, _>(io::Error::other("cut")) });
            ([("content-type", "application/json")], Body::from_stream(broken)).into_response()
        }
        "half" => {
            let pieces = [Ok(Bytes::from_static(b"{\"jsonrpc\":")), Err(io::Error::other("cut"))];
            ([("content-type", "application/json")], Body::from_stream(futures::stream::iter(pieces))).into_response()
        }
        "ignore" => never().await,
        "large" => as_json(&answered(id, &text(&"x".repeat(8 << 20)))),
        "large_event" => events(vec![event(Some("big"), &answered(id, &text(&"x".repeat(8 << 20))))], Then::Stay),
        "large_news" => {
            let news =
                json!({"method": "notifications/message", "params": {"level": "info", "data": "x".repeat(8 << 20)}});
            events(vec![event(None, &news), event(None, &done)], Then::Stay)
        }
        "garbage" => ([("content-type", "application/json")], "Segmentation fault (not really)").into_response(),
        "html" => ([("content-type", "text/html")], "<h1>Welcome</h1>").into_response(),
        "nothing" => StatusCode::ACCEPTED.into_response(),
        "elsewhere" => (StatusCode::TEMPORARY_REDIRECT, [("location", "/other")]).into_response(),
        "status" => {
            let status = u16::try_from(arguments["status"].as_u64().unwrap()).unwrap();
            (StatusCode::from_u16(status).unwrap(), "what is wrong").into_response()
        }
        // Repeats what it was sent.
        "tell" => {
            let last = state.inner.lock().unwrap().seen.last().cloned();
            (StatusCode::UNPROCESSABLE_ENTITY, format!("{last:?}")).into_response()
        }
        "rpc_error" => as_json(&refused(id, -32050, "the database is on fire")),
        "rpc_error_as_400" => {
            (StatusCode::BAD_REQUEST, as_json(&refused(id, -32602, "there is no such thing"))).into_response()
        }
        "is_error" => {
            let result = json!({"content": [{"type": "text", "text": "no such file"}], "isError": true});
            as_json(&answered(id, &result))
        }
        _ => as_json(&answered(id, &json!({"content": [{"type": "text", "text": tool}], "resultType": "complete"}))),
    }
}

/// The stream of news, or one that broke, behind an event.
pub(super) fn stream(state: &Arc<Shared>, after: Option<String>) -> Response {
    if let Some(after) = after {
        let answer = state.inner.lock().unwrap().unfinished.remove(&after);
        return match answer {
            Some(answer) => events(vec![event(Some("last"), &answer)], Then::End),
            None => StatusCode::GONE.into_response(),
        };
    }
    let news = state.news.subscribe();
    let body = futures::stream::unfold(news, |mut news| async move {
        match news.recv().await {
            Ok(message) => Some((Ok::<Bytes, io::Error>(event(None, &message)), news)),
            Err(RecvError::Lagged(_) | RecvError::Closed) => None,
        }
    });
    ([("content-type", "text/event-stream")], Body::from_stream(body)).into_response()
}
