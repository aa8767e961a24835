//! A fleet whose logs are kept, as processes.

use super::*;

/// The programs of one installation, with their logs.
pub(super) struct Fleet {
    children: Vec<Child>,
    api: String,
    client: reqwest::Client,
}

impl Fleet {
    pub(super) fn start(project: &ProjectDir, store: &str, crm: &str, logs: &Path) -> Self {
        let dir = project.path().display().to_string();
        let command = |arguments: &[&str], log: &str| -> Command {
            let mut command = binary::command(arguments).unwrap();
            command.args(["--dir", &dir, "--store", store, "--json", "--listen", "127.0.0.1:0"]);
            command
                .env("TEAMSTER_PRIVATE_KEY", "5a".repeat(32))
                .env("FAKE_KEY", "k")
                .env("FORM_SECRET", "s")
                .env("CRM", crm);
            command.env("RUST_LOG", "debug").stderr(File::create(logs.join(log)).unwrap());
            command
        };
        let mut scheduler = command(&["scheduler", "--apply"], "scheduler.log").stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(scheduler.stdout.take().unwrap()), &mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap();
        let worker = command(&["worker"], "worker.log").stdout(Stdio::null()).spawn().unwrap();
        let api = said["listening"].as_str().unwrap().to_owned();
        Self { children: vec![scheduler, worker], api, client: reqwest::Client::new() }
    }

    pub(super) async fn get(&self, path: &str) -> Value {
        self.client.get(format!("{}{path}", self.api)).send().await.unwrap().json().await.unwrap()
    }

    pub(super) async fn post(&self, path: &str, kind: &str, body: String) -> Value {
        let request = self.client.post(format!("{}{path}", self.api)).header("content-type", kind);
        let answer = request.body(body).send().await.unwrap();
        let (status, body) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{path}: {status}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Lets a lead in, each by its own way.
    pub(super) async fn submit(&self, leads: &[Lead]) {
        let mut inputs = leads.iter().enumerate().map(|(number, lead)| lead.input(number));
        for input in inputs.by_ref().take(WAYS[0]) {
            let key = format!("lead {}", input["email"].as_str().unwrap());
            let labels = json!({"ssn": input["ssn"], "phone": input["phone"]});
            let body = json!({"pipeline": "leads", "input": input, "idempotency_key": key, "labels": labels});
            self.post("/v1/tasks", "application/json", body.to_string()).await;
        }
        let lines: Vec<String> = inputs.by_ref().take(WAYS[1]).map(|input| input.to_string()).collect();
        self.post("/v1/batches?pipeline=leads", "application/x-ndjson", lines.join("\n")).await;
        let columns = ["company", "email", "phone", "ssn", "birth_date", "iban", "customer", "inquiry", "review"];
        let rows = inputs.by_ref().take(WAYS[2]).map(|input| {
            let cells = columns.map(|column| match &input[column] {
                Value::String(text) => format!("\"{}\"", text.replace('"', "\"\"")),
                other => other.to_string(),
            });
            cells.join(",")
        });
        let csv = std::iter::once(columns.join(",")).chain(rows).collect::<Vec<_>>().join("\n");
        self.post("/v1/batches?pipeline=leads&key=email", "text/csv", csv).await;
        for input in inputs {
            let body = json!({"lead": input}).to_string();
            let mut mac = Hmac::<sha2::Sha256>::new_from_slice(b"s").unwrap();
            mac.update(body.as_bytes());
            let signature = hex::encode(mac.finalize().into_bytes());
            let request = self.client.post(format!("{}/v1/hooks/form", self.api)).header("x-signature", signature);
            let answer = request.header("content-type", "application/json").body(body).send().await.unwrap();
            assert_eq!(answer.status(), 202, "{}", answer.text().await.unwrap());
        }
    }

    /// Decides what is asked, as a person who sees the values and changes one.
    pub(super) async fn decide(&self) {
        for asked in self.get("/v1/approvals?limit=100").await["approvals"].as_array().unwrap() {
            let (title, to) = (asked["title"].as_str().unwrap(), asked["show"]["to"].as_str().unwrap());
            assert!(title.contains("@canarymail") && to.contains("@canarymail"), "{asked}");
            let edits = json!({"to": to, "phone": "+49 151 5550999"});
            let body = json!({"decision": "approve", "by": "ann", "comment": format!("I know {to}"), "edits": edits, "digest": asked["digest"]});
            self.post(
                &format!("/v1/approvals/{}", asked["id"].as_str().unwrap()),
                "application/json",
                body.to_string(),
            )
            .await;
        }
    }

    pub(super) async fn ended(&self) -> usize {
        let mut ended = 0;
        for state in ["succeeded", "dead"] {
            ended += self.get(&format!("/v1/tasks?limit=1000&state={state}")).await["tasks"].as_array().unwrap().len();
        }
        ended
    }

    pub(super) fn kill(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.kill();
    }
}
