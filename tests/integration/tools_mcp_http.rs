//! MCP servers over streamable HTTP: a real one, and one that misbehaves.

use std::sync::Arc;
use std::time::Duration;

use common::config::McpServer;
use common::failure::{Failure, FailureClass};
use serde_json::{Value, json};
use suite::fakes::calls::{call, error_text, ok_text};
use suite::fakes::mcp::{options, servers};
use suite::fakes::mcp_http::{FakeMcp, Manners};
use suite::fixtures::process::until;
use suite::servers::everything;
use worker::tools::mcp::McpServers;
use worker::tools::{Tool, ToolAnswer, ToolError};

/// What an answer may have in these tests, in bytes of JSON.
const LIMIT: usize = 1 << 20;
const SHORT: Duration = Duration::from_millis(700);

fn connect(server: McpServer) -> McpServers {
    McpServers::new(&servers([("far", server)]), &options(std::path::Path::new("."), LIMIT)).unwrap()
}

async fn tool(servers: &McpServers, name: &str) -> Arc<dyn Tool> {
    let tools = servers.tools("far").await.unwrap();
    let full = format!("mcp__far__{name}");
    let known: Vec<String> = tools.iter().map(|tool| tool.spec().name.clone()).collect();
    tools.into_iter().find(|tool| tool.spec().name == full).unwrap_or_else(|| panic!("no {full} in {known:?}"))
}

async fn called(servers: &McpServers, name: &str, arguments: Value) -> Result<ToolAnswer, ToolError> {
    let tool = tool(servers, name).await;
    tool.call(call(&*tool, arguments, std::path::Path::new("."))).await
}

fn failed(answer: Result<ToolAnswer, ToolError>) -> Failure {
    match answer {
        Err(ToolError::Failed(failure)) => failure,
        other => panic!("expected a failure, got {other:?}"),
    }
}

fn lost(answer: Result<ToolAnswer, ToolError>) -> Failure {
    match answer {
        Err(ToolError::Lost(failure)) => failure,
        other => panic!("expected a lost call, got {other:?}"),
    }
}

async fn fake() -> (FakeMcp, McpServers) {
    let fake = FakeMcp::start(Manners::default()).await;
    let servers = connect(fake.configured(&json!({})));
    (fake, servers)
}

/// That the connection is as good as before.
async fn goes_on(fake: &FakeMcp, servers: &McpServers) {
    ok_text(&called(servers, "echo", json!({})).await);
    assert_eq!(fake.messages("initialize").len(), 1, "it is the same session");
}

#[tokio::test]
async fn the_everything_server_is_listed_and_called_over_http() {
    let server = tokio::task::spawn_blocking(everything::Server::start).await.unwrap();
    let servers = connect(serde_json::from_value(json!({"url": server.url()})).unwrap());
    assert_eq!(ok_text(&called(&servers, "echo", json!({"message": "héllo"})).await), "Echo: héllo");
    let image = called(&servers, "get-tiny-image", json!({})).await.unwrap();
    assert!(image.content.as_array().unwrap().iter().any(|block| block["type"] == "image"), "{image:?}");
    let long = json!({"duration": 1, "steps": 4});
    let done = ok_text(&called(&servers, "trigger-long-running-operation", long).await);
    assert!(done.contains("completed"), "{done}");
    servers.shutdown().await;
}

#[tokio::test]
async fn a_server_that_was_killed_and_comes_back_answers_the_next_call() {
    let mut server = tokio::task::spawn_blocking(everything::Server::start).await.unwrap();
    let servers = Arc::new(connect(serde_json::from_value(json!({"url": server.url()})).unwrap()));
    ok_text(&called(&servers, "echo", json!({"message": "a"})).await);
    let before = server.received();
    let running = {
        let servers = Arc::clone(&servers);
        tokio::spawn(async move {
            called(&servers, "trigger-long-running-operation", json!({"duration": 15, "steps": 150})).await
        })
    };
    until("the call is under way", async || server.received() > before).await;
    server = tokio::task::spawn_blocking(move || {
        server.kill();
        server
    })
    .await
    .unwrap();
    let failure = failed(called(&servers, "echo", json!({"message": "b"})).await);
    assert_eq!(failure.class, FailureClass::Connection, "nobody is there, so it did not happen: {failure}");
    let server = tokio::task::spawn_blocking(move || {
        server.restart();
        server
    })
    .await
    .unwrap();
    assert_eq!(ok_text(&called(&servers, "echo", json!({"message": "c"})).await), "Echo: c");
    let failure = lost(running.await.unwrap());
    assert_eq!(failure.class, FailureClass::Connection, "it was under way when the server died: {failure}");
    servers.shutdown().await;
    drop(server);
}

