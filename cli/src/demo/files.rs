//! The files of the demo: both examples as one project, from within the binary,
//! so that the demo works without a checkout.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

const FILES: [(&str, &str); 15] = [
    ("pipelines/lead-intake.yaml", include_str!("../../../examples/lead-intake/pipelines/lead-intake.yaml")),
    ("agents/researcher.md", include_str!("../../../examples/lead-intake/agents/researcher.md")),
    ("agents/scorer.md", include_str!("../../../examples/lead-intake/agents/scorer.md")),
    ("agents/drafter.md", include_str!("../../../examples/lead-intake/agents/drafter.md")),
    ("schemas/research.json", include_str!("../../../examples/lead-intake/schemas/research.json")),
    ("schemas/score.json", include_str!("../../../examples/lead-intake/schemas/score.json")),
    ("schemas/draft.json", include_str!("../../../examples/lead-intake/schemas/draft.json")),
    ("pipelines/pr-review.yaml", include_str!("../../../examples/pr-review/pipelines/pr-review.yaml")),
    ("pipelines/post-review.yaml", include_str!("../../../examples/pr-review/pipelines/post-review.yaml")),
    ("agents/security.md", include_str!("../../../examples/pr-review/agents/security.md")),
    ("agents/tests.md", include_str!("../../../examples/pr-review/agents/tests.md")),
    ("agents/style.md", include_str!("../../../examples/pr-review/agents/style.md")),
    ("agents/verifier.md", include_str!("../../../examples/pr-review/agents/verifier.md")),
    ("schemas/findings.json", include_str!("../../../examples/pr-review/schemas/findings.json")),
    ("schemas/review.json", include_str!("../../../examples/pr-review/schemas/review.json")),
];
const LEADS: &str = include_str!("../../../examples/lead-intake/leads.csv");
const CONFIG: &str = include_str!("teamster.yaml");
/// The models that the examples name, for whoever has an account.
const REAL: [(&str, &str); 2] = [
    ("HAIKU", "haiku: { provider: anthropic, model: claude-haiku-4-5 }"),
    ("SONNET", "sonnet: { provider: anthropic, model: claude-sonnet-4-6 }"),
];
/// A reply takes a while, as a model's does, so that there is something in flight to be killed.
const REHEARSED: [(&str, &str); 2] = [
    ("HAIKU", "haiku: { provider: rehearsal, model: rehearsal, options: { latency_ms: 300, walk: all } }"),
    ("SONNET", "sonnet: { provider: rehearsal, model: rehearsal, options: { latency_ms: 300 } }"),
];

/// Writes the project. `research`: where the research API is.
pub(super) fn write_project(dir: &Path, rehearsal: bool, research: &str) -> Result<()> {
    let models = if rehearsal { REHEARSED } else { REAL };
    let config =
        models.iter().fold(CONFIG.replace("RESEARCH", research), |text, (name, model)| text.replace(name, model));
    write(dir, "teamster.yaml", &config)?;
    FILES.iter().try_for_each(|(name, text)| write(dir, name, text))
}

/// Writes the first leads of the shipped file; all of them if there is no limit.
pub(super) fn write_leads(path: &Path, limit: Option<usize>) -> Result<()> {
    let text = match limit {
        // A record may span lines: it ends where the quotes are closed.
        Some(limit) => {
            let mut quoted = false;
            let mut records = 0;
            let end = LEADS.char_indices().find_map(|(at, c)| {
                quoted ^= c == '"';
                records += usize::from(c == '\n' && !quoted);
                (records > limit).then_some(at + 1)
            });
            &LEADS[..end.unwrap_or(LEADS.len())]
        }
        None => LEADS,
    };
    std::fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))
}

/// How many rows the file has for each address.
pub(super) fn addresses() -> Result<BTreeMap<String, usize>> {
    let mut rows = BTreeMap::new();
    for record in csv::ReaderBuilder::new().flexible(true).from_reader(LEADS.as_bytes()).records() {
        let record = record.context("the shipped leads cannot be read")?;
        *rows.entry(record.get(2).unwrap_or_default().to_owned()).or_default() += 1;
    }
    Ok(rows)
}

fn write(dir: &Path, name: &str, text: &str) -> Result<()> {
    let path = dir.join(name);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("{} cannot be made", parent.display()))?;
    }
    std::fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use common::project::Project;

    #[test]
    fn the_project_of_the_demo_is_without_errors_and_warnings() {
        for rehearsal in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            write_project(dir.path(), rehearsal, "http://127.0.0.1:1").unwrap();
            let project = Project::load(dir.path()).unwrap_or_else(|errors| panic!("{errors}"));
            assert!(project.warnings.is_empty(), "{}", project.warnings);
            assert_eq!(project.pipelines.len(), 3);
        }
    }

    #[test]
    fn a_limited_file_of_leads_ends_with_a_whole_record() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leads.csv");
        write_leads(&path, Some(180)).unwrap();
        let records = csv::ReaderBuilder::new().flexible(true).from_path(&path).unwrap().into_records();
        assert_eq!(records.map(Result::unwrap).count(), 180);
    }
}
