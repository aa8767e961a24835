//! A walk over the files of a working directory.
//!
//! Goes from directory handle to directory handle and follows no symbolic
//! link, so that it cannot leave the directory, even while it is changed
//! underneath. Only regular files are visited; `.git` is left out.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cap_std::fs::Dir;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::blocking::{Unwanted, Wanted};
use super::workspace::{Refusal, Workspace, open_regular};

/// How deep directories are followed.
const DEPTH: usize = 64;
/// How many entries are looked at; beyond, the walk ends and says so.
const ENTRIES: usize = 1_000_000;
/// Bytes of a `.gitignore` that are read.
const IGNORE_FILE: u64 = 256 << 10;

/// A regular file that a walk came by.
pub(crate) struct Found<'a> {
    /// Its directory.
    pub(crate) dir: &'a Dir,
    /// Its name in there.
    pub(crate) name: &'a Path,
    /// Its path from the working directory.
    pub(crate) path: PathBuf,
}

/// Whether a walk goes on.
pub(crate) enum Next {
    Continue,
    Stop,
}

/// How a walk ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Walked {
    /// All files were visited, or the visitor had enough.
    Done,
    /// There are more files than a walk visits.
    TooMany,
}

struct Directory {
    dir: Dir,
    path: PathBuf,
    depth: usize,
    /// What `.gitignore` files above say, the nearest last.
    ignores: Vec<Arc<Gitignore>>,
}

/// Visits the files below `start`, a path as [`Workspace::resolve`] gives it,
/// by directory, names in order. With `honour_ignores`, what `.gitignore` files
/// at or below `start` name is left out.
pub(crate) fn walk(
    workspace: &Workspace,
    start: &Path,
    honour_ignores: bool,
    wanted: &Wanted,
    mut visit: impl FnMut(&Found<'_>) -> Result<Next, Unwanted>,
) -> Result<Result<Walked, Refusal>, Unwanted> {
    let dir = match workspace.open_dir(start) {
        Ok(dir) => dir,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let path = if start == Path::new(".") { PathBuf::new() } else { start.to_owned() };
    let mut stack = vec![Directory { dir, path, depth: 0, ignores: Vec::new() }];
    let mut seen = 0;
    while let Some(mut here) = stack.pop() {
        wanted.check()?;
        // What cannot be read, or vanished meanwhile, is passed over.
        let Ok(entries) = here.dir.entries() else { continue };
        let mut names = Vec::new();
        for entry in entries.flatten() {
            wanted.check()?;
            seen += 1;
            if seen > ENTRIES {
                return Ok(Ok(Walked::TooMany));
            }
            if let Ok(kind) = entry.file_type()
                && (kind.is_dir() || kind.is_file())
            {
                names.push((PathBuf::from(entry.file_name()), kind.is_dir()));
            }
        }
        names.sort_unstable();
        if honour_ignores {
            here.ignores.extend(ignore_file(&here.dir, &here.path).map(Arc::new));
        }
        let mut below = Vec::new();
        for (name, is_dir) in &names {
            wanted.check()?;
            let path = here.path.join(name);
            if name == Path::new(".git") || is_ignored(&here.ignores, &path, *is_dir) {
                continue;
            }
            if !*is_dir {
                if let Next::Stop = visit(&Found { dir: &here.dir, name, path })? {
                    return Ok(Ok(Walked::Done));
                }
            } else if here.depth < DEPTH
                && let Ok(metadata) = here.dir.symlink_metadata(name)
                && metadata.is_dir()
            {
                below.push(name.clone());
            }
        }
        for name in below.into_iter().rev() {
            if let Ok(dir) = here.dir.open_dir(&name) {
                let path = here.path.join(&name);
                stack.push(Directory { dir, path, depth: here.depth + 1, ignores: here.ignores.clone() });
            }
        }
    }
    Ok(Ok(Walked::Done))
}

fn is_ignored(ignores: &[Arc<Gitignore>], path: &Path, is_dir: bool) -> bool {
    for ignore in ignores.iter().rev() {
        match ignore.matched(path, is_dir) {
            ignore::Match::None => {}
            ignore::Match::Ignore(_) => return true,
            ignore::Match::Whitelist(_) => return false,
        }
    }
    false
}

fn ignore_file(dir: &Dir, path: &Path) -> Option<Gitignore> {
    use std::io::Read;
    let file = open_regular(dir, Path::new(".gitignore")).ok()?;
    let mut text = Vec::new();
    file.take(IGNORE_FILE).read_to_end(&mut text).ok()?;
    let mut builder = GitignoreBuilder::new(path);
    for line in String::from_utf8_lossy(&text).lines() {
        // As git does, a line that is no pattern is passed over.
        let _ = builder.add_line(None, line);
    }
    builder.build().ok().filter(|ignore| !ignore.is_empty())
}
