//! What a process says about itself: the set-up of its log. Logs go to stderr;
//! stdout belongs to what a command was asked for.

use std::io::{IsTerminal, Stderr, Write};
use std::str::FromStr;
use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::journal::SealedValues;
use crate::private::Private;

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// A line for a person.
    #[default]
    Human,
    /// A JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "human" => Ok(Self::Human),
            "json" => Ok(Self::Json),
            _ => Err(format!("{text:?} is not a log format; use human or json")),
        }
    }
}

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `RUST_LOG` is not a list of filters.
    #[error("RUST_LOG is not valid: {0}; write for example RUST_LOG=info,worker=debug")]
    Filter(#[from] ParseError),
    /// It was set up before.
    #[error("the log cannot be set up: {0}")]
    Init(#[from] TryInitError),
}

/// What is sealed in the lines of the log.
static PRIVATE: OnceLock<Private> = OnceLock::new();

/// From now on, the lines of the log have tokens for what is private in them. What a process was told first stays.
pub fn seal(private: Private) {
    // A second call comes from a second service of the same process, with the same configuration.
    let _ = PRIVATE.set(private);
}

/// Standard error, one event a write.
struct Log(Stderr);

impl Log {
    fn new() -> Self {
        Self(std::io::stderr())
    }
}

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        match PRIVATE.get() {
            Some(private) => {
                let mut text = String::from_utf8_lossy(line).into_owned();
                private.sealer(&SealedValues::default()).text(&mut text);
                self.0.write_all(text.as_bytes())?;
            }
            None => self.0.write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// Sets up the log of this process, once. `RUST_LOG` wins over `default`, a
/// filter such as `info` or `warn,worker=debug`.
pub fn init(format: LogFormat, default: &str) -> Result<(), TelemetryError> {
    let asked = std::env::var("RUST_LOG").ok().filter(|text| !text.trim().is_empty());
    let text = asked.as_deref().unwrap_or(default);
    let mut filter = EnvFilter::try_new(text)?;
    // What MCP servers say stands in their library's log at `info`: only for whoever asks for it by name.
    if !text.contains("rmcp") {
        filter = filter.add_directive("rmcp=warn".parse()?);
    }
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(Log::new).with_ansi(colour);
    match format {
        LogFormat::Human => builder.finish().try_init()?,
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init()?,
    }
    Ok(())
}
