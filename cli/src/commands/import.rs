//! `teamster import`: what `teamster export` wrote.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;

use clap::Args;
use common::project::Project;
use common::transfer::Import;

use crate::context::Context;
use crate::error::{CommandError, Exit};
use crate::installation::{open_store, store_url};
use crate::output::count;
use crate::progress::Progress;

/// The longest line: a journal at its limit, and room for its form.
const LINE: u64 = 512 << 20;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  teamster import --store postgres://10.0.0.6/teamster tasks.jsonl
  teamster export --store sqlite:old.db | teamster import --store redis://10.0.0.5 -

Tasks keep their ids, journals, keys and families. What is there already stays as
it is, so that an import which broke off can be repeated. A task that was running
is released: the next worker goes on with it.")]
pub(crate) struct ImportArgs {
    /// The file; - for stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub(crate) async fn run(args: ImportArgs, context: &Context) -> Result<(), CommandError> {
    let (mut text, bytes): (Box<dyn BufRead + Send>, u64) = if args.file.as_os_str() == "-" {
        (Box::new(BufReader::new(std::io::stdin())), 0)
    } else {
        let failed = |error: std::io::Error| {
            let exit = if error.kind() == std::io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Failed };
            CommandError::new(exit, format!("{}: {error}", args.file.display()))
        };
        let file = File::open(&args.file).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        (Box::new(BufReader::new(file)), bytes)
    };
    let config = Project::load(&context.globals.dir).map(|project| project.config).unwrap_or_default();
    let url = store_url(context, &config, &context.globals.dir);
    let store = open_store(context, &config, &url).await?;
    let mut import = Import::new(&*store);
    let mut progress = Progress::bytes("importing", bytes, context.output.json);
    let (mut line, mut read) = (String::new(), 0);
    loop {
        line.clear();
        // Reading a file of our own does not block for long; a pipe's writer is as fast as its store.
        let more = tokio::task::block_in_place(|| (&mut text).take(LINE).read_line(&mut line))?;
        if more == 0 {
            break;
        }
        read += more as u64;
        import.line(line.trim_end()).await?;
        progress.set(read, "");
    }
    progress.finish();
    let imported = import.finish().await?;
    if context.output.json {
        return Ok(context.output.document(&imported)?);
    }
    Ok(context.output.line(format!(
        "{} tasks imported, {} were here already; {} definitions, {} batches",
        count(imported.tasks),
        count(imported.known),
        count(imported.definitions),
        count(imported.batches)
    ))?)
}
