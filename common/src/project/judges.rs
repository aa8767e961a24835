//! The judges of guards: the agents' files that `judge:` names.

use std::collections::BTreeMap;

use crate::config::{Config, Judge};
use crate::diagnostic::{Diagnostics, Place, SourceFile};
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
    for (guard, name) in wanted {
        let file = operator.cloned().unwrap_or_else(|| SourceFile::new("teamster.yaml", ""));
        let at = operator.and_then(|file| crate::config::guards::place_of_judge(file, &guard));
        match judge(config, agents, &name) {
            Ok(Some(judge)) => {
                if let Some(known) = config.guards.get_mut(&guard) {
                    known.appoint(judge);
                }
            }
            // Its file is checked like any other.
            Ok(None) => {}
            Err(problem) => out.push(problem.at(&file, at)),
        }
    }
}

/// What is wrong with a judge, and what to do about it.
struct Problem {
    message: String,
    help: String,
}

impl Problem {
    fn at(self, file: &SourceFile, at: Option<Place>) -> crate::diagnostic::Diagnostic {
        file.error(at, self.message).with_help(self.help)
    }
}

fn judge(config: &Config, agents: &BTreeMap<String, SourceFile>, name: &str) -> Result<Option<Judge>, Problem> {
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
    if let Some(model) = agent.model.as_ref().filter(|model| !config.knows_model(model)) {
        let message = format!("the judge `{name}` names the model `{model}`, and there is none");
        return Err(Problem { message, help: "add it under `models:` in teamster.yaml".to_owned() });
    }
    Ok(Some(Judge { name: name.to_owned(), system: agent.system, model: agent.model, effort: agent.effort }))
}
