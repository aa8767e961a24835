//! Large sets of tools: what an agent is told of, finds and calls.

use std::path::Path;

use common::config::Config;
use common::id::TaskId;
use common::journal::{CallResult, Effect, Event};
use common::task::State;
use serde_json::{Value, json};
use suite::fakes::calls::{call, error_text, ok_text};
use suite::fakes::mcp_http::{FakeMcp, Manners};
use suite::fakes::model::{FakeModel, Message};
use suite::fixtures::scheduler::RunningScheduler;
use worker::tools::registry::{ToolFilter, Tools};
use worker::tools::rule::Verdict;
use worker::tools::search::{CALL, SEARCH};
use worker::tools::{ToolAnswer, ToolError, ToolSet};

/// A server with many tools.
async fn many() -> FakeMcp {
    let more = (0..60).map(|n| format!("strict_contact_{n:02}")).collect();
    FakeMcp::start(Manners { more_tools: more, ..Manners::default() }).await
}

/// All tools of a server, as an agent with this rule gets them.
async fn given(fake: &FakeMcp, more: &Value, rules: &[&str]) -> (Tools, ToolSet) {
    let mut config = json!({"mcp_servers": {"far": {"url": fake.url, "effects": {"read_only": "read"}}}});
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    suite::servers::install_crypto_provider();
    let config: Config = serde_json::from_value(config).unwrap();
    let tools = Tools::new(&config).unwrap();
    let set = tools.set(&ToolFilter::rules(rules).unwrap()).await.unwrap();
    (tools, set)
}

async fn called(set: &ToolSet, name: &str, arguments: Value) -> Result<ToolAnswer, ToolError> {
    set[name].call(call(&*set[name], arguments, Path::new("."))).await
}

#[tokio::test]
async fn few_tools_are_told_of_one_by_one_and_many_are_found_by_search() {
    let fake = many().await;
    let offered =
        |tools: &Tools, set: &ToolSet| -> Vec<String> { tools.offered(set).map(|spec| spec.name.clone()).collect() };
    let (tools, set) = given(&fake, &json!({}), &["mcp__far", "Read"]).await;
    assert_eq!(offered(&tools, &set), [CALL, "Read", SEARCH]);
    let (tools, set) = given(&fake, &json!({"limits": {"mcp_tools": 100}}), &["mcp__far", "Read"]).await;
    let names = offered(&tools, &set);
    assert!(names.len() > 60 && !names.iter().any(|name| name == CALL || name == SEARCH), "{names:?}");
    let (tools, set) = given(&fake, &json!({"limits": {"mcp_tools": 0}}), &["Read"]).await;
    assert_eq!(offered(&tools, &set), ["Read"], "an agent without servers has nothing to find");
}

#[tokio::test]
async fn a_tool_that_is_found_can_be_called_with_its_own_effect_class_and_schema() {
    let fake = many().await;
    let (_tools, set) =
        given(&fake, &json!({"effects": {"mcp__far__strict_contact_07": "keyed"}}), &["mcp__far"]).await;
    let found = ok_text(&called(&set, SEARCH, json!({"query": "contact 07", "limit": 1})).await);
    let found: Value = serde_json::from_str(&found).unwrap();
    assert_eq!(found["name"], "mcp__far__strict_contact_07");
    assert_eq!(found["input_schema"]["required"], json!(["id"]));

    let of = |name: &str| json!({"name": format!("mcp__far__{name}"), "arguments": {"id": "7"}});
    let effect = |name: &str| set[CALL].effect(&of(name));
    assert_eq!(["strict_contact_07", "read_only", "echo"].map(effect), [Effect::Keyed, Effect::Read, Effect::Once]);
    assert_eq!(set[CALL].effect(&of("no_such_tool")), Effect::Read, "nothing will happen");

    let answer: Value = serde_json::from_str(&ok_text(&called(&set, CALL, of("echo")).await)).unwrap();
    assert_eq!(answer["arguments"], json!({"id": "7"}));
    assert_eq!(answer["_meta"]["teamster/idempotency_key"], "task/step/call");
    let wrong = json!({"name": "mcp__far__strict_contact_07", "arguments": {"id": 7}});
    let complaint = error_text(&called(&set, CALL, wrong).await);
    assert!(complaint.contains("/id") && complaint.contains("\"required\":[\"id\"]"), "{complaint}");
    assert_eq!(fake.effects("strict_contact_07"), 0);
    let complaint = error_text(&called(&set, CALL, of("no_such_tool")).await);
    assert!(complaint.contains(SEARCH), "{complaint}");
}

