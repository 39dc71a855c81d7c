//! The one thread that changes the state, and its queue.
//!
//! It takes everything that is queued, applies it in order, makes the result durable by one commit and then answers all
//! of it. While it commits, the next group gathers: no timer, and no commit when nothing changed. An error of the disk
//! ends it: the answers of that group say that the outcome is unknown, and nothing more is accepted.

#[cfg(test)]
mod crash;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use etcd_client::proto::{
    PbCompactionRequest, PbCompactionResponse, PbDefragmentResponse, PbDeleteRequest,
    PbDeleteResponse, PbLeaseGrantRequest, PbLeaseGrantResponse, PbLeaseLeasesResponse,
    PbLeaseRevokeResponse, PbLeaseTimeToLiveRequest, PbLeaseTimeToLiveResponse, PbPutRequest,
    PbPutResponse, PbTxnRequest, PbTxnResponse,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

use crate::disk::{Batch, Compaction, Disk};
use crate::refusal::Refusal;
use crate::shared::Shared;
use crate::state::State;
use crate::txn;

/// Bytes of requests that may wait or be under way. Filled by the callers, drained by the writer; beyond it callers
/// wait.
const QUEUE_BYTES: usize = 32 << 20;
/// What a request takes from [`QUEUE_BYTES`] beside its keys and values. Bounds the number of requests as well.
const REQUEST_OVERHEAD: usize = 1 << 10;
/// Requests that are answered by one commit.
const MAX_GROUP: usize = 1_024;

/// Where the outcome of a command goes.
type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// Something only the writer may do, or that must be answered in order with what it does.
pub(crate) enum Command {
    Put(PbPutRequest, Reply<PbPutResponse>),
    Delete(PbDeleteRequest, Reply<PbDeleteResponse>),
    Txn(PbTxnRequest, Reply<PbTxnResponse>),
    Compact(PbCompactionRequest, Reply<PbCompactionResponse>),
    Grant(PbLeaseGrantRequest, Instant, Reply<PbLeaseGrantResponse>),
    Revoke(i64, Reply<PbLeaseRevokeResponse>),
    TimeToLive(
        PbLeaseTimeToLiveRequest,
        Instant,
        Reply<PbLeaseTimeToLiveResponse>,
    ),
    ListLeases(Reply<PbLeaseLeasesResponse>),
    Expire(Instant, Reply<()>),
    /// Gives back what the file occupies but does not use. Nothing is written meanwhile.
    Defragment(Reply<PbDefragmentResponse>),
    /// Ends the writer once everything queued before is answered.
    Stop,
}

struct Job {
    command: Command,
    /// Gives the bytes back once the job is answered.
    permit: Option<OwnedSemaphorePermit>,
}

/// The callers' end of the queue.
pub(crate) struct Queue {
    jobs: Sender<Job>,
    bytes: Arc<Semaphore>,
}

/// The writer's end of the queue.
pub(crate) struct Jobs(Receiver<Job>);

/// An answer that waits for its group to be durable.
type Answer = Box<dyn FnOnce(Result<(), Refusal>) + Send>;

pub(crate) fn queue() -> (Queue, Jobs) {
    // Without a bound of its own: every job but the last holds a permit.
    let (sender, receiver) = channel();
    let queue = Queue {
        jobs: sender,
        bytes: Arc::new(Semaphore::new(QUEUE_BYTES)),
    };
    (queue, Jobs(receiver))
}

impl Queue {
    /// Queues a command of `weight` bytes and waits for its outcome, which is durable when it is not a refusal.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves a queued command in the queue: it is carried out, its outcome is lost.
    pub(crate) async fn submit<T>(
        &self,
        weight: usize,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T, Refusal> {
        if weight > txn::MAX_REQUEST_BYTES {
            return Err(Refusal::RequestTooLarge);
        }
        let weight = u32::try_from(weight + REQUEST_OVERHEAD)
            .expect("requests are limited to far less than 4 GiB");
        let permit = Arc::clone(&self.bytes)
            .acquire_many_owned(weight)
            .await
            .map_err(|_| Refusal::Stopped)?;
        let (reply, outcome) = oneshot::channel();
        let job = Job {
            command: command(reply),
            permit: Some(permit),
        };
        self.jobs.send(job).map_err(|_| Refusal::Stopped)?;
        outcome.await.unwrap_or(Err(Refusal::Stopped))
    }

    /// Bytes of requests that wait or are under way.
    pub(crate) fn waiting_bytes(&self) -> usize {
        QUEUE_BYTES.saturating_sub(self.bytes.available_permits())
    }

    /// Asks the writer to end after what is queued already.
    pub(crate) fn stop(&self) {
        let job = Job {
            command: Command::Stop,
            permit: None,
        };
        // Fails only when the writer has ended already.
        let _ = self.jobs.send(job);
    }
}

/// The thread's state.
pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) disk: Disk,
    pub(crate) jobs: Jobs,
    pub(crate) keep_revisions: u64,
}

