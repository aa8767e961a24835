//! MCP servers for tests: real ones, installed by `tests/install-servers`, and
//! one that misbehaves as it is told.
#![allow(clippy::missing_panics_doc, reason = "a panic is how a test fails")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::clock::SystemClock;
use common::config::{McpProgram, McpServer, McpTransport, Sandbox};
use serde_json::json;
use worker::http::HttpClient;
use worker::tools::mcp::McpOptions;

/// A server that is started with these words.
pub fn server(command: &[&str]) -> McpServer {
    serde_json::from_value(json!({"command": command})).unwrap()
}

/// How servers are reached that run in `directory` and may answer with so many bytes.
pub fn options(directory: &Path, answer_limit: usize) -> McpOptions {
    crate::servers::install_crypto_provider();
    McpOptions {
        directory: directory.to_owned(),
        sandbox: Sandbox::default(),
        answer_limit,
        http: HttpClient::new().unwrap(),
        clock: Arc::new(SystemClock),
    }
}

/// The program of a server that is one.
pub fn program(server: &mut McpServer) -> &mut McpProgram {
    match &mut server.transport {
        McpTransport::Stdio(program) => program,
        McpTransport::Http(endpoint) => panic!("{} is no program", endpoint.url),
    }
}

/// The server of `tests/data/mcp/misbehaving.py`; appends the process id of every start to `starts`.
pub fn misbehaving(starts: &Path, options: &[&str]) -> McpServer {
    let script = data().join("misbehaving.py");
    let mut command = vec!["python3", script.to_str().unwrap(), "--starts", starts.to_str().unwrap()];
    command.extend(options);
    server(&command)
}

/// The process ids of all starts so far.
pub fn starts(file: &Path) -> Vec<i32> {
    std::fs::read_to_string(file).unwrap_or_default().lines().map(|line| line.parse().unwrap()).collect()
}

/// A real server from npm, by its package below `@modelcontextprotocol`.
pub fn from_npm(package: &str, arguments: &[&str]) -> McpServer {
    let script = installed().join("node_modules/@modelcontextprotocol").join(package).join("dist/index.js");
    assert!(script.is_file(), "{} is missing: run tests/install-servers", script.display());
    let mut command = vec!["node", script.to_str().unwrap()];
    command.extend(arguments);
    server(&command)
}

/// A real server from `PyPI`, by the name of its program.
pub fn from_pypi(program: &str, arguments: &[&str]) -> McpServer {
    let program = installed().join("python/bin").join(program);
    assert!(program.is_file(), "{} is missing: run tests/install-servers", program.display());
    let mut command = vec![program.to_str().unwrap()];
    command.extend(arguments);
    server(&command)
}

/// Servers by name.
pub fn servers(servers: impl IntoIterator<Item = (&'static str, McpServer)>) -> BTreeMap<String, McpServer> {
    servers.into_iter().map(|(name, server)| (name.to_owned(), server)).collect()
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/mcp")
}

/// Where `tests/install-servers` puts what it installs below the build's own folder.
pub(crate) fn installed() -> PathBuf {
    let named = std::env::var_os("TEAMSTER_TEST_SERVERS").map(PathBuf::from);
    named.unwrap_or_else(|| {
        let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
        target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target")).join("test-servers")
    })
}