#[tokio::test]
async fn a_tool_that_an_agent_may_not_use_is_neither_found_nor_called() {
    let fake = many().await;
    let (_tools, set) = given(&fake, &json!({}), &["mcp__far__strict_*"]).await;
    assert!(!ok_text(&called(&set, SEARCH, json!({"query": "echo"})).await).contains("mcp__far__echo"));
    error_text(&called(&set, CALL, json!({"name": "mcp__far__echo"})).await);
    assert_eq!(fake.effects("echo"), 0);
}

#[tokio::test]
async fn a_call_of_a_found_tool_is_judged_by_the_rules_about_that_tool() {
    let fake = many().await;
    let permissions = json!({"permissions": {"ask": ["mcp__far__strict_contact_07"], "deny": ["mcp__far__echo"]}});
    let (_tools, set) = given(&fake, &permissions, &["mcp__far"]).await;
    let verdict = |name: &str| set[CALL].verdict(&json!({"name": format!("mcp__far__{name}")}), None);
    assert!(matches!(verdict("strict_contact_07"), Verdict::Asks(_)), "{:?}", verdict("strict_contact_07"));
    assert_eq!(verdict("strict_contact_08"), Verdict::Allowed);
    error_text(&called(&set, CALL, json!({"name": "mcp__far__echo"})).await);
    assert_eq!(fake.effects("echo"), 0);
}

#[tokio::test]
async fn an_agent_finds_a_tool_among_many_and_its_call_is_journaled_with_its_class() {
    let server = many().await;
    let wanted = json!({"name": "mcp__far__strict_contact_42", "arguments": {"id": "42"}});
    let model = FakeModel::scripted([
        Message::new().tool_use("toolu_1", SEARCH, &json!({"query": "contact 42"})),
        Message::new().tool_use("toolu_2", CALL, &wanted),
        Message::of_text("Done."),
    ])
    .await
    .unwrap();
    let config = format!(
        "models:\n  m: {{ provider: fake, model: claude-sonnet-4-6 }}\nproviders:\n  fake: {{ kind: anthropic, \
         base_url: '{}', key: 'env:PATH' }}\nmcp_servers:\n  far: {{ url: '{}' }}\n",
        model.base_url(),
        server.url
    );
    let agent = "---\nname: thinker\ndescription: thinks\ntools: mcp__far\nmodel: m\n---\nThink.\n";
    let pipeline = "name: think\nsteps:\n  - { id: think, agent: thinker, prompt: Go. }\n";
    let files = [("teamster.yaml", config.as_str()), ("pipelines/think.yaml", pipeline), ("agents/thinker.md", agent)];
    let api = RunningScheduler::start(&files).await;
    let worker = api.worker();
    let id = api.submit(&json!({"pipeline": "think", "input": {}})).await;
    api.watch(&id, None, "end").await;
    let task: TaskId = id.parse().unwrap();
    let state = api.store.head(task).await.unwrap().unwrap().state;
    let journal = api.store.journal(task, 0, 1_000).await.unwrap();
    worker.drain().await;
    api.drain().await;

    assert!(matches!(state, State::Succeeded { .. }), "{state:?}");
    assert_eq!(model.violations(), Vec::<String>::new());
    let requests = model.requests();
    for request in &requests {
        let told: Vec<&str> =
            request.json["tools"].as_array().unwrap().iter().filter_map(|tool| tool["name"].as_str()).collect();
        assert_eq!(told, [CALL, SEARCH], "the same in every request");
    }
    let found = requests[1].messages().last().unwrap().to_string();
    assert!(found.contains("mcp__far__strict_contact_42"), "{found}");
    let intended: Vec<&Value> = journal
        .iter()
        .filter_map(|recorded| match &recorded.event {
            Event::CallIntended { call, .. } if call.effect == Effect::Once => Some(&call.arguments),
            _ => None,
        })
        .collect();
    assert_eq!(intended, [&wanted], "the search is no effect, the call is one");
    let results = journal.iter().filter(|recorded| {
        matches!(&recorded.event, Event::CallFinished { result: CallResult::Done { is_error: false, .. }, .. })
    });
    assert_eq!(results.count(), 2);
    assert_eq!(server.effects("strict_contact_42"), 1);
}
