//! Conversations that grow too long, and results that are too long to be shown.

use common::failure::FailureClass;
use common::journal::{CallResult, Event};
use serde_json::{Value, json};
use suite::fakes::model::{FakeModel, Message, Reply};
use suite::fixtures::agent_task::{AgentTask, Ended};

/// A model with a small window, and a step that keeps two turns.
const TASK: AgentTask<'static> = AgentTask {
    model: "context_window: 10000",
    provider: "",
    models: "",
    config: "",
    step: "compaction: { at: 0.8, keep_turns: 2 }",
    tools: "Glob",
    prompt: "Find the leak.",
};

/// A turn with a call, whose request had so many tokens.
fn look(number: u32, tokens: usize) -> Message {
    let message = Message::new().thinking("hm", &format!("sig{number}"));
    message.tool_use(&format!("toolu_{number}"), "Glob", &json!({"pattern": format!("*{number}")})).having_read(tokens)
}

fn done() -> Message {
    Message::of_text("done")
}

fn too_long() -> Reply {
    Reply::error(400, "invalid_request_error", "prompt is too long: 10214 tokens > 10000 maximum")
}

/// The text of a request's last message.
fn last_text(request: &Value) -> String {
    let content = &request["messages"].as_array().unwrap().last().unwrap()["content"];
    content.as_array().unwrap().last().unwrap()["text"].as_str().unwrap_or_default().to_owned()
}

fn opening(request: &Value) -> &str {
    request["messages"][0]["content"][0]["text"].as_str().unwrap()
}

fn unmarked(value: &Value) -> String {
    value.to_string().replace(",\"cache_control\":{\"type\":\"ephemeral\"}", "")
}

fn summary() -> Message {
    Message::of_text("Looked at 1 and 2; nothing there.").having_read(7)
}

#[tokio::test]
async fn a_long_conversation_is_summarised_once_at_its_threshold_and_goes_on_with_its_last_turns() {
    let replies = [look(1, 1_000), look(2, 3_000), look(3, 5_000), look(4, 8_000), summary(), look(5, 2_000), done()];
    let fake = FakeModel::scripted(replies).await.unwrap();
    let ended = TASK.run(&fake).await;
    ended.succeeded(&json!("done"));
    assert_eq!((ended.requests.len(), ended.count("compacted"), ended.count("turn_finished")), (7, 1, 6));

    let (asked, wanted, next, later) = (&ended.requests[3], &ended.requests[4], &ended.requests[5], &ended.requests[6]);
    assert!(last_text(wanted).contains("Write a summary"), "{wanted}");
    assert_eq!(wanted["tool_choice"], json!({"type": "none"}));
    assert_eq!((&wanted["tools"], &wanted["system"]), (&asked["tools"], &asked["system"]), "the cache stays warm");
    let beginning = |request: &Value| unmarked(&Value::from(request["messages"].as_array().unwrap()[..4].to_vec()));
    assert_eq!(beginning(wanted), beginning(asked), "what is summarised begins as the conversation did");

    assert!(opening(next).starts_with("Find the leak.") && opening(next).contains("nothing there."));
    assert_eq!(next["messages"].as_array().unwrap().len(), 5, "the summary, and two turns with their results");
    assert_eq!(
        next["messages"][1]["content"][0]["id"], "toolu_3",
        "without the thoughts, which are bound to their past"
    );
    assert_eq!(unmarked(&later["messages"][0]), unmarked(&next["messages"][0]), "later requests begin alike");
    assert_eq!(later["messages"][5]["content"][0]["type"], "thinking", "new thoughts go back");
    assert!(ended.run.head.usage.input_tokens >= 19_007, "the summary is paid for: {:?}", ended.run.head.usage);
    assert_eq!(ended.shown["steps"][0]["compactions"], 1);
}

