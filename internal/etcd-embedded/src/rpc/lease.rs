//! Leases. All but keeping alive goes through the queue; keeping alive waits for nothing, not even a disk that hangs.

use std::sync::Arc;

use etcd_client::proto::{
    PbLeaseGrantRequest, PbLeaseGrantResponse, PbLeaseKeepAliveRequest, PbLeaseKeepAliveResponse,
    PbLeaseLeasesRequest, PbLeaseLeasesResponse, PbLeaseRevokeRequest, PbLeaseRevokeResponse,
    PbLeaseService, PbLeaseTimeToLiveRequest, PbLeaseTimeToLiveResponse,
};
use futures_util::stream::unfold;
use tokio::time::Instant;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::Services;
use crate::refusal::Refusal;
use crate::shared::Shared;
use crate::writer::Command;

/// One stream of requests to keep leases alive.
struct KeepAlives {
    shared: Arc<Shared>,
    requests: Streaming<PbLeaseKeepAliveRequest>,
    ended: bool,
}

impl KeepAlives {
    async fn next(&mut self) -> Option<Result<PbLeaseKeepAliveResponse, Status>> {
        if self.ended {
            return None;
        }
        tokio::select! {
            biased;
            () = self.shared.closing.cancelled() => {
                self.ended = true;
                Some(Err(Refusal::Stopped.into()))
            }
            request = self.requests.message() => {
                // A client that went away needs no answer.
                let request = request.ok().flatten()?;
                Some(Ok(keep_alive(&self.shared, request.id)))
            }
        }
    }
}

/// A lease that does not exist has 0 seconds left.
fn keep_alive(shared: &Shared, id: i64) -> PbLeaseKeepAliveResponse {
    let (ttl, revision) = {
        let mut state = shared.state.write();
        let ttl = state.leases.keep_alive(id, Instant::now());
        (ttl.unwrap_or(0), state.durable)
    };
    PbLeaseKeepAliveResponse {
        header: shared.header(revision),
        id,
        ttl,
    }
}

#[async_trait]
impl PbLeaseService for Services {
    async fn lease_grant(
        &self,
        request: Request<PbLeaseGrantRequest>,
    ) -> Result<Response<PbLeaseGrantResponse>, Status> {
        let request = request.into_inner();
        let command = |reply| Command::Grant(request, Instant::now(), reply);
        let mut response = self.shared.queue.submit(0, command).await?;
        self.shared.complete(&mut response.header);
        Ok(Response::new(response))
    }

    async fn lease_revoke(
        &self,
        request: Request<PbLeaseRevokeRequest>,
    ) -> Result<Response<PbLeaseRevokeResponse>, Status> {
        let id = request.into_inner().id;
        let command = |reply| Command::Revoke(id, reply);
        let mut response = self.shared.queue.submit(0, command).await?;
        self.shared.complete(&mut response.header);
        Ok(Response::new(response))
    }

    type LeaseKeepAliveStream = BoxStream<PbLeaseKeepAliveResponse>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<PbLeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let keep_alives = KeepAlives {
            shared: Arc::clone(&self.shared),
            requests: request.into_inner(),
            ended: false,
        };
        let responses = unfold(keep_alives, |mut keep_alives| async move {
            let response = keep_alives.next().await?;
            Some((response, keep_alives))
        });
        Ok(Response::new(Box::pin(responses)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<PbLeaseTimeToLiveRequest>,
    ) -> Result<Response<PbLeaseTimeToLiveResponse>, Status> {
        let request = request.into_inner();
        let command = |reply| Command::TimeToLive(request, Instant::now(), reply);
        let mut response = self.shared.queue.submit(0, command).await?;
        self.shared.complete(&mut response.header);
        Ok(Response::new(response))
    }

    async fn lease_leases(
        &self,
        _: Request<PbLeaseLeasesRequest>,
    ) -> Result<Response<PbLeaseLeasesResponse>, Status> {
        let mut response = self.shared.queue.submit(0, Command::ListLeases).await?;
        self.shared.complete(&mut response.header);
        Ok(Response::new(response))
    }
}
