//! How http-sources and storage-writers of different processes find and reach each other.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use stream_http_source::Writers;
use stream_node::{ClientTls, Listener, OnError, Shutdown, StillRunning, Tasks};
use stream_state::Store;
use stream_storage::wire::Transport;
use stream_storage::wire::anywhere::Anywhere;
use stream_storage::wire::direct::Direct;
use stream_storage::wire::network::{
    self, ClientMetrics, Dial, Duplex, Network, PlainDial, Routes, ServerMetrics,
};
use tokio::net::TcpStream;

use crate::config::Config;

/// What belongs to the network in a process.
#[derive(Default)]
pub struct Wires {
    /// What serves the volumes of this process.
    server: Option<Tasks>,
    /// What reaches those of others.
    client: Option<Tasks>,
}

impl Wires {
    /// Serves the volumes of this process to others.
    pub fn serve(
        &mut self,
        config: &Config,
        listener: Listener,
        direct: Direct,
        registry: &prometheus::Registry,
        shutdown: &Shutdown,
    ) -> anyhow::Result<()> {
        let settings = &config.storage.level.local.writer.network;
        let tls = settings
            .server_tls()
            .context("storage.level.local.writer.network.tls")?;
        let metrics = ServerMetrics::register(registry)?;
        let tasks = Tasks::new("storage-writer network", shutdown);
        if let Some(tls) = tls.clone() {
            let following = tls.follow(tasks.token());
            tasks.spawn("certificate", OnError::StopProcess, async {
                following.await;
                Ok(())
            });
        }
        let sockets = listener.sockets(tls, tasks.token());
        let (options, token) = (settings.options(), tasks.token());
        let serving = network::serve(Arc::new(direct), sockets, options, metrics, token);
        tasks.spawn("streams", OnError::StopProcess, async {
            serving.await.map_err(Into::into)
        });
        self.server = Some(tasks);
        Ok(())
    }

    /// The way to all volumes, for the http-source.
    pub async fn reach(
        &mut self,
        config: &Config,
        direct: Direct,
        store: &Store,
        registry: &prometheus::Registry,
        shutdown: &Shutdown,
    ) -> anyhow::Result<Arc<dyn Transport>> {
        if config.is_standalone() {
            return Ok(Arc::new(direct));
        }
        let settings = &config.storage.level.local.writer.network;
        let tls = settings
            .client_tls()
            .context("storage.level.local.writer.network.tls")?;
        let dial: Arc<dyn Dial> = match tls {
            Some(tls) => Arc::new(TlsDial(tls)),
            None => Arc::new(PlainDial),
        };
        let tasks = Tasks::new("http-source network", shutdown);
        let writers = Writers::default();
        // The first requests should find the writers that are there.
        writers.refresh(store).await?;
        let following = writers.clone().follow(store.clone(), tasks.token());
        tasks.spawn("writers", OnError::StopProcess, async {
            following.await;
            Ok(())
        });
        let routes: Arc<dyn Routes> = Arc::new(writers);
        let metrics = ClientMetrics::register(registry)?;
        let (network, task) = Network::new(routes, dial, settings.options(), metrics);
        let answering = task.run(tasks.token());
        tasks.spawn("answers", OnError::StopProcess, async {
            answering.await;
            Ok(())
        });
        self.client = Some(tasks);
        Ok(Arc::new(Anywhere { direct, network }))
    }

    /// What is stopped after the HTTP source.
    pub fn take_client(&mut self) -> Option<Tasks> {
        self.client.take()
    }

    /// Tells the http-sources that the writer leaves, and answers what they have sent. After the volumes have stopped, so that
    /// what they do not take any more is refused and not left in doubt.
    pub async fn stop(self, deadline: Duration) -> Result<(), StillRunning> {
        match self.server {
            Some(server) => server.stop(deadline).await,
            None => Ok(()),
        }
    }
}

struct TlsDial(ClientTls);

#[async_trait::async_trait]
impl Dial for TlsDial {
    async fn dial(&self, host: &str, port: u16) -> io::Result<Box<dyn Duplex>> {
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(self.0.connect(host, stream).await?))
    }
}
