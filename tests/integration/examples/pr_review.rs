//! `examples/pr-review`, from GitHub's webhook to the one review on GitHub.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use futures::StreamExt;
use serde_json::{Value, json};
use suite::fakes::github::{Change, GitHub, Trap};
use suite::fakes::model::{FakeModel, Message, Reply, Request};
use suite::fixtures::example::Example;
use suite::fixtures::process::until;
use tokio::sync::Notify;

const OPENED: &str = include_str!("../../data/webhooks/github/pull_request.opened.json");
const SECRET: &str = "the webhook's secret";
const REVIEWERS: [&str; 3] = ["security", "tests", "style"];
/// Runs at once.
const PARALLEL: usize = 3;
/// From one append at which a worker is killed to the next.
const STRIDE: usize = 3;

/// A repository with a change, a model, GitHub, and the example.
struct Desk {
    model: FakeModel,
    github: GitHub,
    example: Example,
    repository: tempfile::TempDir,
    base: String,
}

fn git(dir: &Path, arguments: &[&str]) -> String {
    let who = ["-c", "user.name=Test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false"];
    let output = Command::new("git").arg("-C").arg(dir).args(who).args(arguments).output().unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Commits a file, and gives the commit.
fn commit(dir: &Path, text: &str) -> String {
    std::fs::write(dir.join("app.py"), text).unwrap();
    git(dir, &["add", "app.py"]);
    git(dir, &["commit", "--quiet", "--no-verify", "-m", "Change"]);
    git(dir, &["rev-parse", "HEAD"])
}

/// 20 lines, of which the third is `third`.
fn program(third: &str) -> String {
    (1..=20).map(|n| if n == 3 { format!("{third}\n") } else { format!("line_{n} = {n}\n") }).collect()
}

impl Desk {
    async fn open() -> Self {
        Self::with(None, |_| None).await
    }

    /// With a GitHub that falls silent, and a model that may answer something else than usual.
    async fn with(trap: Option<Trap>, other: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static) -> Self {
        let repository = tempfile::tempdir().unwrap();
        git(repository.path(), &["init", "--quiet"]);
        let base = commit(repository.path(), &program("line_3 = 3"));
        let model =
            FakeModel::answering(move |request| other(request).unwrap_or_else(|| answer(request))).await.unwrap();
        // The hunk around line 3, as GitHub has it.
        let lines: Vec<String> = (1..=6).map(|line| format!("app.py:{line}")).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let github = GitHub::start(&lines, trap).await.unwrap();
        let changes = [("initial: 2s", "initial: 10ms"), ("initial: 1s", "initial: 10ms")];
        let env = [
            ("ANTHROPIC_BASE_URL", model.base_url()),
            ("ANTHROPIC_API_KEY", "not-secret".to_owned()),
            ("REPO_URL", repository.path().display().to_string()),
            ("GITHUB_WEBHOOK_SECRET", SECRET.to_owned()),
            ("GITHUB_TOKEN", "github-token".to_owned()),
            ("GITHUB_API", github.url.clone()),
        ];
        let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let example = Example::start("pr-review", &changes, &env);
        Self { model, github, example, repository, base }
    }

    /// Pushes a change of the third line, and delivers what GitHub says of it: the commit, and the task.
    async fn push(&self, third: &str, action: &str) -> (String, String) {
        let head = commit(self.repository.path(), &program(third));
        let mut event: Value = serde_json::from_str(OPENED).unwrap();
        event["action"] = json!(action);
        event["pull_request"]["base"]["sha"] = json!(self.base);
        event["pull_request"]["head"]["sha"] = json!(head);
        let headers = [("x-github-event", "pull_request"), ("x-github-delivery", head.as_str())];
        let sign = ("x-hub-signature-256", SECRET);
        let (status, made) = self.example.deliver("github", &event.to_string(), sign, &headers).await;
        assert_eq!(status, 202, "{made}");
        (head, made["tasks"][0]["id"].as_str().unwrap().to_owned())
    }

    async fn approve(&self, task: &str) -> Value {
        let question = self.example.question(task).await;
        self.example.decide(&question, &json!({"decision": "approve"})).await;
        question["show"].clone()
    }

    /// Checks that GitHub has one review, submitted, of this commit.
    #[track_caller]
    fn one_review(&self, head: &str, about: &str) -> Value {
        let submitted = self.github.reviews("COMMENTED");
        assert_eq!(submitted.len(), 1, "{about}: {submitted:?}");
        assert_eq!(submitted[0]["commit_id"], head, "{about}");
        assert!(self.github.reviews("PENDING").is_empty(), "{about}: {:?}", self.github.reviews("PENDING"));
        submitted[0].clone()
    }
}

/// Which agent asks.
fn speaker(request: &Request) -> &'static str {
    let system = request.json["system"].to_string();
    let said = ["request for security", "request is tested", "easy to read", "Three reviewers have looked"];
    let names = REVIEWERS.into_iter().chain(["verifier"]);
    said.iter().zip(names).find_map(|(said, name)| system.contains(said).then_some(name)).unwrap()
}

