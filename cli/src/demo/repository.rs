//! The change that the demo reviews: the last commit of the repository around
//! the working directory, or of one that the demo makes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// A change between two commits.
#[derive(Debug, Clone)]
pub(super) struct Change {
    /// Where to fetch from.
    pub(super) repository: PathBuf,
    pub(super) base: String,
    pub(super) head: String,
    pub(super) title: String,
    /// Whether the demo made the repository.
    pub(super) made: bool,
}

const BEFORE: &str = "def mean(values):\n    return sum(values) / len(values)\n";
const AFTER: &str = "\
def mean(values):
    return sum(values) / len(values)


def median(values):
    ordered = sorted(values)
    return ordered[len(ordered) // 2]
";

/// The last commit here; without one, a repository in `dir`.
pub(super) fn change(dir: &Path) -> Result<Change> {
    if git(Path::new("."), &["--version"]).is_err() {
        bail!("the demo reviews a git diff and needs the program `git`; install it and try again");
    }
    if let Ok(top) = git(Path::new("."), &["rev-parse", "--show-toplevel"])
        && let Ok(change) = last_commit(Path::new(&top), false)
    {
        return Ok(change);
    }
    std::fs::create_dir_all(dir).with_context(|| format!("{} cannot be made", dir.display()))?;
    git(dir, &["init", "--quiet"])?;
    for (text, message) in [(BEFORE, "Add the mean"), (AFTER, "Add the median")] {
        std::fs::write(dir.join("statistics.py"), text)?;
        git(dir, &["add", "statistics.py"])?;
        let author = ["-c", "user.name=Teamster demo", "-c", "user.email=demo@teamster.example"];
        let commit = ["-c", "commit.gpgsign=false", "commit", "--quiet", "--no-verify", "-m", message];
        git(dir, &[&author[..], &commit[..]].concat())?;
    }
    last_commit(dir, true)
}

fn last_commit(repository: &Path, made: bool) -> Result<Change> {
    let repository =
        std::fs::canonicalize(repository).with_context(|| format!("{} cannot be read", repository.display()))?;
    let base = git(&repository, &["rev-parse", "--verify", "HEAD~1^{commit}"])?;
    let head = git(&repository, &["rev-parse", "--verify", "HEAD^{commit}"])?;
    let title = git(&repository, &["log", "-1", "--format=%s"])?;
    Ok(Change { repository, base, head, title, made })
}

/// Runs git and gives its output, without the line end.
fn git(dir: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new("git")
        .arg("-C")
        .arg(dir)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .context("git cannot be run")?;
    if !output.status.success() {
        bail!("git {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
