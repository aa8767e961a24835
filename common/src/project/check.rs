//! What only the whole project can tell: names that must exist elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use super::files::ProjectFiles;
use crate::config::Config;
use crate::config::policy::{self, Layer, Level};
use crate::diagnostic::{Diagnostic, Diagnostics, Place, Severity, SourceFile};
use crate::document::closest;
use crate::pipeline::agent;
use crate::pipeline::source::{Link, LinkTo, Reading};

type Read<'f> = (&'f SourceFile, Reading);

const TOP: Place = Place { line: 1, column: 1 };

/// No two pipelines have one name.
pub(super) fn names(readings: &[Read<'_>], out: &mut Diagnostics) {
    let mut seen = BTreeMap::new();
    for (file, reading) in readings {
        let name = &reading.pipeline.name;
        if let Some(first) = seen.insert(name, &file.name) {
            out.push(file.error(TOP, format!("there is another pipeline {name}, in {first}")));
        }
    }
}

/// Every link leads somewhere. `files` is how many pipelines there are, broken ones included.
pub(super) fn links(readings: &[Read<'_>], config: Option<&Config>, files: usize, out: &mut Diagnostics) {
    let pipelines: Vec<&str> = readings.iter().map(|(_, reading)| reading.pipeline.name.as_str()).collect();
    let mut seen = BTreeSet::new();
    for link in readings.iter().flat_map(|(_, reading)| &reading.links) {
        // Several pipelines may use one agent.
        if !seen.insert((link.file.name.clone(), link.at, link.to, &link.name)) {
            continue;
        }
        if link.to == LinkTo::Pipeline {
            // A pipeline with errors may be the one that is meant.
            if readings.len() == files {
                require(link, "pipeline", &pipelines, "pipelines are files pipelines/NAME.yaml", out);
            }
        } else if let Some(config) = config {
            installed(link, config, out);
        }
    }
}

fn installed(link: &Link, config: &Config, out: &mut Diagnostics) {
    fn keys<T>(map: &BTreeMap<String, T>) -> Vec<&str> {
        map.keys().map(String::as_str).collect()
    }
    match link.to {
        LinkTo::AnyModel | LinkTo::Pipeline | LinkTo::Tool => {}
        LinkTo::BatchModel => {
            let named = config.model(Some(link.name.as_str()).filter(|name| !name.is_empty()));
            let kind = named.ok().and_then(|(_, model)| config.provider_kind(&model.provider));
            if kind.is_some_and(|kind| !kind.has_batches()) {
                let message = "`batch` does nothing here: the provider of the model takes no batches";
                out.push(link.file.warning(link.at, message).with_help("the model is asked directly, at full price"));
            }
        }
        LinkTo::Model if config.knows_model(&link.name) => {}
        LinkTo::Model => {
            require(link, "model", &config.model_names(), "add it under `models:` in teamster.yaml", out);
        }
        LinkTo::Webhook => {
            require(link, "webhook", &keys(&config.webhooks), "add it under `webhooks:` in teamster.yaml", out);
        }
        LinkTo::McpServer => {
            require(
                link,
                "MCP server",
                &keys(&config.mcp_servers),
                "add it under `mcp_servers:` in teamster.yaml",
                out,
            );
        }
        LinkTo::RateLimit => {
            let help = "add it under `rate_limits:` in teamster.yaml";
            require(link, "rate limit", &keys(&config.rate_limits), help, out);
        }
        LinkTo::Guard => {
            require(link, "guard", &keys(&config.guards), "add it under `guards:` in teamster.yaml", out);
        }
        LinkTo::Env => {
            if !config.env.contains(&link.name) {
                let error = link.file.error(link.at, format!("`env.{}` is not listed", link.name));
                out.push(error.with_help("list the variable under `env:` in teamster.yaml"));
            }
        }
    }
}

fn require(link: &Link, what: &str, known: &[&str], help: &str, out: &mut Diagnostics) {
    if known.contains(&link.name.as_str()) {
        return;
    }
    let error = link.file.error(link.at, format!("there is no {what} `{}`", link.name));
    out.push(match closest(&link.name, known) {
        Some(name) => error.with_help(format!("did you mean `{name}`? else {help}")),
        None => error.with_help(help),
    });
}

/// The pipelines whose outputs are shown with private values are there.
pub(super) fn revealed(operator: &SourceFile, readings: &[Read<'_>], files: usize, out: &mut Diagnostics) {
    // A pipeline with errors may be the one that is meant.
    if readings.len() != files {
        return;
    }
    let pipelines: Vec<&str> = readings.iter().map(|(_, reading)| reading.pipeline.name.as_str()).collect();
    for (name, at) in crate::config::private::outputs(operator) {
        if !pipelines.contains(&name.as_str()) {
            let error = operator.error(at, format!("there is no pipeline `{name}`"));
            out.push(match closest(&name, &pipelines) {
                Some(name) => error.with_help(format!("did you mean `{name}`?")),
                None => error.with_help("pipelines are files pipelines/NAME.yaml"),
            });
        }
    }
}

/// Agents that no pipeline uses are checked too.
pub(super) fn agents(files: &ProjectFiles, readings: &[Read<'_>], out: &mut Diagnostics) {
    let used: BTreeSet<&String> = readings.iter().flat_map(|(_, reading)| reading.used.agents.keys()).collect();
    for (name, file) in files.referred.agents.iter().filter(|(name, _)| !used.contains(name)) {
        agent::read(file, name, out);
    }
}

/// Teams and pipelines lift nothing that is said above them. Teams that no pipeline names are checked too.
pub(super) fn policies(files: &ProjectFiles, readings: &[Read<'_>], config: Option<&Config>, out: &mut Diagnostics) {
    let used: BTreeSet<&String> = readings.iter().flat_map(|(_, reading)| reading.used.teams.keys()).collect();
    for (_, file) in files.referred.teams.iter().filter(|(name, _)| !used.contains(name)) {
        policy::team(file, out);
    }
    let Some(config) = config else { return };
    let mut told = BTreeSet::new();
    for (pipeline, reading) in readings {
        let layers: Vec<&Layer> = config.policy.iter().chain(&reading.pipeline.policy).collect();
        let merged = policy::merge(&layers, &[]);
        for setting in merged.unknown_guards() {
            if told.insert((setting.place(), setting.key.clone())) {
                let name = setting.key.trim_start_matches("guards.");
                let message = format!("there is no guard `{name}` above that could be tightened");
                out.push(Diagnostic {
                    line: setting.line,
                    ..Diagnostic::of_file(Severity::Error, &setting.file, message)
                });
            }
        }
        if let Some(setting) = merged.too_few_people().filter(|setting| setting.layer > Level::Project)
            && told.insert((setting.place(), setting.key.clone()))
        {
            let message = "fewer people may approve a call than must; nobody could (permissions.votes, approvers)";
            let place =
                Diagnostic { line: setting.line, ..Diagnostic::of_file(Severity::Error, &setting.file, message) };
            out.push(place);
        }
        for lift in merged.lifts {
            let file = match lift.lower.layer {
                Level::Task => pipeline,
                Level::Team => match reading.used.teams.values().next() {
                    Some(file) => file,
                    None => continue,
                },
                // Said with the project itself.
                _ => continue,
            };
            // Several pipelines may be of one team.
            if told.insert((lift.lower.place(), lift.lower.key.clone())) {
                out.push(lift.problem(file));
            }
        }
    }
}
