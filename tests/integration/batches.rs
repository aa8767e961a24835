//! Batch files over HTTP.

use std::fmt::Write;

use serde_json::{Value, json};
use suite::fixtures::scheduler::RunningScheduler;

const JSONL: &str = "application/x-ndjson";
const CSV: &str = "text/csv";

/// A thousand rows of which those on lines 10, 500 and 1,000 are bad.
fn thousand() -> String {
    let mut file = String::new();
    for line in 1..=1_000 {
        match line {
            10 => file.push_str("{\"company\":\n"),
            500 => file.push_str("{\"score\": 5}\n"),
            1_000 => file.push_str("{\"company\": \"last\", \"score\": \"high\"}\n"),
            _ => writeln!(file, "{{\"company\": \"c{}\"}}", line / 2).unwrap(),
        }
    }
    file
}

#[tokio::test]
async fn bad_rows_are_listed_with_their_lines_and_a_repost_makes_no_second_task() {
    let api = RunningScheduler::start(&[]).await;
    let first = api.post_bytes("/v1/batches?pipeline=greet", JSONL, thousand()).await;
    assert_eq!(first.status, 202, "{}", first.text);
    let receipt = first.json();
    assert_eq!(
        (&receipt["accepted"], &receipt["duplicates"], &receipt["rejected"]),
        (&json!(997), &json!(0), &json!(3))
    );
    let lines: Vec<_> = receipt["rejections"].as_array().unwrap().iter().map(|row| row["line"].clone()).collect();
    assert_eq!(lines, [10, 500, 1_000]);
    let reasons: Vec<_> =
        receipt["rejections"].as_array().unwrap().iter().map(|row| row["reason"].as_str().unwrap()).collect();
    assert!(
        reasons[0].contains("not JSON") && reasons[1].contains("company") && reasons[2].contains("/input/score"),
        "{reasons:?}"
    );

    let again = api.post_bytes("/v1/batches?pipeline=greet", JSONL, thousand()).await;
    assert_eq!((again.status, &again.json()["accepted"], &again.json()["duplicates"]), (200, &json!(0), &json!(997)));
    assert_eq!(api.get("/v1/queues").await.json()["queues"][0]["depth"]["ready"], 997);

    let run = api.post_bytes("/v1/batches?pipeline=greet&run=second", JSONL, "{\"company\": \"c1\"}").await;
    assert_eq!(run.json()["accepted"], 1);
}

#[tokio::test]
async fn a_csv_file_makes_typed_inputs_and_shows_its_results() {
    let api = RunningScheduler::start(&[]).await;
    let worker = api.worker();
    let file = "\u{feff}company,score\r\n\"Acme, Inc.\nBerlin\",7\r\nBolt,\r\n,3\r\nCog,high\r\n";
    let receipt =
        api.post_bytes("/v1/batches?pipeline=greet&id=leads&label=from:csv&priority=9", CSV, file).await.json();
    assert_eq!((&receipt["id"], &receipt["accepted"], &receipt["rejected"]), (&json!("leads"), &json!(2), &json!(2)));
    assert_eq!((&receipt["rejections"][0]["line"], &receipt["rejections"][1]["line"]), (&json!(5), &json!(6)));
    let tasks = api.get("/v1/tasks?label=from:csv").await.json();
    for task in tasks["tasks"].as_array().unwrap() {
        api.watch(task["id"].as_str().unwrap(), None, "end").await;
    }
    let status = api.get("/v1/batches/leads").await.json();
    assert_eq!(
        (&status["done"], &status["tasks"]["succeeded"], &status["rejected"]),
        (&json!(true), &json!(2), &json!(2))
    );
    let results = api.get("/v1/batches/leads/results").await;
    let results: Vec<Value> = results.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let seen: Vec<_> = results.iter().map(|r| (r["line"].as_u64().unwrap(), r["state"].as_str().unwrap())).collect();
    assert_eq!(seen, [(2, "succeeded"), (4, "succeeded"), (5, "rejected"), (6, "rejected")]);
    assert_eq!(results[0]["output"], "Hello Acme, Inc.\nBerlin");
    let first = api.get(&format!("/v1/tasks/{}", results[0]["id"].as_str().unwrap())).await.json();
    assert_eq!(
        (&first["input"]["score"], &first["priority"], &first["batch"]),
        (&json!(7), &json!(9), &json!("leads"))
    );
    assert_eq!(api.get("/v1/batches/leads/results?after=4").await.text.lines().count(), 2);
    worker.drain().await;
}

#[tokio::test]
async fn a_column_can_be_the_idempotency_key() {
    let api = RunningScheduler::start(&[]).await;
    let file = "{\"company\": \"a\"}\n{\"company\": \"a\"}\n{\"company\": \"b\"}\n";
    let receipt = api.post_bytes("/v1/batches?pipeline=greet&key=company", JSONL, file).await.json();
    assert_eq!((&receipt["accepted"], &receipt["duplicates"]), (&json!(2), &json!(1)));
}

#[tokio::test]
async fn a_batch_that_breaks_off_keeps_what_was_read_and_can_be_posted_again() {
    let api = RunningScheduler::start(&[]).await;
    let rows: Vec<String> = (0..1_500).map(|n| format!("{{\"company\": \"c{n}\"}}\n")).collect();
    let begun = rows[..1_200].concat();
    let broken = futures::stream::iter([Ok(begun), Err(std::io::Error::other("the client died"))]);
    let request = api.request("POST", "/v1/batches?pipeline=greet&id=b").header("content-type", JSONL);
    assert!(request.body(reqwest::Body::wrap_stream(broken)).send().await.is_err());
    let again = api.post_bytes("/v1/batches?pipeline=greet&id=b", JSONL, rows.concat()).await.json();
    let number = |key: &str| again[key].as_u64().unwrap();
    assert_eq!(number("accepted") + number("duplicates"), 1_500);
    assert_eq!(api.get("/v1/queues").await.json()["queues"][0]["depth"]["ready"], 1_500);
    assert_eq!(api.get("/v1/batches/b").await.json()["closed"], true);
}

#[tokio::test]
async fn what_is_no_batch_is_refused() {
    let api = RunningScheduler::start(&[]).await;
    api.post_bytes("/v1/batches", JSONL, "{}").await.problem(422);
    api.post_bytes("/v1/batches?pipeline=nowhere", JSONL, "{}").await.problem(404);
    api.post_bytes("/v1/batches?pipeline=greet", "application/json", "[]").await.problem(415);
    api.post_bytes("/v1/batches?pipeline=greet", CSV, "a,a\n").await.problem(422);
    api.post_bytes("/v1/batches?pipeline=greet&id=No", JSONL, "{}").await.problem(422);
    api.post_bytes("/v1/batches?pipeline=greet&key=company&run=x", JSONL, "{}").await.problem(422);
    let small = RunningScheduler::start(&[("teamster.yaml", "limits: { batch_body: 1KiB }\n")]).await;
    let chunks =
        futures::stream::iter((0..100).map(|n| Ok::<_, std::io::Error>(format!("{{\"company\": \"c{n}\"}}\n"))));
    let problem =
        small.post_bytes("/v1/batches?pipeline=greet", JSONL, reqwest::Body::wrap_stream(chunks)).await.problem(413);
    assert!(problem["detail"].as_str().unwrap().contains("rows are durable"), "{problem}");
    small.post_bytes("/v1/batches?pipeline=greet", JSONL, "x".repeat(2_000)).await.problem(413);
}
