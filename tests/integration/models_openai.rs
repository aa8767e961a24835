//! Chat Completions against a fake that speaks the real wire, alone and under a
//! whole task.

use std::sync::Arc;

use common::config::Config;
use common::failure::{Failure, FailureClass};
use common::journal::{CallResult, Conversation, ModelCall, RequestHead};
use serde_json::{Value, json};
use suite::fakes::model::{Break, FakeModel, Message, Reply};
use suite::fixtures::scheduler::RunningScheduler;
use worker::models::{ModelRequest, Models, Provider};

/// Every build runs in an environment with a `PATH`: a key that is always set.
const KEY: &str = "env:PATH";

fn provider(settings: &Value) -> anyhow::Result<Arc<dyn Provider>> {
    let config: Config = serde_json::from_value(json!({"providers": {"local": settings}}))?;
    Ok(Models::from_config(&config)?.provider("local")?)
}

fn settings(fake: &FakeModel) -> Value {
    json!({"kind": "openai", "base_url": format!("{}/v1", fake.base_url()), "key": KEY, "idle_timeout": "5s", "timeout": "20s"})
}

fn conversation() -> Conversation {
    let tool = json!({"name": "Read", "description": "d", "input_schema": {"type": "object"}});
    let head = RequestHead {
        alias: "local".to_owned(),
        provider: "local".to_owned(),
        model: "llama".to_owned(),
        max_tokens: 1_000,
        system: "You review.".to_owned(),
        tools: vec![tool],
        ..RequestHead::default()
    };
    Conversation::new(head, "Review this.".to_owned())
}

async fn ask(provider: &dyn Provider, conversation: &Conversation) -> Result<ModelCall, Failure> {
    let messages = conversation.messages();
    let request = ModelRequest { head: &conversation.head, messages, no_tools: false, traceparent: None };
    Ok(provider.call(request).await?.call)
}

async fn failure(reply: Reply) -> anyhow::Result<Failure> {
    let fake = FakeModel::scripted([reply]).await?;
    let outcome = ask(&*provider(&settings(&fake))?, &conversation()).await;
    assert_eq!(fake.requests().len(), 1, "a provider never tries again by itself");
    match outcome {
        Err(failure) => Ok(failure),
        Ok(call) => anyhow::bail!("answered: {call:?}"),
    }
}

#[tokio::test]
async fn a_conversation_with_calls_in_parallel_is_rebuilt_as_the_server_takes_it() -> anyhow::Result<()> {
    let calls = Message::of_text("I look.").tool_use("a", "Read", &json!({"z": "é", "a": [1, {}]})).tool_use(
        "b",
        "Read",
        &json!({}),
    );
    let fake = FakeModel::scripted([calls, Message::of_text("Done.")]).await?;
    let provider = provider(&settings(&fake))?;
    let mut conversation = conversation();
    let first = ask(&*provider, &conversation).await?;
    assert_eq!(first.stop_reason, "tool_use");
    assert!(first.usage.input_tokens > 0 && first.usage.output_tokens == 20, "{:?}", first.usage);
    conversation.answered(first);
    for id in ["a", "b"] {
        let id = common::id::CallId::new(id)?;
        let turn = conversation.turn_of(&id).expect("the turn asked for it");
        turn.results.insert(id, CallResult::Done { content: json!("text"), is_error: false });
    }
    let second = ask(&*provider, &conversation).await?;
    assert_eq!((second.stop_reason.as_str(), &second.content[0]["text"]), ("end_turn", &json!("Done.")));
    assert_eq!(fake.violations(), Vec::<String>::new());
    let sent = fake.requests();
    assert_eq!(sent[1].headers["authorization"], format!("Bearer {}", std::env::var("PATH")?));
    assert_eq!(sent[1].json["messages"][2]["tool_calls"][0]["function"]["arguments"], "{\"z\":\"é\",\"a\":[1,{}]}");
    // Nothing of what was sent before changes: servers cache prompts by their beginning.
    let before = sent[0].json["messages"].as_array().unwrap();
    assert_eq!(&sent[1].json["messages"].as_array().unwrap()[..before.len()], before.as_slice());
    Ok(())
}

