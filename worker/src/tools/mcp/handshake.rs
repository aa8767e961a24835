//! The beginning of a connection: the version of the protocol, whether the
//! server is the one that is meant, and its tools.

use std::sync::Arc;

use common::config::McpVersion;
use common::failure::{Failure, FailureClass};
use rmcp::RoleClient;
use rmcp::model::{PaginatedRequestParams, ProtocolVersion, Tool};
use rmcp::service::{ClientInitializeError, ClientLifecycleMode, ClientServiceExt, Peer, RunningService, ServiceError};
use rmcp::transport::{DynamicTransportError, Transport};

use super::connection::{Launch, transport_error};
use super::listener::Listener;

/// Pages of tools that are asked for.
const PAGES: usize = 50;
/// Tools that a server may have.
const TOOLS: usize = 1000;

/// Our side of a connection that is made.
pub(super) type Client = RunningService<RoleClient, Listener>;

/// Shakes hands, or asks the server what it is where there is no handshake, and lists its tools.
pub(super) async fn shake_hands(
    launch: &Launch,
    transport: impl Transport<RoleClient> + 'static,
) -> Result<(Client, Arc<[Tool]>), Failure> {
    let known = |version: &McpVersion| {
        ProtocolVersion::KNOWN_VERSIONS.iter().find(|known| known.as_str() == version.as_str()).cloned()
    };
    let (with, without): (Vec<McpVersion>, Vec<McpVersion>) =
        launch.versions.iter().partition(|version| version.has_handshake());
    let newest = with.first().and_then(known);
    let preferred_versions: Vec<ProtocolVersion> = without.iter().filter_map(known).collect();
    let lifecycle = match (&newest, preferred_versions.is_empty()) {
        (_, true) => ClientLifecycleMode::Initialize,
        (None, false) => ClientLifecycleMode::Discover { preferred_versions },
        // One that knows no conversation without handshake says so, and then there is one.
        (Some(_), false) => ClientLifecycleMode::Auto { preferred_versions, legacy_version: newest.clone() },
    };
    let listener = Listener::new(newest.unwrap_or(ProtocolVersion::LATEST));
    let client = listener.serve_with_lifecycle(transport, lifecycle).await.map_err(not_welcome)?;
    check_peer(launch, client.peer())?;
    let tools = list_tools(client.peer()).await?;
    Ok((client, tools))
}

/// Whether the server is the one that is meant, and speaks what it may speak.
fn check_peer(launch: &Launch, peer: &Peer<RoleClient>) -> Result<(), Failure> {
    let wrong = |message: String| Err(Failure::new(FailureClass::Configuration, message));
    let Some(info) = peer.peer_info() else {
        return Err(Failure::new(FailureClass::Protocol, "it did not say what it is"));
    };
    if !launch.versions.iter().any(|version| version.as_str() == info.protocol_version.as_str()) {
        let spoken: Vec<&str> = launch.versions.iter().map(|version| version.as_str()).collect();
        let message = "it speaks the protocol in version";
        return wrong(format!("{message} {}, not in {} (protocol_versions)", info.protocol_version, spoken.join(", ")));
    }
    let Some(pinned) = &launch.identity else { return Ok(()) };
    match &info.server_info {
        Some(actual) if actual.name == pinned.name && actual.version == pinned.version => Ok(()),
        Some(actual) => {
            let shown = |text: &str| text.chars().take(100).collect::<String>();
            wrong(format!(
                "it is {:?} in version {:?}, and not {:?} in version {:?}; if that is right, change `server` of this server in teamster.yaml",
                shown(&actual.name),
                shown(&actual.version),
                pinned.name,
                pinned.version
            ))
        }
        None => wrong("it does not say what it is, and `server` pins it".to_owned()),
    }
}

/// All pages of the list.
pub(super) async fn list_tools(peer: &Peer<RoleClient>) -> Result<Arc<[Tool]>, Failure> {
    let mut tools = Vec::new();
    let mut cursor = None;
    for _ in 0..PAGES {
        let page = PaginatedRequestParams::default().with_cursor(cursor.take());
        let page = peer.list_tools(Some(page)).await.map_err(|error| {
            let failure = match error {
                ServiceError::TransportSend(error) => not_sent(error),
                error => Failure::new(FailureClass::Protocol, error.to_string()),
            };
            Failure { message: format!("tools/list: {}", failure.message), ..failure }
        })?;
        tools.extend(page.tools);
        cursor = page.next_cursor;
        if cursor.is_none() || tools.len() > TOOLS {
            break;
        }
    }
    if cursor.is_some() || tools.len() > TOOLS {
        let message = format!("it lists more than {TOOLS} tools, or has more than {PAGES} pages of them");
        return Err(Failure::new(FailureClass::Protocol, message));
    }
    Ok(tools.into())
}

/// Why there was no handshake.
fn not_welcome(error: ClientInitializeError) -> Failure {
    match error {
        ClientInitializeError::TransportError { error, .. } => not_sent(error),
        // What came of the handshake says more than that there is none other.
        ClientInitializeError::LegacyFallbackFailed { fallback, .. } => not_welcome(*fallback),
        error => Failure::new(FailureClass::Protocol, error.to_string()),
    }
}

fn not_sent(error: DynamicTransportError) -> Failure {
    match transport_error(error) {
        Ok(unanswered) => unanswered.into_failure(),
        Err(error) => Failure::new(FailureClass::Protocol, error.to_string()),
    }
}
