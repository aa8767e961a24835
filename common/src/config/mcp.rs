//! MCP servers: how each is reached, and what of it is trusted.

mod check;

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{SandboxRules, SecretOrText};
use crate::journal::Effect;
use crate::secret::SecretRef;
use crate::span::Span;

pub(super) use self::check::check_server;

/// An MCP server.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "Written")]
pub struct McpServer {
    /// How it is reached.
    pub transport: McpTransport,
    /// What repeating its tools may do, by tool name; `*` for the rest. What is not classed is `once`.
    pub effects: BTreeMap<String, Effect>,
    /// How long the start and each call may take. Default 60 s.
    pub timeout: Option<Span>,
    /// Which of its tools there are, by its own names for them; `*` stands for any characters. Default: all.
    pub tools: Option<Vec<String>>,
    /// What it must say that it is.
    pub server: Option<McpIdentity>,
    /// The versions of the protocol that it may speak; the newest that it knows is used.
    /// Default: those with a handshake over stdio, all but `2024-11-05` over HTTP.
    pub protocol_versions: Option<Vec<McpVersion>>,
}

/// How an MCP server is reached.
#[derive(Debug, Clone, PartialEq)]
pub enum McpTransport {
    /// A program that is started and spoken to over stdio.
    Stdio(McpProgram),
    /// A server that runs elsewhere, over streamable HTTP.
    Http(McpEndpoint),
}

/// A program that is an MCP server.
#[derive(Debug, Clone, PartialEq)]
pub struct McpProgram {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Environment variables for it, beside `PATH`, `HOME`, `LANG` and `TMPDIR`.
    pub env: BTreeMap<String, SecretOrText>,
    /// How it is confined, where that differs from `sandbox.mcp`.
    pub sandbox: SandboxRules,
}

/// An address that an MCP server is at.
#[derive(Debug, Clone, PartialEq)]
pub struct McpEndpoint {
    /// http or https.
    pub url: String,
    /// Headers of every request, as texts or secrets by reference.
    pub headers: BTreeMap<String, SecretOrText>,
    /// How the worker shows who it is, where headers do not.
    pub auth: Option<McpAuth>,
}

/// How the worker shows who it is.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct McpAuth {
    /// With an access token that it gets for credentials of its own (OAuth 2.1, RFC 6749 section 4.4).
    pub client_credentials: ClientCredentials,
}

/// Where and for what an access token is had.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientCredentials {
    /// The token endpoint: http or https.
    pub token_url: String,
    /// The client's id.
    pub client_id: String,
    /// The client's secret.
    pub client_secret: SecretRef,
    /// How the endpoint wants the two.
    #[serde(default)]
    pub method: ClientAuthentication,
    /// What the token is to allow, separated by blanks.
    #[serde(default)]
    pub scope: Option<String>,
    /// Whom the token is for (RFC 8707). Default: the server's URL.
    #[serde(default)]
    pub resource: Option<String>,
}

/// How a client shows a token endpoint who it is (RFC 6749, section 2.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuthentication {
    /// In the header `Authorization`.
    #[default]
    ClientSecretBasic,
    /// In the body.
    ClientSecretPost,
}

/// What a server says of itself when it is first spoken to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct McpIdentity {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// A version of the protocol, the oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum McpVersion {
    /// The first one; over stdio only.
    #[serde(rename = "2024-11-05")]
    V20241105,
    /// The first one with streamable HTTP.
    #[serde(rename = "2025-03-26")]
    V20250326,
    /// Says its version in a header.
    #[serde(rename = "2025-06-18")]
    V20250618,
    /// The last one with a handshake.
    #[serde(rename = "2025-11-25")]
    V20251125,
    /// Without handshake and session.
    #[serde(rename = "2026-07-28")]
    V20260728,
}

impl McpVersion {
    /// All of them, the newest first.
    pub const ALL: [Self; 5] = [Self::V20260728, Self::V20251125, Self::V20250618, Self::V20250326, Self::V20241105];

    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V20241105 => "2024-11-05",
            Self::V20250326 => "2025-03-26",
            Self::V20250618 => "2025-06-18",
            Self::V20251125 => "2025-11-25",
            Self::V20260728 => "2026-07-28",
        }
    }

    /// Whether a conversation begins with a handshake.
    pub const fn has_handshake(self) -> bool {
        !matches!(self, Self::V20260728)
    }
}

impl McpServer {
    /// The versions of the protocol that may be spoken with it, the newest first.
    pub fn versions(&self) -> Vec<McpVersion> {
        let may_be = |version: &McpVersion| match (&self.protocol_versions, &self.transport) {
            (Some(listed), _) => listed.contains(version),
            (None, McpTransport::Stdio(_)) => version.has_handshake(),
            (None, McpTransport::Http(_)) => *version != McpVersion::V20241105,
        };
        McpVersion::ALL.into_iter().filter(may_be).collect()
    }

    /// Whether a tool of the server, by its own name for it, is one of those that there are here.
    pub fn offers(&self, tool: &str) -> bool {
        self.tools.as_ref().is_none_or(|patterns| patterns.iter().any(|pattern| fits(pattern, tool)))
    }
}

/// Whether a name is as a pattern says, in which `*` stands for any characters.
fn fits(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = name.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// As it stands in the file: the keys of both transports.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    command: Option<Vec<String>>,
    #[serde(default)]
    env: Option<BTreeMap<String, SecretOrText>>,
    #[serde(default)]
    sandbox: Option<SandboxRules>,
    #[serde(default)]
    url: Option<String>,
    #[serde(default)]
    headers: Option<BTreeMap<String, SecretOrText>>,
    #[serde(default)]
    auth: Option<McpAuth>,
    #[serde(default)]
    effects: BTreeMap<String, Effect>,
    #[serde(default)]
    timeout: Option<Span>,
    #[serde(default)]
    tools: Option<Vec<String>>,
    #[serde(default)]
    server: Option<McpIdentity>,
    #[serde(default)]
    protocol_versions: Option<Vec<McpVersion>>,
}

impl TryFrom<Written> for McpServer {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        let transport = match (written.command, written.url) {
            (Some(_), Some(_)) => return Err("an MCP server has a `command` or a `url`, not both"),
            (None, None) => return Err("an MCP server needs a `command` that starts it, or the `url` that it is at"),
            (Some(command), None) if written.headers.is_none() && written.auth.is_none() => {
                let sandbox = written.sandbox.unwrap_or_default();
                McpTransport::Stdio(McpProgram { command, env: written.env.unwrap_or_default(), sandbox })
            }
            (Some(_), None) => return Err("`headers` and `auth` are for MCP servers with a `url`"),
            (None, Some(url)) if written.env.is_none() && written.sandbox.is_none() => {
                let headers = written.headers.unwrap_or_default();
                McpTransport::Http(McpEndpoint { url, headers, auth: written.auth })
            }
            (None, Some(_)) => return Err("`env` and `sandbox` are for MCP servers with a `command`"),
        };
        Ok(Self {
            transport,
            effects: written.effects,
            timeout: written.timeout,
            tools: written.tools,
            server: written.server,
            protocol_versions: written.protocol_versions,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, name, is) in [
            ("get", "get", true),
            ("get", "gets", false),
            ("get*", "get", true),
            ("*", "", true),
            ("get_*", "get_contact", true),
            ("*_contact", "get_contact", true),
            ("*_contact", "get_contacts", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "ac", false),
            ("a*a", "a", false),
            ("a**b", "ab", true),
        ] {
            assert_eq!(fits(pattern, name), is, "{pattern} {name}");
        }
    }
}
