//! Status. There are no alarms; everything else is refused.

use etcd_client::proto::{
    PbAlarmRequest, PbAlarmResponse, PbDefragmentRequest, PbDefragmentResponse, PbDowngradeRequest,
    PbDowngradeResponse, PbHashKvRequest, PbHashKvResponse, PbHashRequest, PbHashResponse,
    PbMaintenanceService, PbMoveLeaderRequest, PbMoveLeaderResponse, PbSnapshotRequest,
    PbSnapshotResponse, PbStatusRequest, PbStatusResponse,
};
use futures_util::stream::Empty;
use tonic::{Request, Response, Status, async_trait};

use super::Services;

/// The version of the API that is served, for clients that choose by it.
const VERSION: &str = "3.5.0";

fn refused<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented(
        "not offered by the embedded state store",
    ))
}

#[async_trait]
impl PbMaintenanceService for Services {
    async fn status(
        &self,
        _: Request<PbStatusRequest>,
    ) -> Result<Response<PbStatusResponse>, Status> {
        let size = tokio::fs::metadata(&self.shared.file).await?.len();
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        let revision = self.shared.state.read().durable;
        let index = revision.unsigned_abs();
        Ok(Response::new(PbStatusResponse {
            header: self.shared.header(revision),
            version: VERSION.to_owned(),
            db_size: size,
            leader: self.shared.identity.member,
            raft_index: index,
            raft_term: self.shared.identity.boots,
            raft_applied_index: index,
            db_size_in_use: size,
            ..PbStatusResponse::default()
        }))
    }

    async fn alarm(&self, _: Request<PbAlarmRequest>) -> Result<Response<PbAlarmResponse>, Status> {
        let revision = self.shared.state.read().durable;
        Ok(Response::new(PbAlarmResponse {
            header: self.shared.header(revision),
            alarms: Vec::new(),
        }))
    }

    async fn defragment(
        &self,
        _: Request<PbDefragmentRequest>,
    ) -> Result<Response<PbDefragmentResponse>, Status> {
        refused()
    }

    async fn hash(&self, _: Request<PbHashRequest>) -> Result<Response<PbHashResponse>, Status> {
        refused()
    }

    async fn hash_kv(
        &self,
        _: Request<PbHashKvRequest>,
    ) -> Result<Response<PbHashKvResponse>, Status> {
        refused()
    }

    type SnapshotStream = Empty<Result<PbSnapshotResponse, Status>>;

    async fn snapshot(
        &self,
        _: Request<PbSnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        refused()
    }

    async fn move_leader(
        &self,
        _: Request<PbMoveLeaderRequest>,
    ) -> Result<Response<PbMoveLeaderResponse>, Status> {
        refused()
    }

    async fn downgrade(
        &self,
        _: Request<PbDowngradeRequest>,
    ) -> Result<Response<PbDowngradeResponse>, Status> {
        refused()
    }
}
