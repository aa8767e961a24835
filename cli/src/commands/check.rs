//! `teamster check`: validate a project, offline.

use clap::Args;
use common::diagnostic::{Diagnostic, Severity};
use common::project::Project;
use serde_json::json;
use worker::tools::registry::rules;

use std::path::PathBuf;

use crate::context::Context;
use crate::error::{CommandError, Exit};
use crate::installation::plural;
use crate::output::Tone;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  teamster check examples/lead-intake
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
}

pub(crate) fn run(args: &CheckArgs, context: &Context) -> Result<(), CommandError> {
    let output = context.output;
    let dir = args.directory.as_ref().unwrap_or(&context.globals.dir);
    if !dir.is_dir() {
        return Err(CommandError::new(Exit::NotFound, format!("there is no directory {}", dir.display())));
    }
    let (names, diagnostics) = match Project::load(dir) {
        Ok(project) => {
            let names: Vec<String> = project.pipelines.iter().map(|pipeline| pipeline.name.to_string()).collect();
            let mut diagnostics = project.warnings;
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
        output.document(&json!({
            "ok": !failed, "errors": errors, "warnings": warnings, "pipelines": names, "diagnostics": diagnostics,
        }))?;
    } else {
        if !diagnostics.is_empty() {
            output.line(diagnostics.to_string())?;
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
