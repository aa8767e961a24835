//! Conversations that go on across tasks.

use std::sync::Arc;

use common::id::TaskId;
use common::journal::{Event, Run};
use common::task::{State, WaitOn};
use serde_json::{Value, json};
use suite::fakes::model::{FakeModel, Message, Reply, Request};
use suite::fixtures::agent_task::{AgentTask, Ended, ended};
use suite::fixtures::process::until;
use suite::fixtures::scheduler::RunningScheduler;
use tokio::sync::Notify;

const TASK: AgentTask<'static> = AgentTask {
    model: "",
    provider: "",
    models: "",
    config: "",
    step: "session: \"{{ input.pr }}\"",
    tools: "Glob",
    prompt: "Review {{ input.push }}.",
};

async fn start(task: &AgentTask<'_>, fake: &FakeModel) -> RunningScheduler {
    let files = task.files(fake);
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    RunningScheduler::start(&files).await
}

/// What a request says, without what marks its parts for the cache.
fn said(request: &Value) -> Vec<String> {
    let mark = ",\"cache_control\":{\"type\":\"ephemeral\"}";
    request["messages"].as_array().unwrap().iter().map(|message| message.to_string().replace(mark, "")).collect()
}

fn opened(ended: &Ended) -> Vec<(Option<TaskId>, usize)> {
    ended.events(|event| match event {
        Event::SessionOpened { from, history, .. } => Some((*from, history.len())),
        _ => None,
    })
}

/// Looks around, then answers.
fn reviewer(request: &Request) -> Reply {
    let asked: Vec<&Value> = request.messages().iter().filter(|message| message["role"] == "user").collect();
    let last = asked.last().unwrap()["content"].as_array().unwrap().last().unwrap();
    match last["text"].as_str() {
        Some(text) => {
            let id = format!("toolu_{}", text.replace(|c: char| !c.is_ascii_alphanumeric(), ""));
            Message::new().thinking("hm", &id).tool_use(&id, "Glob", &json!({"pattern": "*"})).into()
        }
        None => Message::of_text(&format!("reviewed after {} turns", request.turn())).into(),
    }
}

#[tokio::test]
async fn the_next_task_of_a_key_goes_on_with_the_conversation_and_another_key_begins_its_own() {
    let fake = FakeModel::answering(reviewer).await.unwrap();
    let api = start(&TASK, &fake).await;
    let worker = api.worker();
    let first = ended(&api, &fake, &json!({"pr": "a#1", "push": "one"})).await;
    let second = ended(&api, &fake, &json!({"pr": "a#1", "push": "two"})).await;
    let other = ended(&api, &fake, &json!({"pr": "b#7", "push": "three"})).await;
    let third = ended(&api, &fake, &json!({"pr": "a#1", "push": "four"})).await;
    first.succeeded(&json!("reviewed after 1 turns"));
    second.succeeded(&json!("reviewed after 3 turns"));
    other.succeeded(&json!("reviewed after 1 turns"));
    third.succeeded(&json!("reviewed after 5 turns"));
    assert_eq!(opened(&first), [(None, 0)]);
    assert_eq!(opened(&second), [(Some(first.run.head.id), 4)]);
    assert_eq!(opened(&third), [(Some(second.run.head.id), 8)]);
    let (before, after) = (said(&second.requests[0]), said(&third.requests[0]));
    assert_eq!(before, after[..before.len()], "each task begins its requests as the one before did");
    assert!(
        third.requests[0].to_string().contains("Review one.") && third.requests[0].to_string().contains("Review two.")
    );
    assert_eq!(third.count("session_saved"), 1);
    worker.drain().await;
    api.drain().await;
}