#[tokio::test]
async fn refused_requests_have_the_class_and_the_wait_of_the_table() -> anyhow::Result<()> {
    let quota = "You exceeded your current quota, please check your plan and billing details.";
    for (reply, class, wait) in [
        (Reply::error_with_header(429, "tokens", "retry-after", "7"), FailureClass::RateLimited, Some(7_000)),
        (Reply::error(429, "insufficient_quota", quota), FailureClass::Billing, None),
        (Reply::error(500, "server_error", "no"), FailureClass::Unavailable, None),
        (Reply::error(503, "server_error", "no"), FailureClass::Overloaded, None),
        (Reply::error(400, "invalid_request_error", "no"), FailureClass::InvalidRequest, None),
        (Reply::error(401, "invalid_request_error", "no"), FailureClass::Authentication, None),
        (Reply::error(404, "invalid_request_error", "no such model"), FailureClass::InvalidRequest, None),
    ] {
        let failure = failure(reply).await?;
        assert_eq!((failure.class, failure.retry_after_ms), (class, wait), "{failure}");
    }
    Ok(())
}

#[tokio::test]
async fn a_stream_that_breaks_is_a_failure_that_may_pass() -> anyhow::Result<()> {
    let hello = || Message::of_text("Hello there, this is long enough to be torn into pieces.");
    for (how, class) in [
        (Break::End, FailureClass::Connection),
        (Break::Close, FailureClass::Connection),
        (Break::Reset, FailureClass::Connection),
        (Break::ErrorEvent, FailureClass::Overloaded),
    ] {
        let failure = failure(Reply::Broken(hello(), how)).await?;
        assert_eq!(failure.class, class, "{how:?}: {failure}");
    }
    let not_json = failure(Reply::Raw("text/event-stream", b"data: {oops\n\n".to_vec())).await?;
    assert_eq!(not_json.class, FailureClass::Protocol);
    let html = failure(Reply::Raw("text/html", b"<p>hello</p>".to_vec())).await?;
    assert!(html.message.contains("base_url"), "{html}");
    Ok(())
}

#[tokio::test]
async fn a_server_of_ones_own_needs_no_key_and_a_missing_one_that_was_asked_for_is_named() -> anyhow::Result<()> {
    let fake = FakeModel::scripted([Message::of_text("Hello.")]).await?;
    let address = format!("{}/v1", fake.base_url());
    let missing = json!({"kind": "openai", "base_url": address, "key": "env:TEAMSTER_TEST_NO_SUCH_KEY"});
    let error = provider(&missing).unwrap_err().to_string();
    assert!(error.contains("TEAMSTER_TEST_NO_SUCH_KEY"), "{error}");
    // The fake asks for a key: that none was sent is what it says.
    let keyless = json!({"kind": "openai", "base_url": address, "key": null});
    if std::env::var_os("OPENAI_API_KEY").is_none() {
        let refused = ask(&*provider(&keyless)?, &conversation()).await.unwrap_err();
        assert_eq!(refused.class, FailureClass::Authentication);
        assert!(!fake.requests()[0].headers.contains_key("authorization"));
    }
    Ok(())
}

#[tokio::test]
async fn an_agent_reads_a_file_and_is_held_to_its_schema() {
    let look = Message::new().tool_use("call_1", "Glob", &json!({"pattern": "*"}));
    let script = [look, Message::of_text("seventy"), Message::of_text("{\"score\": 70}")];
    let fake = FakeModel::scripted(script).await.unwrap();
    let config = format!(
        "models:\n  m: {{ provider: local, model: llama }}\nproviders:\n  local: {{ kind: openai, base_url: '{}/v1', key: 'env:PATH' }}\n",
        fake.base_url()
    );
    let pipeline = "name: think\nsteps:\n  - id: think\n    agent: thinker\n    prompt: Go.\n    output: { type: object, \
                    required: [score], properties: { score: { type: integer } } }\n";
    let agent = "---\nname: thinker\ndescription: thinks\ntools: Glob\nmodel: m\n---\nThink.\n";
    let files = [("teamster.yaml", config.as_str()), ("pipelines/think.yaml", pipeline), ("agents/thinker.md", agent)];
    let api = RunningScheduler::start(&files).await;
    let worker = api.worker();
    let id = api.submit(&json!({"pipeline": "think", "input": {}})).await;
    api.watch(&id, None, "end").await;
    let journal = api.store.journal(id.parse().unwrap(), 0, 100).await.unwrap();
    worker.drain().await;
    api.drain().await;
    assert_eq!(fake.violations(), Vec::<String>::new());
    let output = journal.iter().find_map(|recorded| match &recorded.event {
        common::journal::Event::Succeeded { output } => Some(output.clone()),
        _ => None,
    });
    assert_eq!(output, Some(json!({"score": 70})), "{journal:?}");
    let requests = fake.requests();
    assert_eq!(requests.len(), 3, "a call, an answer that does not fit, its repair");
    assert!(requests[2].json["messages"].to_string().contains("corrected JSON"));
    assert_eq!(requests[0].json["response_format"]["type"], "json_schema");
}
