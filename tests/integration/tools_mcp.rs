//! MCP servers over stdio: real ones, and one that misbehaves.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::config::McpServer;
use common::failure::{Failure, FailureClass};
use common::journal::Effect;
use common::span::Span;
use serde_json::{Value, json};
use suite::fakes::calls::{call, error_text, ok_text, process_is_gone};
use suite::fakes::mcp::{from_npm, from_pypi, misbehaving, options, program, servers, starts};
use worker::tools::mcp::McpServers;
use worker::tools::{Tool, ToolAnswer, ToolError};

/// What an answer may have in these tests, in bytes of JSON.
const LIMIT: usize = 1 << 20;

/// Servers, and a directory for them.
struct Place {
    servers: McpServers,
    directory: tempfile::TempDir,
}

impl Place {
    fn new(configured: impl FnOnce(&Path) -> BTreeMap<String, McpServer>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let servers = McpServers::new(&configured(directory.path()), &options(directory.path(), LIMIT)).unwrap();
        Self { servers, directory }
    }

    /// One misbehaving server by the name `bad`.
    fn misbehaving(options: &[&str], timeout: Duration) -> Self {
        Self::new(|directory| {
            let mut server = misbehaving(&directory.join("starts"), options);
            server.timeout = Some(Span::clamped(timeout));
            servers([("bad", server)])
        })
    }

    fn starts(&self) -> Vec<i32> {
        starts(&self.directory.path().join("starts"))
    }

    async fn tool(&self, server: &str, name: &str) -> Arc<dyn Tool> {
        let tools = self.servers.tools(server).await.unwrap();
        let full = format!("mcp__{server}__{name}");
        let known: Vec<String> = tools.iter().map(|tool| tool.spec().name.clone()).collect();
        tools.into_iter().find(|tool| tool.spec().name == full).unwrap_or_else(|| panic!("no {full} in {known:?}"))
    }

    async fn call(&self, server: &str, name: &str, arguments: Value) -> Result<ToolAnswer, ToolError> {
        let tool = self.tool(server, name).await;
        tool.call(call(&*tool, arguments, self.directory.path())).await
    }

    async fn bad(&self, name: &str) -> Result<ToolAnswer, ToolError> {
        self.call("bad", name, json!({})).await
    }

    /// A call that may not take long; the start of the server may.
    async fn bad_in_short(&self, name: &str) -> Result<ToolAnswer, ToolError> {
        let tool = self.tool("bad", name).await;
        let mut call = call(&*tool, json!({}), self.directory.path());
        call.context.timeout = SHORT;
        tool.call(call).await
    }

    /// Ends all servers; none of them is left.
    async fn close(self) {
        self.servers.shutdown().await;
        for id in self.starts() {
            process_is_gone(id).await;
        }
    }
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

const SHORT: Duration = Duration::from_millis(700);
const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn the_everything_server_is_listed_and_called() {
    let place = Place::new(|_| servers([("everything", from_npm("server-everything", &["stdio"]))]));
    assert_eq!(ok_text(&place.call("everything", "echo", json!({"message": "héllo"})).await), "Echo: héllo");
    let sum = ok_text(&place.call("everything", "get-sum", json!({"a": 2, "b": 40})).await);
    assert!(sum.contains("42"), "{sum}");
    let image = place.call("everything", "get-tiny-image", json!({})).await.unwrap();
    let blocks = image.content.as_array().unwrap();
    let image = blocks.iter().find(|block| block["type"] == "image").unwrap();
    assert_eq!((&image["source"]["type"], &image["source"]["media_type"]), (&json!("base64"), &json!("image/png")));
    place.close().await;
}

#[tokio::test]
async fn the_filesystem_server_reads_files_and_refuses_others() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path().canonicalize().unwrap();
    std::fs::write(root.join("a.txt"), "contents of a").unwrap();
    let place = Place::new(|_| servers([("files", from_npm("server-filesystem", &[root.to_str().unwrap()]))]));
    let read = |path: &str| place.call("files", "read_text_file", json!({"path": path}));
    assert_eq!(ok_text(&read(root.join("a.txt").to_str().unwrap()).await), "contents of a");
    error_text(&read("/etc/passwd").await);
    place.close().await;
}

#[tokio::test]
async fn the_memory_server_keeps_what_it_is_told_over_a_restart() {
    let configured = |directory: &Path| {
        let mut memory = from_npm("server-memory", &[]);
        let file = directory.join("memory.json").display().to_string();
        program(&mut memory).env = [("MEMORY_FILE_PATH".to_owned(), common::config::SecretOrText::Text(file))].into();
        memory.effects = [("read_graph".to_owned(), Effect::Read)].into();
        servers([("memory", memory)])
    };
    let place = Place::new(configured);
    let entity = json!({"entities": [{"name": "Ada", "entityType": "person", "observations": ["wrote a program"]}]});
    place.call("memory", "create_entities", entity).await.unwrap();
    assert_eq!(place.tool("memory", "create_entities").await.effect(&json!({})), Effect::Once, "what nobody classed");
    assert_eq!(place.tool("memory", "read_graph").await.effect(&json!({})), Effect::Read);
    place.servers.shutdown().await;
    let again = McpServers::new(&configured(place.directory.path()), &options(place.directory.path(), LIMIT)).unwrap();
    let tools = again.tools("memory").await.unwrap();
    let read = tools.iter().find(|tool| tool.spec().name == "mcp__memory__read_graph").unwrap();
    let graph = read.call(call(&**read, json!({}), place.directory.path())).await.unwrap();
    assert!(graph.content.to_string().contains("wrote a program"), "{graph:?}");
    again.shutdown().await;
}

