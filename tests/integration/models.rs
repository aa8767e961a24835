//! The model providers against a fake that speaks the real wire.

use std::sync::Arc;
use std::time::Duration;

use common::config::Config;
use common::failure::{Failure, FailureClass};
use common::id::CallId;
use common::journal::{CallResult, Conversation, ModelCall, RequestHead};
use futures::future::join_all;
use serde_json::{Value, json};
use suite::fakes::model::{Break, FakeModel, Message, Reply};
use tokio::net::TcpListener;
use worker::models::{ModelRequest, Models, Provider};

/// Every build runs in an environment with a `PATH`: a key that is always set.
const KEY: &str = "env:PATH";

fn provider_at(base_url: &str, extra: &Value) -> anyhow::Result<Arc<dyn Provider>> {
    let mut settings = json!({"base_url": base_url, "key": KEY, "idle_timeout": "5s", "timeout": "20s"});
    for (key, value) in extra.as_object().into_iter().flatten() {
        settings[key] = value.clone();
    }
    let config: Config = serde_json::from_value(json!({"providers": {"anthropic": settings}}))?;
    Ok(Models::from_config(&config)?.provider("anthropic")?)
}

fn provider(fake: &FakeModel) -> anyhow::Result<Arc<dyn Provider>> {
    provider_at(&fake.base_url(), &json!({}))
}

fn head() -> RequestHead {
    let tool = |name: &str| json!({"name": name, "description": "d", "input_schema": {"type": "object"}});
    RequestHead {
        alias: "sonnet".to_owned(),
        provider: "anthropic".to_owned(),
        model: "claude-sonnet-4-6".to_owned(),
        max_tokens: 1_000,
        system: "You review.".to_owned(),
        tools: vec![tool("Read"), tool("mcp__memory__read_graph")],
        output_schema: Some(json!({"type": "object", "required": ["score"], "properties": {
            "score": {"type": "integer", "minimum": 0, "maximum": 100}}})),
        options: json!({"effort": "low", "thinking": {"type": "adaptive"}}).as_object().cloned().unwrap_or_default(),
        ..RequestHead::default()
    }
}

fn conversation() -> Conversation {
    Conversation::new(head(), "Review this.".to_owned())
}

async fn ask(provider: &dyn Provider, conversation: &Conversation) -> Result<ModelCall, Failure> {
    let messages = conversation.messages();
    let request = ModelRequest { head: &conversation.head, messages, no_tools: false, traceparent: None };
    Ok(provider.call(request).await?.call)
}

/// What comes of one reply.
async fn outcome(reply: Reply) -> anyhow::Result<Result<ModelCall, Failure>> {
    let fake = FakeModel::scripted([reply]).await?;
    let outcome = ask(&*provider(&fake)?, &conversation()).await;
    assert_eq!(fake.violations(), Vec::<String>::new());
    assert_eq!(fake.requests().len(), 1, "a provider never tries again by itself");
    Ok(outcome)
}

async fn failure(reply: Reply) -> anyhow::Result<Failure> {
    match outcome(reply).await? {
        Err(failure) => Ok(failure),
        Ok(call) => anyhow::bail!("answered: {call:?}"),
    }
}

fn hello() -> Message {
    Message::of_text("Hello there, this is long enough to be torn into pieces.")
}

fn result(text: &str) -> CallResult {
    CallResult::Done { content: json!(text), is_error: false }
}

/// Answers a conversation's open calls.
fn answer_calls(conversation: &mut Conversation) -> anyhow::Result<()> {
    let open: Vec<CallId> = conversation.open_calls().into_iter().map(|call| call.id.clone()).collect();
    for id in open {
        let turn = conversation.turn_of(&id).ok_or_else(|| anyhow::anyhow!("no turn asked for {id}"))?;
        turn.results.insert(id, result("done"));
    }
    Ok(())
}

