//! A provider that fails while a subagent is at work: what passes is waited out by
//! the subagent alone, what stays is told to its caller, and nobody pays twice.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;

use common::failure::FailureClass;
use common::journal::{CallResult, Event};
use serde_json::{Value, json};
use suite::fakes::model::{Break, FakeModel, Message, Reply, Request};
use suite::fixtures::agent_task::{AgentTask, Ended};

const HELPER: &str = "---\nname: helper\ndescription: helps\ntools: Glob\nmodel: m\n---\nHelp.\n";
/// A wait for the next bytes that no answer outlasts, and one that a silent provider does.
const PATIENT: &str = "idle_timeout: 10s, timeout: 15s";
const IMPATIENT: &str = "idle_timeout: 500ms, timeout: 15s";

/// Whether the subagent asks, and the turn that it asks for.
fn of_subagent(request: &Request) -> Option<usize> {
    request.messages()[0]["content"].to_string().contains("Help.").then(|| request.turn())
}

fn done() -> Message {
    Message::of_text("Done, and this is long enough to be torn into pieces.")
}

/// The fault comes in the second turn of the subagent, `times` times.
async fn run(fault: Reply, times: usize, provider: &str) -> Ended {
    let faults = AtomicUsize::new(times);
    let take = move || {
        let count = |left: usize| left.checked_sub(1);
        faults.fetch_update(SeqCst, SeqCst, count).is_ok()
    };
    let fake = FakeModel::answering(move |request| match of_subagent(request) {
        Some(0) => Message::new().tool_use("toolu_b", "Glob", &json!({"pattern": "*"})).into(),
        Some(_) if take() => fault.clone(),
        None if request.turn() == 0 => {
            let call = json!({"description": "help me", "prompt": "Help.", "subagent_type": "helper"});
            Message::new().tool_use("toolu_a", "Agent", &call).into()
        }
        _ => done().into(),
    })
    .await
    .unwrap();
    let task = AgentTask { provider, tools: "Agent", ..AgentTask::default() };
    task.run_beside(&fake, &[("agents/helper.md", HELPER)]).await
}

/// The classes of the failures after which something was tried again, and of what.
fn retries(ended: &Ended) -> Vec<(String, FailureClass)> {
    ended.events(|event| match event {
        Event::StepRetrying { step, error, .. } => Some((step.to_string(), error.class)),
        _ => None,
    })
}

/// How often each agent was asked for each turn: the caller's two, and those of the subagent.
fn asked(ended: &Ended) -> [usize; 4] {
    let count = |subagent: bool, turn: usize| {
        let is_so = |request: &&Value| {
            let messages = request["messages"].as_array().unwrap();
            let turns = messages.iter().filter(|message| message["role"] == "assistant").count();
            (messages[0]["content"].to_string().contains("Help."), turns) == (subagent, turn)
        };
        ended.requests.iter().filter(is_so).count()
    };
    [count(false, 0), count(true, 0), count(true, 1), count(false, 1)]
}

/// What the caller was told of its subagent.
fn told(ended: &Ended) -> &CallResult {
    let results = ended.events(|event| match event {
        Event::CallFinished { call, result, .. } if call.as_str() == "toolu_a" => Some(result),
        _ => None,
    });
    assert_eq!(results.len(), 1, "it is told once");
    results[0]
}

#[tokio::test]
async fn what_passes_is_waited_out_by_the_subagent_alone() {
    use FailureClass::{Connection, Overloaded, Protocol, RateLimited, Timeout, Unavailable};
    for (fault, class, provider) in [
        (Reply::error_with_header(429, "rate_limit_error", "retry-after", "1"), RateLimited, PATIENT),
        (Reply::error(529, "overloaded_error", "Overloaded"), Overloaded, PATIENT),
        (Reply::error(500, "api_error", "Internal server error"), Unavailable, PATIENT),
        (Reply::Broken(done(), Break::Reset), Connection, PATIENT),
        (Reply::Broken(done(), Break::End), Connection, PATIENT),
        (Reply::Broken(done(), Break::Close), Connection, PATIENT),
        (Reply::Broken(done(), Break::ErrorEvent), Overloaded, PATIENT),
        (Reply::Silence, Timeout, IMPATIENT),
        (Reply::Broken(done(), Break::Stall), Timeout, IMPATIENT),
        (Reply::recorded(b"event: message_start\ndata: {\"type\": \n\n"), Protocol, PATIENT),
    ] {
        let ended = run(fault, 1, provider).await;
        ended.succeeded(&done().content()[0]["text"]);
        assert_eq!(retries(&ended), [("think/1".to_owned(), class)], "{:?}", told(&ended));
        assert_eq!(asked(&ended), [1, 1, 2, 1], "{class}: what was answered is not asked again");
        assert!(matches!(told(&ended), CallResult::Done { is_error: false, .. }), "{class}: {:?}", told(&ended));
        assert_eq!(ended.count("turn_finished"), 4, "{class}");
    }
}

#[tokio::test]
async fn what_stays_is_told_to_the_caller_which_goes_on() {
    use FailureClass::{Authentication, InvalidRequest, Overloaded, Protocol, Refused};
    for (fault, class, tries) in [
        (Reply::error(529, "overloaded_error", "Overloaded"), Overloaded, 3),
        (Reply::recorded(b"event: message_start\ndata: {\"type\": \n\n"), Protocol, 3),
        (Reply::error(400, "invalid_request_error", "no"), InvalidRequest, 1),
        (Reply::error(401, "authentication_error", "no"), Authentication, 1),
        (Message::of_text("I will not.").stop("refusal").into(), Refused, 1),
    ] {
        let ended = run(fault, usize::MAX, PATIENT).await;
        ended.succeeded(&done().content()[0]["text"]);
        assert_eq!(retries(&ended), vec![("think/1".to_owned(), class); tries - 1], "{class}");
        assert_eq!(asked(&ended), [1, 1, tries, 1], "{class}");
        let CallResult::Failed { error } = told(&ended) else { panic!("{class}: {:?}", told(&ended)) };
        assert_eq!(error.class, class, "{error}");
    }
}
