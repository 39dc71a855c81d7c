//! A network in memory between a lane and the model volume: the real transport on pipes that can be cut and stalled.
//!
//! Bytes wait a random moment in every pipe, in both directions, so a cut finds batches on the way, batches that were written
//! and not answered, and answers that were not heard.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::poll_fn;
use parking_lot::Mutex;
use prometheus::Registry;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng};
use stream_model::VolumeId;
use stream_storage::wire::network::{
    Admit, Caller, ClientMetrics, Dial, Duplex, Network, NetworkOptions, Route, Routes,
    ServerMetrics, serve,
};
use stream_storage::wire::{ConnectError, Connection, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::ModelVolume;

/// The longest that a piece waits, in virtual time.
const LONGEST_WAIT: Duration = Duration::from_millis(3);
/// Bytes that are passed on at once.
const PIECE: usize = 700;

/// The network. Everything in it ends when this is dropped.
pub(crate) struct Wires {
    cable: Arc<Cable>,
    _ended: DropGuard,
}

/// What all pipes share.
struct Cable {
    /// Raised by each cut.
    cuts: watch::Sender<u64>,
    stalled: watch::Sender<bool>,
    rng: Mutex<StdRng>,
    far: mpsc::UnboundedSender<io::Result<DuplexStream>>,
    ended: CancellationToken,
}

impl Wires {
    /// A network to the volume, and the transport through it.
    pub fn lay(volume: ModelVolume, seed: u64) -> (Self, Arc<dyn Transport>) {
        let (far, mut connections) = mpsc::unbounded_channel();
        let ended = CancellationToken::new();
        let cable = Arc::new(Cable {
            cuts: watch::Sender::new(0),
            stalled: watch::Sender::new(false),
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
            far,
            ended: ended.clone(),
        });
        let registry = Registry::new();
        let options = NetworkOptions::default();
        let metrics = ServerMetrics::register(&registry).expect("a fresh registry");
        let connections = poll_fn(move |cx| connections.poll_recv(cx));
        let serving = serve(
            Arc::new(volume),
            connections,
            options,
            metrics,
            ended.clone(),
        );
        tokio::spawn(ended.clone().run_until_cancelled_owned(serving));
        let dial = Arc::new(CableDial(Arc::clone(&cable)));
        let metrics = ClientMetrics::register(&registry).expect("a fresh registry");
        let (network, task) = Network::new(Arc::new(Fixed), dial, options, metrics);
        tokio::spawn(task.run(ended.clone()));
        let wires = Self {
            cable,
            _ended: ended.drop_guard(),
        };
        (wires, Arc::new(network))
    }

    /// Breaks all connections, with whatever is on the way.
    pub fn cut(&self) {
        self.cable.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Lets nothing through until told otherwise.
    pub fn stall(&self, is_stalled: bool) {
        self.cable.stalled.send_replace(is_stalled);
    }
}

impl Cable {
    /// How long the next piece waits: mostly not at all.
    fn wait(&self) -> Duration {
        let mut rng = self.rng.lock();
        match rng.random_bool(0.2) {
            true => LONGEST_WAIT.mul_f64(rng.random()),
            false => Duration::ZERO,
        }
    }
}

struct Fixed;

impl Routes for Fixed {
    fn find(&self, _: VolumeId) -> Option<Route> {
        Some(Route {
            address: "writer:6000".to_owned(),
            incarnation: 1,
        })
    }

    fn doubt(&self) {}
}

#[async_trait]
impl Admit for ModelVolume {
    async fn admit(&self, caller: Caller) -> Result<Box<dyn Connection>, ConnectError> {
        self.connect(caller.volume, caller.session).await
    }
}

struct CableDial(Arc<Cable>);

#[async_trait]
impl Dial for CableDial {
    async fn dial(&self, _: &str, _: u16) -> io::Result<Box<dyn Duplex>> {
        let (near, near_end) = tokio::io::duplex(16 << 10);
        let (far_end, far) = tokio::io::duplex(16 << 10);
        let refused = |_| io::Error::from(io::ErrorKind::ConnectionRefused);
        self.0.far.send(Ok(far)).map_err(refused)?;
        tokio::spawn(pass(Arc::clone(&self.0), near_end, far_end));
        Ok(Box::new(near))
    }
}

/// Passes bytes on in both directions until a cut or the end.
async fn pass(cable: Arc<Cable>, near: DuplexStream, far: DuplexStream) {
    let mut cuts = cable.cuts.subscribe();
    let (near_in, near_out) = tokio::io::split(near);
    let (far_in, far_out) = tokio::io::split(far);
    let passing = async {
        tokio::select! {
            _ = pass_on(&cable, near_in, far_out) => {}
            _ = pass_on(&cable, far_in, near_out) => {}
        }
    };
    tokio::select! {
        () = passing => {}
        _ = cuts.changed() => {}
        () = cable.ended.cancelled() => {}
    }
}

async fn pass_on(
    cable: &Cable,
    mut from: ReadHalf<DuplexStream>,
    mut to: WriteHalf<DuplexStream>,
) -> io::Result<()> {
    let mut piece = [0; PIECE];
    let mut stalled = cable.stalled.subscribe();
    loop {
        let len = from.read(&mut piece).await?;
        if len == 0 {
            return to.shutdown().await;
        }
        tokio::time::sleep(cable.wait()).await;
        // The sender lives in the cable.
        let _ = stalled.wait_for(|is_stalled| !is_stalled).await;
        to.write_all(&piece[..len]).await?;
    }
}