#[tokio::test]
async fn erasing_a_task_takes_the_conversation_that_it_left() {
    let fake = FakeModel::answering(reviewer).await.unwrap();
    let api = start(&TASK, &fake).await;
    let worker = api.worker();
    let first = ended(&api, &fake, &json!({"pr": "a#1", "push": "one"})).await;
    let id = first.run.head.id;
    for now in [true, false] {
        let erased = api.send(api.request("DELETE", &format!("/v1/tasks/{id}/data"))).await;
        assert_eq!((erased.status, &erased.json()["now"]), (200, &json!(now)));
    }
    let second = ended(&api, &fake, &json!({"pr": "a#1", "push": "two"})).await;
    second.succeeded(&json!("reviewed after 1 turns"));
    assert_eq!(opened(&second), [(Some(id), 0)]);
    let dropped = second.events(|event| match event {
        Event::SessionOpened { dropped, .. } => Some(*dropped),
        _ => None,
    });
    assert_eq!(dropped, [2], "it says that there was more");
    worker.drain().await;
    api.drain().await;
}

#[tokio::test]
async fn one_task_at_a_time_has_a_session_and_the_next_is_woken_when_it_is_left() {
    let until_told = Arc::new(Notify::new());
    let held = Arc::clone(&until_told);
    let fake = FakeModel::answering(move |request| match request.messages().len() {
        1 => Reply::Held(Message::of_text("first"), Arc::clone(&held)),
        _ => Message::of_text("second").into(),
    })
    .await
    .unwrap();
    let api = start(&TASK, &fake).await;
    let worker = api.worker();
    let submit = async |push: &str| -> TaskId {
        let input = json!({"pr": "a#1", "push": push});
        api.submit(&json!({"pipeline": "think", "input": input})).await.parse().unwrap()
    };
    let first = submit("one").await;
    fake.received(1).await.unwrap();
    let second = submit("two").await;
    let waits = async || match api.store.head(second).await.unwrap().unwrap().state {
        State::Waiting { wait, .. } => wait.on.iter().any(|on| matches!(on, WaitOn::Session { .. })),
        _ => false,
    };
    until("the second task waits for the session", waits).await;
    assert_eq!(fake.requests().len(), 1);
    until_told.notify_one();
    let over = async |task: TaskId| api.store.head(task).await.unwrap().unwrap().state.is_terminal();
    until("both are done", async || over(first).await && over(second).await).await;
    let journal = api.store.journal(second, 0, 1_000).await.unwrap();
    let run = Run::fold(second, &journal).unwrap();
    assert_eq!(run.output, Some(json!("second")), "{:?}", run.head.state);
    assert_eq!(fake.requests()[1].messages().len(), 3, "it goes on behind the first");
    assert_eq!(fake.violations(), Vec::<String>::new());
    worker.drain().await;
    api.drain().await;
}

#[tokio::test]
async fn a_replayed_step_begins_where_it_began_and_not_behind_its_own_end() {
    let fake =
        FakeModel::answering(|request| Message::of_text(&format!("turn {}", request.turn())).into()).await.unwrap();
    let pipeline = "name: think\nsteps:\n  - { id: think, agent: thinker, prompt: go, session: k }\n  - { id: fail, run: { \
                    command: [sh, -c, 'test -e ok'], effect: read }, retry: { attempts: 1 } }\n";
    let mut files = TASK.files(&fake);
    files[1].1 = pipeline.to_owned();
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let api = RunningScheduler::start(&files).await;
    let worker = api.worker();
    let died = ended(&api, &fake, &json!({})).await;
    assert!(matches!(died.run.head.state, State::Dead { .. }), "{:?}", died.run.head.state);
    let id = died.run.head.id;
    let answer = api.post(&format!("/v1/dead-letters/{id}/replay"), &json!({"from": "think"})).await;
    assert!(answer.status < 300, "{}", answer.text);
    until("it is asked anew", async || fake.requests().len() == 2).await;
    assert_eq!(fake.requests()[1].messages().len(), 1, "the conversation is not continued twice");
    worker.drain().await;
    api.drain().await;
}

#[tokio::test]
async fn a_step_without_a_key_has_no_session() {
    let fake = FakeModel::answering(|_| Message::of_text("done").into()).await.unwrap();
    let ended = AgentTask { step: "session: \"{{ input.pr | default('') }}\"", prompt: "Go.", ..TASK }.run(&fake).await;
    ended.succeeded(&json!("done"));
    assert_eq!(ended.count("session_opened"), 0);
}
