//! A cgroup for each program, where this process may make some: it bounds the
//! number of processes, and finds them all in the end.
//!
//! Versions 1 and 2 look alike here: both have `cgroup.procs` and `pids.max`.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{Access, access};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// What the names of our cgroups begin with.
const PREFIX: &str = "teamster-";
/// How often the members are asked for and killed; after the first time none can come along.
const ROUNDS: usize = 3;
/// How long, in steps, killed processes may take to leave before their cgroup stays behind.
const LEAVING: (usize, Duration) = (500, Duration::from_millis(10));

/// A cgroup of one program. Dropping it kills the members and removes it.
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes one below `base`.
    pub(crate) fn create(base: &Path, processes: u32, memory: Option<u64>) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = base.join(format!("{PREFIX}{}-{}-{number}", namespace(), std::process::id()));
        fs::create_dir(&path).map_err(|error| at(&path, &error))?;
        let cgroup = Self { path };
        cgroup.write("pids.max", &processes.to_string())?;
        if let Some(memory) = memory
            && cgroup.path.join("memory.max").exists()
        {
            // Version 2, with the controller: the whole program together, which ends as a whole.
            cgroup.write("memory.max", &memory.to_string())?;
            cgroup.write("memory.oom.group", "1")?;
        }
        Ok(cgroup)
    }

    /// The file into which a process writes 0 to become a member.
    pub(crate) fn door(&self) -> io::Result<File> {
        let path = self.path.join("cgroup.procs");
        OpenOptions::new().write(true).open(&path).map_err(|error| at(&path, &error))
    }

    /// Kills all members. None can be added meanwhile.
    pub(crate) fn kill(&self) {
        // If this fails the members are killed all the same, round by round.
        let _ = self.write("pids.max", "0");
        for _ in 0..ROUNDS {
            let members = members(&self.path);
            if members.is_empty() {
                return;
            }
            for member in members {
                // ESRCH: it has ended by itself.
                let _ = kill_process(member, Signal::KILL);
            }
        }
    }

    fn write(&self, file: &str, value: &str) -> io::Result<()> {
        let path = self.path.join(file);
        fs::write(&path, value).map_err(|error| at(&path, &error))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        self.kill();
        if fs::remove_dir(&self.path).is_err() {
            // Killed processes take a moment to leave. Nobody waits for that.
            let path = self.path.clone();
            let _ = std::thread::Builder::new().name("cgroup".to_owned()).spawn(move || {
                let (steps, pause) = LEAVING;
                let _ = (0..steps).find(|_| {
                    std::thread::sleep(pause);
                    fs::remove_dir(&path).is_ok()
                });
            });
        }
    }
}

/// Kills what is left in cgroups of processes that are gone, and removes them.
pub(crate) fn clear_leftovers(base: &Path) {
    let own = format!("{PREFIX}{}-", namespace());
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(&own)) else { continue };
        let owner = rest.split('-').next().and_then(|id| id.parse().ok()).and_then(Pid::from_raw);
        if owner.is_some_and(|owner| test_kill_process(owner) == Err(rustix::io::Errno::SRCH)) {
            drop(Cgroup { path: entry.path() });
        }
    }
}

/// A cgroup below which this process can make others with a bound on processes.
pub(crate) fn usable_base() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    candidates(&mounts, &own).into_iter().find(|base| is_usable(base))
}

fn is_usable(base: &Path) -> bool {
    // Version 2: the controller has to be handed down. That is refused where processes are.
    let controllers = base.join("cgroup.subtree_control");
    if controllers.exists() {
        let has =
            |name| fs::read_to_string(&controllers).is_ok_and(|list| list.split_whitespace().any(|it| it == name));
        if !has("pids") && fs::write(&controllers, "+pids").is_err() {
            return false;
        }
        if !has("memory") {
            // Good to have: the limit of each process holds without it.
            let _ = fs::write(&controllers, "+memory");
        }
    }
    if access(base.join("cgroup.procs"), Access::WRITE_OK).is_err() {
        return false;
    }
    Cgroup::create(base, 1, None).is_ok_and(|probe| probe.door().is_ok())
}

/// The cgroups that may serve, best first: our own, and the one above, in which a
/// service manager may have put us into a leaf.
fn candidates(mounts: &str, own: &str) -> Vec<PathBuf> {
    let path_of = |is_it: &dyn Fn(&str) -> bool| {
        own.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            is_it(controllers).then_some(path)
        })
    };
    let mut found = Vec::new();
    for line in mounts.lines() {
        // proc_pid_mountinfo(5): … root mount-point … - type source options
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut left = left.split(' ').skip(3);
        let (Some(root), Some(point)) = (left.next(), left.next()) else { continue };
        let mut right = right.split(' ');
        let (kind, options) = (right.next().unwrap_or_default(), right.nth(1).unwrap_or_default());
        let named = |list: &str| list.split(',').any(|name| name == "pids");
        let path = match kind {
            "cgroup2" => path_of(&str::is_empty),
            "cgroup" if named(options) => path_of(&named),
            _ => None,
        };
        let Some(below) = path.and_then(|path| Path::new(path).strip_prefix(root).ok()) else { continue };
        let base = Path::new(point).join(below);
        let base: PathBuf = base.components().collect();
        if kind == "cgroup2" && base != Path::new(point) {
            found.extend(base.parent().map(Path::to_owned).map(|above| (1, above)));
        }
        found.push((0, base));
    }
    found.sort();
    found.into_iter().map(|(_, base)| base).collect()
}

fn members(path: &Path) -> Vec<Pid> {
    let list = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    // 0 stands for a process of another namespace, which no program of ours can be.
    list.lines().filter_map(|line| line.parse().ok()).filter_map(Pid::from_raw).collect()
}

/// Tells our processes from those of another PID namespace, which may have the same numbers.
fn namespace() -> String {
    let link = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    link.to_string_lossy().chars().filter(char::is_ascii_digit).collect()
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup_of_this_process_is_found_in_both_versions() {
        let first = "30 24 0:26 / /sys/fs/cgroup/pids rw,relatime shared:9 - cgroup cgroup rw,pids\n\
                     31 24 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let own = "8:pids:/\n4:memory:/a/b\n0::/\n";
        assert_eq!(candidates(first, own), [PathBuf::from("/sys/fs/cgroup/pids")]);
        let second = "35 24 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(
            candidates(second, "0::/system.slice/teamster.service/main\n"),
            [
                PathBuf::from("/sys/fs/cgroup/system.slice/teamster.service/main"),
                PathBuf::from("/sys/fs/cgroup/system.slice/teamster.service"),
            ]
        );
        // In a container that sees the host's names, of which only its own part is mounted.
        let container = "35 24 0:30 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup2 ro\n";
        assert_eq!(candidates(container, "0::/docker/abc\n"), [PathBuf::from("/sys/fs/cgroup")]);
        assert!(candidates(container, "0::/other\n").is_empty());
        assert!(candidates("nonsense\n - cgroup2", "x").is_empty());
    }
}
