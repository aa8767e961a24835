//! A pipeline with everything that it refers to, in one text: what a task is
//! pinned to, by the digest of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::model::Pipeline;
use super::source::{self, FileText, Files, Reading};
use crate::diagnostic::{Diagnostic, Diagnostics, Severity, SourceFile};
use crate::id::{Digest, PipelineName};
use crate::store::Definition;

/// The format of the body. A later version reads all earlier ones.
const FORMAT: u32 = 1;

/// A pipeline's source with the agents and schemas that it refers to.
///
/// The body is canonical: the same files give the same body on every machine,
/// in whatever order they were read, and whatever else is in the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    name: PipelineName,
    body: Arc<str>,
}

/// The body as it is written. Maps are sorted, so that it is canonical.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    format: u32,
    pipeline: FileText,
    agents: BTreeMap<String, FileText>,
    schemas: BTreeMap<String, FileText>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    teams: BTreeMap<String, FileText>,
}

/// What every body has, in whatever format.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

impl Bundle {
    /// The bundle of a pipeline's file with what it uses.
    pub(crate) fn new(name: PipelineName, file: &SourceFile, used: &Files) -> Result<Self, Diagnostics> {
        let body = Body {
            format: FORMAT,
            pipeline: FileText { file: file.name.to_string(), text: file.text.to_string() },
            agents: Files::texts(&used.agents),
            schemas: Files::texts(&used.schemas),
            teams: Files::texts(&used.teams),
        };
        let body = serde_json::to_string(&body).map_err(|error| {
            Diagnostics::from(file.error(None, format!("the definition cannot be written: {error}")))
        })?;
        Ok(Self { name, body: body.into() })
    }

    /// The digest of the body.
    pub fn digest(&self) -> Digest {
        Digest::of(self.body.as_bytes())
    }

    /// As a store keeps it.
    pub fn definition(&self) -> Definition {
        Definition { name: self.name.clone(), digest: self.digest(), body: Arc::clone(&self.body) }
    }
}

/// Makes a kept definition ready to run, from its body alone: the same on every
/// machine, whatever is configured there.
pub fn compile(definition: &Definition) -> Result<Pipeline, Diagnostics> {
    let broken = |message: String| {
        let file = format!("definition {} of {}", definition.digest.short(), definition.name);
        Diagnostics::from(Diagnostic::of_file(Severity::Error, &file, message))
    };
    if Digest::of(definition.body.as_bytes()) != definition.digest {
        return Err(broken("the body does not have this digest: the store is damaged".to_owned()));
    }
    let format = serde_json::from_str(&definition.body).map(|Format { format }| format);
    match format {
        Ok(FORMAT) => {}
        Ok(newer) => {
            return Err(broken(format!("format {newer} is not known to this version; update teamster")));
        }
        Err(error) => return Err(broken(format!("the body cannot be read: {error}"))),
    }
    let body: Body =
        serde_json::from_str(&definition.body).map_err(|error| broken(format!("the body cannot be read: {error}")))?;
    let file = SourceFile::new(&body.pipeline.file, &body.pipeline.text);
    let files = Files {
        agents: Files::of_texts(body.agents),
        schemas: Files::of_texts(body.schemas),
        teams: Files::of_texts(body.teams),
    };
    let mut out = Diagnostics::new();
    match source::read(&file, &files, &definition.digest, &mut out) {
        Some(Reading { pipeline, .. }) if pipeline.name == definition.name => Ok(pipeline),
        Some(Reading { pipeline, .. }) => Err(broken(format!("the body is that of the pipeline {}", pipeline.name))),
        None => Err(out),
    }
}
