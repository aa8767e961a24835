//! Private data, through the real programs: what is seeded in leads, in answers of tools and in answers of models is
//! found nowhere that it must not be, and the CRM that may have it gets the right values.

mod fleet;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use axum::extract::{Query, State as Shared};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use suite::binary;
use suite::fakes::model::{FakeModel, Message, Reply, Request};
use suite::fixtures::process::until;
use suite::project::ProjectDir;
use suite::servers::redis;

use self::fleet::Fleet;

/// Leads by each way in: single posts, JSON Lines, CSV, webhooks.
const WAYS: [usize; 4] = [100, 200, 150, 50];
/// What every canary has a piece of, as it may be written.
const MARKS: [&str; 12] = [
    "canarymail",
    "@canary",
    "151 5550",
    "1515550",
    "151%205550",
    "4929 8376",
    "49298376",
    "3704 0044",
    "37040044",
    "ssn-cnry",
    "born-cnry",
    "KD-7",
];

const PIPELINE: &str = r#"
name: leads
queue: leads
on:
  - webhook: form
    if: event.lead.company
    input: "{{ event.lead }}"
    key: "hook:{{ event.lead.email }}"
    supersede: "{{ event.lead.ssn }}"
input: { type: object, required: [company, email], properties: { email: { type: string, pattern: '^[^@]+@[^@]+$' }, ssn: { type: string, maxLength: 20 } } }
labels: { who: "{{ input.email }}" }
retry: { attempts: 2, backoff: { initial: 10ms, jitter: none } }
steps:
  - id: research
    agent: researcher
    prompt: "Lead {{ input.email }} of {{ input.company }}: {{ input.inquiry }}"
  - id: account
    run: { command: [sh, -c, 'printf "{\"told\": %s}" "$(cat)"'], stdin: "{{ input.iban }}", effect: read }
  - id: program
    run: { command: [sh, -c, 'echo "no such customer: $1" >&2; exit 1', sh, "{{ input.customer }}"], effect: read }
    on_error: continue
  - id: refused
    http: { method: POST, url: "{{ env.CRM }}/refuse", json: { who: "{{ input.email }}" }, effect: once }
    on_error: continue
  - id: review
    if: input.review
    needs: [refused]
    approval: { title: "Write {{ input.email }}?", show: "{'to': input.email, 'phone': input.phone}" }
  - id: crm
    if: "true"
    needs: [review]
    http:
      method: POST
      url: "{{ env.CRM }}/contacts?email={{ input.email }}"
      headers: { X-Phone: "{{ input.phone }}" }
      json: { email: "{{ input.email }}", phone: "{{ input.phone }}", ssn: "{{ input.ssn }}", birth_date: "{{ input.birth_date }}", iban: "{{ input.iban }}", note: "{{ steps.research.output }}" }
      effect: keyed
output: { email: "{{ input.email }}", crm: "{{ steps.crm.output.body }}", edited: "{{ steps.review.output.value }}", error: "{{ steps.program.error.message }}", refused: "{{ steps.refused.error.detail.body }}" }
"#;
/// Its child finds a value of its own.
const PARENT: &str = r#"
name: parent
steps:
  - id: sub
    pipeline: child
    input: { email: "{{ input.email }}", born: "{{ input.born }}" }
  - id: crm
    http: { method: POST, url: "{{ env.CRM }}/contacts?email={{ input.email }}", headers: { X-Phone: "{{ steps.sub.output.phone }}" }, json: { email: "{{ input.email }}", phone: "{{ steps.sub.output.phone }}", birth_date: "{{ steps.sub.output.born }}" }, effect: keyed }
"#;
const CHILD: &str = r#"
name: child
input: { type: object, properties: { email: { type: string, maxLength: 40 }, born: { type: integer } } }
steps:
  - id: look
    http: { method: GET, url: "{{ env.CRM }}/directory?email={{ input.email }}" }
output: { phone: "{{ steps.look.output.body.phone }}", born: "{{ steps.look.output.body.raw }}" }
"#;
const RESEARCHER: &str =
    "---\nname: researcher\ndescription: researches\ntools: directory\nmodel: fake\n---\nYou research.\n";

/// A lead with everything in it that is private.
#[derive(Debug, Clone)]
struct Lead {
    email: String,
    phone: String,
    card: String,
    iban: String,
    ssn: String,
    birth_date: String,
    customer: String,
}

