//! Outputs by a tool that the model must call, on both wires.

use common::failure::FailureClass;
use common::task::State;
use serde_json::{Value, json};
use suite::fakes::model::{FakeModel, Message};
use suite::fixtures::agent_task::{AgentTask, Ended};

const OUTPUT: &str = "output: { type: object, required: [score], properties: { score: { type: integer } } }";

fn given(id: &str, input: &Value) -> Message {
    Message::new().tool_use(id, "StructuredOutput", input)
}

async fn run(replies: Vec<Message>, model: &str, step: &str, tools: &str) -> Ended {
    let fake = FakeModel::scripted(replies).await.unwrap();
    AgentTask { model, step, tools, ..AgentTask::default() }.run(&fake).await
}

#[tokio::test]
async fn a_model_without_structured_outputs_gives_its_answer_by_a_tool() {
    let look = Message::new().tool_use("toolu_1", "Glob", &json!({"pattern": "*"}));
    let replies = vec![look, given("toolu_2", &json!({"score": 7}))];
    let ended = run(replies, "structured: tool", OUTPUT, "Glob").await;
    ended.succeeded(&json!({"score": 7}));
    let request = &ended.requests[0];
    assert_eq!(request["tool_choice"], json!({"type": "any"}), "{request}");
    assert_eq!(request["tools"][1]["input_schema"]["required"], json!(["score"]));
    assert!(request.get("output_config").is_none());
}

#[tokio::test]
async fn the_same_on_the_wire_of_chat_completions() {
    let fake = FakeModel::scripted([given("call_1", &json!({"score": 7}))]).await.unwrap();
    let models = "  other: { provider: chat, model: llama3, structured: tool }";
    let step = format!("model: other, {OUTPUT}");
    let ended = AgentTask { models, step: &step, tools: "Glob", ..AgentTask::default() }.run(&fake).await;
    ended.succeeded(&json!({"score": 7}));
    assert_eq!(ended.requests[0]["tool_choice"], "required");
}

#[tokio::test]
async fn an_answer_that_does_not_fit_is_sent_back_once_with_what_is_wrong() {
    let replies = vec![given("toolu_1", &json!({"score": "high"})), given("toolu_2", &json!({"score": 7}))];
    let ended = run(replies, "structured: tool", OUTPUT, "Glob").await;
    ended.succeeded(&json!({"score": 7}));
    let told = &ended.requests[1]["messages"][2]["content"][0];
    assert_eq!(told["is_error"], true);
    assert!(told["content"].as_str().unwrap().contains("score"), "{told}");
}

#[tokio::test]
async fn a_second_answer_that_does_not_fit_fails_the_step_and_both_are_kept() {
    let replies = vec![given("toolu_1", &json!({"score": "high"})), given("toolu_2", &json!({"mark": 1}))];
    let ended = run(replies, "structured: tool", OUTPUT, "Glob").await;
    ended.died(FailureClass::InvalidOutput);
    let State::Dead { error, .. } = &ended.run.head.state else { panic!() };
    let attempts = &error.detail.as_ref().unwrap()["attempts"];
    assert_eq!(attempts, &json!(["{\"score\":\"high\"}", "{\"mark\":1}"]));
}

#[tokio::test]
async fn other_calls_of_the_turn_are_made_before_its_answer_ends_the_step() {
    let both = Message::new().tool_use("toolu_1", "Glob", &json!({"pattern": "*"}));
    let both = both.tool_use("toolu_2", "StructuredOutput", &json!({"score": 7}));
    let ended = run(vec![both], "structured: tool", OUTPUT, "Glob").await;
    ended.succeeded(&json!({"score": 7}));
    assert_eq!((ended.requests.len(), ended.count("call_finished")), (1, 2));
}

#[tokio::test]
async fn an_answer_that_is_no_object_and_a_schema_beyond_the_api_are_given_by_a_tool_too() {
    let list = "output: { type: array, items: { type: string } }";
    let ended = run(vec![given("toolu_1", &json!({"output": ["a"]}))], "", list, "Glob").await;
    ended.succeeded(&json!(["a"]));
    let map = "output: { type: object, additionalProperties: { type: string } }";
    let ended = run(vec![given("toolu_1", &json!({"a": "b"}))], "", map, "Glob").await;
    ended.succeeded(&json!({"a": "b"}));
}
