//! Large values in a bucket of a real server that speaks S3.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use suite::binary;
use suite::fixtures::process::until;
use suite::fixtures::program::Program;
use suite::project::ProjectDir;
use suite::servers::s3::{ENVIRONMENT, Server};

/// Scheduler and worker in one process, with credentials.
struct Installation(Program);

impl Installation {
    fn start(project: &ProjectDir) -> Self {
        let dir = project.path().display().to_string();
        Self(Program::start_in(&ENVIRONMENT, &["dev", "--rehearse", "--dir", &dir]))
    }

    async fn get(&self, path: &str) -> Value {
        reqwest::get(format!("{}{path}", self.0.address)).await.unwrap().json().await.unwrap()
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let request = reqwest::Client::new().post(format!("{}{path}", self.0.address)).json(&body);
        request.send().await.unwrap().json().await.unwrap()
    }

    async fn state(&self, task: &str) -> String {
        self.get(&format!("/v1/tasks/{task}")).await["state"].as_str().unwrap_or_default().to_owned()
    }

    /// A task whose values are gone cannot be shown; it is listed.
    async fn state_of_dead(&self, task: &str) -> bool {
        let dead = self.get("/v1/dead-letters").await;
        let list = dead["tasks"].as_array().or_else(|| dead["dead_letters"].as_array()).cloned();
        list.unwrap_or_default().iter().any(|dead| dead["id"] == task)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_go_to_a_bucket_and_come_back() {
    let server = Server::start();
    server.make_bucket("fleet-values").await;
    let config = format!(
        "limits: {{ input: 8MiB }}\nblobs: {{ threshold: 16KiB, place: 's3://fleet-values/a/b', endpoint: '{}', cache: 0 }}\n",
        server.endpoint()
    );
    let pipeline = "name: echo\nsteps:\n  - { id: wait, sleep: 100ms }\noutput: '{{ input.text }}'\n";
    let project = ProjectDir::new(&[("teamster.yaml", &config), ("pipelines/echo.yaml", pipeline)]);
    let program = Installation::start(&project);
    let text: String = (0..200_000).map(|n| n.to_string()).collect();
    let body = json!({"pipeline": "echo", "input": {"text": text}});
    let task = program.post("/v1/tasks", body.clone()).await["id"].as_str().unwrap().to_owned();
    until("it is done", async || program.state(&task).await == "succeeded").await;
    let told = program.get(&format!("/v1/tasks/{task}")).await;
    assert_eq!((told["input"]["text"].as_str(), told["output"].as_str()), (Some(&*text), Some(&*text)));
    let objects = server.objects("fleet-values").await;
    assert!(objects.len() == 2 && objects.iter().all(|name| name.starts_with("a/b/")), "{objects:?}");

    // What is missing makes a dead letter; the same content, kept again, brings it back.
    let lost = program.post("/v1/tasks", json!({"pipeline": "echo", "input": {"text": text, "n": 2}})).await;
    let lost = lost["id"].as_str().unwrap().to_owned();
    for object in server.objects("fleet-values").await {
        server.remove("fleet-values", &object).await;
    }
    until("it is a dead letter", async || program.state_of_dead(&lost).await).await;
    let again = program.post("/v1/tasks", json!({"pipeline": "echo", "input": {"text": text, "n": 2}})).await;
    let again = again["id"].as_str().unwrap().to_owned();
    program.post(&format!("/v1/dead-letters/{lost}/replay"), json!({})).await;
    until("both are done", async || {
        program.state(&again).await == "succeeded" && program.state(&lost).await == "succeeded"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_is_not_there_is_found_by_doctor_and_loses_nothing() {
    let server = Server::start();
    let config = format!("blobs: {{ place: 's3://no-such-bucket', endpoint: '{}' }}\n", server.endpoint());
    let pipeline = "name: echo\nsteps:\n  - { id: a, set: 1 }\n";
    let project = ProjectDir::new(&[("teamster.yaml", &config), ("pipelines/echo.yaml", pipeline)]);
    let program = Installation::start(&project);
    let small = program.post("/v1/tasks", json!({"pipeline": "echo", "input": {"n": 1}})).await;
    let small = small["id"].as_str().unwrap().to_owned();
    until("small values need no bucket", async || program.state(&small).await == "succeeded").await;
    let refused = program.post("/v1/tasks", json!({"pipeline": "echo", "input": {"text": "x".repeat(100_000)}})).await;
    assert_eq!(refused["status"], 503, "{refused}");
    let dir = project.path().display().to_string();
    let mut doctor = binary::command(&["doctor", "--json", "--dir", &dir]).unwrap();
    let said = doctor.envs(BTreeMap::from(ENVIRONMENT)).output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("blobs.place") && said.contains("no-such-bucket"), "{said}");
    server.make_bucket("no-such-bucket").await;
    let accepted = program.post("/v1/tasks", json!({"pipeline": "echo", "input": {"text": "x".repeat(100_000)}})).await;
    let accepted = accepted["id"].as_str().unwrap().to_owned();
    until("it is done", async || program.state(&accepted).await == "succeeded").await;
}