impl Lead {
    fn new(number: usize) -> Self {
        let account = format!("37040044{number:010}");
        // ISO 7064: DE is 1314, and the check makes the rest 1.
        let rest = format!("{account}131400").bytes().fold(0, |rest, digit| (rest * 10 + u32::from(digit - b'0')) % 97);
        Self {
            email: format!("lead{number}@canarymail{number}.example"),
            phone: format!("+49 151 5550{number:04}"),
            card: card(&format!("49298376{number:07}")),
            iban: format!("DE{:02}{account}", 98 - rest),
            ssn: format!("ssn-cnry-{number:05}"),
            birth_date: format!("born-cnry-{number:05}"),
            customer: format!("KD-7{number:05}"),
        }
    }

    fn input(&self, number: usize) -> Value {
        json!({
            "company": format!("Company {number}"), "email": self.email, "phone": self.phone, "ssn": self.ssn,
            "birth_date": self.birth_date, "iban": self.iban, "customer": self.customer, "review": number.is_multiple_of(25),
            "inquiry": format!("Call {} or {}. My card is {}, {{\"ssn\": \"{}\"}}.", self.phone, self.email.replace('@', "\\u0040"), self.card, self.ssn),
        })
    }
}

/// Fifteen digits and the one that makes Luhn's check right.
fn card(digits: &str) -> String {
    let sum: u32 = digits
        .bytes()
        .rev()
        .enumerate()
        .map(|(place, digit)| {
            let digit = u32::from(digit - b'0');
            if place % 2 == 0 { (2 * digit) / 10 + (2 * digit) % 10 } else { digit }
        })
        .sum();
    format!("{digits}{}", (10 - sum % 10) % 10)
}

/// The CRM, which may know everything, and a directory, which may not.
#[derive(Debug, Default)]
struct World {
    contacts: Mutex<Vec<(String, String, Value)>>,
    asked: Mutex<Vec<String>>,
}

async fn contact(
    Shared(world): Shared<Arc<World>>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: axum::http::HeaderMap,
    Json(body): Json<Value>,
) -> Json<Value> {
    let phone = headers["x-phone"].to_str().unwrap().to_owned();
    // As people write what they did, and nested as programs do.
    let said = format!(
        "Kept {} ({}), born {}.",
        body["email"].as_str().unwrap(),
        body["phone"].as_str().unwrap(),
        body["birth_date"].as_str().unwrap()
    );
    world.contacts.lock().unwrap().push((query["email"].clone(), phone, body.clone()));
    Json(json!({"said": said, "sent": body.to_string(), "ssn": body["ssn"]}))
}

async fn refuse(Json(body): Json<Value>) -> (StatusCode, String) {
    let who = body["who"].as_str().unwrap();
    (
        StatusCode::UNPROCESSABLE_ENTITY,
        format!("{who} is on the list with other@canarymail.example and +49 151 5550000"),
    )
}

async fn directory(Shared(world): Shared<Arc<World>>, Query(query): Query<BTreeMap<String, String>>) -> Json<Value> {
    world.asked.lock().unwrap().push(query["email"].clone());
    let tail = query["email"].len();
    let lead = Lead::new(9_000 + tail);
    Json(
        json!({"phone": lead.phone, "raw": format!("{{\"birth_date\": \"{}\", \"card\": {}}}", lead.birth_date, lead.card)}),
    )
}

async fn world() -> (Arc<World>, String) {
    let world = Arc::new(World::default());
    let app = Router::new()
        .route("/contacts", post(contact))
        .route("/refuse", post(refuse))
        .route("/directory", get(directory))
        .with_state(Arc::clone(&world));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (world, address)
}

/// Asks the directory with what stands for the address, then makes up private values of its own.
fn answer(request: &Request) -> Reply {
    let prompt = request.messages()[0]["content"].to_string();
    let token = prompt.split("Lead ").nth(1).unwrap().split(' ').next().unwrap();
    if request.turn() == 0 {
        let made_up = Lead::new(8_000);
        let text = format!("I guess {} and {{\"ssn\": \"{}\"}}.", made_up.email, made_up.ssn);
        return Message::of_text(&text)
            .tool_use(&format!("call_{}", request.number), "directory", &json!({"email": token, "also": made_up.email}))
            .into();
    }
    Message::of_text(&format!("{token} pays with {} from {}", Lead::new(8_001).card, Lead::new(8_002).iban)).into()
}

