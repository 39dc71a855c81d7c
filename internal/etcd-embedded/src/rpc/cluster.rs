//! A cluster of one that cannot change.

use etcd_client::proto::{
    PbClusterService, PbMember, PbMemberAddRequest, PbMemberAddResponse, PbMemberListRequest,
    PbMemberListResponse, PbMemberPromoteRequest, PbMemberPromoteResponse, PbMemberRemoveRequest,
    PbMemberRemoveResponse, PbMemberUpdateRequest, PbMemberUpdateResponse,
};
use tonic::{Request, Response, Status, async_trait};

use super::Services;

fn refused<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented(
        "the embedded state store has one member; use etcd for more",
    ))
}

#[async_trait]
impl PbClusterService for Services {
    async fn member_list(
        &self,
        _: Request<PbMemberListRequest>,
    ) -> Result<Response<PbMemberListResponse>, Status> {
        let revision = self.shared.state.read().durable;
        let member = PbMember {
            id: self.shared.identity.member,
            name: "embedded".to_owned(),
            client_ur_ls: self.shared.client_urls.clone(),
            ..PbMember::default()
        };
        Ok(Response::new(PbMemberListResponse {
            header: self.shared.header(revision),
            members: vec![member],
        }))
    }

    async fn member_add(
        &self,
        _: Request<PbMemberAddRequest>,
    ) -> Result<Response<PbMemberAddResponse>, Status> {
        refused()
    }

    async fn member_remove(
        &self,
        _: Request<PbMemberRemoveRequest>,
    ) -> Result<Response<PbMemberRemoveResponse>, Status> {
        refused()
    }

    async fn member_update(
        &self,
        _: Request<PbMemberUpdateRequest>,
    ) -> Result<Response<PbMemberUpdateResponse>, Status> {
        refused()
    }

    async fn member_promote(
        &self,
        _: Request<PbMemberPromoteRequest>,
    ) -> Result<Response<PbMemberPromoteResponse>, Status> {
        refused()
    }
}
