//! What a task makes of a provider that fails: from the submission to the end,
//! over a real store, a scheduler, a worker and a model server that misbehaves.

use common::failure::FailureClass;
use common::id::TaskId;
use common::journal::{CallResult, Event, Recorded};
use common::task::{DeadReason, State};
use serde_json::{Value, json};
use suite::fakes::model::{Break, FakeModel, Message, Reply};
use suite::fixtures::scheduler::RunningScheduler;

const THINKER: &str = "---\nname: thinker\ndescription: thinks\ntools: Read, Glob\nmodel: m\n---\nThink.\n";
/// More events than any journal here has.
const ALL: usize = 1_000;
/// A wait for the next bytes that no answer outlasts, however busy the machine.
const PATIENT: &str = "10s";
/// One that a silent provider soon outlasts.
const IMPATIENT: &str = "500ms";

/// A task that has ended, and what was asked of the model meanwhile.
struct Ended {
    state: State,
    output: Option<Value>,
    journal: Vec<Recorded>,
    /// For each request, how many turns the conversation had by then.
    asked: Vec<usize>,
    /// The bodies of the requests.
    bodies: Vec<Value>,
}

impl Ended {
    /// The classes of the failures after which the step was tried again.
    fn retries(&self) -> Vec<FailureClass> {
        self.events(|event| match event {
            Event::StepRetrying { error, .. } => Some(error.class),
            _ => None,
        })
    }

    /// What came of the tool calls, in order.
    fn calls(&self) -> Vec<&CallResult> {
        self.events(|event| match event {
            Event::CallFinished { result, .. } => Some(result),
            _ => None,
        })
    }

    /// How many turns are in the journal.
    fn turns(&self) -> usize {
        self.events(|event| matches!(event, Event::TurnFinished { .. }).then_some(())).len()
    }

    fn events<'a, T>(&'a self, pick: impl Fn(&'a Event) -> Option<T>) -> Vec<T> {
        self.journal.iter().filter_map(|recorded| pick(&recorded.event)).collect()
    }

    /// Checks that it succeeded with this output.
    #[track_caller]
    fn succeeded(&self, output: &Value) {
        assert!(matches!(self.state, State::Succeeded { .. }), "{:?}", self.state);
        assert_eq!(self.output.as_ref(), Some(output));
    }

    /// Checks that it is dead of the step's failure, and gives the message.
    #[track_caller]
    fn died(&self, class: FailureClass) -> &str {
        let State::Dead { reason: DeadReason::Failed, error, step: Some(step), .. } = &self.state else {
            panic!("{:?}", self.state)
        };
        assert_eq!((error.class, step.to_string().as_str()), (class, "think"), "{error}");
        &error.message
    }
}

/// Runs a task whose only step is an agent, with what else the step says.
async fn run(fake: &FakeModel, settings: &str) -> Ended {
    run_waiting(fake, settings, PATIENT).await
}

/// The same, where the provider may be silent for so long.
async fn run_waiting(fake: &FakeModel, settings: &str, idle_timeout: &str) -> Ended {
    let config = format!(
        "models:\n  m: {{ provider: fake, model: claude-sonnet-4-6 }}\nproviders:\n  fake: {{ kind: anthropic, \
         base_url: '{}', key: 'env:PATH', idle_timeout: {idle_timeout}, timeout: 15s }}\n",
        fake.base_url()
    );
    let pipeline = format!(
        "name: think\nretry: {{ attempts: 3, backoff: {{ initial: 5ms, max: 20ms, jitter: none }} }}\n\
         steps:\n  - {{ id: think, agent: thinker, prompt: Go., {settings} }}\n"
    );
    let api = RunningScheduler::start(&[
        ("teamster.yaml", &config),
        ("pipelines/think.yaml", &pipeline),
        ("agents/thinker.md", THINKER),
    ])
    .await;
    let worker = api.worker();
    let id = api.submit(&json!({"pipeline": "think", "input": {}})).await;
    api.watch(&id, None, "end").await;
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
    let requests = fake.requests();
    let asked = requests.iter().map(suite::fakes::model::Request::turn).collect();
    let bodies = requests.into_iter().map(|request| request.json).collect();
    Ended { state, output, journal, asked, bodies }
}

