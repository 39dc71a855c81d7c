//! The gRPC services: they check requests, hand them to the writer or read the state, and complete the answers.

mod cluster;
mod fragment;
mod kv;
mod lease;
mod maintenance;
mod watch;

use std::io;
use std::sync::Arc;

use etcd_client::proto::{
    PbClusterServer, PbKvServer, PbLeaseServer, PbMaintenanceServer, PbWatchServer,
};
use futures_util::Stream;
use tonic::transport::Server;

use crate::connection::Connection;
use crate::endpoint::{CONNECTION_WINDOW, STREAM_WINDOW};
use crate::shared::Shared;
use crate::txn::MAX_REQUEST_BYTES;

/// What a message may be longer than the keys and values in it, as in etcd.
const MESSAGE_OVERHEAD: usize = 512 << 10;
/// Requests and streams of one client at the same time.
const MAX_STREAMS: u32 = 4_096;

/// All services; one instance serves every connection.
#[derive(Clone)]
pub(crate) struct Services {
    shared: Arc<Shared>,
}

/// Serves the connections until the server closes, then until the last request is answered.
pub(crate) async fn serve(
    shared: &Arc<Shared>,
    incoming: impl Stream<Item = io::Result<Connection>>,
) -> Result<(), tonic::transport::Error> {
    let services = Arc::new(Services {
        shared: Arc::clone(shared),
    });
    let limit = MAX_REQUEST_BYTES + MESSAGE_OVERHEAD;
    let kv = PbKvServer::from_arc(Arc::clone(&services)).max_decoding_message_size(limit);
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .add_service(kv)
        .add_service(PbWatchServer::from_arc(Arc::clone(&services)))
        .add_service(PbLeaseServer::from_arc(Arc::clone(&services)))
        .add_service(PbClusterServer::from_arc(Arc::clone(&services)))
        .add_service(PbMaintenanceServer::from_arc(services))
        .serve_with_incoming_shutdown(incoming, shared.closing.cancelled())
        .await
}
