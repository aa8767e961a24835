//! A server that is a program, spoken to over its stdin and stdout.
//!
//! A supervising task owns the process: it pumps its output, drains its stderr
//! and, when the connection ends on either side, makes sure that the process
//! group is dead and its leader reaped.

use std::path::Path;
use std::sync::Arc;

use common::failure::{Failure, FailureClass};
use rmcp::RoleClient;
use rmcp::transport::Transport;
use rmcp::transport::async_rw::AsyncRwTransport;
use sandbox::Sandbox;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio_util::sync::CancellationToken;

use super::connection::{GRACE, Link};
use super::lines;
use super::observed::{End, Observed};
use crate::process::{self, Running};

/// Bytes between the pump and the protocol.
const PIPE: usize = 64 << 10;

/// What is needed to start a server.
#[derive(Debug, Clone)]
pub(super) struct Program {
    pub(super) command: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) sandbox: Sandbox,
}

/// Starts the program of the server `name` in a directory.
pub(super) async fn start(
    name: &str,
    program: &Program,
    directory: &Path,
    answer_limit: usize,
) -> Result<(impl Transport<RoleClient> + use<>, Link), Failure> {
    let Program { command, env, sandbox } = program.clone();
    let started = process::start(command, directory.to_owned(), env, true, sandbox).await;
    let mut running =
        started.map_err(|failure| Failure { message: format!("MCP server {name}: {}", failure.message), ..failure })?;
    let (Some(stdin), Some(stdout), Some(stderr)) =
        (running.stdin.take(), running.stdout.take(), running.stderr.take())
    else {
        return Err(Failure::new(FailureClass::Internal, "a program was started without its pipes"));
    };
    let observed = Arc::new(Observed::default());
    let (to_client, from_server) = tokio::io::duplex(PIPE);
    let stop = CancellationToken::new();
    let pump = {
        let observed = Arc::clone(&observed);
        async move { lines::pump(stdout, to_client, answer_limit, |line| observed.stray(line)).await }
    };
    let drain = drain(stderr, name.to_owned(), Arc::clone(&observed));
    let supervisor = tokio::spawn(supervise(running, pump, drain, stop.clone(), Arc::clone(&observed)));
    // The pump bounds lines already; this bound is only a second net.
    let transport = AsyncRwTransport::new_client(from_server, stdin).with_max_line_length(answer_limit + PIPE);
    Ok((transport, Link::new(observed, stop, supervisor)))
}

/// Owns the process until it is dead.
async fn supervise(
    mut running: Running,
    pump: impl Future<Output = lines::End>,
    drain: impl Future<Output = ()>,
    stop: CancellationToken,
    observed: Arc<Observed>,
) {
    tokio::pin!(drain);
    let mut drained = false;
    let end = {
        tokio::pin!(pump);
        loop {
            tokio::select! {
                end = &mut pump => break end,
                () = stop.cancelled() => break lines::End::Unheard,
                () = &mut drain, if !drained => drained = true,
                // What was written before the end is still in the pipe.
                _ = running.wait() => break tokio::time::timeout(GRACE, pump).await.unwrap_or(lines::End::Closed),
            }
        }
    };
    observed.ended(End::Output(end));
    // Stdin is closed by the protocol when its side ends, so a server that minds its manners is on its way out.
    let _ = tokio::time::timeout(GRACE, async {
        if !drained {
            drain.await;
        }
        running.wait().await
    })
    .await;
    let _ = running.kill().await;
}

async fn drain(stderr: impl AsyncRead + Unpin, server: String, observed: Arc<Observed>) {
    let mut stderr = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        // A line without end is taken in pieces.
        match (&mut stderr).take(8 << 10).read_until(b'\n', &mut line).await {
            Ok(1..) => {
                let text = String::from_utf8_lossy(&line);
                tracing::debug!(%server, line = text.trim_end(), "stderr of an MCP server");
                observed.said(&text);
            }
            _ => return,
        }
    }
}
