//! Projects on disk, for tests: what a user would write, in a folder of its own.

use common::pipeline::model::Pipeline;
use common::project::Project;

/// A folder with a project in it; it goes with the value.
#[derive(Debug)]
pub struct ProjectDir(tempfile::TempDir);

impl ProjectDir {
    /// Writes files, by their path in the folder.
    pub fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Self(dir)
    }

    /// Where it is.
    pub fn path(&self) -> &std::path::Path {
        self.0.path()
    }

    /// Reads and checks it, under its own `policy.yaml` as that of an organisation, where it has one.
    pub fn load(&self) -> Project {
        let policy = Some(self.path().join("policy.yaml")).filter(|path| path.exists());
        let loaded = match policy {
            Some(policy) => Project::load_under(self.path(), &[policy]),
            None => Project::load(self.path()),
        };
        match loaded {
            Ok(project) => project,
            Err(diagnostics) => panic!("{diagnostics}"),
        }
    }
}

/// The operator's file of most tests: one model that costs nothing.
pub const CONFIG: &str = "models:\n  m: { provider: rehearsal, model: rehearsal }\n";

/// Compiles one pipeline with its agents.
pub fn pipeline(source: &str, agents: &[(&str, &str)]) -> Pipeline {
    let agents: Vec<(String, &str)> = agents.iter().map(|(name, text)| (format!("agents/{name}.md"), *text)).collect();
    let mut files = vec![("pipelines/p.yaml", source), ("teamster.yaml", CONFIG)];
    files.extend(agents.iter().map(|(path, text)| (path.as_str(), *text)));
    ProjectDir::new(&files).load().pipelines.remove(0)
}
