//! What the templates of a step see: the task, and where in a fan-out or in which
//! round the step is. Pure.

use std::collections::BTreeMap;

use common::id::StepKey;
use common::journal::Run;
use common::pipeline::model::Pipeline;
use common::pipeline::template::Scope;

/// What the templates of a step see, or of one item of a step that fans out.
pub fn scope_of<'a>(
    pipeline: &'a Pipeline,
    run: &'a Run,
    env: &'a BTreeMap<String, String>,
    key: &StepKey,
) -> Scope<'a> {
    with_place(Scope::of_run(pipeline, run, env), pipeline, run, key)
}

/// With what there is of a fan-out and of rounds where a step is.
pub(super) fn with_place<'a>(scope: Scope<'a>, pipeline: &Pipeline, run: &'a Run, key: &StepKey) -> Scope<'a> {
    let scope = match pipeline.round(run, &key.step) {
        Some(round) => scope.with_round(round),
        None => scope,
    };
    let item = key.index.and_then(|index| {
        let items = run.step(&StepKey::of(key.step.clone()))?.items.as_ref()?;
        Some((items.get(index as usize)?, index))
    });
    match item {
        Some((item, index)) => scope.with_item(item, index),
        None => scope,
    }
}
