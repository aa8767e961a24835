//! The places that a confined program reaches: those of the system, those of
//! its own, and those that the operator names.

use std::path::{Path, PathBuf};

use common::config::SandboxPolicy;

/// Programs, libraries and what they read of the machine. What is not there is passed over.
const SYSTEM: &[&str] = &[
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix/store",
    "/gnu/store",
    "/run/current-system/sw",
    // Nearly every run time looks into these. What others keep secret in /proc is kept by landlock's rule on tracing.
    "/proc",
    "/sys/devices/system",
    "/sys/fs/cgroup",
    "/sys/kernel/mm/transparent_hugepage",
];

/// What programs need of `/etc`, in which there are secrets too.
const SETTINGS: &[&str] = &[
    "alternatives",
    "ca-certificates",
    "ca-certificates.conf",
    "crypto-policies",
    "debian_version",
    "fonts",
    "gai.conf",
    "gitattributes",
    "gitconfig",
    "group",
    "host.conf",
    "hosts",
    "inputrc",
    "java",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "ld.so.preload",
    "locale.alias",
    "localtime",
    "magic",
    "mime.types",
    "nsswitch.conf",
    "os-release",
    "passwd",
    "perl",
    "pki/ca-trust/extracted",
    "pki/tls/certs",
    "pki/tls/cert.pem",
    "pki/tls/openssl.cnf",
    "protocols",
    "python3",
    "resolv.conf",
    "services",
    "ssl/cert.pem",
    "ssl/certs",
    "ssl/openssl.cnf",
    "terminfo",
    "timezone",
];

/// Devices that hold nothing of anybody.
const DEVICES: &[&str] = &["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

/// What is beside a directory of programs and belongs to them.
const COMPANIONS: &[&str] = &["lib", "lib64", "libexec", "include"];

/// What a program may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Places {
    /// To read and run.
    pub(crate) read: Vec<PathBuf>,
    /// To write too.
    pub(crate) write: Vec<PathBuf>,
}

impl Places {
    /// What a policy allows a program in `cwd`.
    pub(crate) fn of(policy: &SandboxPolicy, cwd: &Path, tmp: Option<&Path>) -> Self {
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let search = std::env::var_os("PATH").unwrap_or_default();
        let mut read: Vec<PathBuf> = SYSTEM.iter().map(PathBuf::from).collect();
        read.extend(SETTINGS.iter().map(|name| Path::new("/etc").join(name)));
        read.extend(std::env::split_paths(&search).flat_map(|directory| of_programs(&directory)));
        read.push(cwd.to_owned());
        read.extend(policy.read.iter().filter_map(|place| place.resolve(home.as_deref())));
        let mut write: Vec<PathBuf> = DEVICES.iter().map(PathBuf::from).collect();
        if policy.writes_cwd {
            write.push(cwd.to_owned());
        }
        write.extend(tmp.map(Path::to_owned));
        write.extend(policy.write.iter().filter_map(|place| place.resolve(home.as_deref())));
        Self { read, write }
    }
}

/// A directory of `PATH`, and what its programs need beside it. Of a version
/// manager's `shims` that is all of it, as these only find the real programs.
fn of_programs(directory: &Path) -> Vec<PathBuf> {
    if !directory.is_absolute() || directory.parent().is_none() {
        return Vec::new();
    }
    let mut places = vec![directory.to_owned()];
    let prefix = directory.parent().filter(|prefix| prefix.parent().is_some());
    match (directory.file_name().and_then(|name| name.to_str()), prefix) {
        (Some("bin" | "sbin"), Some(prefix)) => places.extend(COMPANIONS.iter().map(|name| prefix.join(name))),
        (Some("shims"), Some(prefix)) => places.push(prefix.to_owned()),
        _ => {}
    }
    places
}

#[cfg(test)]
mod tests {
    use common::config::Sandbox;

    use super::*;

    #[test]
    fn a_directory_of_programs_brings_its_libraries_and_not_what_else_is_beside_it() {
        let of = |path: &str| of_programs(Path::new(path));
        let home = of("/home/u/.local/bin");
        assert!(home.contains(&"/home/u/.local/lib".into()) && !home.contains(&"/home/u/.local".into()));
        assert!(of("/home/u/.pyenv/shims").contains(&"/home/u/.pyenv".into()));
        assert_eq!(of("/home/u"), [PathBuf::from("/home/u")]);
        assert_eq!(of("/bin"), [PathBuf::from("/bin")]);
        for nothing in ["", ".", "bin", "/"] {
            assert!(of(nothing).is_empty(), "{nothing:?}");
        }
    }

    #[test]
    fn a_closed_policy_writes_its_own_directories_and_devices_only() {
        let policy = Sandbox::default().bash();
        let places = Places::of(&policy, Path::new("/work"), Some(Path::new("/t/1")));
        let files: Vec<&PathBuf> = places.write.iter().filter(|path| !path.starts_with("/dev")).collect();
        assert_eq!(files, [Path::new("/work"), Path::new("/t/1")]);
        assert!(!places.read.iter().any(|path| [Path::new("/"), Path::new("/etc")].contains(&path.as_path())));
    }
}
