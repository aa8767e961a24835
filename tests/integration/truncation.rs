//! Journals of a real run, cut off at every event, on a real store: a worker that
//! finds such a journal comes to the same end, and calls only what is missing.
//!
//! `decide` checks the same of the pure core. Here everything is real: the store,
//! the worker, the wire to the model, the tools, the programs and the HTTP server.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::HeaderMap;
use axum::routing::post;
use axum::{Json, Router};
use common::clock::{Clock, ManualClock, SystemClock};
use common::id::{AppendId, CallId, LeaseToken, StepKey, TaskId};
use common::journal::{ApprovalDecision, CallRecord, CallResult, Effect, Event, Recorded, WakeCause};
use common::project::Project;
use common::store::{Append, Next, Renew, SqliteStore, Store, StoreClock, StoreOptions, Submission, Take};
use common::submission::{NewTask, submission};
use common::task::{Head, Signal, State};
use serde_json::{Value, json};
use suite::fakes::model::{FakeModel, Message, Reply, Request};
use suite::fixtures::worker::{RunningWorker, entropy};
use suite::project::ProjectDir;

/// How long a run may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often the store is asked for what is due.
const TICK: Duration = Duration::from_millis(5);
/// The most events of the journal.
const MOST: usize = 1000;

/// The paths and the address are filled in.
const PIPELINE: &str = r#"
name: mixed
steps:
  - id: first
    set: { doubled: "{{ input.n * 2 }}" }
  - id: nap
    needs: [first]
    sleep: 20ms
  - id: think
    needs: [nap]
    agent: thinker
    prompt: "Rate {{ steps.first.output.doubled }}."
    output:
      type: object
      properties: { score: { type: integer } }
      required: [score]
      additionalProperties: false
  - id: tell
    needs: [nap]
    http: { method: POST, url: "SERVER/notes", json: { n: "{{ input.n }}" }, effect: keyed }
  - id: ask
    needs: [think, tell]
    approval: { title: "Go on with {{ steps.think.output.score }}?", show: steps.tell.output }
  - id: note
    needs: [ask]
    run: { command: [sh, -c, "echo noted >> RUN_FILE; echo '{\"noted\": true}'"], effect: once }
output: { score: "{{ steps.think.output.score }}", told: "{{ steps.tell.output.body }}", note: "{{ steps.note.output }}" }
"#;

const THINKER: &str = "---\nname: thinker\ndescription: thinks\ntools: Read, Glob, Bash\nmodel: m\n---\nThink.\n";

const CONFIG: &str = "models:\n  m: { provider: anthropic, model: claude-sonnet-4-6 }\n\
    providers:\n  anthropic: { base_url: 'MODEL', key: 'file:KEY_FILE' }\n\
    sandbox: { bash: { write: ['FILES'] } }\n";

/// Everything outside of the store that a task touches.
struct World {
    model: FakeModel,
    /// The idempotency keys of the requests that came in, in order.
    posts: Arc<Mutex<Vec<String>>>,
    files: tempfile::TempDir,
    dir: ProjectDir,
    project: Project,
}

impl World {
    async fn start() -> Self {
        let files = tempfile::tempdir().unwrap();
        let path = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(path("key"), "sk-test").unwrap();
        let command = format!("echo ran >> {}; echo done", path("bash"));
        let model = FakeModel::answering(move |request| answer(request, &command)).await.unwrap();
        let posts = Arc::default();
        let server = count_by_key(Arc::clone(&posts)).await;
        let pipeline = PIPELINE.replace("SERVER", &server).replace("RUN_FILE", &path("run"));
        let config = CONFIG.replace("MODEL", &model.base_url()).replace("KEY_FILE", &path("key"));
        let config = config.replace("FILES", files.path().to_str().unwrap());
        let dir = ProjectDir::new(&[
            ("pipelines/mixed.yaml", &pipeline),
            ("agents/thinker.md", THINKER),
            ("teamster.yaml", &config),
        ]);
        let project = dir.load();
        Self { model, posts, files, dir, project }
    }

    /// A task that was not submitted yet.
    fn submission(&self) -> Submission {
        let id = TaskId::new(SystemClock.now(), entropy().bytes());
        submission(&self.project.pipelines[0], NewTask { input: json!({"n": 21}), ..NewTask::default() }, id, None)
            .unwrap()
    }

    /// The file that a call of class `once` leaves a line in, by the name of its tool.
    fn file(&self, tool: &str) -> PathBuf {
        self.files.path().join(tool.to_lowercase())
    }