fn done() -> Message {
    Message::of_text("Done, and this is long enough to be torn into pieces.")
}

fn look(id: &str) -> Message {
    Message::new().tool_use(id, "Glob", &json!({"pattern": "*"}))
}

/// The fault comes in the second turn, once: the task goes on as if nothing had been.
async fn passes(fault: Reply, class: FailureClass) -> Ended {
    passes_waiting(fault, class, PATIENT).await
}

async fn passes_waiting(fault: Reply, class: FailureClass, idle_timeout: &str) -> Ended {
    let fake = FakeModel::scripted([look("toolu_1").into(), fault, done().into()]).await.unwrap();
    let ended = run_waiting(&fake, "", idle_timeout).await;
    ended.succeeded(&done().content()[0]["text"]);
    assert_eq!(ended.retries(), [class]);
    assert_eq!(ended.asked, [0, 1, 1], "the answered turn is not asked again, the other one once more");
    assert_eq!(ended.bodies[1], ended.bodies[2], "what is asked again is the same");
    assert_eq!((ended.turns(), ended.calls().len()), (2, 1), "turns and tool calls are not repeated");
    ended
}

/// The fault comes in the second turn, and stays.
async fn stays(fault: Reply, class: FailureClass) {
    let fake = FakeModel::answering(move |request| match request.turn() {
        0 => look("toolu_1").into(),
        _ => fault.clone(),
    })
    .await
    .unwrap();
    let ended = run(&fake, "").await;
    ended.died(class);
    assert_eq!(ended.retries(), [class, class], "three tries in all");
    assert_eq!(ended.asked, [0, 1, 1, 1]);
    assert_eq!((ended.turns(), ended.calls().len()), (1, 1));
}

#[tokio::test]
async fn a_rate_limit_is_waited_out_for_as_long_as_the_provider_asks() {
    let busy = Reply::error_with_header(429, "rate_limit_error", "retry-after", "1");
    let ended = passes(busy, FailureClass::RateLimited).await;
    let (not_before, asked_for) = ended
        .events(|event| match event {
            Event::StepRetrying { not_before, error, .. } => Some((*not_before, error.retry_after_ms)),
            _ => None,
        })
        .remove(0);
    assert_eq!(asked_for, Some(1_000));
    let leases: Vec<_> =
        ended.journal.iter().filter(|recorded| matches!(recorded.event, Event::Leased { .. })).collect();
    assert_eq!(leases.len(), 2, "the slot is free for others meanwhile");
    assert!(leases[1].at >= not_before, "{:?} is before {not_before:?}", leases[1].at);
}

#[tokio::test]
async fn an_overloaded_provider_is_asked_again() {
    passes(Reply::error(529, "overloaded_error", "Overloaded"), FailureClass::Overloaded).await;
}

#[tokio::test]
async fn a_provider_that_stays_overloaded_ends_the_task_after_the_last_try() {
    stays(Reply::error(529, "overloaded_error", "Overloaded"), FailureClass::Overloaded).await;
}

#[tokio::test]
async fn a_failing_provider_is_asked_again() {
    passes(Reply::error(500, "api_error", "Internal server error"), FailureClass::Unavailable).await;
}

#[tokio::test]
async fn a_reply_whose_connection_is_reset_is_asked_for_again() {
    passes(Reply::Broken(done(), Break::Reset), FailureClass::Connection).await;
}

#[tokio::test]
async fn a_reply_whose_stream_is_cut_off_is_asked_for_again() {
    for how in [Break::End, Break::Close] {
        passes(Reply::Broken(done(), how), FailureClass::Connection).await;
    }
}

#[tokio::test]
async fn an_error_within_a_stream_is_retried_by_its_own_class() {
    passes(Reply::Broken(done(), Break::ErrorEvent), FailureClass::Overloaded).await;
}

#[tokio::test]
async fn a_provider_that_says_nothing_is_asked_again() {
    passes_waiting(Reply::Silence, FailureClass::Timeout, IMPATIENT).await;
}

