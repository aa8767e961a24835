//! What an MCP server's entry must be beyond its shape.

use super::{McpEndpoint, McpServer, McpTransport, McpVersion};
use crate::config::SecretOrText;
use crate::config::read::{check_sandbox, field, value};
use crate::diagnostic::{Diagnostics, Place, SourceFile};
use crate::document::{Kind, Node};

/// Headers that the transport sets by itself.
const OWN_HEADERS: [&str; 10] = [
    "accept",
    "connection",
    "content-length",
    "content-type",
    "host",
    "last-event-id",
    "mcp-method",
    "mcp-name",
    "mcp-protocol-version",
    "mcp-session-id",
];

/// Checks the entry of one server.
pub(in crate::config) fn check_server(
    name: &str,
    server: &McpServer,
    node: &Node,
    file: &SourceFile,
    out: &mut Diagnostics,
) {
    let place = |name: &str| field(node, name).unwrap_or(node.at);
    match &server.transport {
        McpTransport::Stdio(program) => {
            if program.command.first().is_none_or(String::is_empty) {
                out.push(file.error(place("command"), "`command` must be a list: the program, then its arguments"));
            }
            check_sandbox(&program.sandbox, value(node, "sandbox"), file, out);
        }
        McpTransport::Http(endpoint) => {
            check_endpoint(endpoint, node, file, out);
            if server.protocol_versions.as_deref().is_some_and(|listed| listed.contains(&McpVersion::V20241105)) {
                out.push(file.error(place("protocol_versions"), "2024-11-05 is not spoken over streamable HTTP"));
            }
        }
    }
    if name.contains("__") {
        // Tools are named mcp__SERVER__TOOL.
        out.push(file.error(node.at, format!("the name of an MCP server must not contain `__`, as {name} does")));
    }
    if server.protocol_versions.as_ref().is_some_and(Vec::is_empty) {
        out.push(file.error(place("protocol_versions"), "`protocol_versions` must name at least one version"));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '*');
    if let Some(wrong) = server.tools.iter().flatten().find(|pattern| pattern.is_empty() || !pattern.chars().all(plain))
    {
        let error = file.error(place("tools"), format!("{wrong:?} is no name of a tool"));
        out.push(error.with_help("write the server's own names for its tools; `*` stands for any characters"));
    }
}

fn check_endpoint(endpoint: &McpEndpoint, node: &Node, file: &SourceFile, out: &mut Diagnostics) {
    let place = |name: &str| field(node, name).unwrap_or(node.at);
    let is_http = |url: &str| url.starts_with("https://") || url.starts_with("http://");
    if !is_http(&endpoint.url) {
        out.push(file.error(place("url"), "`url` must start with https:// or http://"));
    }
    for name in endpoint.headers.keys() {
        let lower = name.to_ascii_lowercase();
        let at = value(node, "headers").and_then(|headers| key(headers, name)).unwrap_or_else(|| place("headers"));
        // A token of RFC 9110, section 5.6.2.
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)) {
            out.push(file.error(at, format!("{name:?} is not the name of a header")));
        } else if OWN_HEADERS.contains(&lower.as_str()) {
            out.push(file.error(at, format!("the header {name} is set by the transport itself")));
        } else if lower == "authorization" && endpoint.auth.is_some() {
            out.push(file.error(at, "`auth` sets the header Authorization; use one of them"));
        }
    }
    let mut carries_secrets = endpoint.headers.values().any(|value| matches!(value, SecretOrText::Secret(_)));
    if let Some(auth) = &endpoint.auth {
        carries_secrets = true;
        let credentials = &auth.client_credentials;
        let section = value(node, "auth").and_then(|auth| value(auth, "client_credentials")).unwrap_or(node);
        let at = |name: &str| field(section, name).unwrap_or(section.at);
        if !is_http(&credentials.token_url) {
            out.push(file.error(at("token_url"), "`token_url` must start with https:// or http://"));
        } else if goes_out_in_clear(&credentials.token_url) {
            out.push(file.warning(at("token_url"), "the client secret goes over the network in clear; use https://"));
        }
        if credentials.client_id.is_empty() {
            out.push(file.error(at("client_id"), "`client_id` is empty"));
        }
    }
    if carries_secrets && goes_out_in_clear(&endpoint.url) {
        out.push(file.warning(place("url"), "secrets go over the network in clear; use https://"));
    }
}

/// The place of a key.
fn key(node: &Node, name: &str) -> Option<Place> {
    let Kind::Map(fields) = &node.kind else { return None };
    fields.iter().find(|(key, _)| key.text == name).map(|(key, _)| key.at)
}

/// Whether what is sent there leaves the machine without TLS.
fn goes_out_in_clear(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let is_loopback = host.starts_with("127.") || host.starts_with("[::1]") || {
        let name = host.split(':').next().unwrap_or_default();
        name == "localhost" || name.ends_with(".localhost")
    };
    !is_loopback
}
