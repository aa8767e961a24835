//! Notices that the files of a project have changed, by looking at them now
//! and then: that works on every file system, also where changes are not told.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What a project consists of, below its directory.
const PARTS: [&str; 5] = ["teamster.yaml", "pipelines", "agents", ".claude/agents", "schemas"];
/// How deep directories are looked into.
const DEPTH: usize = 4;
/// The most files that are looked at.
const FILES: usize = 10_000;

/// The files of a project with what tells a change: the time and the length.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Snapshot(BTreeMap<PathBuf, (SystemTime, u64)>);

impl Snapshot {
    /// Looks at the files now. What cannot be read is left out: reading the project will say why.
    pub(crate) fn of(dir: &Path) -> Self {
        let mut snapshot = Self::default();
        for part in PARTS {
            snapshot.add(&dir.join(part), DEPTH);
        }
        snapshot
    }

    fn add(&mut self, path: &Path, depth: usize) {
        let Ok(metadata) = std::fs::metadata(path) else { return };
        if metadata.is_file() && self.0.len() < FILES {
            let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            self.0.insert(path.to_owned(), (modified, metadata.len()));
        } else if metadata.is_dir() && depth > 0 {
            for entry in std::fs::read_dir(path).into_iter().flatten().flatten().take(FILES) {
                self.add(&entry.path(), depth - 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_new_a_changed_and_a_removed_file_are_noticed_and_the_store_is_not() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("pipelines")).unwrap();
        let file = dir.path().join("pipelines/a.yaml");
        let empty = Snapshot::of(dir.path());
        std::fs::write(&file, "name: a").unwrap();
        let first = Snapshot::of(dir.path());
        assert_ne!(empty, first);
        std::fs::write(&file, "name: ab").unwrap();
        let second = Snapshot::of(dir.path());
        assert_ne!(first, second);
        std::fs::create_dir(dir.path().join(".teamster")).unwrap();
        std::fs::write(dir.path().join(".teamster/teamster.db"), "x").unwrap();
        assert_eq!(second, Snapshot::of(dir.path()));
        std::fs::remove_file(&file).unwrap();
        assert_eq!(empty, Snapshot::of(dir.path()));
    }
}