#[tokio::test]
async fn a_reply_that_stalls_is_asked_for_again() {
    passes_waiting(Reply::Broken(done(), Break::Stall), FailureClass::Timeout, IMPATIENT).await;
}

#[tokio::test]
async fn a_reply_that_is_not_json_is_asked_for_again_and_never_taken_for_an_answer() {
    let garbled = || Reply::recorded(b"event: message_start\ndata: {\"type\": \n\n");
    passes(garbled(), FailureClass::Protocol).await;
    stays(garbled(), FailureClass::Protocol).await;
}

#[tokio::test]
async fn a_request_that_is_refused_for_good_is_not_repeated() {
    for (status, kind, class) in [
        (400, "invalid_request_error", FailureClass::InvalidRequest),
        (401, "authentication_error", FailureClass::Authentication),
    ] {
        let fake = FakeModel::scripted([Reply::error(status, kind, "no")]).await.unwrap();
        let ended = run(&fake, "").await;
        ended.died(class);
        assert_eq!((ended.retries(), ended.asked), (vec![], vec![0]));
    }
}

#[tokio::test]
async fn a_refusal_ends_the_task_and_is_not_asked_for_again() {
    let fake = FakeModel::scripted([Message::of_text("I will not.").stop("refusal")]).await.unwrap();
    let ended = run(&fake, "").await;
    ended.died(FailureClass::Refused);
    assert_eq!((ended.retries(), ended.asked), (vec![], vec![0]));
}

#[tokio::test]
async fn a_reply_that_was_cut_off_at_its_limit_is_continued_and_joined() {
    let script = [
        Message::of_text("One, ").stop("max_tokens"),
        Message::of_text("two, ").stop("max_tokens"),
        Message::of_text("three."),
    ];
    let fake = FakeModel::scripted(script).await.unwrap();
    let ended = run(&fake, "").await;
    ended.succeeded(&json!("One, two, three."));
    assert_eq!((ended.retries(), ended.asked), (vec![], vec![0, 1, 2]));
}

#[tokio::test]
async fn a_reply_that_is_cut_off_again_and_again_ends_the_task() {
    let fake = FakeModel::answering(|_| Message::of_text("and ").stop("max_tokens").into()).await.unwrap();
    let ended = run(&fake, "").await;
    assert!(ended.died(FailureClass::Limit).contains("max_tokens"));
    assert_eq!((ended.retries(), ended.asked), (vec![], vec![0, 1, 2, 3]));
}

