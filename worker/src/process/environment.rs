//! The environment of programs: nothing of the worker's own, which holds its
//! secrets, but what every program needs to work at all.

use std::path::Path;

/// Where programs are looked up if the worker itself has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `PATH` and `LANG` as the worker has them, `HOME` as given, `TMPDIR`, and
/// then what is configured, which wins.
pub fn environment(home: &Path, configured: impl IntoIterator<Item = (String, String)>) -> Vec<(String, String)> {
    let inherited = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let mut env = vec![
        ("PATH".to_owned(), inherited("PATH", DEFAULT_PATH)),
        ("HOME".to_owned(), home.to_string_lossy().into_owned()),
        ("LANG".to_owned(), inherited("LANG", "C.UTF-8")),
        ("TMPDIR".to_owned(), inherited("TMPDIR", "/tmp")),
    ];
    env.extend(configured);
    env
}
