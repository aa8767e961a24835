//! Agents that call others: in parallel, in the background, once more, and with
//! what fails on the way, over a real store, a scheduler and a worker.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use common::id::TaskId;
use common::journal::{CallResult, Event, Recorded};
use common::task::{DeadReason, State};
use serde_json::{Value, json};
use suite::fakes::model::{FakeModel, Message, Reply, Request};
use suite::fixtures::scheduler::RunningScheduler;

const LEAD: &str = "---\nname: lead\ntools: Agent, Read\nmodel: m\n---\nYou lead.\n";
const SCOUT: &str = "---\nname: scout\ndescription: looks around\ntools: Glob, Agent\nmodel: small\n---\nYou scout.\n";
const MINER: &str = "---\nname: miner\ndescription: digs\ntools: Read\nbackground: true\n---\nYou dig.\n";
const ALL: usize = 1_000;

struct Ended {
    state: State,
    output: Option<Value>,
    journal: Vec<Recorded>,
    steps: Value,
    requests: Vec<Request>,
}

impl Ended {
    #[track_caller]
    fn succeeded(&self, output: &Value) {
        assert!(matches!(self.state, State::Succeeded { .. }), "{:?}", self.state);
        assert_eq!(self.output.as_ref(), Some(output));
    }

    fn events<'a, T>(&'a self, pick: impl Fn(&'a Event) -> Option<T>) -> Vec<T> {
        self.journal.iter().filter_map(|recorded| pick(&recorded.event)).collect()
    }

    /// The results that an agent got, by the id of the call.
    fn result(&self, id: &str) -> &CallResult {
        let results = self.events(|event| match event {
            Event::CallFinished { call, result, .. } if call.as_str() == id => Some(result),
            _ => None,
        });
        assert_eq!(results.len(), 1, "{id} is answered once");
        results[0]
    }

    /// The requests of an agent, by its system prompt.
    fn of(&self, system: &str) -> Vec<&Request> {
        self.requests.iter().filter(|request| speaks(request, system)).collect()
    }
}

fn speaks(request: &Request, system: &str) -> bool {
    request.json["system"].to_string().contains(system)
}

fn texts(result: &CallResult) -> Vec<&str> {
    let CallResult::Done { content, is_error: false } = result else { panic!("{result:?}") };
    content.as_array().unwrap().iter().map(|block| block["text"].as_str().unwrap()).collect()
}

/// Runs a task whose only step is the agent `lead`, with what else the step says.
async fn run(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static, settings: &str) -> Ended {
    let fake = FakeModel::answering(answer).await.unwrap();
    let config = format!(
        "models:\n  m: {{ provider: fake, model: claude-sonnet-4-6 }}\n  small: {{ provider: fake, model: claude-haiku-4-5 }}\n\
         providers:\n  fake: {{ kind: anthropic, base_url: '{}', key: 'env:PATH', idle_timeout: 10s, timeout: 15s }}\n",
        fake.base_url()
    );
    let pipeline = format!(
        "name: p\nretry: {{ attempts: 3, backoff: {{ initial: 5ms, max: 20ms, jitter: none }} }}\n\
         steps:\n  - {{ id: work, agent: lead, prompt: Go., {settings} }}\n"
    );
    let api = RunningScheduler::start(&[
        ("teamster.yaml", &config),
        ("pipelines/p.yaml", &pipeline),
        ("agents/lead.md", LEAD),
        ("agents/scout.md", SCOUT),
        ("agents/miner.md", MINER),
    ])
    .await;
    let worker = api.worker();
    let id = api.submit(&json!({"pipeline": "p", "input": {}})).await;
    api.watch(&id, None, "end").await;
    let steps = api.get(&format!("/v1/tasks/{id}")).await.json()["steps"].clone();
    let task: TaskId = id.parse().unwrap();
    let state = api.store.head(task).await.unwrap().unwrap().state;
    let journal = api.store.journal(task, 0, ALL).await.unwrap();
    worker.drain().await;
    api.drain().await;
    assert_eq!(fake.violations(), Vec::<String>::new());
    let output = journal.iter().find_map(|recorded| match &recorded.event {
        Event::Succeeded { output } => Some(output.clone()),
        _ => None,
    });
    Ended { state, output, journal, steps, requests: fake.requests() }
}

fn call(message: Message, id: &str, agent: &str, prompt: &str, more: &Value) -> Message {
    let mut input = json!({"description": "a part of it", "prompt": prompt, "subagent_type": agent});
    input.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    message.tool_use(id, "Agent", &input)
}

