//! `teamster doctor`: looks at the store, the broker and this machine, and says
//! what their settings mean for tasks.

use clap::Args;
use common::broker::BrokerError;
use common::config::{Config, McpTransport, SandboxMode};
use common::project::Project;
use common::store::{Finding, Halt, Severity};
use sandbox::Abilities;
use serde_json::json;

use super::halt::sentence;
use crate::context::Context;
use crate::error::{CommandError, Exit};
use crate::installation::{open_broker, open_existing, store_url};
use crate::output::Tone;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  teamster doctor --store redis://10.0.0.5
  teamster doctor --dir examples/lead-intake --json | jq '.findings[] | select(.severity != \"good\")'

Connects, looks at versions, settings, clocks and permissions, makes one small
write, and says what a crash of the process, a crash of the machine and the loss
of the site would cost, and what of the sandbox this machine can do for workers that
run here as this user. Nothing is changed, but for a broker's own queues, which are
made where they are missing. Exit code 1 says that something is
found that loses tasks; warnings alone give 0, or 1 with --deny-warnings.")]
pub(crate) struct DoctorArgs {
    /// Take warnings for errors
    #[arg(long)]
    deny_warnings: bool,
}

pub(crate) async fn run(args: &DoctorArgs, context: &Context) -> Result<(), CommandError> {
    let output = context.output;
    let config = Project::load(&context.globals.dir).map(|project| project.config).unwrap_or_default();
    let url = store_url(context, &config, &context.globals.dir);
    let store = open_existing(context, &config, &url).await?;
    let mut findings = vec![health(store.check().await.err().map(|error| error.to_string()))];
    findings.extend(store.examine().await?);
    findings.extend(store.halts().await?.into_iter().filter(Halt::is_in_force).map(halted));
    if let Some(broker) = open_broker(context, &config)? {
        findings.extend(broker.examine().await.unwrap_or_else(|error| vec![unreachable(&error)]));
    }
    findings.extend(sandbox_findings(&config));
    let worst = findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Good);
    let failed = worst == Severity::Fatal || (args.deny_warnings && worst == Severity::Warning);
    if output.json {
        output.document(&json!({"ok": !failed, "findings": findings}))?;
    } else {
        for finding in &findings {
            output.line(paragraph(context, finding))?;
        }
    }
    if failed { Err(CommandError::silent(Exit::Failed)) } else { Ok(()) }
}

/// Whether a write went through.
fn health(error: Option<String>) -> Finding {
    let (severity, said, advice) = match error {
        None => (Severity::Good, "a small write went through".to_owned(), None),
        Some(error) => (Severity::Fatal, error, Some("nothing can be accepted until this is mended".to_owned())),
    };
    Finding { severity, subject: "writing".to_owned(), said, advice }
}

/// A halt that is in force: nothing is lost, and nothing that it covers goes on.
fn halted(halt: Halt) -> Finding {
    let lift = halt.pipeline.as_ref().map(|pipeline| format!(" --pipeline {pipeline}")).unwrap_or_default();
    Finding {
        severity: Severity::Warning,
        subject: "halt".to_owned(),
        said: sentence(&halt.into()),
        advice: Some(format!("`teamster unhalt{lift}` goes on")),
    }
}

/// What of the sandbox this machine can do. What the configuration requires and is not there keeps a worker from
/// starting.
fn sandbox_findings(config: &Config) -> Vec<Finding> {
    let all = &config.sandbox;
    let servers = config.mcp_servers.values().filter_map(|server| match &server.transport {
        McpTransport::Stdio(program) => Some(all.server(program)),
        // Nothing of it runs here.
        McpTransport::Http(_) => None,
    });
    let modes: Vec<SandboxMode> =
        [all.bash(), all.run()].into_iter().chain(servers).map(|policy| policy.mode).collect();
    if modes.iter().all(|mode| *mode == SandboxMode::Off) {
        let said = "off: programs do what the worker's user may do".to_owned();
        return vec![Finding { severity: Severity::Warning, subject: "sandbox".to_owned(), said, advice: None }];
    }
    let mut findings = Abilities::here().findings();
    if modes.contains(&SandboxMode::Require) {
        for finding in findings.iter_mut().filter(|finding| finding.severity == Severity::Warning) {
            finding.severity = Severity::Fatal;
            finding.said.push_str("; teamster.yaml requires the sandbox, so that no worker starts here");
        }
    }
    findings
}

/// A broker that cannot be looked at: nothing is lost with it, but tasks start later.
fn unreachable(error: &BrokerError) -> Finding {
    Finding {
        severity: Severity::Warning,
        subject: "broker".to_owned(),
        said: error.to_string(),
        advice: Some("until this is mended, workers look for tasks in the store by themselves".to_owned()),
    }
}

fn paragraph(context: &Context, finding: &Finding) -> String {
    let (tone, mark) = match finding.severity {
        Severity::Good => (Tone::Good, "ok     "),
        Severity::Warning => (Tone::Warn, "warning"),
        Severity::Fatal => (Tone::Bad, "fatal  "),
    };
    let mut text = format!("{}  {}: {}", context.output.paint(tone, mark), finding.subject, finding.said);
    if let Some(advice) = &finding.advice {
        text.push_str("\n         ");
        text.push_str(&context.output.paint(Tone::Bold, advice));
    }
    text
}