    /// How often such a call happened.
    fn lines(&self, tool: &str) -> usize {
        std::fs::read_to_string(self.file(tool)).map_or(0, |text| text.lines().count())
    }

    fn posts(&self) -> Vec<String> {
        self.posts.lock().unwrap().clone()
    }

    /// Makes the world as it was when these calls, and no others, had happened.
    fn rewind(&self, task: TaskId, happened: &[&CallRecord]) {
        let workspace = self.dir.path().join(".teamster/workspaces").join(task.to_string());
        std::fs::create_dir_all(&workspace).unwrap();
        std::fs::write(workspace.join("facts.txt"), "The sky is blue.\n").unwrap();
        self.posts.lock().unwrap().clear();
        for (tool, line) in [("Bash", "ran\n"), ("run", "noted\n")] {
            let count = happened.iter().filter(|call| call.tool == tool).count();
            std::fs::write(self.file(tool), line.repeat(count)).unwrap();
        }
        self.posts.lock().unwrap().extend(happened.iter().filter(|c| c.tool == "http").map(|c| c.key.clone()));
    }

    /// Runs a worker and what a scheduler and people do beside it, until the task is done.
    async fn finish(&self, store: &Arc<SqliteStore>, task: TaskId, whole: &[Recorded]) -> Finished {
        let worker = RunningWorker::start(store.clone(), self.project.config.clone(), self.dir.path());
        let attending = self.attend(store, task, whole);
        let (head, resolved) = tokio::time::timeout(PATIENCE, attending).await.expect("the task comes to an end");
        worker.drain().await;
        let journal = store.journal(task, 0, MOST).await.unwrap();
        Finished { head, journal, resolved }
    }

    /// Wakes what is due, decides what is asked, and says what became of calls by looking at their files.
    async fn attend(&self, store: &SqliteStore, task: TaskId, whole: &[Recorded]) -> (Head, Vec<CallId>) {
        let mut resolved = Vec::new();
        let mut ticks = tokio::time::interval(TICK);
        loop {
            ticks.tick().await;
            store.due(100).await.unwrap();
            let head = store.head(task).await.unwrap().unwrap();
            if head.state.is_terminal() {
                return (head, resolved);
            }
            if !matches!(head.state, State::Waiting { .. }) {
                continue;
            }
            for approval in head.open_approvals {
                let decision = ApprovalDecision { approved: true, by: "ann".to_owned(), comment: None, edits: None };
                store.signal(task, Signal::Decide { approval, decision }).await.unwrap();
            }
            for (step, call) in head.unknown_outcomes {
                let (tool, answer) = answer_to(whole, &step, &call).expect("the whole run made this call too");
                let happened = (self.lines(&tool) > 0).then_some(answer);
                resolved.push(call.clone());
                store.signal(task, Signal::Resolve { step, call, by: "ann".to_owned(), happened }).await.unwrap();
            }
        }
    }
}

/// A task that is done.
struct Finished {
    head: Head,
    journal: Vec<Recorded>,
    /// The calls that a person was asked about.
    resolved: Vec<CallId>,
}

