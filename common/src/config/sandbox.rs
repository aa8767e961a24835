//! How the programs that a worker starts are confined: what the operator says,
//! and the policy that comes of it for each kind of program. Pure; what the
//! kernel can enforce of a policy is the business of who starts programs.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{McpProgram, Size};
use crate::span::Span;

/// How programs are confined, by who chose them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sandbox {
    /// What is done where the kernel cannot confine.
    pub mode: SandboxMode,
    /// Commands of the tool `Bash`, which a model writes.
    pub bash: SandboxRules,
    /// Programs of `run` steps, which the author of a pipeline chose.
    pub run: SandboxRules,
    /// MCP servers, which the operator chose; each may say more under its own `sandbox`.
    pub mcp: SandboxRules,
}

/// Whether programs run that the kernel cannot confine as the policy says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SandboxMode {
    /// A worker whose kernel cannot does not start.
    Require,
    /// What the kernel can is done; what it cannot is said at the start.
    #[default]
    Prefer,
    /// Nothing is confined.
    Off,
}

/// What is said of one kind of program; what is left out has the default of its kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SandboxRules {
    /// As `sandbox.mode`, for these programs.
    pub mode: Option<SandboxMode>,
    /// Whether they may open sockets, Unix sockets included.
    pub network: Option<bool>,
    /// What they may read and run, beside the system's programs, their own directory and what they may write.
    pub read: Option<Vec<Location>>,
    /// What they may write, beside their own directory.
    pub write: Option<Vec<Location>>,
    /// Data that one process may hold.
    pub memory: Option<Size>,
    /// Processes and threads that one program may have together.
    pub processes: Option<u32>,
    /// Processor time that one process may use.
    pub cpu: Option<Span>,
    /// How large they may make a file.
    pub file_size: Option<Size>,
    /// Files that one process may have open.
    pub open_files: Option<u32>,
}

/// A place in the file system as an operator names it: absolute, or below `~`, the home of the worker's user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Location(PathBuf);

/// A text that names no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no place; write a path that begins with / or ~/ and has no `..`")]
pub struct InvalidLocation(String);

impl Location {
    /// The path, with `home` for `~`; none if that is not known.
    pub fn resolve(&self, home: Option<&Path>) -> Option<PathBuf> {
        match self.0.strip_prefix("~") {
            Ok(rest) => home.map(|home| home.join(rest)),
            Err(_) => Some(self.0.clone()),
        }
    }
}

impl TryFrom<String> for Location {
    type Error = InvalidLocation;

    fn try_from(text: String) -> Result<Self, InvalidLocation> {
        let path = Path::new(&text);
        let rooted = path.is_absolute() || path.starts_with("~");
        let climbs = path.components().any(|part| part == Component::ParentDir);
        if rooted && !climbs && !text.contains('\0') {
            Ok(Self(path.to_owned()))
        } else {
            Err(InvalidLocation(text.chars().take(80).collect()))
        }
    }
}

/// What holds for one program. `None` for a limit: as the worker itself has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxPolicy {
    /// What is done where the kernel cannot confine.
    pub mode: SandboxMode,
    /// Whether it may open sockets, Unix sockets included.
    pub network: bool,
    /// What it may read and run beside the system's programs.
    pub read: Vec<Location>,
    /// What it may write.
    pub write: Vec<Location>,
    /// Whether it may write the directory that it runs in; it may read that in any case.
    pub writes_cwd: bool,
    /// Bytes of data that one process may hold.
    pub memory: Option<u64>,
    /// Processes and threads, together.
    pub processes: Option<u32>,
    /// Processor time of one process.
    pub cpu: Option<Duration>,
    /// Bytes of one file.
    pub file_size: Option<u64>,
    /// Open files of one process.
    pub open_files: Option<u32>,
}

impl SandboxPolicy {
    /// Whether it may write everywhere, as far as its user may.
    pub fn writes_everywhere(&self) -> bool {
        self.write.iter().any(|place| place.0 == Path::new("/"))
    }

