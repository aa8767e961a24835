//! The scheduler as a service: options, bind, run, drain.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::broker::Broker;
use common::clock::Clock;
use common::config::Config;
use common::entropy::Entropy;
use common::metrics::Metrics;
use common::private::PrivateError;
use common::secret::SecretError;
use common::shutdown::Shutdown;
use common::store::Store;
use tokio::net::TcpListener;

use crate::app::{App, HttpLimits, Parts};
use crate::settings::{Settings, Unusable};
use crate::{api, cron, halt, letters, relay, serve, sweep};

/// What a scheduler is made of.
#[derive(Debug, Clone)]
pub struct SchedulerOptions {
    /// Where the truth lives.
    pub store: Arc<dyn Store>,
    /// What carries hints to the workers, and brings tasks of other systems in.
    pub broker: Option<Arc<dyn Broker>>,
    /// `teamster.yaml`.
    pub config: Arc<Config>,
    /// Where to listen. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// The time, for ids and schedules.
    pub clock: Arc<dyn Clock>,
    /// Randomness, for ids.
    pub entropy: Arc<dyn Entropy>,
    /// What clients may take.
    pub http: HttpLimits,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// Why a scheduler cannot start, or its configuration cannot be replaced.
#[derive(Debug, thiserror::Error)]
pub enum SchedulerError {
    /// Without a token, whoever reaches the address could use the API.
    #[error(
        "will not listen on {0}: other machines can reach it and no token is configured; set `api: {{ token: \
         env:TEAMSTER_TOKEN }}` in teamster.yaml, or listen on 127.0.0.1"
    )]
    Exposed(SocketAddr),
    /// The token of the API cannot be had.
    #[error("api.token: {0}")]
    Token(#[from] SecretError),
    /// Private data could not be kept private.
    #[error(transparent)]
    Private(#[from] PrivateError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
}

/// A scheduler that listens and does not serve yet.
#[derive(Debug)]
pub struct Scheduler {
    app: App,
    listener: TcpListener,
}

/// Replaces the configuration of a running scheduler. Clones are the same handle.
#[derive(Debug, Clone)]
pub struct SchedulerHandle(App);

/// The pause after messages that could not be taken in.
const RECEIVE_AGAIN: Duration = Duration::from_secs(1);
/// The pause between two looks at the schedules.
const CRON: Duration = Duration::from_millis(500);

impl Scheduler {
    /// Opens the socket. Connections are accepted from now on and served by [`Scheduler::run`].
    pub async fn bind(options: SchedulerOptions) -> Result<Self, SchedulerError> {
        let SchedulerOptions { store, broker, config, listen, clock, entropy, http, metrics } = options;
        let settings = load(config, listen)?;
        let bind = |source| SchedulerError::Bind { address: listen, source };
        let listener = TcpListener::bind(listen).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let app = App::new(Parts { store, broker, clock, entropy, http, metrics, address }, settings);
        Ok(Self { app, listener })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.app.address()
    }

    /// A handle that works while the scheduler runs.
    pub fn handle(&self) -> SchedulerHandle {
        SchedulerHandle(self.app.clone())
    }

    /// Serves, and moves on what is due, until `shutdown` is requested; then
    /// lets open requests end, within a bound, or at once if asked twice.
    pub async fn run(self, shutdown: Shutdown) {
        let app = self.app.clone();
        tracing::info!(address = %app.address(), "the scheduler listens");
        let all = async {
            let hints = async { tokio::join!(relaying(&app), healing(&app), receiving(&app)) };
            tokio::join!(self.serve(shutdown.clone()), sweeping(&app), scheduling(&app), unhalting(&app), hints)
        };
        tokio::select! {
            biased;
            _ = all => {}
            () = shutdown.stopping() => app.closing().cancel(),
        }
        tracing::info!("the scheduler has ended");
    }

    /// Serves the API alone: neither timers nor schedules are looked after, so
    /// that looking into a store starts nothing. Ends as [`Scheduler::run`] does.
    pub async fn serve(self, shutdown: Shutdown) {
        let Self { app, listener } = self;
        let closing = app.closing().clone();
        let limits = *app.http();
        let serving = serve::serve(listener, api::router(app.clone()), limits, &closing);
        let ending = async {
            shutdown.draining().await;
            closing.cancel();
        };
        let all = async { tokio::join!(serving, ending) };
        tokio::select! {
            biased;
            _ = all => {}
            () = shutdown.stopping() => closing.cancel(),
        }
    }
}

impl SchedulerHandle {
    /// Replaces the configuration: limits, names in `env`, webhooks and the
    /// token. What cannot be changed without a new start (the address, the
    /// store) stays. On an error the old configuration stays in force.
    pub fn reload(&self, config: Arc<Config>) -> Result<(), SchedulerError> {
        self.0.replace_settings(load(config, self.0.address())?);
        Ok(())
    }
}

fn load(config: Arc<Config>, address: SocketAddr) -> Result<Settings, SchedulerError> {
    let settings = Settings::load(config).map_err(|unusable| match unusable {
        Unusable::Token(error) => SchedulerError::Token(error),
        Unusable::Private(error) => SchedulerError::Private(error),
    })?;
    if settings.token.is_none() && !address.ip().is_loopback() {
        return Err(SchedulerError::Exposed(address));
    }
    Ok(settings)
}

async fn sweeping(app: &App) {
    while !app.closing().is_cancelled() {
        let pause = match sweep::tick(app.store()).await {
            Ok(due) => {
                if due.expired > 0 {
                    tracing::info!(expired = due.expired, poisoned = due.poisoned, "leases ran out");
                }
                sweep::pause(due.next, app.now())
            }
            Err(error) => {
                tracing::warn!(%error, "the sweep failed and is tried again");
                sweep::AFTER_ERROR
            }
        };
        sleep(app, pause).await;
    }
}

async fn scheduling(app: &App) {
    while !app.closing().is_cancelled() {
        if let Err(error) = cron::tick(app, app.now()).await {
            tracing::warn!(%error, "the schedules could not be served and are tried again");
        }
        sleep(app, CRON).await;
    }
}

async fn unhalting(app: &App) {
    let mut liftings = halt::Liftings::default();
    while !app.closing().is_cancelled() {
        match halt::tick(app.store(), &mut liftings, app.now()).await {
            Ok(0) => {}
            Ok(woken) => tracing::info!(woken, "tasks go on after a halt"),
            Err(error) => {
                tracing::warn!(%error, "what waits for the end of a halt could not be woken; it is tried again");
            }
        }
        sleep(app, halt::PAUSE).await;
    }
}

async fn relaying(app: &App) {
    let Some(broker) = app.broker() else { return };
    while !app.closing().is_cancelled() {
        match relay::tick(app.store(), broker).await {
            Ok(0) => {}
            Ok(hints) => tracing::debug!(hints, "hints were published from the outbox"),
            Err(error) => tracing::warn!(%error, "the outbox could not be looked into; it is tried again"),
        }
        sleep(app, relay::PAUSE).await;
    }
}

async fn healing(app: &App) {
    let Some(broker) = app.broker() else { return };
    let mut suspects = BTreeSet::new();
    while !app.closing().is_cancelled() {
        if let Err(error) = relay::heal(app.store(), broker, &mut suspects, app.now()).await {
            tracing::debug!(%error, "lost hints could not be looked for; it is tried again");
        }
        sleep(app, relay::HEAL_PAUSE).await;
    }
}

async fn receiving(app: &App) {
    let Some(broker) = app.broker() else { return };
    let mut inbox = broker.tasks(letters::WINDOW);
    while !app.closing().is_cancelled() {
        let received = tokio::select! {
            received = inbox.receive(letters::WINDOW) => received,
            () = app.closing().cancelled() => return,
        };
        if let Err(error) = letters::tick(app, &mut inbox, received).await {
            tracing::warn!(%error, "messages could not be taken in; they come again");
            sleep(app, RECEIVE_AGAIN).await;
        }
    }
}

/// Sleeps, but not beyond the end.
async fn sleep(app: &App, pause: Duration) {
    tokio::select! {
        biased;
        () = tokio::time::sleep(pause) => {}
        () = app.closing().cancelled() => {}
    }
}
