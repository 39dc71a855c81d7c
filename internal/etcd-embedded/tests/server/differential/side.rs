//! One of the two servers, and how its answers are told without what differs between any two servers.

use etcd_client::proto::{PbResponseHeader, PbTxnOpResponse, PbTxnResponse};
use etcd_client::{Client, Error, LeaseGrantOptions, LeaseTimeToLiveOptions};

use super::draw::{Keys, Request};

/// Refusals that depend on the state. When there are several reasons, which one is told is up to the server.
const REASONS: [&str; 4] = [
    "etcdserver: key not found",
    "etcdserver: requested lease not found",
    "etcdserver: mvcc: required revision has been compacted",
    "etcdserver: mvcc: required revision is a future revision",
];

/// An answer in words, and the revision in its header.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) words: String,
    pub(super) revision: Option<i64>,
}

pub(super) async fn ask(client: &mut Client, request: Request) -> Told {
    match perform(client, request).await {
        Ok(told) => told,
        Err(Error::GRpcStatus(status)) if REASONS.contains(&status.message()) => {
            refused("refused by the state".to_owned())
        }
        Err(Error::GRpcStatus(status)) => {
            refused(format!("{:?} {}", status.code(), status.message()))
        }
        Err(error @ Error::LeaseKeepAliveError(_)) => refused(error.to_string()),
        Err(error) => panic!("{error}"),
    }
}

fn refused(words: String) -> Told {
    Told {
        words,
        revision: None,
    }
}

async fn perform(client: &mut Client, request: Request) -> Result<Told, Error> {
    let (header, words) = match request {
        Request::Put(key, value, options) => {
            let mut put = client.put(key, value, Some(options)).await?.0;
            (put.header.take(), format!("{put:?}"))
        }
        Request::Delete(key, options) => {
            let mut deleted = client.delete(key, Some(options)).await?.0;
            (deleted.header.take(), format!("{deleted:?}"))
        }
        Request::Get(key, options) => {
            let mut got = client.get(key, Some(options)).await?.0;
            (got.header.take(), format!("{got:?}"))
        }
        Request::Txn(txn) => {
            let mut done = client.txn(txn).await?.0;
            let header = done.header.take();
            strip(&mut done);
            (header, format!("{done:?}"))
        }
        Request::Compact(at) => (client.compact(at, None).await?.0.header, String::new()),
        Request::Grant { id, ttl } => {
            let options = LeaseGrantOptions::new().with_id(id);
            let mut granted = client.lease_grant(ttl, Some(options)).await?.0;
            (granted.header.take(), format!("{granted:?}"))
        }
        Request::Revoke(id) => (client.lease_revoke(id).await?.0.header, String::new()),
        Request::KeepAlive(id) => {
            // Asks once, and reads the answer.
            let (keeper, _answers) = client.lease_keep_alive(id).await?;
            (None, format!("{}", keeper.id()))
        }
        Request::TimeToLive { id, keys } => {
            let mut options = LeaseTimeToLiveOptions::new();
            if keys == Keys::Listed {
                options = options.with_keys();
            }
            let mut told = client.lease_time_to_live(id, Some(options)).await?.0;
            let alive = told.ttl > 0 && told.ttl > told.granted_ttl - 1_000;
            told.ttl = if alive { told.granted_ttl } else { told.ttl };
            told.keys.sort();
            (told.header.take(), format!("{told:?}"))
        }
        Request::ListLeases => {
            let mut listed = client.leases().await?.0;
            listed.leases.sort_by_key(|lease| lease.id);
            (listed.header.take(), format!("{listed:?}"))
        }
    };
    Ok(Told {
        words,
        revision: header.map(|header| header.revision),
    })
}

/// Leaves of the headers inside a transaction only the revision.
fn strip(txn: &mut PbTxnResponse) {
    for response in &mut txn.responses {
        match &mut response.response {
            Some(PbTxnOpResponse::ResponseRange(range)) => strip_header(&mut range.header),
            Some(PbTxnOpResponse::ResponsePut(put)) => strip_header(&mut put.header),
            Some(PbTxnOpResponse::ResponseDeleteRange(deleted)) => {
                strip_header(&mut deleted.header);
            }
            Some(PbTxnOpResponse::ResponseTxn(nested)) => {
                // etcd leaves its revision out, which tells nobody anything.
                nested.header = None;
                strip(nested);
            }
            None => {}
        }
    }
}

fn strip_header(header: &mut Option<PbResponseHeader>) {
    if let Some(header) = header {
        *header = PbResponseHeader {
            revision: header.revision,
            ..PbResponseHeader::default()
        };
    }
}

/// Everything at a revision, or why not.
pub(super) async fn everything(client: &mut Client, at: i64) -> Told {
    let options = etcd_client::GetOptions::new()
        .with_range(vec![0])
        .with_revision(at);
    ask(client, Request::Get(vec![0], options)).await
}