fn called(id: &str, agent: &str, prompt: &str) -> Message {
    call(Message::new(), id, agent, prompt, &json!({}))
}

fn says(text: &str) -> Reply {
    Message::of_text(text).into()
}

/// Holds callers up until so many have come.
struct Gate(Mutex<usize>, Condvar);

impl Gate {
    fn pass(&self, count: usize) -> bool {
        let mut come = self.0.lock().unwrap();
        *come += 1;
        self.1.notify_all();
        let (_come, waited) = self.1.wait_timeout_while(come, Duration::from_secs(20), |come| *come < count).unwrap();
        !waited.timed_out()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 6)]
async fn several_called_in_one_turn_work_at_the_same_time_and_answer_in_their_words() {
    let gate = Arc::new(Gate(Mutex::default(), Condvar::new()));
    let ended = run(
        move |request| match (speaks(request, "You lead"), request.turn()) {
            (true, 0) => call(called("a", "scout", "Look left."), "b", "scout", "Look right.", &json!({})).into(),
            (true, _) => says("Seen."),
            (false, _) if !gate.pass(2) => Reply::error(400, "invalid_request_error", "the other one did not come"),
            (false, _) => {
                let told = request.messages()[0]["content"][0]["text"].as_str().unwrap();
                says(&format!(" {told} \nThat is all."))
            }
        },
        "",
    )
    .await;
    ended.succeeded(&json!("Seen."));
    assert_eq!(texts(ended.result("a"))[0], " Look left. \nThat is all.");
    assert_eq!(texts(ended.result("b"))[0], " Look right. \nThat is all.");
    let scouts = ended.of("You scout");
    assert_eq!(scouts[0].json["model"], "claude-haiku-4-5");
    let offered: Vec<&str> =
        scouts[0].json["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert_eq!(offered, ["Glob"], "its own tools, and nobody to call one level down");
    let answers = &ended.of("You lead")[1].messages()[2]["content"];
    let ids: Vec<&Value> = answers.as_array().unwrap().iter().map(|block| &block["tool_use_id"]).collect();
    assert_eq!(ids, ["a", "b"], "in the order of the calls, whoever was first");
    let lineage: Vec<(&Value, &Value)> =
        ended.steps.as_array().unwrap().iter().map(|step| (&step["id"], &step["agent"])).collect();
    let scout = json!("scout");
    assert_eq!(lineage, [(&json!("work"), &Value::Null), (&json!("work/1"), &scout), (&json!("work/2"), &scout)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_in_the_background_is_not_waited_for_and_its_end_is_told() {
    let ended = run(
        |request| match (speaks(request, "You lead"), request.turn()) {
            (true, 0) => called("a", "miner", "Dig.").into(),
            (true, turn) if request.messages().iter().any(|m| m["content"].to_string().contains("Gold!")) => {
                says(&format!("Gold in turn {turn}"))
            }
            (true, _) => says("I wait."),
            (false, _) => says("Gold!"),
        },
        "",
    )
    .await;
    let CallResult::Done { content, .. } = ended.result("a") else { panic!("it was started") };
    assert!(content.as_str().unwrap().contains("work/1 works in the background"), "{content}");
    let told = ended.events(|event| match event {
        Event::Prompted { subagents, text, .. } if !subagents.is_empty() => Some((subagents.clone(), text.clone())),
        _ => None,
    });
    assert_eq!(told.len(), 1, "told once");
    assert!(told[0].1.contains("Agent work/1 (miner) is done. Its final message:\nGold!"), "{}", told[0].1);
    assert!(ended.output.unwrap().as_str().unwrap().starts_with("Gold in turn"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_that_is_done_goes_on_with_all_that_it_knows() {
    let ended = run(
        |request| match (speaks(request, "You lead"), request.turn()) {
            (true, 0) => called("a", "scout", "Look left.").into(),
            (true, 1) => call(Message::new(), "b", "scout", "And right?", &json!({"resume": "work/1"})).into(),
            (true, 2) => call(Message::new(), "c", "scout", "And up?", &json!({"resume": "work/7"})).into(),
            (true, _) => says("Seen."),
            (false, turn) => says(&format!("answer {turn}")),
        },
        "",
    )
    .await;
    ended.succeeded(&json!("Seen."));
    assert_eq!((texts(ended.result("a"))[0], texts(ended.result("b"))[0]), ("answer 0", "answer 1"));
    let scouts = ended.of("You scout");
    let last = scouts[1].messages();
    assert_eq!(
        (last.len(), &last[0], &last[2]["content"][0]["text"]),
        (3, &scouts[0].messages()[0], &json!("And right?"))
    );
    let CallResult::Failed { error } = ended.result("c") else { panic!("there is no such agent") };
    assert!(error.message.contains("there is no agent \"work/7\"") && error.message.contains("work/1"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn they_call_others_only_as_deep_as_the_step_allows() {
    let answer = |request: &Request| match (speaks(request, "You lead"), request.turn()) {
        (true, 0) => called("a", "scout", "Look.").into(),
        (false, 0) if speaks(request, "You scout") => called("b", "lead", "Lead me.").into(),
        _ => says("Done."),
    };
    let ended = run(answer, "limits: { depth: 2 }").await;
    // The second `lead` is answered as the first one: it calls too, and is refused.
    let CallResult::Done { .. } = ended.result("b") else { panic!("two levels are allowed") };
    let refused = ended.events(|event| match event {
        Event::CallFinished { step, result: CallResult::Failed { error }, .. } => {
            Some((step.to_string(), error.message.clone()))
        }
        _ => None,
    });
    assert_eq!(refused.len(), 1);
    assert!(refused[0].0 == "work/1/1" && refused[0].1.contains("there is no tool \"Agent\""), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_they_use_counts_against_the_limits_of_the_step() {
    let answer = |request: &Request| match (speaks(request, "You lead"), request.turn()) {
        (true, 0) => called("a", "scout", "Look.").into(),
        (true, _) => says("Done."),
        (false, turn) => {
            Message::new().tool_use(&format!("g{turn}"), "Glob", &json!({"pattern": format!("{turn}*")})).into()
        }
    };
    let ended = run(answer, "limits: { tool_calls: 4 }").await;
    ended.succeeded(&json!("Done."));
    let CallResult::Failed { error } = ended.result("a") else { panic!("the scout never ends by itself") };
    assert!(error.message.contains("agent work/1 (scout) failed: the agent made 4 tool calls"), "{error}");
    let ended = run(answer, "limits: { tokens: 60 }").await;
    let State::Dead { reason: DeadReason::Failed, error, .. } = &ended.state else { panic!("{:?}", ended.state) };
    assert!(error.message.contains("limits.tokens"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_provider_that_fails_a_subagent_is_asked_again_for_it_alone() {
    let failed = Mutex::new(false);
    let ended = run(
        move |request| match (speaks(request, "You lead"), request.turn()) {
            (true, 0) => called("a", "scout", "Look.").into(),
            (true, _) => says("Done."),
            (false, _) if !std::mem::replace(&mut failed.lock().unwrap(), true) => {
                Reply::error(529, "overloaded_error", "Overloaded")
            }
            (false, _) => says("Seen."),
        },
        "",
    )
    .await;
    ended.succeeded(&json!("Done."));
    assert_eq!((ended.of("You lead").len(), ended.of("You scout").len()), (2, 2));
    let retried = ended.events(|event| match event {
        Event::StepRetrying { step, .. } => Some(step.to_string()),
        _ => None,
    });
    assert_eq!(retried, ["work/1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_that_fails_for_good_is_a_failed_call_of_its_caller() {
    let ended = run(
        |request| match (speaks(request, "You lead"), request.turn()) {
            (true, 0) => called("a", "scout", "Look.").into(),
            (true, _) => says("Without it, then."),
            (false, _) => Reply::error(400, "invalid_request_error", "no"),
        },
        "",
    )
    .await;
    ended.succeeded(&json!("Without it, then."));
    let CallResult::Failed { error } = ended.result("a") else { panic!("the scout failed") };
    assert!(error.message.starts_with("agent work/1 (scout) failed: "), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_step_may_compute_which_model_it_wants() {
    let ended = run(|_| says("Done."), "model: \"{{ 'small' if input.hard is undefined else 'm' }}\"").await;
    ended.succeeded(&json!("Done."));
    assert_eq!(ended.of("You lead")[0].json["model"], "claude-haiku-4-5");
    let ended = run(|_| says("Done."), "model: \"{{ 'sm' ~ 'ell' }}\"").await;
    let State::Dead { error, .. } = &ended.state else { panic!("{:?}", ended.state) };
    assert!(error.message.contains("smell"), "{error}");
}
