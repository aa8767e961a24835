//! `teamster apply`: make the pipelines of a directory the current ones.

use clap::Args;
use common::id::{Digest, PipelineName};
use common::project::Project;
use reqwest::Method;
use scheduler::wire::{Applied, AppliedPipeline, Apply, NamedDefinition};

use crate::context::Context;
use crate::error::CommandError;
use crate::installation::{apply, load, open_store, store_url};
use crate::output::note;

#[derive(Debug, Args)]
#[command(after_help = "Where it goes:
  --api URL     to that scheduler
  --store URL   into that store, no scheduler needed
  neither       to the scheduler at http://127.0.0.1:7070 if one answers there,
                else into the store of --dir's teamster.yaml
It says where it went. Nothing changes if anything in the directory is wrong.
Tasks in flight keep the definition that they started with.

Example:
  teamster apply --dir examples/lead-intake")]
pub(crate) struct ApplyArgs {}

pub(crate) async fn run(_: ApplyArgs, context: &Context) -> Result<(), CommandError> {
    let output = context.output;
    let project = load(context)?;
    if project.definitions.is_empty() {
        return Err(CommandError::refused(format!(
            "there is nothing to apply: {} has no pipelines/*.yaml",
            project.dir.display()
        )));
    }
    let (applied, place) = if context.globals.api.is_none() && context.globals.store.is_some() {
        into_store(context, &project).await?
    } else {
        let client = context.api_client()?;
        if context.globals.api.is_some() || client.answers().await {
            let definitions = project
                .definitions
                .iter()
                .map(|definition| NamedDefinition { name: definition.name.clone(), body: definition.body.to_string() })
                .collect();
            let request = client.request(Method::PUT, "/v1/definitions").json(&Apply { definitions });
            (client.json::<Applied>(request).await?, client.base().to_owned())
        } else {
            into_store(context, &project).await?
        }
    };
    if output.json {
        return Ok(output.document(&applied)?);
    }
    let row = |name: &PipelineName, digest: &Digest, changed: bool| {
        vec![name.to_string(), digest.short().to_owned(), if changed { "applied" } else { "unchanged" }.to_owned()]
    };
    let rows = applied.pipelines.iter().map(|one| row(&one.name, &one.digest, one.changed)).collect();
    output.table(&["PIPELINE", "DIGEST", ""], rows)?;
    note(format!("in {place}"));
    Ok(())
}

async fn into_store(context: &Context, project: &Project) -> Result<(Applied, String), CommandError> {
    let url = store_url(context, &project.config, &project.dir);
    let store = open_store(context, &project.config, &url).await?;
    let pipelines = apply(&*store, &project.definitions)
        .await?
        .into_iter()
        .map(|(definition, changed)| AppliedPipeline { name: definition.name, digest: definition.digest, changed })
        .collect();
    Ok((Applied { pipelines }, url))
}