#[tokio::test]
async fn the_time_server_from_pypi_is_called() {
    let place = Place::new(|_| servers([("time", from_pypi("mcp-server-time", &["--local-timezone", "UTC"]))]));
    let time = ok_text(&place.call("time", "get_current_time", json!({"timezone": "Europe/Berlin"})).await);
    assert!(time.contains("Europe/Berlin"), "{time}");
    let answer = place.call("time", "get_current_time", json!({"timezone": "Nowhere/Land"})).await;
    match answer {
        Ok(ToolAnswer { is_error: true, .. }) | Err(ToolError::Failed(_)) => {}
        other => panic!("an unknown zone is refused, not {other:?}"),
    }
    place.close().await;
}

#[tokio::test]
async fn arguments_that_a_server_refuses_do_not_look_like_success() {
    let place = Place::new(|_| servers([("everything", from_npm("server-everything", &["stdio"]))]));
    let echo = place.tool("everything", "echo").await;
    let answer = echo.call(call(&*echo, json!({"message": 5}), place.directory.path())).await;
    assert!(!matches!(answer, Ok(ToolAnswer { is_error: false, .. })), "wrong arguments are refused: {answer:?}");
    place.close().await;
}

#[tokio::test]
async fn one_process_serves_all_calls_and_gets_key_and_trace() {
    let place = Place::misbehaving(&[], LONG);
    let echo = place.tool("bad", "echo").await;
    let calls = (0..20).map(|n| {
        let mut call = call(&*echo, json!({"n": n}), place.directory.path());
        call.key = format!("key-{n}");
        call.context.traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned());
        let echo = Arc::clone(&echo);
        async move {
            let answer: Value = serde_json::from_str(&ok_text(&echo.call(call).await)).unwrap();
            assert_eq!(answer["arguments"], json!({"n": n}));
            assert_eq!(answer["_meta"]["teamster/idempotency_key"], format!("key-{n}"));
            assert_eq!(answer["_meta"]["traceparent"], "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        }
    });
    futures::future::join_all(calls).await;
    assert_eq!(place.starts().len(), 1);
    let tools = place.servers.tools("bad").await.unwrap();
    assert_eq!(tools.len(), 14, "all pages, without the tool that no model can call");
    place.close().await;
}

#[tokio::test]
async fn a_server_that_dies_loses_the_call_and_is_started_again() {
    let place = Place::misbehaving(&[], LONG);
    let failure = lost(place.bad("die").await);
    assert_eq!(failure.class, FailureClass::Connection);
    assert!(failure.message.contains("these are my last words"), "{failure}");
    process_is_gone(place.starts()[0]).await;
    ok_text(&place.bad("echo").await);
    assert_eq!(place.starts().len(), 2);
    place.close().await;
}

#[tokio::test]
async fn a_server_that_dies_takes_the_processes_that_it_started_along() {
    let place = Place::misbehaving(&[], LONG);
    let child: i32 = ok_text(&place.bad("child").await).parse().unwrap();
    assert!(Path::new(&format!("/proc/{child}")).exists());
    lost(place.bad("die").await);
    process_is_gone(child).await;
    place.close().await;
}

#[tokio::test]
async fn a_server_that_hangs_loses_the_call_in_time_and_is_started_again() {
    let place = Place::misbehaving(&[], LONG);
    let failure = lost(place.bad_in_short("hang").await);
    assert_eq!(failure.class, FailureClass::Timeout);
    // It does not answer the ping that follows, and is stopped.
    process_is_gone(place.starts()[0]).await;
    ok_text(&place.bad("echo").await);
    place.close().await;
}

#[tokio::test]
async fn a_server_that_leaves_out_one_answer_goes_on() {
    let place = Place::misbehaving(&[], LONG);
    assert_eq!(lost(place.bad_in_short("ignore").await).class, FailureClass::Timeout);
    ok_text(&place.bad("echo").await);
    assert_eq!(place.starts().len(), 1);
    place.close().await;
}

#[tokio::test]
async fn garbage_instead_of_an_answer_is_named() {
    let place = Place::misbehaving(&[], LONG);
    let failure = lost(place.bad_in_short("garbage").await);
    assert_eq!(failure.class, FailureClass::Protocol);
    assert!(failure.message.contains("Segmentation fault"), "{failure}");
    ok_text(&place.bad("echo").await);
    place.close().await;
}

#[tokio::test]
async fn garbage_without_end_ends_the_server_but_not_the_next_call() {
    let place = Place::misbehaving(&[], LONG);
    let failure = lost(place.bad("endless_garbage").await);
    assert_eq!(failure.class, FailureClass::Protocol);
    process_is_gone(place.starts()[0]).await;
    ok_text(&place.bad("echo").await);
    place.close().await;
}

#[tokio::test]
async fn an_answer_of_50_mib_is_refused_and_the_server_goes_on() {
    let place = Place::misbehaving(&[], LONG);
    let failure = failed(place.bad("large").await);
    assert_eq!(failure.class, FailureClass::Limit);
    assert!(failure.message.contains("larger than 1048576 bytes"), "{failure}");
    ok_text(&place.bad("echo").await);
    assert_eq!(place.starts().len(), 1);
    place.close().await;
}

#[tokio::test]
async fn a_message_of_50_mib_that_answers_nothing_loses_the_calls_in_flight() {
    let place = Place::misbehaving(&[], LONG);
    assert_eq!(lost(place.bad("large_without_id").await).class, FailureClass::Limit);
    process_is_gone(place.starts()[0]).await;
    ok_text(&place.bad("echo").await);
    place.close().await;
}

#[tokio::test]
async fn errors_of_the_protocol_fail_and_errors_of_the_tool_are_answers() {
    let place = Place::misbehaving(&[], LONG);
    let failure = failed(place.bad("rpc_error").await);
    assert_eq!((failure.class, failure.detail), (FailureClass::Tool, Some(Box::new(json!({"floor": 3})))));
    assert!(failure.message.contains("the database is on fire"), "{}", failure.message);
    assert_eq!(failed(place.bad("invalid_params").await).class, FailureClass::InvalidRequest);
    assert_eq!(failed(place.bad("no_result").await).class, FailureClass::Protocol);
    assert_eq!(error_text(&place.bad("is_error").await), "no such file");
    assert_eq!(place.starts().len(), 1);
    place.close().await;
}

#[tokio::test]
async fn a_server_that_closes_its_stdout_is_ended() {
    let place = Place::misbehaving(&[], LONG);
    assert_eq!(lost(place.bad("close_stdout").await).class, FailureClass::Connection);
    process_is_gone(place.starts()[0]).await;
    place.close().await;
}

#[tokio::test]
async fn a_server_that_does_not_start_fails_with_its_words_and_is_not_started_without_pause() {
    for (option, timeout, class) in [
        ("exit", LONG, FailureClass::Protocol),
        ("hang", SHORT, FailureClass::Timeout),
        ("endless-garbage", LONG, FailureClass::Protocol),
    ] {
        let place = Place::misbehaving(&["--on-start", option], timeout);
        for n in 1..=2 {
            let failure = place.servers.tools("bad").await.unwrap_err();
            assert_eq!(failure.class, class, "{option}: {failure}");
            assert!(option != "exit" || failure.message.contains("I do not feel like it"), "{failure}");
            assert_eq!(place.starts().len(), n, "{option}");
        }
        let starts = place.starts();
        if option == "exit" {
            let failure = place.servers.tools("bad").await.unwrap_err();
            assert_eq!(failure.class, FailureClass::Unavailable, "{failure}");
            assert!(failure.retry_after_ms.is_some() && failure.message.contains("I do not feel like it"), "{failure}");
            assert_eq!(place.starts(), starts, "not even tried");
        }
        for id in &starts {
            process_is_gone(*id).await;
        }
        place.close().await;
    }
}

#[tokio::test]
async fn a_greeting_on_stdout_does_no_harm() {
    let place = Place::misbehaving(&["--on-start", "garbage"], LONG);
    ok_text(&place.bad("echo").await);
    place.close().await;
}

#[tokio::test]
async fn what_cannot_be_started_is_a_configuration_failure() {
    let place = Place::new(|_| servers([("none", suite::fakes::mcp::server(&["no-such-program"]))]));
    let failure = place.servers.tools("none").await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Configuration);
    assert!(failure.message.contains("no-such-program"), "{failure}");
    assert_eq!(place.servers.tools("other").await.unwrap_err().class, FailureClass::Configuration);
    place.close().await;
}

#[tokio::test]
async fn servers_that_are_dropped_leave_no_process() {
    let place = Place::misbehaving(&[], LONG);
    let child: i32 = ok_text(&place.bad("child").await).parse().unwrap();
    let starts = place.starts();
    drop(place);
    for id in starts.into_iter().chain([child]) {
        process_is_gone(id).await;
    }
}

#[tokio::test]
async fn after_a_shutdown_nothing_is_started() {
    let place = Place::misbehaving(&[], LONG);
    let echo = place.tool("bad", "echo").await;
    place.servers.shutdown().await;
    process_is_gone(place.starts()[0]).await;
    let answer = echo.call(call(&*echo, json!({}), place.directory.path())).await;
    assert_eq!(failed(answer).class, FailureClass::Unavailable);
    place.servers.shutdown().await;
    assert_eq!(place.starts().len(), 1);
}
