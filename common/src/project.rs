//! A project directory: `teamster.yaml`, `pipelines/*.yaml`, `agents/*.md`,
//! `schemas/*.json`; read, checked as a whole, and made ready to run.

mod check;
mod files;
mod judges;

use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::diagnostic::Diagnostics;
use crate::id::Digest;
use crate::pipeline::Bundle;
use crate::pipeline::model::Pipeline;
use crate::pipeline::source::{self, Reading};
use crate::store::Definition;

/// A project without errors.
#[derive(Debug)]
pub struct Project {
    /// Its directory.
    pub dir: PathBuf,
    /// What `teamster.yaml` says, or the defaults.
    pub config: Config,
    /// Its pipelines as a store keeps them, by name.
    pub definitions: Vec<Definition>,
    /// Its pipelines, in the same order.
    pub pipelines: Vec<Pipeline>,
    /// What works, but perhaps not as meant.
    pub warnings: Diagnostics,
}

impl Project {
    /// Reads and checks a directory, offline, under the policy of the organisation that this machine belongs to. All
    /// problems are found at once.
    pub fn load(dir: &Path) -> Result<Self, Diagnostics> {
        Self::load_under(dir, &files::policies())
    }

    /// The same, under the policy of these files.
    pub fn load_under(dir: &Path, policies: &[PathBuf]) -> Result<Self, Diagnostics> {
        let mut out = Diagnostics::new();
        let (mut config, operator) = files::config(dir, policies, &mut out);
        let files = files::read(dir, &mut out);
        if let Some(config) = &mut config {
            judges::read(config, &files.referred.agents, operator.as_ref(), &mut out);
        }
        let mut readings = Vec::new();
        let mut definitions = Vec::new();
        for file in &files.pipelines {
            let placeholder = Digest::of(&[]);
            let Some(mut reading) = source::read(file, &files.referred, &placeholder, &mut out) else { continue };
            match Bundle::new(reading.pipeline.name.clone(), file, &reading.used) {
                Ok(bundle) => {
                    let definition = bundle.definition();
                    reading.pipeline.digest = definition.digest.clone();
                    definitions.push(definition);
                    readings.push((file, reading));
                }
                Err(error) => out.extend(error),
            }
        }
        check::names(&readings, &mut out);
        check::links(&readings, config.as_ref(), files.pipelines.len(), &mut out);
        check::agents(&files, &readings, &mut out);
        check::policies(&files, &readings, config.as_ref(), &mut out);
        if let Some(operator) = &operator {
            check::revealed(operator, &readings, files.pipelines.len(), &mut out);
        }
        let out = out.sorted();
        match config {
            Some(config) if !out.has_errors() => {
                let mut pipelines: Vec<Pipeline> =
                    readings.into_iter().map(|(_, Reading { pipeline, .. })| pipeline).collect();
                pipelines.sort_by(|a, b| a.name.cmp(&b.name));
                definitions.sort_by(|a, b| a.name.cmp(&b.name));
                Ok(Self { dir: dir.to_owned(), config, definitions, pipelines, warnings: out })
            }
            _ => Err(out),
        }
    }
}

#[cfg(test)]
mod tests;
