//! The built-in tools: what they answer, and what they do not let happen.

use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use common::failure::FailureClass;
use common::journal::Effect;
use serde_json::{Value, json};
use suite::fakes::calls::{call, error_text, ok_text, process_is_gone};
use suite::fixtures::sandbox::bash;
use worker::tools::edit::Edit;
use worker::tools::glob::Glob;
use worker::tools::grep::Grep;
use worker::tools::read::Read;
use worker::tools::write::Write;
use worker::tools::{Tool, ToolError};

/// A working directory with some files, beside a secret that no tool may see.
struct Place {
    root: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let place = Self { root };
        std::fs::write(place.root.path().join("secret.txt"), "TOP SECRET").unwrap();
        std::fs::create_dir_all(place.workspace().join("src")).unwrap();
        place.put("src/a.txt", "alpha\nbeta\n");
        place
    }

    fn workspace(&self) -> std::path::PathBuf {
        self.root.path().join("workspace")
    }

    fn put(&self, path: &str, contents: impl AsRef<[u8]>) {
        let path = self.workspace().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, contents).unwrap();
    }

    fn get(&self, path: &str) -> String {
        std::fs::read_to_string(self.workspace().join(path)).unwrap()
    }

    async fn ok(&self, tool: &dyn Tool, arguments: Value) -> String {
        ok_text(&tool.call(call(tool, arguments, &self.workspace())).await)
    }

    async fn refused(&self, tool: &dyn Tool, arguments: Value) -> String {
        error_text(&tool.call(call(tool, arguments, &self.workspace())).await)
    }
}

/// Ways out of the directory. All of them are below, or pretend to be.
fn escapes(place: &Place) -> Vec<String> {
    let (workspace, outside) = (place.workspace(), place.root.path().to_owned());
    let link = |name: &str, to: &Path| symlink(to, workspace.join(name)).unwrap();
    link("link-relative", Path::new("../secret.txt"));
    link("link-absolute", &outside.join("secret.txt"));
    link("link-directory", Path::new(".."));
    link("link-root", Path::new("/"));
    link("link-proc", Path::new("/proc/self"));
    link("link-link", Path::new("link-relative"));
    link("src/link-deep", Path::new("../../secret.txt"));
    link("link-fd", Path::new("/dev/fd/0"));
    let mut paths: Vec<String> = [
        "../secret.txt",
        "src/../../secret.txt",
        "./../secret.txt",
        "src/./.././../secret.txt",
        "..//secret.txt",
        "link-relative",
        "link-absolute",
        "link-directory/secret.txt",
        "link-root/etc/passwd",
        "link-proc/environ",
        "link-link",
        "src/link-deep",
        "link-fd",
        "/etc/passwd",
        "/proc/self/environ",
        "/proc/self/root/etc/passwd",
        "/dev/zero",
        "/dev/stdin",
        "/",
        "..",
        "src/../..",
    ]
    .map(str::to_owned)
    .to_vec();
    paths.push(outside.join("secret.txt").display().to_string());
    paths.push(workspace.join("../secret.txt").display().to_string());
    paths.push(format!("{}-sibling/x", workspace.display()));
    paths
}

#[tokio::test]
async fn no_path_leads_a_tool_out_of_the_working_directory() {
    let place = Place::new();
    for path in escapes(&place) {
        let answers = [
            place.refused(&Read::default(), json!({"file_path": path})).await,
            place.refused(&Write::default(), json!({"file_path": path, "content": "owned"})).await,
            place.refused(&Edit::default(), json!({"file_path": path, "old_string": "TOP", "new_string": "x"})).await,
            place.refused(&Grep::default(), json!({"pattern": ".", "path": path, "output_mode": "content"})).await,
            place.refused(&Glob::default(), json!({"pattern": "**", "path": path})).await,
        ];
        for answer in answers {
            assert!(!answer.contains("TOP SECRET") && !answer.contains("root:"), "{path}: {answer}");
            assert!(answer.contains("outside"), "{path} is refused for what it is: {answer}");
        }
    }
    assert_eq!(std::fs::read_to_string(place.root.path().join("secret.txt")).unwrap(), "TOP SECRET");
}