#[tokio::test]
async fn a_call_carries_session_version_key_and_trace_and_the_session_is_ended() {
    let (fake, servers) = fake().await;
    let echo = tool(&servers, "echo").await;
    let mut request = call(&*echo, json!({"n": 1}), std::path::Path::new("."));
    request.context.traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned());
    let answer: Value = serde_json::from_str(&ok_text(&echo.call(request).await)).unwrap();
    assert_eq!(answer["arguments"], json!({"n": 1}));
    assert_eq!(answer["_meta"]["teamster/idempotency_key"], "task/step/call");
    assert_eq!(answer["_meta"]["traceparent"], "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    let first = &fake.messages("initialize")[0];
    assert!(!first.headers.contains_key("mcp-session-id") && !first.headers.contains_key("mcp-protocol-version"));
    for message in fake.messages("tools/list").iter().chain(&fake.messages("tools/call")) {
        assert_eq!(message.headers["mcp-protocol-version"], "2025-11-25");
        assert!(message.headers["mcp-session-id"].starts_with("session-"));
        assert_eq!(message.headers["accept"], "application/json, text/event-stream");
        assert_eq!(message.headers["content-type"], "application/json");
        assert!(!message.headers.contains_key("mcp-method"), "that is of a newer version");
    }
    assert_eq!(fake.messages("tools/list").len(), 2, "there are two pages");
    assert_eq!(fake.sessions(), 1);
    servers.shutdown().await;
    assert_eq!(fake.sessions(), 0);
    assert_eq!(fake.seen().last().unwrap().verb, "DELETE");
}

#[tokio::test]
async fn a_server_without_handshake_is_spoken_to_without_session() {
    let manners = Manners { version: "2026-07-28".to_owned(), ..Manners::default() };
    let fake = FakeMcp::start(manners).await;
    let servers = connect(fake.configured(&json!({"server": {"name": "fake", "version": "1.0"}})));
    ok_text(&called(&servers, "echo", json!({})).await);
    assert!(fake.messages("initialize").is_empty());
    let call = &fake.messages("tools/call")[0];
    assert_eq!((call.headers["mcp-method"].as_str(), call.headers["mcp-name"].as_str()), ("tools/call", "echo"));
    assert_eq!(call.headers["mcp-protocol-version"], "2026-07-28");
    assert_eq!(call.message["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"], "2026-07-28");
    assert!(!call.headers.contains_key("mcp-session-id"));
    servers.shutdown().await;
    assert!(fake.seen().iter().all(|seen| seen.verb == "POST"), "there is no session to listen in or to end");
}

#[tokio::test]
async fn only_versions_that_are_listed_are_spoken() {
    let fake = FakeMcp::start(Manners { version: "2025-03-26".to_owned(), ..Manners::default() }).await;
    let narrow = connect(fake.configured(&json!({"protocol_versions": ["2025-11-25", "2025-06-18"]})));
    let failure = narrow.tools("far").await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Configuration);
    assert!(failure.message.contains("in version 2025-03-26, not in 2025-11-25, 2025-06-18"), "{failure}");
    assert!(fake.messages("server/discover").is_empty(), "that is of a version that is not listed");
    let wide = connect(fake.configured(&json!({})));
    ok_text(&called(&wide, "echo", json!({})).await);
    assert_eq!(fake.messages("server/discover").len(), 1);
}

#[tokio::test]
async fn a_server_that_is_not_the_one_that_is_pinned_is_refused() {
    let fake = FakeMcp::start(Manners::default()).await;
    for (name, version) in [("fake", "1.1"), ("other", "1.0")] {
        let servers = connect(fake.configured(&json!({"server": {"name": name, "version": version}})));
        let failure = servers.tools("far").await.unwrap_err();
        assert_eq!(failure.class, FailureClass::Configuration);
        let words = format!("it is \"fake\" in version \"1.0\", and not {name:?} in version {version:?}");
        assert!(failure.message.contains(&words), "{failure}");
        let again = servers.tools("far").await.unwrap_err();
        assert_eq!(again.class, FailureClass::Configuration, "{again}");
    }
    assert!(fake.messages("tools/list").is_empty());
    let servers = connect(fake.configured(&json!({"server": {"name": "fake", "version": "1.0"}})));
    ok_text(&called(&servers, "echo", json!({})).await);
}