/// Whether the last message has the answers of tools.
fn is_answered(request: &Request) -> bool {
    let last = request.messages().last().unwrap();
    last["content"].as_array().is_some_and(|blocks| blocks.iter().any(|block| block["type"] == "tool_result"))
}

fn finding(path: &str, line: u32, comment: &str) -> Value {
    json!({"path": path, "line": line, "severity": "major", "comment": comment})
}

/// Reads the changed file, then says what it found. The verifier drops what the tests reviewer said.
fn answer(request: &Request) -> Reply {
    let speaker = speaker(request);
    if !is_answered(request) {
        let id = format!("toolu_{}", request.number);
        return Message::new().tool_use(&id, "Read", &json!({"file_path": "repo/app.py"})).into();
    }
    let answer = match speaker {
        "verifier" => {
            let by = |mut finding: Value, who: &str| {
                finding["reviewer"] = json!(who);
                finding
            };
            json!({
                "verdict": "comment", "summary": "Two things to look at.",
                "findings": [
                    by(finding("app.py", 3, "eval of what a user sent"), "security"),
                    by(finding("app.py", 18, "the same name twice"), "style"),
                ],
                "dropped": [{"comment": "not tested", "reason": "it is tested in line 9"}],
            })
        }
        who => json!({"findings": [finding("app.py", 3, &format!("said by {who}"))]}),
    };
    Message::of_text(&answer.to_string()).into()
}