#[tokio::test]
async fn a_reply_is_read_and_billed() -> anyhow::Result<()> {
    let call = outcome(hello().into()).await??;
    assert_eq!(call.content, hello().content());
    assert_eq!((call.stop_reason.as_str(), call.model.as_str()), ("end_turn", "claude-sonnet-4-6"));
    assert_eq!((call.response_id.as_str(), call.usage.output_tokens), ("msg_fake_0", 20));
    #[expect(clippy::cast_precision_loss, reason = "a few hundred tokens")]
    let expected = (call.usage.input_tokens as f64 * 3.0 + 20.0 * 15.0) / 1e6;
    assert!(call.usage.input_tokens > 0 && (call.usage.cost_usd - expected).abs() < 1e-12);
    Ok(())
}

#[tokio::test]
async fn recorded_streams_are_read_off_the_wire() -> anyhow::Result<()> {
    for (body, blocks, stop_reason) in [
        (&include_bytes!("../data/model-api/basic_response.txt")[..], 1, "end_turn"),
        (include_bytes!("../data/model-api/tool_use_response.txt"), 2, "tool_use"),
        (include_bytes!("../data/model-api/server_tool_use_response.txt"), 3, "end_turn"),
        (include_bytes!("../data/model-api/refusal_response.txt"), 1, "refusal"),
    ] {
        let call = outcome(Reply::recorded(body)).await??;
        assert_eq!((call.content.len(), call.stop_reason.as_str()), (blocks, stop_reason));
    }
    Ok(())
}

#[tokio::test]
async fn a_recorded_reply_goes_back_as_the_api_takes_it() -> anyhow::Result<()> {
    for body in [
        &include_bytes!("../data/model-api/tool_use_response.txt")[..],
        include_bytes!("../data/model-api/server_tool_use_response.txt"),
        include_bytes!("../data/model-api/refusal_response.txt"),
    ] {
        let fake = FakeModel::scripted([Reply::recorded(body), hello().into()]).await?;
        let provider = provider(&fake)?;
        let mut conversation = conversation();
        conversation.answered(ask(&*provider, &conversation).await?);
        answer_calls(&mut conversation)?;
        let mut messages = conversation.messages();
        messages.push(json!({"role": "user", "content": [{"type": "text", "text": "Go on."}]}));
        provider.call(ModelRequest { head: &conversation.head, messages, no_tools: false, traceparent: None }).await?;
        assert_eq!(fake.violations(), Vec::<String>::new());
    }
    Ok(())
}

#[tokio::test]
async fn refused_requests_have_the_class_and_the_wait_of_the_table() -> anyhow::Result<()> {
    let limit = "You have reached your monthly spend limit";
    for (reply, class, wait) in [
        (Reply::error_with_header(429, "rate_limit_error", "retry-after", "7"), FailureClass::RateLimited, Some(7_000)),
        (Reply::error(429, "rate_limit_error", "slow down"), FailureClass::RateLimited, None),
        (Reply::error(429, "rate_limit_error", limit), FailureClass::Billing, None),
        (Reply::error(529, "overloaded_error", "Overloaded"), FailureClass::Overloaded, None),
        (
            Reply::error_with_header(529, "overloaded_error", "retry-after-ms", "250"),
            FailureClass::Overloaded,
            Some(250),
        ),
        (Reply::error(500, "api_error", "Internal server error"), FailureClass::Unavailable, None),
        (Reply::error_with_header(500, "api_error", "x-should-retry", "false"), FailureClass::InvalidRequest, None),
        (Reply::error(504, "timeout_error", "late"), FailureClass::Unavailable, None),
        (Reply::error(400, "invalid_request_error", "no"), FailureClass::InvalidRequest, None),
        (Reply::error(401, "authentication_error", "invalid x-api-key"), FailureClass::Authentication, None),
        (Reply::error(402, "billing_error", "no"), FailureClass::Billing, None),
        (Reply::error(403, "permission_error", "no"), FailureClass::Authentication, None),
        (Reply::error(413, "request_too_large", "no"), FailureClass::InvalidRequest, None),
        (Reply::error_with_header(307, "x", "location", "http://127.0.0.1:1/"), FailureClass::Configuration, None),
    ] {
        let failure = failure(reply).await?;
        assert_eq!((failure.class, failure.retry_after_ms), (class, wait), "{failure}");
        assert!(failure.message.contains("req_fake_0"), "{failure}");
    }
    Ok(())
}

