//! Calls that a person is asked about first: parked, decided once, by those who
//! may, on exactly what was shown; over a real store, a scheduler and a worker.

use common::config::Config;
use common::failure::FailureClass;
use common::id::TaskId;
use common::journal::{CallResult, Event, Recorded};
use common::task::{DeadReason, State};
use serde_json::{Value, json};
use suite::fakes::model::{FakeModel, Message, Request};
use suite::fixtures::scheduler::RunningScheduler;

/// A task whose agent writes one line into a file, and what it was told of that.
struct Stage {
    api: RunningScheduler,
    task: TaskId,
    fake: FakeModel,
}

/// Calls the shell once, then ends its turn.
fn answer(request: &Request) -> suite::fakes::model::Reply {
    match request.turn() {
        0 => Message::new().tool_use("a", "Bash", &json!({"command": "echo one >> log"})),
        _ => Message::of_text("Done."),
    }
    .into()
}

async fn stage(permissions: &str, front: &str) -> Stage {
    let agent = format!("---\nname: clerk\ntools: Bash\nmodel: m\n{front}\n---\nWork.\n");
    let pipeline = "name: p\nsteps:\n  - { id: work, agent: clerk, prompt: Go. }\n";
    staged(permissions, pipeline, &agent).await
}

async fn staged(permissions: &str, pipeline: &str, agent: &str) -> Stage {
    let fake = FakeModel::answering(answer).await.unwrap();
    let config = format!(
        "models:\n  m: {{ provider: fake, model: claude-sonnet-4-6 }}\n\
         providers:\n  fake: {{ kind: anthropic, base_url: '{}', key: 'env:PATH' }}\n\
         permissions: {{ {permissions} }}\n",
        fake.base_url()
    );
    let files = [("teamster.yaml", config.as_str()), ("pipelines/p.yaml", pipeline), ("agents/clerk.md", agent)];
    let api = RunningScheduler::start(&files).await;
    let id = api.submit(&json!({"pipeline": "p", "input": {}})).await;
    Stage { task: id.parse().unwrap(), api, fake }
}

impl Stage {
    async fn until(&self, event: &str) {
        self.api.watch(&self.task.to_string(), None, event).await;
    }

    /// The one question that is open.
    async fn question(&self) -> Value {
        let page = self.api.get("/v1/approvals").await.json();
        assert_eq!(page["approvals"].as_array().unwrap().len(), 1, "{page}");
        page["approvals"][0].clone()
    }

    async fn decide(&self, question: &Value, decision: &Value) -> u16 {
        let path = format!("/v1/approvals/{}", question["id"].as_str().unwrap());
        self.api.post(&path, decision).await.status
    }

    /// Has a worker come to the next question, and go.
    async fn ask(&self) -> Value {
        self.ask_with(|_| {}).await
    }

    async fn ask_with(&self, tune: impl FnOnce(&mut Config)) -> Value {
        let before = self.api.store.journal(self.task, 0, 1_000).await.unwrap();
        let worker = self.api.tuned_worker(tune);
        let after = before.last().map(|recorded| recorded.seq);
        self.api.watch(&self.task.to_string(), after, "parked").await;
        worker.drain().await;
        self.question().await
    }

    /// Has a worker go on to the end, and gives the journal.
    async fn end(&self) -> Ended {
        self.end_with(|_| {}).await
    }

    async fn end_with(&self, tune: impl FnOnce(&mut Config)) -> Ended {
        let worker = self.api.tuned_worker(tune);
        self.until("end").await;
        worker.drain().await;
        assert_eq!(self.fake.violations(), Vec::<String>::new());
        let state = self.api.store.head(self.task).await.unwrap().unwrap().state;
        let journal = self.api.store.journal(self.task, 0, 1_000).await.unwrap();
        Ended { state, journal }
    }
}

struct Ended {
    state: State,
    journal: Vec<Recorded>,
}

impl Ended {
    /// The commands that were run.
    fn commands(&self) -> Vec<&str> {
        let intended = self.journal.iter().filter_map(|recorded| match &recorded.event {
            Event::CallIntended { call, .. } => call.arguments["command"].as_str(),
            _ => None,
        });
        intended.collect()
    }