/// The text of all messages.
fn told(request: &Request) -> String {
    request.messages().iter().map(Value::to_string).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_reviewers_work_at_once_and_what_the_verifier_confirms_is_posted_once() {
    // Nobody is answered before all three have asked: one after the other, they would wait forever.
    let here = Mutex::new(BTreeSet::new());
    let doors: [Arc<Notify>; 3] = Default::default();
    let desk = Desk::with(None, move |request| {
        let number = REVIEWERS.iter().position(|name| *name == speaker(request))?;
        if is_answered(request) {
            return None;
        }
        let mut here = here.lock().unwrap();
        here.insert(number);
        if here.len() == REVIEWERS.len() {
            for door in &doors {
                door.notify_one();
            }
        }
        let Reply::Message(message) = answer(request) else { return None };
        Some(Reply::Held(message, Arc::clone(&doors[number])))
    })
    .await;
    let _worker = desk.example.worker(None);
    let (head, task) = desk.push("line_3 = eval(input())", "opened").await;
    let show = desk.approve(&task).await;
    assert_eq!((&show["verdict"], show["dropped"].as_array().unwrap().len()), (&json!("comment"), 1), "{show}");
    let done = desk.example.until_state(&task, "succeeded").await;
    assert_eq!(done["output"]["posted"], true, "{done}");
    assert!(done["output"]["cost_usd"].as_f64().unwrap() > 0.0);

    let review = desk.one_review(&head, "posted");
    let comments = review["comments"].as_array().unwrap();
    assert_eq!(comments.len(), 1, "{review}");
    assert_eq!((&comments[0]["path"], &comments[0]["line"]), (&json!("app.py"), &json!(3)));
    let body = review["body"].as_str().unwrap();
    assert!(body.contains("Two things to look at.") && body.contains("`app.py:18`"), "not in the diff: {body}");
    assert!(!body.contains("not tested"), "what was dropped is not posted: {body}");
    let requests = desk.model.requests();
    let verifier = requests.iter().find(|request| speaker(request) == "verifier").unwrap();
    assert!(REVIEWERS.iter().all(|who| told(verifier).contains(&format!("said by {who}"))), "{}", told(verifier));
    assert_eq!(desk.model.violations(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reviewer_that_fails_does_not_take_the_others_with_it_and_the_verifier_is_told() {
    let desk = Desk::with(None, |request| {
        (speaker(request) == "style").then(|| Reply::error(400, "invalid_request_error", "no"))
    })
    .await;
    let _worker = desk.example.worker(None);
    let (head, task) = desk.push("line_3 = eval(input())", "opened").await;
    desk.approve(&task).await;
    desk.example.until_state(&task, "succeeded").await;
    desk.one_review(&head, "posted");
    let requests = desk.model.requests();
    let verifier = requests.iter().find(|request| speaker(request) == "verifier").unwrap();
    assert!(told(verifier).contains("this reviewer FAILED"), "{}", told(verifier));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_reviewer_there_is_no_review_but_a_dead_letter() {
    let desk = Desk::with(None, |_| Some(Reply::error(400, "invalid_request_error", "no"))).await;
    let _worker = desk.example.worker(None);
    let (_, task) = desk.push("line_3 = eval(input())", "opened").await;
    let dead = desk.example.until_state(&task, "dead").await;
    assert_eq!(dead["dead_step"], "nobody", "{dead}");
    assert_eq!(desk.github.page().asked, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_person_changes_is_what_is_posted() {
    let desk = Desk::open().await;
    let _worker = desk.example.worker(None);
    let (head, task) = desk.push("line_3 = eval(input())", "opened").await;
    let question = desk.example.question(&task).await;
    let edits = json!({"summary": "Looks good.", "findings": []});
    desk.example.decide(&question, &json!({"decision": "approve", "edits": edits})).await;
    desk.example.until_state(&task, "succeeded").await;
    let review = desk.one_review(&head, "edited");
    assert_eq!(review["comments"], json!([]));
    assert!(review["body"].as_str().unwrap().ends_with("Looks good.\n"), "{review}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_while_it_posts_leaves_one_review_and_asks_nobody() {
    for change in [Change::Propose, Change::Submit] {
        for trap in [Trap::Before(change), Trap::After(change)] {
            let desk = Desk::with(Some(trap), |_| None).await;
            let mut worker = desk.example.worker(None);
            let (head, task) = desk.push("line_3 = eval(input())", "opened").await;
            desk.approve(&task).await;
            desk.github.silent().await.unwrap();
            worker.kill();
            let _next = desk.example.worker(None);
            let done = desk.example.until_state(&task, "succeeded").await;
            assert_eq!(done["output"]["posted"], true, "{trap:?}");
            desk.one_review(&head, &format!("{trap:?}"));
            assert!(desk.github.page().asked > 2, "{trap:?}: the request was made again");
            let turns = desk.model.requests().len();
            assert_eq!(turns, 8, "{trap:?}: an answered model call was made again");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_push_supersedes_the_review_in_the_middle_of_posting_and_goes_on_with_the_conversations() {
    // The first task has proposed its review, and waits for GitHub to take it.
    let desk = Desk::with(Some(Trap::Before(Change::Submit)), |_| None).await;
    let _worker = desk.example.worker(None);
    let (_, first) = desk.push("line_3 = eval(input())", "opened").await;
    desk.approve(&first).await;
    desk.github.silent().await.unwrap();
    assert_eq!(desk.github.reviews("PENDING").len(), 1);
    let before = desk.model.requests().len();

    let (head, second) = desk.push("line_3 = int(input())", "synchronize").await;
    desk.example.until_state(&first, "cancelled").await;
    desk.approve(&second).await;
    desk.example.until_state(&second, "succeeded").await;
    desk.one_review(&head, "the newer one");
    let requests = desk.model.requests();
    for who in REVIEWERS {
        let goes_on = requests[before..].iter().find(|request| speaker(request) == who).unwrap();
        assert!(told(goes_on).contains(&format!("said by {who}")), "{who} knows what it said of the first push");
    }
    let verifier = requests[before..].iter().find(|request| speaker(request) == "verifier").unwrap();
    assert_eq!(verifier.turn(), 0, "who judges begins anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pending_review_of_somebody_else_is_left_alone_and_named_in_the_dead_letter() {
    let desk = Desk::open().await;
    let theirs = json!({"id": 7, "state": "PENDING", "body": "mine, not done yet", "commit_id": "x"});
    desk.github.page().reviews.push(theirs.clone());
    let _worker = desk.example.worker(None);
    let (_, task) = desk.push("line_3 = eval(input())", "opened").await;
    desk.approve(&task).await;
    let dead = desk.example.until_state(&task, "dead").await;
    assert!(dead["error"].to_string().contains("only have one pending review"), "{}", dead["error"]);
    assert_eq!(desk.github.page().reviews, [theirs]);
}

/// One review, whose worker dies at an append; whether it did.
async fn survives(fault: &str) -> bool {
    let desk = Desk::open().await;
    let mut first = desk.example.worker(Some(fault));
    let (head, task) = desk.push("line_3 = eval(input())", "opened").await;
    let mut second = None;
    let mut decided = false;
    until(&format!("{fault}: the review is posted"), async || {
        if second.is_none() && first.is_killed() {
            second = Some(desk.example.worker(None));
        }
        let now = desk.example.task(&task).await;
        if let Some(approval) = now["open_approvals"][0].as_str()
            && now["state"] == "waiting"
            && !decided
        {
            let answer = desk.example.post(&format!("/v1/approvals/{approval}"), &json!({"decision": "approve"})).await;
            decided = answer.0 < 300;
        }
        assert_ne!(now["state"], "dead", "{fault}: {now}");
        now["state"] == "succeeded"
    })
    .await;
    desk.one_review(&head, fault);
    println!("{fault}: killed: {}, {} requests to GitHub", second.is_some(), desk.github.page().asked);
    second.is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_at_any_append_posts_one_review() {
    let faults = (1..).step_by(STRIDE).map(|number| {
        let place = if (number / STRIDE).is_multiple_of(2) { "after_append" } else { "before_append" };
        async move { survives(&format!("{place}:{number}")).await }
    });
    let mut runs = std::pin::pin!(futures::stream::iter(faults).buffered(PARALLEL));
    let mut kills = 0;
    while runs.next().await.unwrap() {
        kills += 1;
    }
    assert!(kills >= 10, "a review has more appends than {}", kills * STRIDE);
}