#[tokio::test]
async fn a_stream_that_breaks_is_a_failure_that_may_pass() -> anyhow::Result<()> {
    for (how, class) in [
        (Break::End, FailureClass::Connection),
        (Break::Close, FailureClass::Connection),
        (Break::Reset, FailureClass::Connection),
        (Break::ErrorEvent, FailureClass::Overloaded),
    ] {
        let failure = failure(Reply::Broken(hello(), how)).await?;
        assert_eq!(failure.class, class, "{how:?}: {failure}");
        assert!(failure.class.is_transient());
    }
    Ok(())
}

#[tokio::test]
async fn silence_ends_in_a_timeout_before_and_within_a_reply() -> anyhow::Result<()> {
    for reply in [Reply::Silence, Reply::Broken(hello(), Break::Stall)] {
        let fake = FakeModel::scripted([reply]).await?;
        let provider = provider_at(&fake.base_url(), &json!({"idle_timeout": "50ms"}))?;
        let failure = ask(&*provider, &conversation()).await.err();
        assert_eq!(failure.map(|failure| failure.class), Some(FailureClass::Timeout));
    }
    Ok(())
}

#[tokio::test]
async fn a_reply_that_drips_is_cut_off_by_the_overall_timeout() -> anyhow::Result<()> {
    let fake = FakeModel::scripted([Reply::Slow(hello(), Duration::from_millis(20))]).await?;
    let provider = provider_at(&fake.base_url(), &json!({"timeout": "100ms"}))?;
    let failure = ask(&*provider, &conversation()).await.err();
    assert_eq!(failure.map(|failure| failure.class), Some(FailureClass::Timeout));
    Ok(())
}

#[tokio::test]
async fn a_slow_reply_is_waited_for() -> anyhow::Result<()> {
    let call = outcome(Reply::Slow(hello(), Duration::from_millis(1))).await??;
    assert_eq!(call.content, hello().content());
    Ok(())
}

#[tokio::test]
async fn what_is_no_reply_is_a_protocol_failure() -> anyhow::Result<()> {
    const EVENTS: &str = "text/event-stream";
    let broken_call = b"event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"model\":\"m\"}}\n\n\
        event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"tool_use\",\"id\":\"toolu_1\",\"name\":\"Read\",\"input\":{}}}\n\n\
        event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{\\\"a\"}}\n\n\
        event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"tool_use\"}}\n\n\
        event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    for reply in [
        Reply::Raw(EVENTS, b"event: message_start\ndata: {\"type\": \n\n".to_vec()),
        Reply::Raw(EVENTS, b"event: message_stop\ndata: {}\n\n".to_vec()),
        Reply::Raw(EVENTS, b"data: \xff\xfe\n\n".to_vec()),
        Reply::Raw(EVENTS, broken_call.to_vec()),
        Reply::Raw("text/html", b"<html>Sign in</html>".to_vec()),
        Reply::Endless(40 << 20),
    ] {
        let failure = failure(reply).await?;
        assert_eq!(failure.class, FailureClass::Protocol, "{failure}");
    }
    Ok(())
}

#[tokio::test]
async fn nobody_there_is_a_connection_failure() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let closed = format!("http://{}", listener.local_addr()?);
    drop(listener);
    for base_url in [closed.as_str(), "http://no-such-host.invalid"] {
        let failure = ask(&*provider_at(base_url, &json!({}))?, &conversation()).await.err();
        assert_eq!(failure.map(|failure| failure.class), Some(FailureClass::Connection), "{base_url}");
    }
    Ok(())
}

#[tokio::test]
async fn a_stop_reason_is_the_agents_to_judge() -> anyhow::Result<()> {
    for reason in ["refusal", "max_tokens", "pause_turn", "stop_sequence", "model_context_window_exceeded"] {
        assert_eq!(outcome(hello().stop(reason).into()).await??.stop_reason, reason);
    }
    Ok(())
}

