//! What a budget lets a task spend.

use super::*;

/// How many model calls a task made, and how it ended, with a budget for it.
async fn spend(budget: &str) -> (usize, State, Vec<(String, u8)>) {
    let pipeline = pipeline(
        &format!("name: p\nbudget: {budget}\nsteps: [{{ id: think, agent: thinker, prompt: go }}]\n"),
        &[("thinker", THINKER)],
    );
    let mut world = Script { replies: read_then_run, ..Script::new().await };
    let mut drive = Drive::submit(&pipeline, json!({})).unwrap();
    let state = drive.finish(&mut world).unwrap();
    let turns = world.done.keys().filter(|what| what.contains("turn")).count();
    let notes = drive.journal.iter().filter_map(|recorded| match &recorded.event {
        Event::BudgetNoted { budget, percent, .. } => Some((budget.clone(), *percent)),
        _ => None,
    });
    (turns, state, notes.collect())
}

#[tokio::test]
async fn a_call_whose_worst_case_does_not_fit_the_budget_is_not_made() {
    // A call costs a cent, and may cost a little more than half a cent.
    let (turns, state, _) = spend("{ usd: 0.004, then: fail }").await;
    assert!(matches!(state, State::Dead { reason: DeadReason::Budget, .. }), "{state:?}");
    assert_eq!(turns, 0, "not even the first");
    let (turns, state, notes) = spend("{ usd: 0.015, then: fail }").await;
    assert!(matches!(state, State::Dead { reason: DeadReason::Budget, .. }), "{state:?}");
    assert_eq!((turns, notes), (1, vec![("task usd".to_owned(), 50)]), "the second may be too much");
    let (turns, state, _) = spend("{ tokens: 900, then: fail }").await;
    assert!(matches!(state, State::Dead { reason: DeadReason::Budget, .. }), "{state:?}");
    assert_eq!(turns, 0, "a reply alone may have a thousand");
}

#[tokio::test]
async fn a_task_waits_for_somebody_to_raise_its_budget() {
    let (turns, state, notes) = spend("{ usd: 0.015 }").await;
    assert!(matches!(state, State::Succeeded { .. }), "{state:?}");
    assert_eq!(turns, 3);
    assert_eq!(notes, [("task usd".to_owned(), 50), ("task usd".to_owned(), 100)]);
}