fn project(model: &FakeModel, crm: &str) -> ProjectDir {
    let config = format!(
        "env: [CRM]\nmodels:\n  fake: {{ provider: fake, model: claude-sonnet-4-6 }}\n\
         providers:\n  fake: {{ kind: anthropic, base_url: \"{}\", key: env:FAKE_KEY }}\n\
         tools:\n  directory: {{ description: looks up, input: {{ type: object }}, method: GET, \
         url: \"{crm}/directory?email={{{{ input.email }}}}&also={{{{ input.also }}}}\" }}\n\
         webhooks:\n  form: {{ sender: hmac, secret: env:FORM_SECRET, hmac: {{ header: x-signature }} }}\n\
         private_data:\n  key: env:TEAMSTER_PRIVATE_KEY\n  kinds: [email, phone, card, iban]\n  fields: [ssn, birth_date]\n  \
         patterns: {{ customer_no: 'KD-\\d{{6}}' }}\n  \
         reveal: {{ tools: [http], outputs: [leads], people: true }}\n\
         worker: {{ slots: 32 }}\n",
        model.base_url()
    );
    ProjectDir::new(&[
        ("teamster.yaml", &config),
        ("pipelines/leads.yaml", PIPELINE),
        ("pipelines/parent.yaml", PARENT),
        ("pipelines/child.yaml", CHILD),
        ("agents/researcher.md", RESEARCHER),
    ])
}

/// Asserts that bytes hold no canary.
fn clean(what: &str, bytes: &[u8]) {
    for mark in MARKS {
        if let Some(at) = bytes.windows(mark.len()).position(|window| window == mark.as_bytes()) {
            let around = &bytes[at.saturating_sub(300)..(at + 100).min(bytes.len())];
            panic!("{what} holds {mark:?}: …{}…", String::from_utf8_lossy(around));
        }
    }
}

