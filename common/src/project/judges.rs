//! The judges of guards: the agents' files that `judge:` names.

use std::collections::BTreeMap;

use crate::config::{Config, Judge};
use crate::diagnostic::{Diagnostics, SourceFile};
use crate::document::closest;
use crate::pipeline::agent;

/// Gives each guard with a `judge` what the file of that agent says. Without errors, none is left without.
pub(super) fn read(
    config: &mut Config,
    agents: &BTreeMap<String, SourceFile>,
    operator: Option<&SourceFile>,
    out: &mut Diagnostics,
) {
    let wanted: Vec<(String, String)> = config
        .guards
        .iter()
        .filter_map(|(guard, known)| Some((guard.clone(), known.wants_judge()?.to_owned())))
        .collect();
    let empty = SourceFile::new("teamster.yaml", "");
    let file = operator.unwrap_or(&empty);
    for (guard, name) in wanted {
        match judge(agents, &name) {
            Ok(Some(judge)) => {
                if let Some(known) = config.guards.get_mut(&guard) {
                    known.appoint(judge);
                }
            }
            // Its file is checked like any other.
            Ok(None) => {}
            Err(problem) => {
                let at = crate::config::guards::place_of_judge(file, &guard);
                out.push(file.error(at, problem.message).with_help(problem.help));
            }
        }
    }
    check_models(config, file, out);
}

/// The models that judges name are there.
fn check_models(config: &Config, operator: &SourceFile, out: &mut Diagnostics) {
    for (guard, known) in &config.guards {
        let model = known.judge().and_then(|judge| judge.model.as_ref());
        if let Some(model) = model.filter(|model| !config.knows_model(model)) {
            let at = crate::config::guards::place_of_judge(operator, guard);
            let error = operator.error(at, format!("the judge names the model `{model}`, and there is none"));
            out.push(error.with_help("add it under `models:` in teamster.yaml"));
        }
    }
}

/// What is wrong with a judge, and what to do about it.
struct Problem {
    message: String,
    help: String,
}

fn judge(agents: &BTreeMap<String, SourceFile>, name: &str) -> Result<Option<Judge>, Problem> {
    let Some(file) = agents.get(name) else {
        let known: Vec<&str> = agents.keys().map(String::as_str).collect();
        let help = closest(name, &known).map_or_else(
            || "judges are agents: files agents/NAME.md".to_owned(),
            |name| format!("did you mean `{name}`?"),
        );
        return Err(Problem { message: format!("there is no agent `{name}`"), help });
    };
    // What is wrong with the file is said where all agents are checked.
    let Some(read) = agent::read(file, name, &mut Diagnostics::new()) else { return Ok(None) };
    let agent = read.agent;
    if agent.tools.is_some_and(|tools| !tools.is_empty()) {
        let message = format!("the agent `{name}` names tools, and a judge calls none");
        return Err(Problem { message, help: format!("take `tools` out of {}", file.name) });
    }
    Ok(Some(Judge { name: Some(name.to_owned()), system: agent.system, model: agent.model, effort: agent.effort }))
}
