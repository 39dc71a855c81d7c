//! A running server and small tools around the client.

use std::path::Path;
use std::time::Duration;

use etcd_client::{Client, Error, WatchResponse, WatchStream};
use stream_etcd_embedded::{Endpoint, Observer, OpenError, Options, ServeError, Server};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Code;

/// Far more than anything here takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// A server in a task of this process.
pub(crate) struct Running {
    pub(crate) endpoint: Endpoint,
    pub(crate) observer: Observer,
    pub(crate) cancel: CancellationToken,
    pub(crate) task: JoinHandle<Result<(), ServeError>>,
}

impl Running {
    pub(crate) async fn start(dir: &Path) -> Self {
        Self::start_with(Options::new(dir)).await
    }

    pub(crate) async fn start_with(options: Options) -> Self {
        let server = open(options).await.expect("the directory can be opened");
        let endpoint = server.endpoint();
        let observer = server.observer();
        let cancel = CancellationToken::new();
        let task = tokio::spawn(server.run(cancel.clone()));
        Self {
            endpoint,
            observer,
            cancel,
            task,
        }
    }

    pub(crate) async fn client(&self) -> Client {
        self.endpoint
            .connect(None)
            .await
            .expect("the server listens")
    }

    pub(crate) async fn stop(self) {
        self.cancel.cancel();
        within(self.task)
            .await
            .expect("the server does not panic")
            .expect("the server ends without an error");
    }
}

pub(crate) async fn open(options: Options) -> Result<Server, OpenError> {
    tokio::task::spawn_blocking(|| Server::open(options))
        .await
        .expect("opening does not panic")
}

/// Fails the test instead of hanging.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .expect("it happens long before the deadline")
}

/// The code and words of a refusal.
pub(crate) fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> (Code, String) {
    match result {
        Err(Error::GRpcStatus(status)) => (status.code(), status.message().to_owned()),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

pub(crate) fn refused(code: Code, message: &str) -> (Code, String) {
    (code, message.to_owned())
}

/// The next response of a watch.
pub(crate) async fn next(stream: &mut WatchStream) -> WatchResponse {
    within(stream.message())
        .await
        .expect("the stream has no error")
        .expect("the stream goes on")
}

/// Responses until `count` events have come.
pub(crate) async fn events(stream: &mut WatchStream, count: usize) -> Vec<WatchResponse> {
    let mut responses = Vec::new();
    let mut seen = 0;
    while seen < count {
        let response = next(stream).await;
        assert!(!response.canceled(), "{}", response.cancel_reason());
        seen += response.events().len();
        responses.push(response);
    }
    assert_eq!(seen, count, "{responses:?}");
    responses
}

/// `put key=value @mod` or `delete key @mod`, one per event.
pub(crate) fn spell(responses: &[WatchResponse]) -> Vec<String> {
    responses
        .iter()
        .flat_map(WatchResponse::events)
        .map(|event| {
            let pair = event.kv().expect("an event names its key");
            let key = String::from_utf8_lossy(pair.key());
            let value = String::from_utf8_lossy(pair.value());
            let revision = pair.mod_revision();
            match event.event_type() {
                etcd_client::EventType::Put => format!("put {key}={value} @{revision}"),
                etcd_client::EventType::Delete => format!("delete {key} @{revision}"),
            }
        })
        .collect()
}