    /// What the model was told of its call.
    fn told(&self) -> &CallResult {
        let mut results = self.journal.iter().filter_map(|recorded| match &recorded.event {
            Event::CallFinished { result, .. } => Some(result),
            _ => None,
        });
        results.next_back().unwrap()
    }

    #[track_caller]
    fn refused(&self, why: &str) {
        assert!(matches!(self.state, State::Succeeded { .. }), "{:?}", self.state);
        assert_eq!(self.commands(), Vec::<&str>::new());
        let CallResult::Done { content, is_error: true } = self.told() else { panic!("{:?}", self.told()) };
        assert!(content.as_str().unwrap().contains(why), "{content}");
    }

    #[track_caller]
    fn ran(&self, command: &str) {
        assert!(matches!(self.state, State::Succeeded { .. }), "{:?}", self.state);
        assert_eq!(self.commands(), [command]);
    }
}

const ASK: &str = "ask: ['Bash(echo:*)']";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_waits_without_a_slot_until_a_person_permits_it_and_is_made_once() {
    let stage = stage(ASK, "").await;
    let question = stage.ask().await;
    assert_eq!(question["title"], "clerk wants to call Bash (the rule Bash(echo:*) asks)");
    assert_eq!((&question["show"], &question["call"]), (&json!({"command": "echo one >> log"}), &json!("a")));
    assert!(question["expires"].is_string(), "a question lapses: {question}");
    assert_eq!(stage.decide(&question, &json!({"decision": "approve", "by": "ann"})).await, 200);
    assert_eq!(stage.decide(&question, &json!({"decision": "approve", "by": "ann"})).await, 409, "decided once");
    stage.end().await.ran("echo one >> log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_person_refuses_is_not_made_and_the_model_is_told_why() {
    let stage = stage(ASK, "").await;
    let question = stage.ask().await;
    stage.decide(&question, &json!({"decision": "reject", "comment": "not today"})).await;
    stage.end().await.refused("Bash was not called: a person refused it: not today");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_may_change_the_arguments_to_others_that_fit() {
    let changed = stage(ASK, "").await;
    let question = changed.ask().await;
    let edits = json!({"command": "echo two >> log"});
    changed.decide(&question, &json!({"decision": "approve", "edits": edits})).await;
    changed.end().await.ran("echo two >> log");

    let broken = stage(ASK, "").await;
    let question = broken.ask().await;
    broken.decide(&question, &json!({"decision": "approve", "edits": {"commando": 7}})).await;
    broken.end().await.refused("they do not fit its schema");

    let denied = stage("ask: ['Bash(echo:*)'], deny: ['Bash(rm:*)']", "").await;
    let question = denied.ask().await;
    denied.decide(&question, &json!({"decision": "approve", "edits": {"command": "rm log"}})).await;
    denied.end().await.refused("Bash(rm:*) of this installation forbids this call");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_those_who_may_decide_and_each_of_several_is_somebody_else() {
    let stage = stage(&format!("{ASK}, approvers: [ann, bob, cem], votes: 2"), "").await;
    let question = stage.ask().await;
    assert_eq!(question["approvers"], json!(["ann", "bob", "cem"]));
    let approve = |by: &str| json!({"decision": "approve", "by": by});
    assert_eq!(stage.decide(&question, &approve("eve")).await, 403);
    let edits = json!({"command": "echo two >> log"});
    let changes = json!({"decision": "approve", "by": "ann", "edits": edits});
    assert_eq!(stage.decide(&question, &changes).await, 200);
    let second = stage.ask().await;
    assert_ne!(second["id"], question["id"]);
    assert_eq!((&second["approved_by"], &second["show"]), (&json!(["ann"]), &edits), "what the first one approved");
    assert_eq!(stage.decide(&second, &approve("ann")).await, 403, "the same person does not count twice");
    assert_eq!(stage.decide(&second, &approve("cem")).await, 200);
    stage.end().await.ran("echo two >> log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_decision_that_names_something_else_is_refused() {
    let stage = stage(ASK, "").await;
    let question = stage.ask().await;
    let other = "0".repeat(64);
    assert_eq!(stage.decide(&question, &json!({"decision": "approve", "digest": other})).await, 409);
    let same = &question["digest"];
    assert_eq!(stage.decide(&question, &json!({"decision": "approve", "digest": same})).await, 200);
    stage.end().await.ran("echo one >> log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_that_nobody_answers_lapses_and_the_call_is_not_made() {
    let stage = stage(&format!("{ASK}, expires: 100ms"), "").await;
    stage.end().await.refused("nobody decided in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_holds_for_the_permissions_under_which_it_was_given() {
    let denied = stage(ASK, "").await;
    let question = denied.ask().await;
    denied.decide(&question, &json!({"decision": "approve"})).await;
    let ended = denied.end_with(|config| config.permissions.deny.push("Bash(echo:*)".to_owned())).await;
    ended.refused("of this installation forbids this call");

    let asked_again = stage(ASK, "").await;
    let question = asked_again.ask().await;
    asked_again.decide(&question, &json!({"decision": "approve"})).await;
    let other = |config: &mut Config| config.permissions.ask.push("Bash(ls:*)".to_owned());
    let second = asked_again.ask_with(other).await;
    assert_ne!(second["id"], question["id"]);
    asked_again.decide(&second, &json!({"decision": "approve"})).await;
    asked_again.end_with(other).await.ran("echo one >> log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mode_of_an_agent_says_what_is_asked_and_what_is_refused() {
    let plan = stage("", "permissionMode: plan").await;
    plan.end().await.refused("in plan mode");
    let nobody = stage("", "permissionMode: dontAsk").await;
    nobody.end().await.refused("nobody is in this mode");
    let default = stage("allow: [Bash]", "permissionMode: default").await;
    default.end().await.ran("echo one >> log");
    let asks = stage("mode: default", "").await;
    let question = asks.ask().await;
    assert_eq!(question["title"], "clerk wants to call Bash (no rule allows it)");
    let bypass = stage("allow_bypass: true, mode: default", "permissionMode: bypassPermissions").await;
    bypass.end().await.ran("echo one >> log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mode_that_the_operator_does_not_allow_ends_the_task_with_the_reason() {
    let ended = stage("", "permissionMode: bypassPermissions").await.end().await;
    let State::Dead { reason: DeadReason::Failed, error, .. } = &ended.state else { panic!("{:?}", ended.state) };
    assert_eq!(error.class, FailureClass::Configuration);
    assert!(error.message.contains("allow_bypass"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tool_step_is_asked_about_too_and_fails_if_it_is_refused() {
    let pipeline = "name: p\nsteps:\n  - { id: work, tool: Bash, with: { command: echo one } }\n";
    let agent = "---\nname: clerk\nmodel: m\n---\nx\n";
    let approved = staged(ASK, pipeline, agent).await;
    let question = approved.ask().await;
    assert_eq!(question["title"], "step work wants to call Bash (the rule Bash(echo:*) asks)");
    approved.decide(&question, &json!({"decision": "approve"})).await;
    approved.end().await.ran("echo one");
    let refused = staged(ASK, pipeline, agent).await;
    let question = refused.ask().await;
    refused.decide(&question, &json!({"decision": "reject"})).await;
    let ended = refused.end().await;
    assert!(matches!(ended.state, State::Dead { reason: DeadReason::Rejected, .. }), "{:?}", ended.state);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approval_step_can_want_two_people() {
    let pipeline = "name: p\nsteps:\n  - id: sign\n    approval: { title: Sign?, show: \"'text'\", approvers: [ann, bob], votes: 2 }\n";
    let stage = staged("", pipeline, "---\nname: clerk\nmodel: m\n---\nx\n").await;
    let first = stage.ask().await;
    stage.decide(&first, &json!({"decision": "approve", "by": "bob"})).await;
    let second = stage.ask().await;
    assert_eq!(stage.decide(&second, &json!({"decision": "approve", "by": "bob"})).await, 403);
    stage.decide(&second, &json!({"decision": "approve", "by": "ann"})).await;
    let ended = stage.end().await;
    let Some(Event::Succeeded { output }) = ended.journal.last().map(|recorded| &recorded.event) else {
        panic!("{:?}", ended.state)
    };
    assert_eq!((&output["approved"], &output["approved_by"]), (&json!(true), &json!(["bob", "ann"])));
}