#[tokio::test]
async fn tools_that_are_not_on_the_list_are_not_there() {
    let fake = FakeMcp::start(Manners::default()).await;
    let servers = connect(fake.configured(&json!({"tools": ["echo", "break_*", "no_such_tool"]})));
    let tools = servers.tools("far").await.unwrap();
    let names: Vec<&str> = tools.iter().map(|tool| tool.spec().name.as_str()).collect();
    let expected = ["echo", "break_once", "break_without_id", "break_for_good"].map(|name| format!("mcp__far__{name}"));
    assert_eq!(names, expected);
}

#[tokio::test]
async fn a_server_may_tell_and_ask_before_it_answers() {
    let (fake, servers) = fake().await;
    assert_eq!(ok_text(&called(&servers, "events", json!({})).await), "done");
    let answer = |n: usize| {
        let id = format!("ask-{n}");
        fake.seen().into_iter().find(|seen| seen.message["id"] == id.as_str()).unwrap().message
    };
    assert_eq!(answer(0)["result"], json!({}), "a ping is answered");
    for n in 1..4 {
        assert_eq!(answer(n)["error"]["code"], -32601, "{}", answer(n));
    }
    goes_on(&fake, &servers).await;
}

#[tokio::test]
async fn a_stream_that_breaks_is_taken_up_behind_its_last_event() {
    let (fake, servers) = fake().await;
    for (tool, cursor) in [("break_once", "first"), ("pause_stream", "paused")] {
        assert_eq!(ok_text(&called(&servers, tool, json!({})).await), "done", "{tool}");
        assert_eq!(fake.effects(tool), 1, "the call was not made again");
        let resumed =
            fake.seen().into_iter().filter(|seen| seen.headers.get("last-event-id").is_some_and(|id| id == cursor));
        assert_eq!(resumed.count(), 1, "{tool}");
    }
    goes_on(&fake, &servers).await;
}

#[tokio::test]
async fn a_stream_that_cannot_be_taken_up_loses_the_call() {
    let (fake, servers) = fake().await;
    for (tool, words) in [("break_without_id", "broke before the answer"), ("break_for_good", "410 Gone")] {
        let failure = lost(called(&servers, tool, json!({})).await);
        assert_eq!(failure.class, FailureClass::Connection, "{tool}: {failure}");
        assert!(failure.message.contains(words), "{tool}: {failure}");
        assert_eq!(fake.effects(tool), 1);
    }
    goes_on(&fake, &servers).await;
}

#[tokio::test]
async fn a_session_that_the_server_forgot_is_begun_anew_once_a_call() {
    let (fake, servers) = fake().await;
    ok_text(&called(&servers, "echo", json!({})).await);
    let read_only = tool(&servers, "read_only").await;
    fake.forget_sessions();
    let calls = (0..5).map(|_| read_only.call(call(&*read_only, json!({}), std::path::Path::new("."))));
    for answer in futures::future::join_all(calls).await {
        assert_eq!(ok_text(&answer), "read_only");
    }
    assert_eq!(fake.messages("initialize").len(), 2, "all calls share the new session");
    assert_eq!(fake.effects("read_only"), 5);
    servers.shutdown().await;
}

#[tokio::test]
async fn a_session_that_is_forgotten_again_and_again_fails_the_call() {
    let (fake, servers) = fake().await;
    let failure = failed(called(&servers, "status", json!({"status": 404})).await);
    assert_eq!(failure.class, FailureClass::InvalidRequest, "{failure}");
    assert!(failure.message.contains("404 Not Found"), "{failure}");
    assert_eq!((fake.effects("status"), fake.messages("initialize").len()), (2, 2));
}

#[tokio::test]
async fn refusals_did_not_happen_and_what_nobody_knows_is_lost() {
    use FailureClass as Class;
    let (_fake, servers) = fake().await;
    for (status, is_lost, class) in [
        (402, false, Class::Billing),
        (403, false, Class::Authentication),
        (422, false, Class::InvalidRequest),
        (429, false, Class::RateLimited),
        (500, true, Class::Unavailable),
        (503, true, Class::Overloaded),
        (504, true, Class::Unavailable),
    ] {
        let answer = called(&servers, "status", json!({"status": status})).await;
        let failure = if is_lost { lost(answer) } else { failed(answer) };
        assert_eq!(failure.class, class, "{status}: {failure}");
        assert!(failure.message.starts_with("MCP server far: http://127.0.0.1:"), "{failure}");
    }
    for tool in ["garbage", "html", "nothing"] {
        assert_eq!(lost(called(&servers, tool, json!({})).await).class, Class::Protocol, "{tool}");
    }
    for tool in ["drop", "half"] {
        assert_eq!(lost(called(&servers, tool, json!({})).await).class, Class::Connection, "{tool}");
    }
}

