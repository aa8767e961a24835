//! Journals with large values beside them and with all in them are the same.

use super::*;

/// Events of every kind that carries values, small and large, from one seed.
fn events(seed: u64) -> Vec<Event> {
    let chance: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(seed));
    let value = || {
        let length = usize::try_from(u64::from_le_bytes(chance.bytes()) % 4_000).unwrap();
        match chance.bytes::<1>()[0] % 5 {
            0 => json!("é".repeat(length)),
            1 => json!((0..length / 8).collect::<Vec<_>>()),
            2 => json!({"k": {"z": "x".repeat(length), "a": null}}),
            3 => json!({"$blob": "x".repeat(length % 80)}),
            _ => Value::Null,
        }
    };
    let failure = || Failure::new(FailureClass::Tool, "it broke").with_detail(json!({"of": value()}));
    let call = |name: &str| valid(CallId::new(name));
    let outcome = |output| StepOutcome::Succeeded { output };
    let record = CallRecord {
        call: call("c"),
        tool: "t".to_owned(),
        arguments: value(),
        effect: Effect::Once,
        key: "k".to_owned(),
    };
    let reply = ModelCall {
        content: vec![value(), json!({"type": "tool_use", "id": "t1", "name": "t", "input": value()})],
        stop_reason: "tool_use".to_owned(),
        model: "m".to_owned(),
        response_id: "r".to_owned(),
        usage: Usage::default(),
        duration_ms: 1,
    };
    let text = value().to_string();
    vec![
        Event::Expanded { step: step("e"), items: vec![value(), value(), value()] },
        Event::StepRetrying { step: step("r"), error: failure(), not_before: common::clock::Timestamp::from_millis(1) },
        Event::StepFinished { step: step("r"), outcome: StepOutcome::Failed { error: failure() } },
        Event::StepFinished { step: step("o"), outcome: outcome(value()) },
        Event::AgentStarted { step: step("a"), head: Box::new(request_head(&text)), prompt: value().to_string() },
        Event::TurnFinished { step: step("a"), call: Box::new(reply), entry: None },
        Event::CallFinished {
            step: step("a"),
            call: call("t1"),
            tool: "t".to_owned(),
            result: CallResult::Done { content: value(), is_error: false },
            duration_ms: 1,
        },
        Event::Prompted {
            step: step("a"),
            text: format!("$blob:{text}"),
            reason: "continue".to_owned(),
            subagents: Vec::new(),
        },
        Event::CallIntended { step: step("c"), call: record },
        Event::OutcomeUnknown { step: step("c"), call: call("c"), error: failure() },
        Event::ApprovalRequested {
            step: step("q"),
            title: "?".to_owned(),
            show: value(),
            expires: None,
            terms: Box::default(),
        },
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn journals_are_the_same_with_and_without() -> Result<()> {
    let mut journals: Vec<Vec<Vec<Recorded>>> = Vec::new();
    for threshold in [usize::MAX, 1_500, 100, 0] {
        let whole = Whole::new(threshold == 100)?;
        let bench = whole.bench(|options| options.blobs.threshold = threshold).await?;
        let mut all = Vec::new();
        for seed in 0..8 {
            let task = submit(&bench, json!({"seed": "s".repeat(500 * usize::try_from(seed)?)})).await?;
            let (mut held, _) = claim(&bench, task).await?;
            let mut answered = Vec::new();
            for event in events(seed) {
                answered.extend(bench.append(&mut held, vec![event], Next::Continue).await?.recorded);
            }
            let approval = common::id::ApprovalId { task, seq: held.version };
            let decision = ApprovalDecision {
                approved: true,
                by: "ann".to_owned(),
                comment: None,
                edits: Some(json!({"edited": "e".repeat(3_000)})),
            };
            bench.store.signal(task, Signal::Decide { approval, decision }).await?;
            let resolve = Signal::Resolve {
                step: step("c"),
                call: valid(CallId::new("c")),
                by: "ann".to_owned(),
                happened: Some(json!("h".repeat(3_000))),
            };
            bench.store.signal(task, resolve).await?;
            answered.extend(bench.append(&mut held, vec![finished("last")], Next::Continue).await?.recorded);
            bench.die(&mut held).await?;
            let replay = Signal::Replay {
                by: "ann".to_owned(),
                reset: Vec::new(),
                input: Some(json!("i".repeat(2_000))),
                sealed: common::journal::SealedValues::default(),
            };
            bench.store.signal(task, replay).await?;
            let journal = bench.journal(task).await?;
            ensure!(journal[2..2 + answered.len()] == answered, "what an append answers is what the journal has");
            let cold = bench.another().await?;
            ensure!(cold.journal(task, 0, 1_000).await? == journal);
            all.push(journal);
        }
        bench.verify().await?;
        journals.push(all);
    }
    let text = |all: &Vec<Vec<Recorded>>| serde_json::to_string(all);
    for (number, other) in journals.iter().enumerate().skip(1) {
        ensure!(text(other)? == text(&journals[0])?, "threshold number {number}");
    }
    Ok(())
}
