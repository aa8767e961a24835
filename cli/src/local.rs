//! Commands without a scheduler: the API on a private loopback port, over a
//! store that the command opens itself, for as long as the command runs.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use common::config::Config;
use common::project::Project;
use common::shutdown::Shutdown;

use crate::client::Client;
use crate::commands::scheduler::bind;
use crate::context::Context;
use crate::error::CommandError;
use crate::installation::{exists, open_backends};

/// Serves the API over a store, and speaks to it. It ends with the process.
pub(crate) async fn client(context: &Context, url: &str) -> Result<Client, CommandError> {
    let mut config = Project::load(&context.globals.dir).map_or_else(|_| Config::default(), |project| project.config);
    config.api.token = None;
    exists(url)?;
    let backends = open_backends(context, &config, url).await?;
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let scheduler = bind(context, &backends, Arc::new(config), listen).await?;
    let client = Client::new(&format!("http://{}", scheduler.local_addr()), None)?;
    tokio::spawn(async move {
        scheduler.serve(Shutdown::new()).await;
        drop(backends);
    });
    Ok(client)
}
