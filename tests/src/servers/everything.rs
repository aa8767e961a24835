//! The reference MCP server "everything", over streamable HTTP, from npm
//! (`tests/install-servers` installs it). It keeps its sessions in memory.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::port::Port;
use super::process::{Ending, Process};
use crate::fakes::mcp::installed;

/// One that runs until the value is dropped, or it is killed.
#[derive(Debug)]
pub struct Server {
    // Ends before its folder goes.
    process: Option<Process>,
    folder: TempDir,
    port: Port,
}

impl Server {
    /// Starts one and waits until it answers.
    ///
    /// # Panics
    /// When that fails.
    pub fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("teamster-mcp-").tempdir().unwrap();
        let mut server = Self { process: None, folder, port: Port::claim() };
        server.restart();
        server
    }

    /// Starts it again on the same port.
    ///
    /// # Panics
    /// When that fails.
    pub fn restart(&mut self) {
        self.process = Some(self.run().unwrap_or_else(|error| panic!("{error:#}")));
    }

    fn run(&self) -> Result<Process> {
        let script = installed().join("node_modules/@modelcontextprotocol/server-everything/dist/index.js");
        ensure!(script.is_file(), "{} is missing: run tests/install-servers", script.display());
        let port = self.port.number();
        let mut command = Command::new("node");
        command.arg(script).arg("streamableHttp").env("PORT", port.to_string());
        let mut process = Process::start(self.folder.path(), Ending::Kill, &command).context("the MCP server")?;
        process.until_ready(|| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()).context("the MCP server")?;
        Ok(process)
    }

    /// Kills it; what it knew is gone.
    ///
    /// # Panics
    /// When it does not end.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.end("KILL").unwrap();
        }
    }

    /// How many messages it has received.
    ///
    /// # Panics
    /// When its log cannot be read.
    pub fn received(&self) -> usize {
        let log = std::fs::read_to_string(self.folder.path().join("server.log")).unwrap();
        log.matches("Received MCP POST request").count()
    }

    /// The URL that it is at.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/mcp", self.port.number())
    }
}
