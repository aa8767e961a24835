//! `teamster check`: validate a project, offline.

use clap::Args;
use common::config::policy::{self, Layer, Merged, Setting};
use common::diagnostic::{Diagnostic, Severity};
use common::project::Project;
use serde_json::{Value, json};
use worker::tools::registry::{rules, tiers};

use std::path::PathBuf;

use crate::context::Context;
use crate::error::{CommandError, Exit};
use crate::installation::plural;
use crate::output::{Tone, cut};

/// Characters of a value that are shown.
const VALUE: usize = 60;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  teamster check examples/lead-intake
  teamster check --policy=lead-intake
  teamster check --json | jq -r '.diagnostics[] | \"\\(.file):\\(.line):\\(.column) \\(.message)\"'

Everything is checked without a network, a store or a key. Exit code 4 says that
there are errors; warnings alone give 0, or 4 with --deny-warnings.")]
pub(crate) struct CheckArgs {
    /// The directory [default: --dir]
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Take warnings for errors
    #[arg(long)]
    deny_warnings: bool,
    /// Show what holds of the policy of organisation and project, or of a pipeline with its team, and where each value is from
    #[arg(long, value_name = "PIPELINE", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    policy: Option<String>,
}

pub(crate) fn run(args: &CheckArgs, context: &Context) -> Result<(), CommandError> {
    let output = context.output;
    let dir = args.directory.as_ref().unwrap_or(&context.globals.dir);
    if !dir.is_dir() {
        return Err(CommandError::new(Exit::NotFound, format!("there is no directory {}", dir.display())));
    }
    let mut policy = None;
    let (names, diagnostics) = match Project::load(dir) {
        Ok(project) => {
            if let Some(asked) = &args.policy {
                policy = Some(in_force(&project, asked)?);
            }
            let names: Vec<String> = project.pipelines.iter().map(|pipeline| pipeline.name.to_string()).collect();
            let of_pipelines = project.pipelines.iter().flat_map(|pipeline| &pipeline.policy);
            let broken = tiers(project.config.policy.iter().chain(of_pipelines)).err();
            let mut diagnostics = project.warnings;
            // Those of teamster.yaml are told below.
            if let Some((file, message)) = broken.iter().find_map(|failure| failure.message.split_once(": "))
                && file != "teamster.yaml"
            {
                diagnostics.push(Diagnostic::of_file(Severity::Error, file, message));
            }
            if let Err(failure) = rules(&project.config) {
                let message = failure.message.trim_start_matches("teamster.yaml: ");
                diagnostics.push(Diagnostic::of_file(Severity::Error, "teamster.yaml", message));
            }
            (names, diagnostics)
        }
        Err(diagnostics) => (Vec::new(), diagnostics),
    };
    let (errors, warnings) = (diagnostics.errors(), diagnostics.warnings());
    let failed = errors > 0 || (args.deny_warnings && warnings > 0);
    if output.json {
        let mut document = json!({
            "ok": !failed, "errors": errors, "warnings": warnings, "pipelines": names, "diagnostics": diagnostics,
        });
        if let Some(policy) = &policy {
            document["policy"] = json!(policy);
        }
        output.document(&document)?;
    } else {
        if !diagnostics.is_empty() {
            output.line(diagnostics.to_string())?;
        }
        if let Some(policy) = policy {
            let row = |setting: Setting| {
                let value = match &setting.value {
                    Value::String(text) => text.clone(),
                    value => value.to_string(),
                };
                let place = setting.place();
                vec![setting.key, cut(&value, VALUE), setting.layer.to_string(), place]
            };
            output.table(&["KEY", "VALUE", "LAYER", "PLACE"], policy.settings.into_iter().map(row).collect())?;
        }
        let found = format!("{errors} {}, {warnings} {}", plural(errors, "error"), plural(warnings, "warning"));
        if failed {
            output.line(output.paint(Tone::Bad, &format!("{}: {found}", dir.display())))?;
        } else {
            let list = if names.is_empty() { "no pipelines".to_owned() } else { names.join(", ") };
            output.line(output.paint(Tone::Good, &format!("{}: {list} ({found})", dir.display())))?;
        }
    }
    if failed { Err(CommandError::silent(Exit::Refused)) } else { Ok(()) }
}

/// What holds, of all that an organisation, the project, and for a pipeline its team and it itself say.
fn in_force(project: &Project, pipeline: &str) -> Result<Merged, CommandError> {
    let own = match pipeline {
        "" => &[][..],
        name => {
            let found = project.pipelines.iter().find(|pipeline| pipeline.name.as_str() == name);
            let missing = || CommandError::new(Exit::NotFound, format!("there is no pipeline {name}"));
            &found.ok_or_else(missing)?.policy
        }
    };
    let layers: Vec<&Layer> = project.config.policy.iter().chain(own).collect();
    Ok(policy::merge(&layers, &policy::defaults()))
}