#[tokio::test]
async fn errors_of_the_protocol_fail_and_errors_of_the_tool_are_answers_whatever_the_status() {
    let (fake, servers) = fake().await;
    let failure = failed(called(&servers, "rpc_error", json!({})).await);
    assert_eq!(failure.class, FailureClass::Tool);
    assert!(failure.message.contains("the database is on fire"), "{failure}");
    let failure = failed(called(&servers, "rpc_error_as_400", json!({})).await);
    assert_eq!(failure.class, FailureClass::InvalidRequest);
    assert!(failure.message.contains("there is no such thing"), "{failure}");
    assert_eq!(error_text(&called(&servers, "is_error", json!({})).await), "no such file");
    goes_on(&fake, &servers).await;
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (fake, servers) = fake().await;
    let failure = failed(called(&servers, "elsewhere", json!({})).await);
    assert_eq!(failure.class, FailureClass::InvalidRequest);
    assert!(failure.message.contains("/other, which is not followed"), "{failure}");
    assert_eq!(fake.effects("elsewhere"), 1);
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_refused_and_the_session_goes_on() {
    let (fake, servers) = fake().await;
    for tool in ["large", "large_event"] {
        let failure = failed(called(&servers, tool, json!({})).await);
        assert_eq!(failure.class, FailureClass::Limit, "{tool}");
        assert!(failure.message.contains("larger than 1048576 bytes"), "{failure}");
    }
    assert_eq!(lost(called(&servers, "large_news", json!({})).await).class, FailureClass::Limit);
    goes_on(&fake, &servers).await;
}

#[tokio::test]
async fn a_call_that_is_given_up_is_cancelled_at_the_server() {
    let (fake, servers) = fake().await;
    let ignore = tool(&servers, "ignore").await;
    let mut request = call(&*ignore, json!({}), std::path::Path::new("."));
    request.context.timeout = SHORT;
    assert_eq!(lost(ignore.call(request).await).class, FailureClass::Timeout);
    let cancelled = fake.until_seen("a cancellation", |seen| seen.method() == "notifications/cancelled").await;
    assert_eq!(cancelled.message["params"]["requestId"], fake.messages("tools/call")[0].message["id"]);
    fake.until_seen("a ping", |seen| seen.method() == "ping").await;
    goes_on(&fake, &servers).await;
}

#[tokio::test]
async fn a_server_that_does_not_answer_the_handshake_fails_in_time() {
    let fake = FakeMcp::start(Manners { is_silent: true, ..Manners::default() }).await;
    let servers = connect(fake.configured(&json!({"timeout": "700ms"})));
    let failure = servers.tools("far").await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Timeout, "{failure}");
    fake.change(|manners| manners.is_silent = false);
    ok_text(&called(&servers, "echo", json!({})).await);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_looked_for_again_with_restraint() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let servers = connect(serde_json::from_value(json!({"url": format!("http://{closed}/mcp")})).unwrap());
    for _ in 0..2 {
        let failure = servers.tools("far").await.unwrap_err();
        assert_eq!(failure.class, FailureClass::Connection, "{failure}");
    }
    let failure = servers.tools("far").await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Unavailable, "{failure}");
    assert!(failure.retry_after_ms.is_some(), "{failure}");
}

#[tokio::test]
async fn tools_that_come_while_a_session_lasts_are_listed() {
    let (fake, servers) = fake().await;
    let before = servers.tools("far").await.unwrap().len();
    fake.until_seen("somebody who listens", |seen| seen.verb == "GET").await;
    fake.change(|manners| manners.more_tools.push("newcomer".to_owned()));
    assert_eq!(servers.tools("far").await.unwrap().len(), before, "nobody has said so yet");
    fake.announce_tools();
    let listed = async {
        while servers.tools("far").await.unwrap().len() == before {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), listed).await.unwrap();
    assert_eq!(ok_text(&called(&servers, "newcomer", json!({})).await), "newcomer");
    goes_on(&fake, &servers).await;
}