/// A model that looks around, then runs a command, then answers.
fn answer(request: &Request, command: &str) -> Reply {
    let message =
        match request.turn() {
            0 => Message::of_text("Let me look.")
                .tool_use("toolu_a", "Read", &json!({"file_path": "facts.txt"}))
                .tool_use("toolu_b", "Glob", &json!({"pattern": "*"})),
            1 => Message::new().tool_use("toolu_c", "Bash", &json!({"command": command})),
            _ => Message::of_text(r#"{"score": 7}"#),
        };
    Reply::Message(message)
}

/// A server that takes notes, and knows one that it has by its idempotency key.
async fn count_by_key(posts: Arc<Mutex<Vec<String>>>) -> String {
    let take = async move |headers: HeaderMap, Json(body): Json<Value>| {
        let key = headers["idempotency-key"].to_str().unwrap().to_owned();
        posts.lock().unwrap().push(key);
        Json(json!({"noted": body["n"]}))
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().route("/notes", post(take));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    format!("http://{address}")
}

/// The tool of a call, and what it answered.
fn answer_to(journal: &[Recorded], of: &StepKey, id: &CallId) -> Option<(String, Value)> {
    journal.iter().find_map(|recorded| match &recorded.event {
        Event::CallFinished { step, call, tool, result: CallResult::Done { content, .. }, .. }
            if step == of && call == id =>
        {
            Some((tool.clone(), content.clone()))
        }
        _ => None,
    })
}

/// Brings a journal into a store by the store's own protocol, as its worker did,
/// and leaves it as that worker would have, had it been lost: with a lease that ends.
async fn write(database: &Path, project: &Project, task: TaskId, journal: &[Recorded]) {
    let clock = ManualClock::at(journal[0].at);
    let options = StoreOptions { clock: StoreClock::Given(Arc::new(clock.clone())), ..StoreOptions::new(entropy()) };
    let store = SqliteStore::open(database, options).unwrap();
    store.apply(project.definitions.clone()).await.unwrap();
    let mut token = None;
    for recorded in journal {
        if let (Event::LeaseExpired { .. }, Some(token)) = (&recorded.event, token) {
            shorten(&store, task, token).await;
        }
        clock.advance(recorded.at.since(clock.now()));
        match recorded.event.clone() {
            Event::Submitted(submitted) => {
                let submission = Submission::new(task, *submitted);
                store.submit(vec![submission]).await.unwrap();
            }
            Event::Leased { worker, .. } => {
                let take = Take { worker, queues: Vec::new(), max: 1, lease: Duration::from_secs(60) };
                token = store.take(take).await.unwrap().pop().map(|claim| claim.token);
            }
            Event::Woken { cause: WakeCause::Timer } => assert_eq!(store.due(100).await.unwrap().woken, 1),
            Event::LeaseExpired { .. } => assert_eq!(store.due(100).await.unwrap().expired, 1),
            Event::ApprovalDecided { approval, decision } => {
                store.signal(task, Signal::Decide { approval, decision }).await.unwrap();
            }
            Event::OutcomeResolved { step, call, by, happened } => {
                store.signal(task, Signal::Resolve { step, call, by, happened }).await.unwrap();
            }
            event => {
                let (events, next) = match event {
                    Event::Parked { wait } => (Vec::new(), Next::Park(wait)),
                    Event::Succeeded { output } => (Vec::new(), Next::Succeed { output }),
                    event => (vec![event], Next::Continue),
                };
                append(&store, task, token.unwrap(), recorded.seq - 1, events, next).await;
            }
        }
    }
    assert_eq!(store.journal(task, 0, MOST).await.unwrap(), journal, "the store has written another journal");
    if let Some(token) = token {
        shorten(&store, task, token).await;
    }
}

/// The holder is lost: its lease is about to end.
async fn shorten(store: &SqliteStore, task: TaskId, token: LeaseToken) {
    store.renew(Renew { leases: vec![(task, token)], lease: Duration::from_millis(1) }).await.unwrap();
}

async fn append(store: &SqliteStore, task: TaskId, token: LeaseToken, expected: u64, events: Vec<Event>, next: Next) {
    let id = AppendId::new(entropy().bytes());
    store.append(Append { task, token, id, expected, events, next }).await.unwrap();
}

/// A place where a journal is cut off, and what had happened by then.
struct Cut<'a> {
    prefix: &'a [Recorded],
    /// Calls with effects that were answered.
    answered: Vec<&'a CallRecord>,
    /// Calls with effects that were cut short.
    open: Vec<&'a CallRecord>,
    /// Turns of the model that are there.
    turns: usize,
}

impl<'a> Cut<'a> {
    fn of(prefix: &'a [Recorded]) -> Self {
        let finishes = |event: &Event, of: &StepKey, id: &CallId| match event {
            Event::CallFinished { step, call, .. } | Event::OutcomeResolved { step, call, happened: Some(_), .. } => {
                step == of && call == id
            }
            _ => false,
        };
        let intended = prefix.iter().filter_map(|recorded| match &recorded.event {
            Event::CallIntended { step, call } => Some((step, call)),
            _ => None,
        });
        let (answered, open): (Vec<_>, Vec<_>) = intended
            .partition(|(step, call)| prefix.iter().any(|recorded| finishes(&recorded.event, step, &call.call)));
        let calls = |of: Vec<(_, &'a CallRecord)>| of.into_iter().map(|(_, call)| call).collect();
        let turns = prefix.iter().filter(|recorded| matches!(recorded.event, Event::TurnFinished { .. })).count();
        Self { prefix, answered: calls(answered), open: calls(open), turns }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_journal_cut_off_at_any_event_goes_on_to_the_same_end_and_calls_only_what_is_missing() {
    let world = World::start().await;
    let stores = tempfile::tempdir().unwrap();
    let database = |name: &str| stores.path().join(format!("{name}.db"));

    let store = SqliteStore::open(&database("whole"), StoreOptions::new(entropy())).unwrap();
    store.apply(world.project.definitions.clone()).await.unwrap();
    let submission = world.submission();
    let task = submission.id();
    world.rewind(task, &[]);
    store.submit(vec![submission]).await.unwrap();
    let whole = world.finish(&store, task, &[]).await;
    let output = json!({"score": 7, "told": {"noted": 21}, "note": {"noted": true}});
    assert_eq!(output_of(&whole.journal), Some(&output), "{:?}", whole.head.state);
    let bodies: Vec<_> = world.model.requests().into_iter().map(|request| request.body).collect();
    let posts = world.posts();
    assert_eq!((bodies.len(), posts.len(), world.lines("Bash"), world.lines("run")), (3, 1, 1, 1));

    let mut cut_short = Vec::new();
    let mut journals = vec![whole.journal.clone()];
    let mut next = 0;
    while let Some(journal) = journals.get(next).cloned() {
        next += 1;
        for end in 1..journal.len() {
            let cut = Cut::of(&journal[..end]);
            // A call that was cut short may have happened, or not: nobody knows.
            for happened in if cut.open.is_empty() { vec![false] } else { vec![false, true] } {
                let what =
                    format!("journal {next} cut off after {} ({end}), open calls happened: {happened}", kind(&cut));
                cut_short.extend(cut.open.iter().map(|call| (call.tool.clone(), happened)));
                let in_effect: Vec<_> =
                    cut.answered.iter().chain(cut.open.iter().filter(|_| happened)).copied().collect();
                world.rewind(task, &in_effect);
                let asked = world.model.requests().len();

                let path = database(&format!("{next}-{end}-{happened}"));
                write(&path, &world.project, task, cut.prefix).await;
                let store = SqliteStore::open(&path, StoreOptions::new(entropy())).unwrap();
                let resumed = world.finish(&store, task, &whole.journal).await;

                assert_eq!(output_of(&resumed.journal), Some(&output), "{what}: {:?}", resumed.head.state);
                assert!(resumed.journal.starts_with(cut.prefix), "{what}: the journal was rewritten");
                assert_eq!(resumed.head.usage, whole.head.usage, "{what}");
                let requests = world.model.requests();
                let again: Vec<_> = requests[asked..].iter().map(|request| request.body.clone()).collect();
                assert_eq!(again, bodies[cut.turns..], "{what}: the model was asked something else");
                let once = cut.open.iter().filter(|call| call.effect == Effect::Once).map(|call| call.call.clone());
                assert_eq!(resumed.resolved, once.collect::<Vec<_>>(), "{what}: a person is asked about these calls");
                for tool in ["Bash", "run"] {
                    assert_eq!(world.lines(tool), 1, "{what}: how often {tool} happened");
                }
                // A keyed request that was cut short goes out again, under the same key.
                let repeated = happened && cut.open.iter().any(|call| call.tool == "http");
                assert_eq!(world.posts(), vec![posts[0].clone(); 1 + usize::from(repeated)], "{what}");
                check_answers(&resumed.journal, &what);
                // One that was cut short itself has a lost worker in it, and a question: it is cut off once more.
                if journals.len() == 1 && happened && !resumed.resolved.is_empty() {
                    journals.push(resumed.journal);
                }
            }
        }
    }
    for tool in ["Bash", "run", "http"] {
        for happened in [false, true] {
            assert!(cut_short.contains(&(tool.to_owned(), happened)), "{tool} was never cut short");
        }
    }
    assert_eq!(journals.len(), 2);
    assert_eq!(world.model.violations(), Vec::<String>::new());
}

fn kind(cut: &Cut<'_>) -> &'static str {
    cut.prefix.last().unwrap().event.kind()
}

fn output_of(journal: &[Recorded]) -> Option<&Value> {
    match &journal.last()?.event {
        Event::Succeeded { output } => Some(output),
        _ => None,
    }
}

/// Checks that no call was answered twice.
fn check_answers(journal: &[Recorded], what: &str) {
    let mut answered = Vec::new();
    for recorded in journal {
        if let Event::CallFinished { step, call, .. } | Event::OutcomeResolved { step, call, happened: Some(_), .. } =
            &recorded.event
        {
            assert!(!answered.contains(&(step, call)), "{what}: call {call} of {step} was answered twice");
            answered.push((step, call));
        }
    }
}
