//! The house rules that a compiler does not check.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Modules of a crate from top to bottom: each may use those below it, none above.
/// Several on one line may not use each other, unless they are one.
const COMMON: &[&[&str]] = &[
    &["project", "telemetry"],
    &["audit", "metrics", "submission", "transfer"],
    &["pipeline", "private"],
    &["config"],
    &["broker"],
    &["store"],
    &["task", "journal"],
    &["retry", "document", "schema"],
    &["diagnostic"],
    &["failure", "secret"],
    &["id", "entropy", "shutdown"],
    &["clock", "span", "tls"],
];
const WORKER: &[&[&str]] = &[
    &["health"],
    &["service"],
    &["execute"],
    &["batching"],
    &["decide", "definitions", "fault", "halt", "intake", "lease", "outside"],
    &["quota"],
    &["hooks", "tools"],
    &["models", "http", "process"],
    &["answer", "sse"],
];
const SANDBOX: &[&[&str]] = &[&["entry"], &["abilities", "places"], &["cgroup", "filter", "kernel", "watch"]];
const SCHEDULER: &[&[&str]] = &[
    &["service"],
    &["halt", "letters", "relay", "serve", "sweep"],
    &["api"],
    &["batch", "cron", "erasure", "ingress"],
    &["private"],
    &["app"],
    &["problem"],
    &["catalog", "settings"],
    &["wire", "text"],
];
/// The task and its journal are two views of one thing: each names the other's types.
const ONE: &[(&str, &str)] = &[("task", "journal"), ("journal", "task")];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
    files
}

/// The modules of its own crate that a source names, outside of its tests.
fn uses(source: &str) -> Vec<String> {
    let code = source.split("#[cfg(test)]").next().unwrap();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let mut found = Vec::new();
    for line in lines {
        for part in line.split("crate::").skip(1) {
            let names = part.strip_prefix('{').map_or(part, |rest| rest.split('}').next().unwrap());
            let many = part.starts_with('{');
            for name in names.split(',').take(if many { usize::MAX } else { 1 }) {
                let name: String = name.trim().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                found.push(name);
            }
        }
    }
    found
}

fn check_layers(name: &str, layers: &[&[&str]]) {
    let src = root().join(name).join("src");
    let height: BTreeMap<&str, usize> =
        layers.iter().rev().enumerate().flat_map(|(h, row)| row.iter().map(move |module| (*module, h))).collect();
    let mut wrong = Vec::new();
    for file in sources(&src) {
        let relative = file.strip_prefix(&src).unwrap();
        let module =
            relative.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned();
        if module == "lib" {
            continue;
        }
        let Some(own) = height.get(module.as_str()) else {
            wrong.push(format!("{name}: module {module} has no place in the layers of this test"));
            continue;
        };
        for used in uses(&std::fs::read_to_string(&file).unwrap()) {
            let Some(other) = height.get(used.as_str()) else { continue };
            if used != module && other >= own && !ONE.contains(&(module.as_str(), used.as_str())) {
                wrong.push(format!("{name}: {} uses {used}, which is not below it", relative.display()));
            }
        }
    }
    wrong.sort();
    wrong.dedup();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn modules_of_common_depend_downward_only() {
    check_layers("common", COMMON);
}

#[test]
fn modules_of_the_sandbox_depend_downward_only() {
    check_layers("sandbox", SANDBOX);
}

#[test]
fn unsafe_code_is_in_one_file() {
    let mut found = Vec::new();
    for name in ["common", "sandbox", "scheduler", "worker", "cli"] {
        let files = sources(&root().join(name).join("src")).into_iter();
        found.extend(files.filter(|file| std::fs::read_to_string(file).unwrap().contains("unsafe {")));
    }
    assert_eq!(found, [root().join("sandbox/src/kernel.rs")]);
}

#[test]
fn modules_of_the_worker_depend_downward_only() {
    check_layers("worker", WORKER);
}

#[test]
fn modules_of_the_scheduler_depend_downward_only() {
    check_layers("scheduler", SCHEDULER);
}

#[test]
fn crates_depend_downward_only() {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("common", &[] as &[&str]),
        ("sandbox", &["common"]),
        ("scheduler", &["common"]),
        ("worker", &["common", "sandbox"]),
        ("cli", &["common", "sandbox", "scheduler", "worker"]),
    ]);
    for (name, may) in allowed {
        let manifest = std::fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
        for other in ["common", "sandbox", "scheduler", "worker", "teamster", "teamster-tests"] {
            let depends = manifest
                .lines()
                .any(|line| line.split(['.', ' ', '=']).next() == Some(other) && line.contains("workspace"));
            assert!(!depends || may.contains(&other), "{name} depends on {other}, which is not below it");
        }
    }
}

#[test]
fn nothing_silences_or_leaves_work_undone() {
    let marks = ["todo!(", "unimplemented!(", "FIXME", "XXX", "#[ignore", "allow(dead_code)"];
    let mut found = Vec::new();
    for name in ["common", "sandbox", "scheduler", "worker", "cli"] {
        for file in sources(&root().join(name).join("src")) {
            let text = std::fs::read_to_string(&file).unwrap();
            for (number, line) in text.lines().enumerate() {
                if marks.iter().any(|mark| line.contains(mark)) {
                    found.push(format!("{}:{}: {}", file.display(), number + 1, line.trim()));
                }
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