#[tokio::test]
async fn a_conversation_that_the_api_finds_too_long_is_summarised_and_goes_on() {
    // Of this model nobody knows the window.
    let replies: Vec<Reply> = vec![look(1, 10).into(), look(2, 10).into(), too_long(), summary().into(), done().into()];
    let fake = FakeModel::scripted(replies).await.unwrap();
    let models = "  other: { provider: fake, model: mystery }";
    let ended = AgentTask { models, step: "model: other", ..TASK }.run(&fake).await;
    ended.succeeded(&json!("done"));
    assert_eq!((ended.count("compacted"), ended.count("step_retrying")), (1, 1));
    assert_eq!(ended.requests[4]["messages"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn a_conversation_that_is_too_long_also_when_it_is_shortened_fails_with_the_reason() {
    let replies: Vec<Reply> = vec![look(1, 10).into(), too_long(), summary().into(), too_long()];
    let fake = FakeModel::scripted(replies).await.unwrap();
    let ended = TASK.run(&fake).await;
    let message = ended.died(FailureClass::ContextWindow);
    assert!(message.contains("too long"), "{message}");
    assert_eq!(ended.requests.len(), 4);

    let fake = FakeModel::scripted([too_long()]).await.unwrap();
    TASK.run(&fake).await.died(FailureClass::ContextWindow);
}

#[tokio::test]
async fn a_reply_that_the_window_cut_off_is_made_anew_after_a_summary() {
    let cut_off = Message::of_text("It is in the").stop("model_context_window_exceeded").having_read(9_900);
    let replies = [look(1, 10), look(2, 10), cut_off.clone(), summary(), done()];
    let fake = FakeModel::scripted(replies).await.unwrap();
    let ended = TASK.run(&fake).await;
    ended.succeeded(&json!("done"));
    assert_eq!(ended.count("compacted"), 1);
    assert!(!ended.requests[4].to_string().contains("It is in the"), "{}", ended.requests[4]);

    let fake = FakeModel::scripted([look(1, 10), cut_off.clone(), summary(), cut_off]).await.unwrap();
    let ended = TASK.run(&fake).await;
    assert!(ended.died(FailureClass::ContextWindow).contains("10000 tokens"));
}

#[tokio::test]
async fn a_summary_without_words_is_paid_for_and_fails_the_step() {
    let replies = [look(1, 10), look(2, 10), look(3, 9_000), Message::new().stop("refusal").having_read(500)];
    let fake = FakeModel::scripted(replies).await.unwrap();
    let ended = TASK.run(&fake).await;
    ended.died(FailureClass::ContextWindow);
    assert!(ended.run.head.usage.input_tokens >= 9_520);
}

#[tokio::test]
async fn a_long_result_is_kept_whole_shown_cut_and_read_on() {
    let command = json!({"command": "seq 1 2000"});
    let read = |id: &str, call: &str, offset: usize| {
        Message::new().tool_use(id, "ReadResult", &json!({"call": call, "offset": offset}))
    };
    let replies = [
        Message::new().tool_use("toolu_1", "Bash", &command),
        read("toolu_2", "toolu_1", 1_024),
        read("toolu_3", "toolu_9", 0),
        done(),
    ];
    let fake = FakeModel::scripted(replies).await.unwrap();
    let config = "limits: { tool_shown: 1KiB }";
    let ended = AgentTask { config, tools: "Bash", ..TASK }.run(&fake).await;
    ended.succeeded(&json!("done"));
    let whole: String = (1..=2_000).map(|number| format!("{number}\n")).collect();
    let results: Vec<String> = ended.events(|event| match event {
        Event::CallFinished { result: CallResult::Done { content, .. }, .. } => Some(content.to_string()),
        _ => None,
    });
    assert!(results[0].contains("\\n2000"), "the journal has all of it");
    let shown = |request: usize, message: usize| {
        let content = &ended.requests[request]["messages"][message]["content"][0]["content"];
        content.as_str().unwrap_or_else(|| content[0]["text"].as_str().unwrap()).to_owned()
    };
    let (first, second) = (shown(1, 2), shown(2, 4));
    let (first, note) = first.split_once("\n[Cut here: ").unwrap();
    assert!(note.contains("offset 1024"), "{note}");
    let second = second.split_once("\n[Cut here: ").unwrap().0.to_owned();
    assert!(whole.contains(&second) && first.len() == 1_024 && second.len() == 1_024);
    let names = |request: usize| {
        let tools = ended.requests[request]["tools"].as_array().unwrap().iter();
        tools.map(|tool| tool["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!((names(0), names(1)), (vec!["Bash".to_owned()], vec!["Bash".to_owned(), "ReadResult".to_owned()]));
    let unknown = &ended.requests[3]["messages"][6]["content"][0];
    assert_eq!(unknown["is_error"], true, "{unknown}");
}

/// A conversation that is long from its first turn on is not summarised without end.
#[tokio::test]
async fn a_prompt_that_fills_the_window_by_itself_is_left_to_the_provider() {
    let fake = FakeModel::scripted([look(1, 9_000), summary(), done().having_read(9_500)]).await.unwrap();
    let ended: Ended = AgentTask { step: "compaction: { keep_turns: 0 }", ..TASK }.run(&fake).await;
    ended.succeeded(&json!("done"));
}
