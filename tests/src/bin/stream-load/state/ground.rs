//! A data directory with its state, which outlives the processes that run on it.

use anyhow::{Context, ensure};
use etcd_client::Client;
use stream_etcd_embedded::{Options, ServeError, Server};
use stream_state::Store;
use stream_tests::scratch::Scratch;
use stream_tests::service::Service;
use stream_tests::setup::Setup;
use stream_tests_etcd::free_port::free_port;
use stream_tests_etcd::{Cluster, Transport};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::StoreKind;

/// The namespace that the service uses when it is told nothing else.
const NAMESPACE: &str = "stream";
/// Where a standalone service keeps its state in the data directory.
const STATE_DIR: &str = "state";
/// The volume that a service finds when the state is elsewhere: it makes one by itself only when it is alone.
const VOLUME: &str = "volumes/default/local";

/// A data directory and its state.
pub struct Ground {
    setup: Setup,
    /// Where the embedded store listens while the service runs.
    listen: String,
    cluster: Option<Cluster>,
    /// Removed after the members have ended.
    _scratch: Scratch,
}

/// A connection to the state while no service runs.
pub struct Opened {
    pub client: Client,
    pub store: Store,
    serving: Option<(CancellationToken, JoinHandle<Result<(), ServeError>>)>,
}

impl Ground {
    /// An empty one.
    ///
    /// # Errors
    /// When a real etcd is asked for and does not start.
    pub async fn new(kind: StoreKind) -> anyhow::Result<Self> {
        let scratch = Scratch::new()?;
        let listen = format!("127.0.0.1:{}", free_port()?);
        let setup = Setup::new(scratch.path())?;
        std::fs::create_dir_all(setup.data_dir().join(VOLUME))?;
        let (setup, cluster) = match kind {
            StoreKind::Embedded => (setup.env("ETCD_EMBEDDED_LISTEN", &listen), None),
            StoreKind::Etcd => {
                let program = stream_tests_etcd::program().context("etcd is not installed")?;
                let cluster = Cluster::start(&program, 1, Transport::Plain).await?;
                let setup = setup.env("ETCD_ENDPOINT", &cluster.endpoints().join(","));
                (setup, Some(cluster))
            }
        };
        Ok(Self {
            setup,
            listen,
            cluster,
            _scratch: scratch,
        })
    }

    /// Starts components and waits until they are ready.
    ///
    /// # Errors
    /// When they end instead.
    pub async fn start(&self, components: &[&str]) -> anyhow::Result<Service> {
        Service::start(self.setup.clone().words(components)).await
    }

    /// Connects while the service runs.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn connect(&self) -> anyhow::Result<(Client, Store)> {
        let endpoints = match &self.cluster {
            Some(cluster) => cluster.endpoints().to_vec(),
            None => vec![self.listen.clone()],
        };
        // Futures of the library have 20 KiB each.
        let client = Box::pin(Client::connect(endpoints, None)).await?;
        let store = Box::pin(Store::open(client.clone(), NAMESPACE)).await?;
        Ok((client, store))
    }

    /// Opens the state while no service runs. This process serves it, when it is the embedded one.
    ///
    /// # Errors
    /// When a service runs.
    pub async fn open(&self) -> anyhow::Result<Opened> {
        if self.cluster.is_some() {
            let (client, store) = self.connect().await?;
            return Ok(Opened {
                client,
                store,
                serving: None,
            });
        }
        let options = Options::new(self.setup.data_dir().join(STATE_DIR));
        let server = tokio::task::spawn_blocking(|| Server::open(options)).await??;
        let (endpoint, token) = (server.endpoint(), CancellationToken::new());
        let serving = tokio::spawn(server.run(token.clone()));
        let client = Box::pin(endpoint.connect(None)).await?;
        let store = Box::pin(Store::open(client.clone(), NAMESPACE)).await?;
        Ok(Opened {
            client,
            store,
            serving: Some((token, serving)),
        })
    }
}

impl Opened {
    /// Closes the state, so that a service may open it.
    ///
    /// # Errors
    /// When the embedded store has failed.
    pub async fn close(self) -> anyhow::Result<()> {
        let Some((token, serving)) = self.serving else {
            return Ok(());
        };
        drop((self.client, self.store));
        token.cancel();
        Ok(serving.await??)
    }
}

/// The revision of the state.
///
/// # Errors
/// When it does not answer.
pub async fn revision(client: &mut Client) -> anyhow::Result<i64> {
    let status = Box::pin(client.status()).await?;
    let header = status.header().context("the status has no header")?;
    Ok(header.revision())
}

/// Bytes of the database file.
///
/// # Errors
/// When the state does not answer.
pub async fn database_bytes(client: &mut Client) -> anyhow::Result<u64> {
    let bytes = Box::pin(client.status()).await?.db_size();
    ensure!(bytes > 0, "the state does not tell its size");
    Ok(u64::try_from(bytes)?)
}