/// Runs the leads on a store, and checks everything but the store's own files.
async fn run(store: &str, folder: &Path, count: usize) {
    let leads: Vec<Lead> = (0..count).map(Lead::new).collect();
    let model = FakeModel::answering(answer).await.unwrap();
    let (world, crm) = world().await;
    let project = project(&model, &crm);
    let logs = folder.join("logs");
    std::fs::create_dir_all(&logs).unwrap();
    let mut fleet = Fleet::start(&project, store, &crm, &logs);
    fleet.submit(&leads).await;
    let started = std::time::Instant::now();
    while fleet.ended().await < count {
        fleet.decide().await;
        assert!(started.elapsed().as_secs() < 240, "only {} of {count} leads have ended", fleet.ended().await);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    // What came of it, as whoever may see the output sees it.
    let tasks = fleet.get("/v1/tasks?limit=1000&state=succeeded").await;
    assert_eq!(tasks["tasks"].as_array().unwrap().len(), count, "{}", fleet.get("/v1/dead-letters").await);
    clean("the list of tasks", tasks.to_string().as_bytes());
    let id = tasks["tasks"][count / 2]["id"].as_str().unwrap();
    let task = fleet.get(&format!("/v1/tasks/{id}")).await;
    assert!(task["output"]["email"].as_str().unwrap().ends_with(".example"), "{task:#}");
    assert!(task["output"]["crm"]["said"].as_str().unwrap().contains("born-cnry"), "{task:#}");
    assert!(task["input"]["email"].as_str().unwrap().starts_with("private-email-"), "{task:#}");
    assert!(task["input"]["inquiry"].as_str().unwrap().contains("\"private-ssn-"), "{task:#}");
    assert!(task["output"]["refused"].as_str().unwrap().contains("canarymail.example"), "{task:#}");
    let journal = fleet.get(&format!("/v1/tasks/{id}/journal")).await;
    clean("the journal", journal.to_string().as_bytes());
    fleet.kill();

    // The CRM got everything, rightly; the directory and the model nothing.
    let mut contacts = world.contacts.lock().unwrap().clone();
    contacts.sort_by_key(|(email, ..)| email.clone());
    contacts.dedup_by_key(|(email, ..)| email.clone());
    assert_eq!(contacts.len(), count);
    for lead in &leads {
        let (_, phone, body) =
            contacts.iter().find(|(email, ..)| *email == lead.email).unwrap_or_else(|| panic!("no {}", lead.email));
        assert_eq!(phone, &lead.phone);
        let sent = [&body["email"], &body["phone"], &body["ssn"], &body["birth_date"], &body["iban"]];
        assert_eq!(
            sent.map(|value| value.as_str().unwrap()),
            [&lead.email, &lead.phone, &lead.ssn, &lead.birth_date, &lead.iban]
        );
        assert!(body["note"].as_str().unwrap().starts_with(&format!("{} pays with 4929", lead.email)), "{body}");
    }
    let asked = world.asked.lock().unwrap().clone();
    assert!(
        asked.len() >= count && asked.iter().all(|email| email.starts_with("private-email-")),
        "{asked:?} {journal:#}"
    );
    assert_eq!(model.violations(), Vec::<String>::new());
    for request in model.requests() {
        clean("a request to the model", &request.body);
    }
    for log in ["scheduler.log", "worker.log"] {
        let log = std::fs::read(logs.join(log)).unwrap();
        assert!(!log.is_empty());
        clean("a log", &log);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_leads_leave_no_canary_in_sqlite_logs_or_prompts() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("store.db");
    run(&format!("sqlite:{}", database.display()), folder.path(), WAYS.iter().sum()).await;
    // Killed and not closed: what is in the write-ahead log only is looked at too.
    let files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path()).collect();
    let store: Vec<_> = files.iter().filter(|path| path.is_file()).collect();
    assert!(store.len() >= 2, "{store:?}");
    for path in store {
        clean(&path.display().to_string(), &std::fs::read(path).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leads_leave_no_canary_in_redis() {
    let folder = tempfile::tempdir().unwrap();
    let server = redis::Server::start(&redis::Options::default());
    run(&server.url(), folder.path(), 60).await;
    let files = server.files();
    assert!(!files.is_empty());
    for (name, bytes) in files {
        clean(&name, &bytes);
    }
}

/// A child's input is checked with its values, a parent gets what its child found, and a person's correction is sealed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_pass_between_tasks_and_through_a_replay_sealed() {
    let folder = tempfile::tempdir().unwrap();
    let (world, crm) = world().await;
    let model = FakeModel::answering(answer).await.unwrap();
    let project = project(&model, &crm);
    let store = format!("sqlite:{}", folder.path().join("store.db").display());
    let fleet = Fleet::start(&project, &store, &crm, folder.path());
    // What is no number makes the child refuse its input, and the parent a dead letter.
    let lead = Lead::new(1);
    let body = json!({"pipeline": "parent", "input": {"email": lead.email, "born": "not a number"}});
    let id = fleet.post("/v1/tasks", "application/json", body.to_string()).await["id"].as_str().unwrap().to_owned();
    let state = async |wanted: &str| fleet.get(&format!("/v1/tasks/{id}")).await["state"] == wanted;
    until("the parent is dead", async || state("dead").await).await;
    let corrected = Lead::new(2);
    let body = json!({"input": {"email": corrected.email, "born": 19_800_101}, "from": "sub", "by": "ann"});
    fleet.post(&format!("/v1/dead-letters/{id}/replay"), "application/json", body.to_string()).await;
    until("the parent has succeeded", async || state("succeeded").await).await;
    let found = Lead::new(9_000 + corrected.email.len());
    let (email, phone, contact) = world.contacts.lock().unwrap()[0].clone();
    assert_eq!((email, phone), (corrected.email, found.phone));
    assert!(contact["birth_date"].as_str().unwrap().contains(&found.birth_date), "{contact}");
    let journal = fleet.get(&format!("/v1/tasks/{id}/journal")).await;
    clean("the journal", journal.to_string().as_bytes());
    drop(fleet);
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let path = file.unwrap().path();
        clean(&path.display().to_string(), &std::fs::read(&path).unwrap());
    }
}

#[tokio::test]
async fn without_its_key_nothing_starts() {
    let model = FakeModel::answering(answer).await.unwrap();
    let project = project(&model, "http://127.0.0.1:9");
    let dir = project.path().display().to_string();
    for program in ["scheduler", "worker", "dev"] {
        let mut command = binary::command(&[program, "--dir", &dir, "--listen", "127.0.0.1:0"]).unwrap();
        let output = command.env("FORM_SECRET", "s").env_remove("TEAMSTER_PRIVATE_KEY").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success());
        assert!(said.contains("private_data.key: the environment variable TEAMSTER_PRIVATE_KEY is not set"), "{said}");
    }
    until("the project is fit to be checked without the key", async || {
        binary::run(&["check", &dir]).unwrap().status.success()
    })
    .await;
}
