//! Models that stand in for others, and replies from models that nobody asked.

use common::failure::FailureClass;
use common::journal::Event;
use common::task::State;
use serde_json::{Value, json};
use suite::fakes::model::{FakeModel, Message, Reply, Request};
use suite::fixtures::agent_task::{AgentTask, Ended};

const SONNET: &str = "claude-sonnet-4-6";
const HAIKU: &str = "claude-haiku-4-5";
const OTHERS: &str = "  small: { provider: fake, model: claude-haiku-4-5 }\n  local: { provider: chat, model: llama3 }";

fn overloaded() -> Reply {
    Reply::error(529, "overloaded_error", "Overloaded")
}

/// A fake whose models answer as they are told, by their name.
async fn models(answer: impl Fn(&str, &Request) -> Reply + Send + Sync + 'static) -> FakeModel {
    let answer = move |request: &Request| answer(request.json["model"].as_str().unwrap_or_default(), request);
    FakeModel::answering(answer).await.unwrap()
}

fn look() -> Message {
    Message::new().thinking("hm", "sig").tool_use("toolu_1", "Glob", &json!({"pattern": "*"}))
}

fn done() -> Reply {
    Message::of_text("done").into()
}

/// The changes of models as the journal has them.
fn changes(ended: &Ended) -> Vec<(&str, &str, FailureClass)> {
    ended.events(|event| match event {
        Event::ModelChanged { from, to, why, .. } => Some((from.as_str(), to.alias.as_str(), why.class)),
        _ => None,
    })
}

#[tokio::test]
async fn an_overloaded_model_is_replaced_when_its_retries_are_through_and_stays_so() {
    let fake = models(|model, request| match (model, request.turn()) {
        (SONNET, 0) => look().into(),
        (SONNET, _) => overloaded(),
        _ => done(),
    })
    .await;
    let ended = AgentTask { model: "fallback: [small]", models: OTHERS, ..AgentTask::default() }.run(&fake).await;
    ended.succeeded(&json!("done"));
    assert_eq!(ended.asked(), [SONNET, SONNET, SONNET, SONNET, HAIKU]);
    assert_eq!(changes(&ended), [("m", "small", FailureClass::Overloaded)]);
    assert_eq!(ended.count("step_retrying"), 2);
    let last = &ended.requests[4]["messages"];
    assert_eq!(last[1]["content"].as_array().unwrap().len(), 1, "thoughts stay with the model that had them: {last}");
    let step = &ended.shown["steps"][0];
    assert_eq!((&step["model"], &step["models_before"]), (&json!("small"), &json!(["m"])));
}

#[tokio::test]
async fn a_step_can_have_the_next_model_asked_at_once_on_another_wire_and_after_other_failures() {
    let fake = models(|model, _| match model {
        SONNET => Reply::error(500, "api_error", "broken"),
        HAIKU => overloaded(),
        _ => done(),
    })
    .await;
    let step = "fallback: { models: [small, local], on: [unavailable, overloaded], tries: 1 }";
    let ended = AgentTask { step, models: OTHERS, ..AgentTask::default() }.run(&fake).await;
    ended.succeeded(&json!("done"));
    assert_eq!(ended.asked(), [SONNET, HAIKU, "llama3"]);
    let expected = [("m", "small", FailureClass::Unavailable), ("small", "local", FailureClass::Overloaded)];
    assert_eq!(changes(&ended), expected);
    assert_eq!(ended.count("step_retrying"), 0);
}

#[tokio::test]
async fn a_model_that_declines_is_replaced_and_its_reply_is_paid_but_not_repeated() {
    let fake = models(|model, request| match (model, request.turn()) {
        (SONNET, 0) => look().into(),
        (SONNET, _) => Message::of_text("I would rather not.").stop("refusal").into(),
        _ => done(),
    })
    .await;
    let ended = AgentTask { model: "fallback: [small]", models: OTHERS, ..AgentTask::default() }.run(&fake).await;
    ended.succeeded(&json!("done"));
    assert_eq!(ended.asked(), [SONNET, SONNET, HAIKU]);
    assert_eq!(changes(&ended), [("m", "small", FailureClass::Refused)]);
    let without_marks = |value: &Value| value.to_string().replace(",\"cache_control\":{\"type\":\"ephemeral\"}", "");
    assert!(!ended.requests[2].to_string().contains("rather not"), "{}", ended.requests[2]);
    assert_eq!(
        without_marks(&ended.requests[2]["messages"][2]),
        without_marks(&ended.requests[1]["messages"][2]),
        "the results go to the other model as they are"
    );
    assert_eq!(ended.run.head.usage.output_tokens, 60, "what was declined is paid for");
    assert_eq!(ended.shown["steps"][0]["turns"], 3);
}

#[tokio::test]
async fn when_no_model_is_left_the_last_failure_is_that_of_the_step() {
    let fake = models(|model, _| match model {
        SONNET => overloaded(),
        _ => Message::of_text("no").stop("refusal").into(),
    })
    .await;
    let ended = AgentTask { model: "fallback: { models: [small], tries: 1 }", models: OTHERS, ..AgentTask::default() }
        .run(&fake)
        .await;
    assert!(ended.died(FailureClass::Refused).contains(HAIKU));
    assert_eq!(ended.asked(), [SONNET, HAIKU]);
}

#[tokio::test]
async fn a_failure_that_fallbacks_are_not_for_ends_the_step() {
    let fake = models(|_, _| Reply::error(400, "invalid_request_error", "no")).await;
    let ended = AgentTask { model: "fallback: [small]", models: OTHERS, ..AgentTask::default() }.run(&fake).await;
    ended.died(FailureClass::InvalidRequest);
    assert_eq!(ended.asked(), [SONNET]);
}

#[tokio::test]
async fn a_reply_from_another_model_is_noticed_once_and_fails_the_step_where_it_shall() {
    let run = async |on_other_model: &str| {
        let fake = FakeModel::scripted([
            look().from("claude-opus-5"),
            Message::of_text("done").from("claude-opus-5-20260901"),
        ])
        .await
        .unwrap();
        AgentTask { model: on_other_model, ..AgentTask::default() }.run(&fake).await
    };
    let warned = run("").await;
    warned.succeeded(&json!("done"));
    let noticed = warned.events(|event| match event {
        Event::OtherModel { asked, answered, .. } => Some((asked.as_str(), answered.as_str())),
        _ => None,
    });
    assert_eq!(noticed, [(SONNET, "claude-opus-5"), (SONNET, "claude-opus-5-20260901")]);
    assert_eq!(warned.shown["steps"][0]["answered_by"], "claude-opus-5-20260901");

    let accepted = run("on_other_model: accept").await;
    accepted.succeeded(&json!("done"));
    assert_eq!(accepted.count("other_model"), 0);

    let failed = run("on_other_model: fail").await;
    let message = failed.died(FailureClass::Configuration);
    assert!(message.contains(SONNET) && message.contains("claude-opus-5"), "{message}");
    assert_eq!((failed.requests.len(), failed.count("turn_finished")), (1, 1), "what was paid is in the journal");
}

#[tokio::test]
async fn a_snapshot_of_the_model_is_the_model() {
    let fake = FakeModel::scripted([Message::of_text("done").from("claude-sonnet-4-6-20260217")]).await.unwrap();
    let ended = AgentTask { model: "on_other_model: fail", ..AgentTask::default() }.run(&fake).await;
    assert!(matches!(ended.run.head.state, State::Succeeded { .. }));
    assert_eq!(ended.count("other_model"), 0);
}