#[tokio::test]
async fn a_paused_turn_is_sent_back_and_goes_on() {
    let search = json!({"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}});
    let fake = FakeModel::scripted([Message::new().block(search).stop("pause_turn"), done()]).await.unwrap();
    let ended = run(&fake, "").await;
    ended.succeeded(&done().content()[0]["text"]);
    assert_eq!((ended.retries(), ended.asked), (vec![], vec![0, 1]));
}

/// A call that is not made: the model is told why, and goes on.
async fn told_why_not(call: Message, reason: &str) {
    let fake = FakeModel::scripted([call, done()]).await.unwrap();
    let ended = run(&fake, "").await;
    ended.succeeded(&done().content()[0]["text"]);
    assert_eq!((ended.retries(), &ended.asked), (vec![], &vec![0, 1]));
    let [CallResult::Failed { error }] = ended.calls()[..] else { panic!("{:?}", ended.calls()) };
    assert_eq!(error.class, FailureClass::InvalidRequest);
    let result = &ended.bodies[1]["messages"][2]["content"][0];
    assert_eq!((&result["type"], &result["is_error"]), (&json!("tool_result"), &json!(true)));
    assert!(result["content"].to_string().contains(reason), "{result}");
}

#[tokio::test]
async fn arguments_that_do_not_fit_are_answered_with_the_reason() {
    let call = Message::new().tool_use("toolu_1", "Glob", &json!({"pattern": 7}));
    told_why_not(call, "do not fit the schema of Glob").await;
}

#[tokio::test]
async fn a_tool_that_there_is_not_is_answered_with_those_that_there_are() {
    let call = Message::new().tool_use("toolu_1", "Launch", &json!({}));
    told_why_not(call, "the tools are: Glob, Read").await;
}

#[tokio::test]
async fn an_endless_loop_of_tool_calls_is_nudged_once_and_then_stopped() {
    let fake = FakeModel::answering(|request| look(&format!("toolu_{}", request.turn())).into()).await.unwrap();
    let ended = run(&fake, "limits: { repetition: 2 }").await;
    assert!(ended.died(FailureClass::Limit).contains("repetition"));
    assert_eq!((ended.retries(), &ended.asked), (vec![], &vec![0, 1, 2, 3]));
    let made = |result: &&CallResult| matches!(result, CallResult::Done { .. });
    let calls = ended.calls();
    assert_eq!((calls.len(), calls.iter().filter(|call| made(call)).count()), (3, 2));
    let nudge = ended.bodies[3]["messages"][6]["content"][0]["content"].to_string();
    assert!(nudge.contains("Do something else"), "{nudge}");
}

#[tokio::test]
async fn a_loop_that_heeds_the_nudge_comes_to_its_answer() {
    let fake = FakeModel::answering(|request| match request.turn() {
        turn @ 0..3 => look(&format!("toolu_{turn}")).into(),
        _ => done().into(),
    })
    .await
    .unwrap();
    let ended = run(&fake, "limits: { repetition: 2 }").await;
    ended.succeeded(&done().content()[0]["text"]);
    assert_eq!(ended.asked, [0, 1, 2, 3]);
}

#[tokio::test]
async fn a_loop_of_ever_new_calls_ends_at_the_limit_of_turns() {
    let fake = FakeModel::answering(|request| {
        let turn = request.turn();
        Message::new().tool_use(&format!("toolu_{turn}"), "Glob", &json!({"pattern": format!("{turn}*")})).into()
    })
    .await
    .unwrap();
    let ended = run(&fake, "limits: { turns: 4 }").await;
    assert!(ended.died(FailureClass::Limit).contains("limits.turns"));
    assert_eq!(ended.asked, [0, 1, 2, 3]);
}

#[tokio::test]
async fn a_reply_that_was_cut_off_before_its_answer_began_is_continued() {
    let cut_call =
        Message::new().text("I look.").tool_use("toolu_1", "Glob", &json!({"pattern": "*"})).stop("max_tokens");
    for cut_off in [
        Message::new().thinking("Let me see", "EqQBCkYIBRgCKkA/+==").stop("max_tokens"),
        Message::new().stop("max_tokens"),
        Message::of_text("\n").stop("max_tokens"),
        cut_call,
    ] {
        let fake = FakeModel::scripted([cut_off.clone(), done()]).await.unwrap();
        let ended = run(&fake, "").await;
        assert!(matches!(ended.state, State::Succeeded { .. }), "{cut_off:?}: {:?}", ended.state);
        let output = ended.output.as_ref().and_then(Value::as_str).unwrap_or_default();
        assert!(output.ends_with(done().content()[0]["text"].as_str().unwrap()), "{cut_off:?}: {output:?}");
        assert_eq!(ended.bodies.len(), 2, "{cut_off:?}");
    }
}

#[tokio::test]
async fn an_empty_answer_is_repaired_where_a_schema_asks_for_one() {
    for empty in [Message::new(), Message::of_text(" "), Message::new().thinking("Hm", "EqQBCkYIBRgCKkA/+==")] {
        let fake = FakeModel::scripted([empty, Message::of_text("{\"score\": 7}")]).await.unwrap();
        let ended = run(&fake, "output: { type: object, required: [score] }").await;
        ended.succeeded(&json!({"score": 7}));
        assert_eq!((ended.retries(), ended.bodies.len()), (vec![], 2));
    }
}

#[tokio::test]
async fn tries_count_for_the_request_that_is_next_and_not_for_the_whole_conversation() {
    let busy = || Reply::error(529, "overloaded_error", "busy");
    let script = [busy(), busy(), look("toolu_1").into(), busy(), busy(), done().into()];
    let fake = FakeModel::scripted(script).await.unwrap();
    let ended = run(&fake, "").await;
    assert_eq!(ended.retries(), [FailureClass::Overloaded; 4]);
    assert_eq!((ended.turns(), fake.violations()), (2, Vec::new()));
}
