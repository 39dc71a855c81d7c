//! Status, defragmentation, checksums. There are no alarms, and what concerns other members is refused.

use std::sync::Arc;

use etcd_client::proto::{
    PbAlarmRequest, PbAlarmResponse, PbDefragmentRequest, PbDefragmentResponse, PbDowngradeRequest,
    PbDowngradeResponse, PbHashKvRequest, PbHashKvResponse, PbHashRequest, PbHashResponse,
    PbMaintenanceService, PbMoveLeaderRequest, PbMoveLeaderResponse, PbSnapshotRequest,
    PbSnapshotResponse, PbStatusRequest, PbStatusResponse,
};
use futures_util::stream::Empty;
use tonic::{Request, Response, Status, async_trait};

use super::Services;
use crate::disk;
use crate::mvcc::{self, Change};
use crate::stats::Observer;
use crate::writer::Command;

/// The version of the API that is served, for clients that choose by it.
const VERSION: &str = "3.5.0";

/// What cannot be done, and why.
fn refused<T>(reason: &str) -> Result<Response<T>, Status> {
    Err(Status::unimplemented(reason))
}

const ALONE: &str = "the embedded state store has one member; use etcd for more";
const NO_SNAPSHOT: &str = "the embedded state store offers no snapshots that etcd could restore; \
    copy its directory while the service is stopped";

/// A checksum of the history, and the revision before which it is forgotten.
struct Checksum {
    hash: u32,
    revision: i64,
    compacted: i64,
}

impl Services {
    /// Of every version up to `at`, or all. Two embedded stores with the same contents and compaction have the same; etcd
    /// computes another.
    async fn checksum(&self, at: i64) -> Result<Checksum, Status> {
        let (mut changes, revision, compacted) = {
            let state = self.shared.state.read();
            let at = mvcc::readable(&state.store, at, state.durable)?;
            let changes: Vec<Arc<Change>> = state.store.versions(at).cloned().collect();
            (changes, state.durable, state.store.compacted())
        };
        let hash = tokio::task::spawn_blocking(move || {
            changes.sort_by_key(|change| (change.revision, change.position));
            disk::checksum(changes.iter().map(AsRef::as_ref))
        });
        Ok(Checksum {
            hash: hash
                .await
                .map_err(|error| Status::internal(error.to_string()))?,
            revision,
            compacted,
        })
    }
}

#[async_trait]
impl PbMaintenanceService for Services {
    async fn status(
        &self,
        _: Request<PbStatusRequest>,
    ) -> Result<Response<PbStatusResponse>, Status> {
        let stats = Observer(Arc::clone(&self.shared)).stats();
        let index = stats.revision.unsigned_abs();
        let size = i64::try_from(stats.database_bytes).unwrap_or(i64::MAX);
        let used = i64::try_from(stats.used_bytes).unwrap_or(i64::MAX);
        Ok(Response::new(PbStatusResponse {
            header: self.shared.header(stats.revision),
            version: VERSION.to_owned(),
            db_size: size,
            leader: self.shared.identity.member,
            raft_index: index,
            raft_term: self.shared.identity.boots,
            raft_applied_index: index,
            db_size_in_use: used.min(size),
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
        let mut response = self.shared.queue.submit(0, Command::Defragment).await?;
        self.shared.complete(&mut response.header);
        Ok(Response::new(response))
    }

    async fn hash(&self, _: Request<PbHashRequest>) -> Result<Response<PbHashResponse>, Status> {
        let checksum = self.checksum(0).await?;
        Ok(Response::new(PbHashResponse {
            header: self.shared.header(checksum.revision),
            hash: checksum.hash,
        }))
    }

    async fn hash_kv(
        &self,
        request: Request<PbHashKvRequest>,
    ) -> Result<Response<PbHashKvResponse>, Status> {
        let checksum = self.checksum(request.into_inner().revision).await?;
        Ok(Response::new(PbHashKvResponse {
            header: self.shared.header(checksum.revision),
            hash: checksum.hash,
            compact_revision: checksum.compacted,
            ..PbHashKvResponse::default()
        }))
    }

    type SnapshotStream = Empty<Result<PbSnapshotResponse, Status>>;

    async fn snapshot(
        &self,
        _: Request<PbSnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        refused(NO_SNAPSHOT)
    }

    async fn move_leader(
        &self,
        _: Request<PbMoveLeaderRequest>,
    ) -> Result<Response<PbMoveLeaderResponse>, Status> {
        refused(ALONE)
    }

    async fn downgrade(
        &self,
        _: Request<PbDowngradeRequest>,
    ) -> Result<Response<PbDowngradeResponse>, Status> {
        refused(ALONE)
    }
}
