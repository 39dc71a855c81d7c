//! What the writer, the connections and the server have in common.

use etcd_client::proto::PbResponseHeader;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::disk::Identity;
use crate::state::State;
use crate::stats::{Commits, WatcherCount};
use crate::writer::{Command, Queue};

/// One per server. The lock is never held across a wait, neither for the disk nor in a task.
pub(crate) struct Shared {
    pub(crate) state: RwLock<State>,
    /// The newest durable revision, for those who wait for the next one. Set by the writer only.
    pub(crate) durable: watch::Sender<i64>,
    pub(crate) queue: Queue,
    /// Notified when there may be a new earliest deadline.
    pub(crate) leases_granted: Notify,
    /// Cancelled when the server stops: all streams end.
    pub(crate) closing: CancellationToken,
    pub(crate) identity: Identity,
    /// Kept by the writer.
    pub(crate) commits: Mutex<Commits>,
    pub(crate) watchers: WatcherCount,
    /// The addresses that clients connect to.
    pub(crate) client_urls: Vec<String>,
}

impl Shared {
    pub(crate) fn new(
        state: State,
        queue: Queue,
        identity: Identity,
        client_urls: Vec<String>,
    ) -> Self {
        Self {
            durable: watch::Sender::new(state.durable),
            state: RwLock::new(state),
            queue,
            leases_granted: Notify::new(),
            closing: CancellationToken::new(),
            identity,
            commits: Mutex::new(Commits::default()),
            watchers: WatcherCount::default(),
            client_urls,
        }
    }

    /// A header for an answer that shows the state at `revision`.
    pub(crate) fn header(&self, revision: i64) -> Option<PbResponseHeader> {
        Some(PbResponseHeader {
            cluster_id: self.identity.cluster,
            member_id: self.identity.member,
            revision,
            raft_term: self.identity.boots,
        })
    }

    /// Adds to a header what is the same in all of them.
    pub(crate) fn complete(&self, header: &mut Option<PbResponseHeader>) {
        let revision = header.as_ref().map_or(0, |header| header.revision);
        *header = self.header(revision);
    }

    /// Revokes leases when their time is over. Sleeps in between; runs until it is dropped or the writer ends.
    pub(crate) async fn expire_leases(&self) {
        loop {
            let granted = self.leases_granted.notified();
            let next = self.state.read().leases.next_deadline();
            let Some(deadline) = next else {
                granted.await;
                continue;
            };
            tokio::select! {
                () = granted => {}
                () = sleep_until(deadline) => {
                    let expire = |reply| Command::Expire(Instant::now(), reply);
                    if self.queue.submit(0, expire).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}