    fn with(self, rules: &SandboxRules) -> Self {
        Self {
            mode: rules.mode.unwrap_or(self.mode),
            network: rules.network.unwrap_or(self.network),
            read: rules.read.clone().unwrap_or(self.read),
            write: rules.write.clone().unwrap_or(self.write),
            writes_cwd: self.writes_cwd,
            memory: rules.memory.map(|size| size.0).or(self.memory),
            processes: rules.processes.or(self.processes),
            cpu: rules.cpu.map(Span::get).or(self.cpu),
            file_size: rules.file_size.map(|size| size.0).or(self.file_size),
            open_files: rules.open_files.or(self.open_files),
        }
    }
}

impl Sandbox {
    /// The policy for commands of the tool `Bash`: closed, since a stranger's
    /// text may steer the model that writes them.
    pub fn bash(&self) -> SandboxPolicy {
        let closed = SandboxPolicy {
            mode: self.mode,
            network: false,
            read: Vec::new(),
            write: Vec::new(),
            writes_cwd: true,
            memory: Some(2 << 30),
            processes: Some(256),
            cpu: Some(Duration::from_secs(600)),
            file_size: Some(1 << 30),
            open_files: Some(1024),
        };
        closed.with(&self.bash)
    }

    /// The policy for the program of a `run` step.
    pub fn run(&self) -> SandboxPolicy {
        SandboxPolicy { writes_cwd: true, ..self.chosen() }.with(&self.run)
    }

    /// The policy for an MCP server's program. It runs in the directory of the project, which is not its own to write.
    pub fn server(&self, program: &McpProgram) -> SandboxPolicy {
        self.chosen().with(&self.mcp).with(&program.sandbox)
    }

    /// For programs that the operator or a pipeline's author chose: they reach
    /// what they were chosen to reach, but neither the worker's own process nor
    /// more privileges, and cannot multiply without end.
    fn chosen(&self) -> SandboxPolicy {
        let everywhere = || vec![Location(PathBuf::from("/"))];
        SandboxPolicy {
            mode: self.mode,
            network: true,
            read: everywhere(),
            write: everywhere(),
            writes_cwd: false,
            memory: None,
            processes: Some(1024),
            cpu: None,
            file_size: None,
            open_files: None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use super::*;

    fn place(text: &str) -> Location {
        text.to_owned().try_into().unwrap()
    }

    #[test]
    fn what_a_model_writes_is_closed_and_what_a_person_chose_is_open() {
        let sandbox = Sandbox::default();
        let (bash, run) = (sandbox.bash(), sandbox.run());
        assert!(!bash.network && bash.writes_cwd && !bash.writes_everywhere() && bash.processes.is_some());
        assert!(run.network && run.writes_cwd && run.writes_everywhere() && run.processes.is_some());
        assert_eq!((bash.mode, run.mode), (SandboxMode::Prefer, SandboxMode::Prefer));
    }

    #[test]
    fn a_server_says_more_than_its_kind_and_its_kind_more_than_the_default() {
        let sandbox = Sandbox {
            mode: SandboxMode::Require,
            mcp: SandboxRules { network: Some(false), processes: Some(7), ..SandboxRules::default() },
            ..Sandbox::default()
        };
        let own = SandboxRules { network: Some(true), write: Some(vec![place("~/.npm")]), ..SandboxRules::default() };
        let server = McpProgram { command: Vec::new(), env: BTreeMap::new(), sandbox: own };
        let policy = sandbox.server(&server);
        assert_eq!((policy.mode, policy.network, policy.processes), (SandboxMode::Require, true, Some(7)));
        assert!(!policy.writes_everywhere() && !policy.writes_cwd);
    }

    #[test]
    fn a_place_is_absolute_or_at_home() {
        let home = Some(Path::new("/home/u"));
        assert_eq!(place("~/.npm").resolve(home), Some("/home/u/.npm".into()));
        assert_eq!(place("~").resolve(home), Some("/home/u".into()));
        assert_eq!(place("~/x").resolve(None), None);
        assert_eq!(place("/var/lib").resolve(home), Some("/var/lib".into()));
        for wrong in ["", "x", "./x", "~other/x", "/a/../b", "~/..", "/a\0b"] {
            assert!(Location::try_from(wrong.to_owned()).is_err(), "{wrong:?}");
        }
    }
}
