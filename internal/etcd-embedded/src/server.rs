//! Opening a data directory and serving it.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::connection::Listeners;
use crate::directory;
use crate::disk::{self, Batch, Contents, Disk, Identity, OpenError};
use crate::endpoint::Endpoint;
use crate::mvcc::Store;
use crate::options::Options;
use crate::rpc;
use crate::shared::Shared;
use crate::socket::SocketPath;
use crate::state::State;
use crate::stats::Observer;
use crate::writer::{Jobs, Writer, queue};

/// How long requests under way may take once the server stops, before their connections are cut.
const DRAIN: Duration = Duration::from_secs(2);

/// An open data directory with bound sockets, not yet serving. Clients may connect already; they wait for the answer.
pub struct Server {
    shared: Arc<Shared>,
    disk: Disk,
    jobs: Jobs,
    keep_revisions: u64,
    sockets: Sockets,
}

/// The server ended although nobody asked it to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The sockets or the writer's thread cannot be used.
    #[error("cannot serve the state store")]
    Start(#[source] io::Error),
    /// The database cannot be written. Requests under way have an unknown outcome; nothing that was acknowledged is
    /// lost.
    #[error("state store cannot be written")]
    Storage(#[source] Box<redb::Error>),
    /// The connections cannot be served.
    #[error("cannot serve connections to the state store")]
    Transport(#[source] tonic::transport::Error),
    /// The writer panicked. Requests under way have an unknown outcome.
    #[error("writer of the state store panicked")]
    WriterPanicked,
}

impl Server {
    /// Opens the data directory and binds the sockets. Blocks on the disk.
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    pub fn open(options: Options) -> Result<Self, OpenError> {
        let (dir, lock) = directory::take(&options.dir)?;
        // The sockets come first: when one cannot be bound, no lease is revoked.
        let sockets = Sockets::bind(&dir, options.listen)?;
        let (disk, state, identity) = disk::guard(&dir, || {
            let (disk, contents) = Disk::open(&dir, lock)?;
            let (state, identity) = boot(&disk, contents)?;
            Ok((disk, state, identity))
        })?;
        let (queue, jobs) = queue();
        let shared = Shared::new(state, queue, identity, sockets.urls());
        {
            let mut commits = shared.commits.lock();
            commits.database_bytes = disk.bytes();
            commits.ballast_bytes = disk.ballast_bytes();
        }
        Ok(Self {
            shared: Arc::new(shared),
            disk,
            jobs,
            keep_revisions: options.keep_revisions,
            sockets,
        })
    }

    /// How clients reach this server.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint::new(Arc::clone(&self.sockets.path), self.sockets.tcp_address)
    }

    /// Reads the figures of this server, also while it runs.
    pub fn observer(&self) -> Observer {
        Observer(Arc::clone(&self.shared))
    }

    /// Serves until cancelled. Then accepts nothing new, ends all streams, answers what is queued, and closes the
    /// database. Dropping the future instead stops the server too, but does not wait for it.
    ///
    /// # Errors
    ///
    /// When the server cannot start or go on; the data directory is closed in any case.
    pub async fn run(self, cancel: CancellationToken) -> Result<(), ServeError> {
        let shared = self.shared;
        let cut = CancellationToken::new();
        let path = Arc::clone(&self.sockets.path);
        let listeners = self
            .sockets
            .listeners(cut.clone())
            .map_err(ServeError::Start)?;
        let writer = Writer {
            shared: Arc::clone(&shared),
            disk: self.disk,
            jobs: self.jobs,
            keep_revisions: self.keep_revisions,
        };
        let mut thread = WriterThread::start(writer).map_err(ServeError::Start)?;
        // From here on whatever happens to this future, the writer and the connections are told to end.
        let stop = StopOnDrop {
            shared: Arc::clone(&shared),
            cut,
        };
        let served = serve(&shared, listeners, &mut thread, &cancel, &stop.cut).await;
        // While the writer holds the directory: afterwards the socket may be that of another process.
        if let Err(error) = path.remove() {
            tracing::warn!(%error, "socket of the state store cannot be removed");
        }
        drop(stop);
        thread.join().await?;
        served.map_err(ServeError::Transport)
    }
}

/// Serves the connections until somebody asks for the end or the writer fails; then drains them.
async fn serve(
    shared: &Arc<Shared>,
    listeners: Listeners,
    thread: &mut WriterThread,
    cancel: &CancellationToken,
    cut: &CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let mut serving = std::pin::pin!(rpc::serve(shared, listeners.incoming()));
    tokio::select! {
        biased;
        () = cancel.cancelled() => {}
        () = thread.ended() => {}
        result = &mut serving => return result,
        () = shared.expire_leases() => {}
    }
    shared.closing.cancel();
    tokio::select! {
        result = &mut serving => return result,
        () = tokio::time::sleep(DRAIN) => {}
    }
    tracing::warn!("requests to the state store are cut");
    cut.cancel();
    serving.await
}

/// Counts the boot and revokes the leases of the previous one.
pub(crate) fn boot(disk: &Disk, contents: Contents) -> Result<(State, Identity), OpenError> {
    let identity = Identity {
        boots: contents.identity.boots + 1,
        ..contents.identity
    };
    let store = Store::load(contents.changes, contents.compacted);
    let mut state = State::new(store);
    let orphans = state.delete_leased();
    let batch = Batch {
        changes: state.store.since(state.durable).cloned().collect(),
        boots: Some(identity.boots),
        ..Batch::default()
    };
    disk.commit(&batch)
        .map_err(|error| OpenError::storage(disk.path(), error))?;
    state.durable = state.store.revision();
    tracing::info!(
        file = %disk.path().display(),
        revision = state.durable,
        boots = identity.boots,
        leased_keys_deleted = orphans,
        "state store opened"
    );
    Ok((state, identity))
}

/// The bound sockets.
struct Sockets {
    path: Arc<SocketPath>,
    unix: UnixListener,
    tcp: Option<TcpListener>,
    tcp_address: Option<SocketAddr>,
}

impl Sockets {
    fn bind(dir: &Path, listen: Option<SocketAddr>) -> Result<Self, OpenError> {
        let path = SocketPath::new(dir).map_err(|source| OpenError::Directory {
            path: dir.to_owned(),
            source,
        })?;
        let unix = path
            .bind()
            .map_err(|source| OpenError::listen_unix(&path.display(), source))?;
        let (tcp, tcp_address) = listen.map(bind_tcp).transpose()?.unzip();
        Ok(Self {
            path: Arc::new(path),
            unix,
            tcp,
            tcp_address,
        })
    }

    /// What the list of members says.
    fn urls(&self) -> Vec<String> {
        let unix = format!("unix://{}", self.path.display().display());
        let tcp = self.tcp_address.map(|address| format!("http://{address}"));
        std::iter::once(unix).chain(tcp).collect()
    }

    /// Hands the sockets to the runtime.
    fn listeners(self, cut: CancellationToken) -> io::Result<Listeners> {
        Ok(Listeners {
            unix: tokio::net::UnixListener::from_std(self.unix)?,
            tcp: self
                .tcp
                .map(tokio::net::TcpListener::from_std)
                .transpose()?,
            cut,
        })
    }
}

fn bind_tcp(address: SocketAddr) -> Result<(TcpListener, SocketAddr), OpenError> {
    let failed = |source| OpenError::listen_tcp(address, source);
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Ends everything that belongs to a running server.
struct StopOnDrop {
    shared: Arc<Shared>,
    cut: CancellationToken,
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.shared.closing.cancel();
        self.cut.cancel();
        self.shared.queue.stop();
    }
}

/// The thread of the writer, and its result.
struct WriterThread {
    handle: JoinHandle<()>,
    result: oneshot::Receiver<Result<(), redb::Error>>,
    ended: Option<Result<(), ServeError>>,
}

impl WriterThread {
    fn start(writer: Writer) -> io::Result<Self> {
        let (sender, result) = oneshot::channel();
        let handle = std::thread::Builder::new()
            .name("etcd-writer".to_owned())
            .spawn(move || {
                // The database is closed when this returns.
                let result = writer.run();
                // Nobody listens when the server was dropped.
                let _ = sender.send(result);
            })?;
        Ok(Self {
            handle,
            result,
            ended: None,
        })
    }

    /// Waits for the end of the writer.
    async fn ended(&mut self) {
        if self.ended.is_some() {
            return;
        }
        let result = match (&mut self.result).await {
            Ok(result) => result.map_err(|error| ServeError::Storage(Box::new(error))),
            Err(_) => Err(ServeError::WriterPanicked),
        };
        self.ended = Some(result);
    }

    async fn join(mut self) -> Result<(), ServeError> {
        self.ended().await;
        // Sending the result was the last thing it did, so this does not block. A panic is in the result already.
        let _ = self.handle.join();
        self.ended.unwrap_or(Ok(()))
    }
}