/// Jobs that share a commit.
#[derive(Default)]
struct Group {
    answers: Vec<Answer>,
    permits: Vec<OwnedSemaphorePermit>,
    leases_granted: bool,
    defragment: bool,
    stop: bool,
}

impl Writer {
    /// Works until it is asked to stop, all handles of the queue are gone, or the disk fails.
    pub(crate) fn run(mut self) -> Result<(), redb::Error> {
        while let Ok(first) = self.jobs.0.recv() {
            if self.turn(first)? == Turn::Last {
                break;
            }
        }
        Ok(())
    }

    /// Carries out one group: this job and all that are queued with it.
    fn turn(&mut self, first: Job) -> Result<Turn, redb::Error> {
        let mut group = Group::default();
        let batch = self.apply(first, &mut group);
        if let Err(error) = self.store(&batch, &group) {
            group.answer(Err(Refusal::StorageFailed));
            return Err(error);
        }
        group.answer(Ok(()));
        Ok(if group.stop { Turn::Last } else { Turn::More })
    }

    /// Applies everything that is queued, in memory.
    fn apply(&self, first: Job, group: &mut Group) -> Batch {
        let mut state = self.shared.state.write();
        let mut next = Some(first);
        while let Some(job) = next {
            group.take(&mut state, job);
            next = if group.answers.len() < MAX_GROUP {
                self.jobs.0.try_recv().ok()
            } else {
                None
            };
        }
        if group.leases_granted {
            self.shared.leases_granted.notify_one();
        }
        let excess = state.store.excess(self.keep_revisions);
        state.compaction = state.compaction.max(excess);
        Batch {
            changes: state.store.since(state.durable).cloned().collect(),
            compaction: state.compaction.map(|target| Compaction {
                target,
                superseded: state.store.superseded(target),
            }),
            boots: None,
        }
    }

    /// Makes the group durable and visible.
    fn store(&mut self, batch: &Batch, group: &Group) -> Result<(), redb::Error> {
        if !batch.is_empty() {
            self.commit(batch, group.answers.len())?;
        }
        if group.defragment {
            self.disk.defragment()?;
            self.shared.commits.lock().database_bytes = self.disk.bytes();
        }
        Ok(())
    }

    fn commit(&mut self, batch: &Batch, requests: usize) -> Result<(), redb::Error> {
        self.disk.look_for_room();
        let began = Instant::now();
        self.disk.commit(batch)?;
        let took = began.elapsed();
        let bytes = self.disk.bytes();
        let ballast = self.disk.ballast_bytes();
        self.shared
            .commits
            .lock()
            .add(took, requests, (bytes, ballast));
        let revision = {
            let mut state = self.shared.state.write();
            state.durable = state.store.revision();
            if let Some(target) = state.compaction.take() {
                state.store.compact(target);
                tracing::debug!(revision = target, "history compacted");
            }
            state.durable
        };
        self.shared.durable.send_replace(revision);
        Ok(())
    }
}

/// Whether another group follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    More,
    Last,
}

impl Group {
    fn take(&mut self, state: &mut State, job: Job) {
        self.permits.extend(job.permit);
        let answer = match job.command {
            Command::Put(request, reply) => answer(reply, state.put(request)),
            Command::Delete(request, reply) => answer(reply, Ok(state.delete(&request))),
            Command::Txn(request, reply) => answer(reply, txn::apply(state, request)),
            Command::Compact(request, reply) => answer(reply, state.compact(request)),
            Command::Grant(request, now, reply) => {
                self.leases_granted = true;
                answer(reply, state.grant(request, now))
            }
            Command::Revoke(id, reply) => answer(reply, state.revoke(id)),
            Command::TimeToLive(request, now, reply) => {
                answer(reply, Ok(state.time_to_live(request, now)))
            }
            Command::ListLeases(reply) => answer(reply, Ok(state.lease_ids())),
            Command::Expire(now, reply) => {
                state.expire(now);
                answer(reply, Ok(()))
            }
            Command::Defragment(reply) => {
                self.defragment = true;
                let header = state.header();
                answer(reply, Ok(PbDefragmentResponse { header }))
            }
            Command::Stop => {
                self.stop = true;
                return;
            }
        };
        self.answers.push(answer);
    }

    fn answer(&mut self, stored: Result<(), Refusal>) {
        for answer in self.answers.drain(..) {
            answer(stored);
        }
        self.permits.clear();
    }
}

fn answer<T: Send + 'static>(reply: Reply<T>, outcome: Result<T, Refusal>) -> Answer {
    Box::new(move |stored| {
        // A caller that went away does not read its answer.
        let _ = reply.send(stored.and(outcome));
    })
}
