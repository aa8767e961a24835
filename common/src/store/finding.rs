//! What a look at a server's settings found, in words for a person.

use serde::Serialize;

/// What a look at a server's settings found, in words for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was looked at: a setting's name, or such.
    pub subject: String,
    /// What it is, and what that means for tasks.
    pub said: String,
    /// What to do about it, where there is something to do.
    pub advice: Option<String>,
}

impl Finding {
    /// The subject of the finding that a server may throw tasks away when its memory is full.
    pub const EVICTION: &str = "maxmemory-policy";
    /// The subject of the finding on what a crash of the server's process costs.
    pub const PROCESS: &str = "crash of the process";
    /// The subject of the finding on what a crash of its machine costs.
    pub const MACHINE: &str = "crash of the machine";
    /// The subject of the finding on what the loss of its site costs.
    pub const SITE: &str = "loss of the site";
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// As it should be.
    Good,
    /// It works; in some accident it may lose what was accepted, or stop.
    Warning,
    /// Accepted tasks will be lost or the store does not work: do not start.
    Fatal,
}
