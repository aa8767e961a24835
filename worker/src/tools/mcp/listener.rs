//! What a server asks of us and tells us by itself.
//!
//! It is answered when it pings. What would make it a party to the agent's
//! conversation (sampling, elicitation, roots) there is not.
#![expect(deprecated, reason = "servers in use still ask for roots, which the newest version has no more")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rmcp::model::{
    ClientCapabilities, ClientConfig, ConstString, ElicitRequestParams, ElicitResult, ElicitationCreateRequestMethod,
    Implementation, ListRootsRequestMethod, ListRootsResult, ProtocolVersion,
};
use rmcp::service::{NotificationContext, RequestContext};
use rmcp::{ClientHandler, ErrorData, RoleClient};

/// Our side of a connection.
#[derive(Debug, Clone)]
pub(super) struct Listener {
    config: ClientConfig,
    changed: Arc<AtomicBool>,
}

impl Listener {
    /// One that speaks at most this version where there is a handshake.
    pub(super) fn new(version: ProtocolVersion) -> Self {
        let implementation = Implementation::new("teamster", env!("CARGO_PKG_VERSION"));
        let config = ClientConfig::new(ClientCapabilities::default(), implementation).with_protocol_version(version);
        Self { config, changed: Arc::default() }
    }

    /// Whether the server said, since this was last asked, that it has other tools now.
    pub(super) fn take_changed(&self) -> bool {
        self.changed.swap(false, Ordering::AcqRel)
    }

    /// What was heard could not be acted on: it is heard again.
    pub(super) fn put_changed(&self) {
        self.changed.store(true, Ordering::Release);
    }
}

fn refused<M: ConstString>() -> ErrorData {
    ErrorData::method_not_found::<M>()
}

impl ClientHandler for Listener {
    fn get_info(&self) -> ClientConfig {
        self.config.clone()
    }

    async fn create_elicitation(
        &self,
        _: ElicitRequestParams,
        _: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        Err(refused::<ElicitationCreateRequestMethod>())
    }

    async fn list_roots(&self, _: RequestContext<RoleClient>) -> Result<ListRootsResult, ErrorData> {
        Err(refused::<ListRootsRequestMethod>())
    }

    async fn on_tool_list_changed(&self, _: NotificationContext<RoleClient>) {
        self.put_changed();
    }
}
