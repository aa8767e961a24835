//! A server that speaks S3, from `PyPI` (`tests/install-servers` installs it): it
//! keeps its buckets in memory. It takes any credentials.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::port::Port;
use super::process::{Ending, Process};
use crate::fakes::mcp::installed;

/// Credentials, and what else clients of the server need in their environment.
pub const ENVIRONMENT: [(&str, &str); 3] =
    [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "not-secret"), ("AWS_REGION", "us-east-1")];

/// One that runs until the value is dropped.
#[derive(Debug)]
pub struct Server {
    // Ends before its folder goes.
    _process: Process,
    _folder: TempDir,
    port: Port,
}

impl Server {
    /// Starts one and waits until it answers.
    ///
    /// # Panics
    /// When that fails.
    pub fn start() -> Self {
        Self::try_start().unwrap_or_else(|error| panic!("{error:#}"))
    }

    fn try_start() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("teamster-s3-").tempdir()?;
        let port = Port::claim();
        let program: PathBuf = installed().join("s3/bin/moto_server");
        ensure!(program.is_file(), "{} is missing: run tests/install-servers", program.display());
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", &port.number().to_string()]);
        let mut process = Process::start(folder.path(), Ending::Kill, &command).context("the S3 server")?;
        process
            .until_ready(|| std::net::TcpStream::connect(("127.0.0.1", port.number())).is_ok())
            .context("the S3 server")?;
        Ok(Self { _process: process, _folder: folder, port })
    }

    /// `http://127.0.0.1:PORT`
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port.number())
    }

    /// Makes a bucket.
    ///
    /// # Panics
    /// When the server does not.
    pub async fn make_bucket(&self, name: &str) {
        let made = self.request(reqwest::Method::PUT, name).await;
        assert!(made.status().is_success(), "{made:?}");
    }

    /// The names of all objects of a bucket.
    ///
    /// # Panics
    /// When the server does not answer.
    pub async fn objects(&self, bucket: &str) -> Vec<String> {
        let listed = self.request(reqwest::Method::GET, &format!("{bucket}?list-type=2")).await.text().await.unwrap();
        listed.split("<Key>").skip(1).filter_map(|rest| Some(rest.split_once("</Key>")?.0.to_owned())).collect()
    }

    /// Removes an object, as somebody would who should not.
    ///
    /// # Panics
    /// When the server does not.
    pub async fn remove(&self, bucket: &str, object: &str) {
        let removed = self.request(reqwest::Method::DELETE, &format!("{bucket}/{object}")).await;
        assert!(removed.status().is_success(), "{removed:?}");
    }

    async fn request(&self, method: reqwest::Method, path: &str) -> reqwest::Response {
        let signed = "AWS4-HMAC-SHA256 Credential=test/20300101/us-east-1/s3/aws4_request, SignedHeaders=host, \
                      Signature=none";
        let request = reqwest::Client::new().request(method, format!("{}/{path}", self.endpoint()));
        request.header("authorization", signed).send().await.unwrap()
    }
}