#[tokio::test]
async fn a_paused_turn_goes_on_when_it_is_sent_back() -> anyhow::Result<()> {
    let paused = Message::new()
        .block(json!({"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}}))
        .stop("pause_turn");
    let fake = FakeModel::scripted([paused, hello()]).await?;
    let provider = provider(&fake)?;
    let mut conversation = conversation();
    conversation.answered(ask(&*provider, &conversation).await?);
    let call = ask(&*provider, &conversation).await?;
    assert_eq!(call.content, hello().content());
    assert_eq!(fake.violations(), Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn blocks_come_back_byte_for_byte_also_unknown_ones() -> anyhow::Result<()> {
    let odd = json!({"zeta": [1, {"b": null, "a": "é"}], "type": "hologram", "alpha": -0.5});
    let first = Message::new()
        .thinking("Let me see — 1 + 1 …", "EqQBCkYIBRgCKkA/+==")
        .block(odd.clone())
        .text("I look.")
        .tool_use("toolu_1", "Read", &json!({"file_path": "z", "a": "\u{1}\"\\"}))
        .tool_use("toolu_2", "Read", &json!({}));
    let fake = FakeModel::scripted([first.clone(), hello()]).await?;
    let provider = provider(&fake)?;
    let mut conversation = conversation();
    conversation.answered(ask(&*provider, &conversation).await?);
    answer_calls(&mut conversation)?;
    ask(&*provider, &conversation).await?;

    let requests = fake.requests();
    let sent_back = std::str::from_utf8(&requests[1].body)?;
    assert!(sent_back.contains(&Value::from(first.content().to_vec()).to_string()), "{sent_back}");
    assert_eq!(fake.violations(), Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn a_long_conversation_is_cached_and_rebuilt_to_the_byte() -> anyhow::Result<()> {
    let fake = FakeModel::answering(|request| {
        let turn = request.turn();
        let calls = (0..3).fold(Message::new(), |message, call| {
            message.tool_use(&format!("toolu_{turn}_{call}"), "Read", &json!({"file_path": format!("{turn}/{call}")}))
        });
        if turn < 6 { calls.into() } else { hello().into() }
    })
    .await?;
    let provider = provider(&fake)?;
    let mut conversation = conversation();
    for _ in 0..7 {
        // What is written to the journal and read again asks the same.
        let rebuilt: Vec<ModelCall> = serde_json::from_str(&serde_json::to_string(
            &conversation.turns.iter().map(|turn| &turn.reply).collect::<Vec<_>>(),
        )?)?;
        let mut again = Conversation::new(head(), "Review this.".to_owned());
        for reply in rebuilt {
            again.answered(reply);
            answer_calls(&mut again)?;
        }
        ask(&*provider, &again).await?;
        conversation.answered(ask(&*provider, &conversation).await?);
        answer_calls(&mut conversation)?;
    }
    let requests = fake.requests();
    for pair in requests.chunks(2) {
        assert_eq!(pair[0].body, pair[1].body);
        let marks = std::str::from_utf8(&pair[0].body)?.matches("cache_control").count();
        assert!((2..=4).contains(&marks), "{marks}");
    }
    assert_eq!(fake.violations(), Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn headers_are_those_of_the_version_and_of_the_operator() -> anyhow::Result<()> {
    let fake = FakeModel::scripted([hello(), hello()]).await?;
    let conversation = conversation();
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = || ModelRequest {
        head: &conversation.head,
        messages: conversation.messages(),
        no_tools: false,
        traceparent: Some(trace.to_owned()),
    };
    provider(&fake)?.call(request()).await?;
    let newer = json!({"headers": {"anthropic-version": "2026-10-21", "anthropic-beta": "x"}});
    provider_at(&fake.base_url(), &newer)?.call(request()).await?;

    let requests = fake.requests();
    let header = |number: usize, name: &str| requests[number].headers.get(name).cloned().unwrap_or_default();
    let key = std::env::var("PATH")?;
    assert_eq!((header(0, "anthropic-version"), header(0, "x-api-key")), ("2023-06-01".to_owned(), key.clone()));
    assert_eq!(header(0, "traceparent"), trace);
    assert_eq!((header(1, "authorization"), header(1, "x-api-key")), (format!("Bearer {key}"), String::new()));
    assert_eq!(header(1, "anthropic-beta"), "x");
    assert_eq!(fake.violations(), Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn a_key_that_the_server_repeats_is_not_repeated() -> anyhow::Result<()> {
    let key = std::env::var("PATH")?;
    let failure = failure(Reply::error(401, "authentication_error", &format!("{key} is wrong"))).await?;
    assert!(!serde_json::to_string(&failure)?.contains(&key), "{failure}");
    assert!(failure.message.contains("PATH"), "it names where the key comes from: {failure}");
    Ok(())
}

#[tokio::test]
async fn the_fake_refuses_what_the_real_api_refuses() -> anyhow::Result<()> {
    let fake = FakeModel::answering(|_| hello().into()).await?;
    let valid = json!({"model": "m", "max_tokens": 9, "stream": true, "messages": [{"role": "user", "content": "x"}]});
    let calls = json!([{"type": "tool_use", "id": "t1", "name": "a", "input": {}}, {"type": "tool_use", "id": "t2", "name": "a", "input": {}}]);
    let result = |id: &str| json!({"type": "tool_result", "tool_use_id": id, "content": "x"});
    let text = json!({"type": "text", "text": "x"});
    let dialogue = |answer: Value| json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": calls}, {"role": "user", "content": answer}]);
    let marked = json!({"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}});
    for (key, value, accepted) in [
        ("max_tokens", json!(9), true),
        ("surprise", json!(1), false),
        ("messages", json!([]), false),
        ("messages", json!([{"role": "assistant", "content": "x"}]), false),
        ("messages", json!([{"role": "user", "content": [{"type": "text", "text": " "}]}]), false),
        ("messages", json!([{"role": "user", "content": [{"type": "hologram"}]}]), false),
        ("messages", json!([{"role": "user", "content": [marked, marked, marked, marked, marked]}]), false),
        ("messages", dialogue(json!([result("t1"), result("t2"), text])), true),
        ("messages", dialogue(json!([result("t1"), text, result("t2")])), false),
        ("messages", dialogue(json!([result("t1")])), false),
        ("messages", dialogue(json!([result("t1"), result("t2"), result("t3")])), false),
        ("tools", json!([{"name": "a b", "input_schema": {"type": "object"}}]), false),
    ] {
        let mut body = valid.clone();
        body[key] = value;
        let before = fake.violations().len();
        let status = reqwest::Client::builder()
            .no_proxy()
            .build()?
            .post(format!("{}/v1/messages", fake.base_url()))
            .header("x-api-key", "k")
            .header("anthropic-version", "2023-06-01")
            .json(&body)
            .send()
            .await?
            .status();
        assert_eq!(status.as_u16(), if accepted { 200 } else { 400 }, "{body}");
        assert_eq!(fake.violations().len() - before, usize::from(!accepted), "{body}");
    }
    Ok(())
}

#[tokio::test]
async fn many_calls_at_once_are_each_answered() -> anyhow::Result<()> {
    let fake = FakeModel::answering(|_| hello().into()).await?;
    let provider = provider(&fake)?;
    let conversation = conversation();
    let calls = join_all((0..64).map(|_| ask(&*provider, &conversation))).await;
    assert!(calls.iter().all(Result::is_ok), "{calls:?}");
    assert_eq!(fake.requests().iter().filter(|request| request.answered).count(), 64);
    Ok(())
}

#[tokio::test]
async fn a_call_that_is_dropped_closes_its_connection() -> anyhow::Result<()> {
    let fake = FakeModel::scripted([Reply::Silence]).await?;
    let provider = provider(&fake)?;
    let call = tokio::spawn(async move { ask(&*provider, &conversation()).await });
    fake.received(1).await?;
    call.abort();
    fake.closed(1).await?;
    Ok(())
}

#[tokio::test]
async fn a_rehearsal_waits_as_long_as_it_is_told() -> anyhow::Result<()> {
    let models = Models::from_config(&Config::default())?;
    let provider = models.provider(&models.resolve(Some("rehearsal"))?.provider)?;
    let mut conversation = conversation();
    let head = std::sync::Arc::make_mut(&mut conversation.head);
    head.options = json!({"latency_ms": 30}).as_object().cloned().unwrap_or_default();
    head.tools.clear();
    let call = ask(&*provider, &conversation).await?;
    assert!(call.duration_ms >= 30 && call.usage.cost_usd.abs() < f64::EPSILON);
    let text = call.content[0]["text"].as_str().unwrap_or_default();
    assert!(serde_json::from_str::<Value>(text)?["score"].is_i64(), "{text}");
    Ok(())
}
