//! Keys: reads at a durable revision, writes through the queue.

use etcd_client::proto::{
    PbCompactionRequest, PbCompactionResponse, PbDeleteRequest, PbDeleteResponse, PbKvService,
    PbPutRequest, PbPutResponse, PbRangeRequest, PbRangeResponse, PbRangeStreamResponse,
    PbTxnRequest, PbTxnResponse,
};
use futures_util::stream::{self, Iter};
use tonic::{Request, Response, Status, async_trait};

use super::Services;
use crate::mvcc;
use crate::refusal::Refusal;
use crate::txn::{check_delete, check_put, check_txn, delete_weight, put_weight, txn_weight};
use crate::writer::Command;

/// A stream of one answer.
type Once<T> = Iter<std::array::IntoIter<Result<T, Status>, 1>>;

impl Services {
    fn read(&self, request: &PbRangeRequest) -> Result<PbRangeResponse, Refusal> {
        mvcc::check_range(request)?;
        let mut response = {
            let state = self.shared.state.read();
            mvcc::range(&state.store, request, state.durable)?
        };
        self.shared.complete(&mut response.header);
        Ok(response)
    }
}

#[async_trait]
impl PbKvService for Services {
    async fn range(
        &self,
        request: Request<PbRangeRequest>,
    ) -> Result<Response<PbRangeResponse>, Status> {
        Ok(Response::new(self.read(request.get_ref())?))
    }

    type RangeStreamStream = Once<PbRangeStreamResponse>;

    async fn range_stream(
        &self,
        request: Request<PbRangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        let range = self.read(request.get_ref())?;
        let response = PbRangeStreamResponse {
            range_response: Some(range),
        };
        Ok(Response::new(stream::iter([Ok(response)])))
    }

    async fn put(&self, request: Request<PbPutRequest>) -> Result<Response<PbPutResponse>, Status> {
        let request = request.into_inner();
        check_put(&request)?;
        let weight = put_weight(&request);
        let command = |reply| Command::Put(request, reply);
        let mut response = self.shared.queue.submit(weight, command).await?;
        self.shared.complete(&mut response.header);
        Ok(Response::new(response))
    }

    async fn delete_range(
        &self,
        request: Request<PbDeleteRequest>,
    ) -> Result<Response<PbDeleteResponse>, Status> {
        let request = request.into_inner();
        check_delete(&request)?;
        let weight = delete_weight(&request);
        let command = |reply| Command::Delete(request, reply);
        let mut response = self.shared.queue.submit(weight, command).await?;
        self.shared.complete(&mut response.header);
        Ok(Response::new(response))
    }

    async fn txn(&self, request: Request<PbTxnRequest>) -> Result<Response<PbTxnResponse>, Status> {
        let request = request.into_inner();
        check_txn(&request)?;
        let weight = txn_weight(&request);
        let command = |reply| Command::Txn(request, reply);
        let mut response = self.shared.queue.submit(weight, command).await?;
        self.shared.complete(&mut response.header);
        Ok(Response::new(response))
    }

    async fn compact(
        &self,
        request: Request<PbCompactionRequest>,
    ) -> Result<Response<PbCompactionResponse>, Status> {
        let request = request.into_inner();
        let command = |reply| Command::Compact(request, reply);
        let mut response = self.shared.queue.submit(0, command).await?;
        self.shared.complete(&mut response.header);
        Ok(Response::new(response))
    }
}
