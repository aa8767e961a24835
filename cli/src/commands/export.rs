//! `teamster export`: tasks with their journals, as lines of JSON.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use clap::Args;
use common::id::{PipelineName, QueueName};
use common::project::Project;
use common::store::Filter;
use common::task::StateName;
use common::transfer::{Line, export};
use serde_json::json;

use crate::context::Context;
use crate::error::CommandError;
use crate::installation::{open_existing, store_url};
use crate::output::{count, note};
use crate::progress::Progress;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  teamster export --store sqlite:.teamster/teamster.db --out tasks.jsonl
  teamster export --store redis://10.0.0.5 | teamster import --store postgres://10.0.0.6/teamster -
  teamster export --state dead --pipeline lead-intake --out dead.jsonl

Writes one line for each task, with its whole journal, and for each definition,
batch and paused queue that they need. The source keeps everything. To move a
fleet, stop its schedulers and workers first: a task that still runs there and is
imported elsewhere runs twice.")]
pub(crate) struct ExportArgs {
    /// The file [default: stdout]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Only tasks in this state; may be given again
    #[arg(long, value_name = "STATE")]
    state: Vec<StateName>,
    /// Only tasks of this pipeline
    #[arg(long, value_name = "NAME")]
    pipeline: Option<PipelineName>,
    /// Only tasks in this queue
    #[arg(long, value_name = "NAME")]
    queue: Option<QueueName>,
}

pub(crate) async fn run(args: ExportArgs, context: &Context) -> Result<(), CommandError> {
    let config = Project::load(&context.globals.dir).map(|project| project.config).unwrap_or_default();
    let url = store_url(context, &config, &context.globals.dir);
    let store = open_existing(context, &config, &url).await?;
    let filter = Filter { states: args.state, pipeline: args.pipeline, queue: args.queue, ..Filter::default() };
    let mut sink: Box<dyn Write + Send> = match &args.out {
        Some(path) => Box::new(BufWriter::new(create(path)?)),
        None => Box::new(BufWriter::new(std::io::stdout())),
    };
    let mut progress = Progress::new("tasks", 0, context.output.json);
    let mut written = 0;
    let tasks = export(&*store, filter, |line| {
        serde_json::to_writer(&mut sink, line)?;
        if matches!(line, Line::Task(_)) {
            written += 1;
            progress.set(written, "");
        }
        sink.write_all(b"\n")
    })
    .await;
    progress.finish();
    let tasks = tasks?;
    sink.flush()?;
    match &args.out {
        Some(_) if context.output.json => Ok(context.output.document(&json!({"tasks": tasks}))?),
        _ => {
            note(format!("{} tasks exported", count(tasks)));
            Ok(())
        }
    }
}

/// A new file: an export of an hour ago is not written over.
fn create(path: &PathBuf) -> Result<File, CommandError> {
    File::options().write(true).create_new(true).open(path).map_err(|error| {
        CommandError::refused(format!("{}: {error}; name a file that does not exist yet", path.display()))
    })
}
