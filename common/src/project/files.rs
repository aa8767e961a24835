//! The files of a project: found in a stable order, read within limits.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use crate::config::{Config, guards, policy};
use crate::diagnostic::{Diagnostic, Diagnostics, Severity, SourceFile};
use crate::pipeline::source::Files;

/// The largest file, in bytes.
const FILE_LIMIT: u64 = 1 << 20;
/// The most files of one kind.
const COUNT_LIMIT: usize = 1_000;

/// All files of a project but `teamster.yaml`.
pub(super) struct ProjectFiles {
    pub(super) pipelines: Vec<SourceFile>,
    /// The agents of `agents/`, and those of `.claude/agents/` that have no namesake there.
    pub(super) referred: Files,
}

/// Where the policy of an organisation is on every machine of it.
const POLICY: &str = "/etc/teamster/policy.yaml";
/// The environment variable that names a file of policy.
const POLICY_VARIABLE: &str = "TEAMSTER_POLICY";

/// The files of the organisation: that of the machine, and that which the environment names.
pub(super) fn policies() -> Vec<PathBuf> {
    let machine = Some(PathBuf::from(POLICY)).filter(|path| path.exists());
    let named = std::env::var_os(POLICY_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    machine.into_iter().chain(named).collect()
}

/// `teamster.yaml` under what the organisation says, or the defaults where there is none; nothing where there are errors. And
/// the file itself.
pub(super) fn config(dir: &Path, policies: &[PathBuf], out: &mut Diagnostics) -> (Option<Config>, Option<SourceFile>) {
    let mut organisation = Vec::with_capacity(policies.len());
    for path in policies {
        let name = path.display().to_string();
        match read_file(path, &name) {
            Ok(Some(file)) => organisation.push(policy::organisation(&file, out)),
            Ok(None) => {
                let error = Diagnostic::of_file(Severity::Error, &name, "there is no such policy");
                out.push(error.with_help(format!("{POLICY_VARIABLE} names it")));
                organisation.push(None);
            }
            Err(error) => {
                out.extend(error);
                organisation.push(None);
            }
        }
    }
    // Without what holds above it, nothing can be said of the rest.
    let Some(organisation) = organisation.into_iter().collect::<Option<Vec<_>>>() else { return (None, None) };
    match read_file(&dir.join("teamster.yaml"), "teamster.yaml") {
        Ok(Some(file)) => {
            let mut config = Config::parse(&file, organisation, out);
            if let Some(config) = &mut config {
                guards::read_schemas(&mut config.guards, &file, dir, out);
            }
            (config, Some(file))
        }
        Ok(None) => (Config::parse(&SourceFile::new("teamster.yaml", ""), organisation, out), None),
        Err(error) => {
            out.extend(error);
            (None, None)
        }
    }
}

pub(super) fn read(dir: &Path, out: &mut Diagnostics) -> ProjectFiles {
    match fs::metadata(dir) {
        Ok(meta) if meta.is_dir() => {}
        Ok(_) => out.push(Diagnostic::of_file(Severity::Error, &dir.display().to_string(), "this is no directory")),
        Err(error) => {
            let message = format!("the project's directory cannot be read: {error}");
            out.push(Diagnostic::of_file(Severity::Error, &dir.display().to_string(), message));
        }
    }
    let mut agents = stems(read_folder(dir, ".claude/agents", &["md"], out));
    agents.extend(stems(read_folder(dir, "agents", &["md"], out)));
    let schemas = read_folder(dir, "schemas", &["json"], out);
    let schemas = schemas.into_iter().map(|file| (file.name.to_string(), file)).collect();
    let pipelines = read_folder(dir, "pipelines", &["yaml", "yml"], out);
    let teams = stems(read_folder(dir, "teams", &["yaml", "yml"], out));
    ProjectFiles { pipelines, referred: Files { agents, schemas, teams } }
}

fn stems(files: Vec<SourceFile>) -> BTreeMap<String, SourceFile> {
    let stem = |file: &SourceFile| {
        let name = file.name.rsplit('/').next().unwrap_or_default();
        name.rsplit_once('.').map_or(name, |(stem, _)| stem).to_owned()
    };
    files.into_iter().map(|file| (stem(&file), file)).collect()
}

/// The files of one folder with one of the endings, by name. A missing folder is an empty one.
fn read_folder(dir: &Path, folder: &str, endings: &[&str], out: &mut Diagnostics) -> Vec<SourceFile> {
    let mut names = match names(&dir.join(folder), endings) {
        Ok(names) => names,
        Err(message) => {
            out.push(Diagnostic::of_file(Severity::Error, folder, message));
            return Vec::new();
        }
    };
    names.sort();
    if names.len() > COUNT_LIMIT {
        let message = format!("{} files are more than {COUNT_LIMIT}, the most that one folder may have", names.len());
        out.push(Diagnostic::of_file(Severity::Error, folder, message));
        return Vec::new();
    }
    let mut files = Vec::with_capacity(names.len());
    for name in names {
        match read_file(&dir.join(folder).join(&name), &format!("{folder}/{name}")) {
            Ok(file) => files.extend(file),
            Err(error) => out.extend(error),
        }
    }
    files
}

fn names(folder: &Path, endings: &[&str]) -> Result<Vec<String>, String> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(format!("the folder cannot be read: {error}")),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| format!("the folder cannot be read: {error}"))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Editors leave hidden files behind: .#x.yaml, .x.yaml.swp.
        let wanted = name.rsplit_once('.').is_some_and(|(stem, ending)| !stem.is_empty() && endings.contains(&ending));
        if wanted && !name.starts_with('.') && !entry.path().is_dir() {
            names.push(name);
        }
    }
    Ok(names)
}

/// Reads one file within its limit; `None` if there is none.
fn read_file(path: &Path, name: &str) -> Result<Option<SourceFile>, Diagnostics> {
    let error = |message: String| Diagnostics::from(Diagnostic::of_file(Severity::Error, name, message));
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(error(format!("the file cannot be read: {e}"))),
    };
    let regular = file.metadata().map_err(|e| error(format!("the file cannot be read: {e}")))?.is_file();
    if !regular {
        return Err(error("this is no regular file".to_owned()));
    }
    let mut bytes = Vec::new();
    file.take(FILE_LIMIT + 1).read_to_end(&mut bytes).map_err(|e| error(format!("the file cannot be read: {e}")))?;
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(error(format!("the file is larger than {} KiB, the most that is read", FILE_LIMIT >> 10)));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(SourceFile::new(name, &text))),
        Err(e) => {
            let valid = e.utf8_error().valid_up_to();
            let line = String::from_utf8_lossy(&e.as_bytes()[..valid]).matches('\n').count() + 1;
            Err(error(format!("the file is not UTF-8: line {line} has bytes that are no text")))
        }
    }
}