#[tokio::test]
async fn a_search_of_the_whole_directory_does_not_follow_links_out_of_it() {
    let place = Place::new();
    let _ = escapes(&place);
    let found = place.ok(&Grep::default(), json!({"pattern": "SECRET|root:", "output_mode": "content"})).await;
    assert_eq!(found, "No matches found\n");
    let files = place.ok(&Glob::default(), json!({"pattern": "**"})).await;
    assert_eq!(files, "src/a.txt\n");
}

#[tokio::test]
async fn special_files_and_directories_are_refused_without_waiting() {
    let place = Place::new();
    let workspace = place.workspace();
    let fifo = workspace.join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(fifo.metadata().unwrap().file_type().is_fifo());
    std::fs::copy("/bin/true", workspace.join("binary")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(workspace.join("socket")).unwrap();
    for (path, why) in
        [("fifo", "a FIFO"), ("socket", "a socket"), ("src", "directory"), ("binary", "binary"), (".", "directory")]
    {
        let answer = place.refused(&Read::default(), json!({"file_path": path})).await;
        assert!(answer.contains(why), "{path}: {answer}");
    }
    for (path, why) in [("fifo", "a FIFO"), ("socket", "a socket"), ("src", "directory")] {
        let answer = place.refused(&Write::default(), json!({"file_path": path, "content": ""})).await;
        assert!(answer.contains(why), "{path}: {answer}");
        let edit = json!({"file_path": path, "old_string": "a", "new_string": "b"});
        let answer = place.refused(&Edit::default(), edit).await;
        assert!(answer.contains(why), "{path}: {answer}");
    }
    // A FIFO by the name of a file that a search reads by itself.
    rustix::fs::mknodat(rustix::fs::CWD, workspace.join(".gitignore"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .unwrap();
    assert_eq!(place.ok(&Grep::default(), json!({"pattern": "alpha"})).await, "src/a.txt\n");
}

#[tokio::test]
async fn absolute_paths_inside_and_links_inside_work() {
    let place = Place::new();
    symlink("src/a.txt", place.workspace().join("link")).unwrap();
    let absolute = place.workspace().join("src/a.txt").display().to_string();
    for path in [absolute.as_str(), "src/a.txt", "./src/../src/a.txt", "link"] {
        assert_eq!(
            place.ok(&Read::default(), json!({"file_path": path})).await,
            "     1\talpha\n     2\tbeta\n",
            "{path}"
        );
    }
    place.ok(&Write::default(), json!({"file_path": "link", "content": "new"})).await;
    assert_eq!(place.get("src/a.txt"), "new");
    assert!(place.workspace().join("link").is_symlink(), "the link stays a link");
}

#[tokio::test]
async fn malformed_paths_are_refused() {
    let place = Place::new();
    let long = "x".repeat(5000);
    for path in ["", "a\0b", &long, "missing", "src/a.txt/below"] {
        place.refused(&Read::default(), json!({"file_path": path})).await;
    }
    place.refused(&Write::default(), json!({"file_path": "src/a.txt/below", "content": ""})).await;
}

#[tokio::test]
async fn write_makes_directories_keeps_the_mode_and_leaves_no_temporary_file() {
    let place = Place::new();
    place.ok(&Write::default(), json!({"file_path": "new/deep/file.sh", "content": "one"})).await;
    let path = place.workspace().join("new/deep/file.sh");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    for _ in 0..2 {
        place.ok(&Write::default(), json!({"file_path": "new/deep/file.sh", "content": "two"})).await;
    }
    assert_eq!(place.get("new/deep/file.sh"), "two");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o755);
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
}

#[tokio::test]
async fn an_edit_that_is_repeated_is_recognised() {
    let place = Place::new();
    let edit = json!({"file_path": "src/a.txt", "old_string": "alpha", "new_string": "OMEGA"});
    assert_eq!(Edit::default().effect(&edit), Effect::Keyed);
    place.ok(&Edit::default(), edit.clone()).await;
    assert!(place.ok(&Edit::default(), edit).await.contains("already"));
    assert_eq!(place.get("src/a.txt"), "OMEGA\nbeta\n");
}

#[tokio::test]
async fn grep_shows_lines_with_context_counts_and_files() {
    let place = Place::new();
    place.put("one.rs", "fn a() {}\nfn b() {}\nlet x;\nfn c() {}\n");
    place.put("two.py", "def a():\n    pass\n");
    place.put("ignored/three.rs", "fn ignored() {}\n");
    place.put(".gitignore", "ignored/\n");
    place.put("binary.rs", b"fn \0binary");
    let grep = Grep::default();
    for (arguments, expected) in [
        (json!({"pattern": "fn "}), "one.rs\n"),
        (json!({"pattern": "fn ", "output_mode": "count"}), "one.rs:3\n"),
        (json!({"pattern": "fn b", "output_mode": "content"}), "one.rs:2:fn b() {}\n"),
        (json!({"pattern": "FN B", "-i": true, "-n": false, "output_mode": "content"}), "one.rs:fn b() {}\n"),
        (
            json!({"pattern": "let", "-C": 1, "output_mode": "content"}),
            "one.rs-2-fn b() {}\none.rs:3:let x;\none.rs-4-fn c() {}\n",
        ),
        (json!({"pattern": "let", "-B": 1, "output_mode": "content"}), "one.rs-2-fn b() {}\none.rs:3:let x;\n"),
        (
            json!({"pattern": "b\\(\\) \\{\\}\\nlet", "multiline": true, "output_mode": "content"}),
            "one.rs:2:fn b() {}\none.rs:3:let x;\n",
        ),
        (json!({"pattern": "a\\(", "type": "py"}), "two.py\n"),
        (json!({"pattern": "a\\(", "glob": "*.{rs,ts}"}), "one.rs\n"),
        (json!({"pattern": "ignored", "path": "ignored"}), "ignored/three.rs\n"),
        (json!({"pattern": "beta", "path": "src/a.txt", "output_mode": "content"}), "src/a.txt:2:beta\n"),
        (json!({"pattern": "nothing at all"}), "No matches found\n"),
    ] {
        assert_eq!(place.ok(&grep, arguments.clone()).await, expected, "{arguments}");
    }
    let head = place.ok(&grep, json!({"pattern": "fn", "output_mode": "content", "head_limit": 2})).await;
    assert!(head.starts_with("one.rs:1:fn a() {}\none.rs:2:fn b() {}\n[There is more"), "{head}");
    for arguments in [
        json!({"pattern": "("}),
        json!({"pattern": "a", "type": "klingon"}),
        json!({"pattern": "a", "glob": "{"}),
        json!({"pattern": "a", "path": "none"}),
    ] {
        place.refused(&grep, arguments).await;
    }
}

#[tokio::test]
async fn glob_finds_by_pattern_newest_first() {
    let place = Place::new();
    place.put("b.rs", "");
    place.put("src/deep/a.rs", "");
    let old = std::fs::File::open(place.workspace().join("b.rs")).unwrap();
    old.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let glob = Glob::default();
    assert_eq!(place.ok(&glob, json!({"pattern": "**/*.rs"})).await, "src/deep/a.rs\nb.rs\n");
    assert_eq!(place.ok(&glob, json!({"pattern": "*.rs"})).await, "b.rs\n");
    assert_eq!(place.ok(&glob, json!({"pattern": "*/*.rs", "path": "src"})).await, "src/deep/a.rs\n");
    assert_eq!(place.ok(&glob, json!({"pattern": "*.none"})).await, "No files found");
    place.refused(&glob, json!({"pattern": "a{"})).await;
    place.refused(&glob, json!({"pattern": "*", "path": "src/a.txt"})).await;
}

#[tokio::test]
async fn answers_keep_to_the_output_limit() {
    let place = Place::new();
    place.put("large.txt", "0123456789\n".repeat(1_000_000));
    let limit = 10_000;
    for (tool, arguments) in [
        (&Read::default() as &dyn Tool, json!({"file_path": "large.txt", "limit": 10_000_000})),
        (&Grep::default(), json!({"pattern": "5", "output_mode": "content", "head_limit": 0})),
        (&bash(), json!({"command": "cat large.txt; cat large.txt >&2"})),
    ] {
        let mut call = call(tool, arguments, &place.workspace());
        call.context.output_limit = limit;
        let text = ok_text(&tool.call(call).await);
        assert!(text.len() <= limit + 300, "{} answered {} bytes", tool.spec().name, text.len());
        assert!(text.len() >= limit / 2, "{} answered only {} bytes", tool.spec().name, text.len());
    }
}

#[tokio::test]
async fn bash_answers_with_output_and_exit_code_and_knows_no_secrets() {
    let place = Place::new();
    let bash = bash();
    assert_eq!(
        place.ok(&bash, json!({"command": "pwd; ls src"})).await,
        format!("{}\na.txt\n", place.workspace().canonicalize().unwrap().display())
    );
    assert_eq!(place.ok(&bash, json!({"command": "true"})).await, "(no output)");
    assert_eq!(
        place.refused(&bash, json!({"command": "echo out; echo err >&2; exit 3"})).await,
        "Exit code 3\nout\nerr\n"
    );
    assert_eq!(place.ok(&bash, json!({"command": "cat"})).await, "(no output)", "stdin is empty");
    // Cargo sets this for the test itself.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    let names = place.ok(&bash, json!({"command": "env"})).await;
    assert!(!names.contains("CARGO"), "{names}");
}

#[tokio::test]
async fn a_command_that_takes_too_long_is_killed_with_its_grandchildren() {
    let place = Place::new();
    let command = "echo before; (sleep 1000 & echo $! > grandchild; wait) & echo $$ > leader; wait";
    let answer = place.refused(&bash(), json!({"command": command, "timeout": 500})).await;
    assert!(answer.starts_with("Killed after 0.5 s") && answer.ends_with("before\n"), "{answer}");
    for file in ["leader", "grandchild"] {
        process_is_gone(place.get(file).trim().parse().unwrap()).await;
    }
}

#[tokio::test]
async fn a_command_that_nobody_waits_for_any_more_is_killed_with_its_grandchildren() {
    let place = Place::new();
    let command = "echo $$ > leader; (sleep 1000 & echo $! > grandchild; wait) & wait";
    let (bash, workspace) = (bash(), place.workspace());
    let started = workspace.join("grandchild");
    let running = bash.call(call(&bash, json!({"command": command}), &workspace));
    tokio::select! {
        answer = running => panic!("it ended: {answer:?}"),
        () = suite::fakes::calls::file_appears(&started) => {}
    }
    for file in ["leader", "grandchild"] {
        process_is_gone(place.get(file).trim().parse().unwrap()).await;
    }
}

#[tokio::test]
async fn a_search_that_takes_too_long_ends_with_a_timeout() {
    let place = Place::new();
    place.put("large.txt", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n".repeat(2_000_000));
    let grep = Grep::default();
    let mut call = call(&grep, json!({"pattern": "(a|b|ab)*c", "output_mode": "count"}), &place.workspace());
    call.context.timeout = Duration::from_millis(1);
    let answer = grep.call(call).await;
    assert!(matches!(&answer, Err(ToolError::Lost(failure)) if failure.class == FailureClass::Timeout), "{answer:?}");
}
