//! Programs in their sandbox: ways out, all of which fail while the worker lives, and what has to work.
//!
//! The process of the test is the worker here: it starts the programs, and must not be reached from them.

mod escapes;
mod hogs;
mod network;
mod policy;
mod work;

use std::path::{Path, PathBuf};

use serde_json::json;
use suite::fakes::calls::{call, ok_text};
use worker::tools::bash::Bash;
use worker::tools::{Tool, ToolAnswer};

/// A working directory, and beside it what belongs to others.
struct Place {
    root: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("workspace")).unwrap();
        std::fs::write(root.path().join("secret"), "TOP SECRET").unwrap();
        Self { root }
    }

    fn workspace(&self) -> PathBuf {
        self.root.path().join("workspace")
    }

    fn secret(&self) -> PathBuf {
        self.root.path().join("secret")
    }

    fn outside(&self) -> &Path {
        self.root.path()
    }

    /// Runs a command that must end well, and gives its output.
    async fn ok(&self, bash: &Bash, command: &str) -> String {
        ok_text(&bash.call(call(bash, json!({"command": command}), &self.workspace())).await)
    }

    /// Runs a command and gives what it wrote, however it ended.
    async fn output(&self, bash: &Bash, command: &str) -> String {
        match bash.call(call(bash, json!({"command": command}), &self.workspace())).await {
            Ok(ToolAnswer { content, .. }) => content.as_str().unwrap().to_owned(),
            Err(error) => panic!("{error:?}"),
        }
    }

    /// Runs a Python program that says `out` if it got out.
    async fn attempt(&self, bash: &Bash, program: &str) {
        std::fs::write(self.workspace().join("attempt.py"), program).unwrap();
        let said = self.output(bash, "python3 attempt.py; echo ended").await;
        assert!(said.contains("ended"), "it did not run: {said}");
        assert!(!said.contains("out\n") && !said.contains("ModuleNotFound"), "{program}\n{said}");
        assert!(said.contains("Error") || said.contains("refused"), "it was not refused: {said}");
    }

    /// The processes that have this directory as theirs.
    fn processes(&self) -> Vec<i32> {
        let here = self.workspace().canonicalize().unwrap();
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|id: &i32| std::fs::read_link(format!("/proc/{id}/cwd")).is_ok_and(|cwd| cwd == here))
            .collect()
    }

    /// Waits until no process is left here: those that were killed may still be leaving.
    async fn is_deserted(&self) {
        suite::fixtures::process::until("the program's processes are gone", async || self.processes().is_empty()).await;
    }
}
