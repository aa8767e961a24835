//! `teamster approvals`: what waits for a person.

use clap::{Args, Subcommand};
use common::id::{ApprovalId, Digest};
use scheduler::wire::{ApprovalPage, Decide, Decision};
use serde_json::Value;

use super::tasks::signalled;
use super::value::json_argument;
use crate::context::{Context, by};
use crate::error::CommandError;
use crate::output::{cut, duration, note};

#[derive(Debug, Subcommand)]
pub(crate) enum ApprovalsCommand {
    /// List what waits for a decision
    List(ListArgs),
    /// Say yes
    #[command(after_help = "Examples:
  teamster approvals approve 0198c0de-….12
  teamster approvals approve 0198c0de-….12 --edits '{\"subject\": \"Hello\", \"body\": \"…\"}'")]
    Approve(DecideArgs),
    /// Say no
    Reject(RejectArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// At most so many (1 to 1,000)
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    limit: u64,
    /// Show in full what is to be decided on
    #[arg(long)]
    full: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DecideArgs {
    /// The approval, as `teamster approvals list` names it
    #[arg(value_name = "ID")]
    id: ApprovalId,
    /// In your own words
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,
    /// Replaces the thing shown: JSON, @FILE, or - for stdin
    #[arg(long, value_name = "JSON")]
    edits: Option<String>,
    /// Who decides [default: $USER]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// The digest of what you decide on, as `list --json` shows it: refused if it is about something else
    #[arg(long, value_name = "DIGEST")]
    digest: Option<Digest>,
}

#[derive(Debug, Args)]
pub(crate) struct RejectArgs {
    /// The approval, as `teamster approvals list` names it
    #[arg(value_name = "ID")]
    id: ApprovalId,
    /// In your own words
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,
    /// Who decides [default: $USER]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// The digest of what you decide on, as `list --json` shows it: refused if it is about something else
    #[arg(long, value_name = "DIGEST")]
    digest: Option<Digest>,
}

pub(crate) async fn run(command: ApprovalsCommand, context: &Context) -> Result<(), CommandError> {
    match command {
        ApprovalsCommand::List(args) => list(&args, context).await,
        ApprovalsCommand::Approve(args) => {
            let edits: Option<Value> = args.edits.as_deref().map(|text| json_argument("--edits", text)).transpose()?;
            let by = by(args.by);
            let body = Decide { decision: Decision::Approve, comment: args.comment, edits, by, digest: args.digest };
            decide(args.id, &body, context).await
        }
        ApprovalsCommand::Reject(args) => {
            let by = by(args.by);
            let body =
                Decide { decision: Decision::Reject, comment: args.comment, edits: None, by, digest: args.digest };
            decide(args.id, &body, context).await
        }
    }
}

async fn list(args: &ListArgs, context: &Context) -> Result<(), CommandError> {
    let client = context.client().await?;
    let output = context.output;
    let page: ApprovalPage = client.get("/v1/approvals", &[("limit", args.limit.to_string())]).await?;
    if output.json {
        return Ok(output.document(&page)?);
    }
    let now = context.clock.now();
    if args.full {
        for approval in &page.approvals {
            output.line(format!("{}  {}  (step {})", approval.id, cut(&approval.title, 200), approval.step))?;
            if !approval.approvers.is_empty() {
                output.line(format!("may be decided by {}", cut(&approval.approvers.join(", "), 200)))?;
            }
            if !approval.approved_by.is_empty() {
                output.line(format!("approved by {} so far", cut(&approval.approved_by.join(", "), 200)))?;
            }
            output.document(&approval.show)?;
        }
    } else {
        let rows = page
            .approvals
            .iter()
            .map(|approval| {
                vec![
                    approval.id.to_string(),
                    approval.pipeline.to_string(),
                    duration(now.since(approval.requested_at)),
                    approval.expires.map(|at| duration(at.since(now))).unwrap_or_default(),
                    cut(&approval.title, 100),
                ]
            })
            .collect();
        output.table(&["APPROVAL", "PIPELINE", "WAITS", "EXPIRES IN", "TITLE"], rows)?;
    }
    if page.next.is_some() {
        note("there are more; --limit shows up to 1,000");
    }
    Ok(())
}

async fn decide(id: ApprovalId, body: &Decide, context: &Context) -> Result<(), CommandError> {
    let client = context.client().await?;
    let done = if body.decision == Decision::Approve { "approved" } else { "rejected" };
    signalled(&client.post(&format!("/v1/approvals/{id}"), body).await?, done, context.output)
}
