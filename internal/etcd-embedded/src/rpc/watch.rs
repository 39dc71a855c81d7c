//! Watches: every watcher is a position in the history, nothing more.
//!
//! The response stream is pulled by the connection. Each pull first looks for a request of the client, then for the next
//! piece of history of the watcher that is furthest behind, then waits. A client that does not read is not served, and
//! costs nothing while the history is kept; when that is compacted past its position, it is told so and cancelled.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use etcd_client::EventType;
use etcd_client::WatchFilterType;
use etcd_client::proto::{
    PbEvent, PbWatchRequest, PbWatchRequestUnion, PbWatchResponse, PbWatchService,
};
use futures_util::FutureExt;
use futures_util::stream::unfold;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::{Services, fragment};
use crate::mvcc::{Change, KeyRange, Store};
use crate::refusal::Refusal;
use crate::shared::Shared;
use crate::state::State;
use crate::stats::CountedWatcher;

/// Bytes of events in one response; a larger revision is still sent whole, or in fragments where they are asked for.
const RESPONSE_BYTES: usize = 1 << 20;
/// How often a watcher that asked for it hears that nothing happened, as in etcd.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(600);
/// The identifier in answers that concern no watcher, or all of them.
const NO_WATCHER: i64 = -1;

/// One stream with any number of watchers.
struct WatchSession {
    shared: Arc<Shared>,
    requests: Streaming<PbWatchRequest>,
    durable: watch::Receiver<i64>,
    watchers: BTreeMap<i64, Watcher>,
    next_id: i64,
    /// What is left of a response that was split. Nothing comes between its fragments.
    fragments: VecDeque<PbWatchResponse>,
    /// Answers to requests, at most two per request.
    answers: VecDeque<PbWatchResponse>,
    /// The revision up to which every watcher has seen everything, when it last was so.
    caught_up: i64,
    progress_requested: bool,
    progress_at: Instant,
    ended: bool,
}

struct Watcher {
    range: KeyRange,
    /// The first revision that was not delivered.
    next: i64,
    puts: Delivery,
    deletes: Delivery,
    previous: Previous,
    progress: Progress,
    large: Large,
    _counted: CountedWatcher,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Delivery {
    Wanted,
    Filtered,
}

impl Delivery {
    fn of(filters: &[i32], filter: WatchFilterType) -> Self {
        if filters.contains(&(filter as i32)) {
            Self::Filtered
        } else {
            Self::Wanted
        }
    }
}

/// The protocol says: no key means all keys.
fn watched_range(key: &[u8], range_end: &[u8]) -> KeyRange {
    let key = if key.is_empty() { &[0] } else { key };
    KeyRange::new(key, range_end)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Previous {
    Included,
    Omitted,
}

/// How a large response is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Large {
    Whole,
    Fragmented,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Periodic,
    OnRequest,
}

/// What a session waits for.
enum Wake {
    Closing,
    Request(Option<PbWatchRequest>),
    History,
    ProgressDue,
}

impl Watcher {
    fn wants(&self, change: &Change) -> bool {
        let delivery = if change.after.is_some() {
            self.puts
        } else {
            self.deletes
        };
        delivery == Delivery::Wanted
    }

    fn event(&self, store: &Store, change: &Change) -> PbEvent {
        let kind = if change.after.is_some() {
            EventType::Put
        } else {
            EventType::Delete
        };
        let previous = match self.previous {
            Previous::Included => store.before(change),
            Previous::Omitted => None,
        };
        PbEvent {
            r#type: kind.into(),
            kv: Some(change.to_key_value()),
            prev_kv: previous.map(|before| before.to_key_value()),
        }
    }
}

impl WatchSession {
    fn new(shared: Arc<Shared>, requests: Streaming<PbWatchRequest>) -> Self {
        Self {
            durable: shared.durable.subscribe(),
            shared,
            requests,
            watchers: BTreeMap::new(),
            next_id: 0,
            fragments: VecDeque::new(),
            answers: VecDeque::new(),
            caught_up: 0,
            progress_requested: false,
            progress_at: Instant::now() + PROGRESS_INTERVAL,
            ended: false,
        }
    }

    /// The next response; `None` when the client has gone.
    async fn next(&mut self) -> Option<Result<PbWatchResponse, Status>> {
        while !self.ended {
            if let Some(fragment) = self.fragments.pop_front() {
                return Some(Ok(fragment));
            }
            if let Some(answer) = self.answers.pop_front() {
                return Some(Ok(answer));
            }
            // Requests come first: a watcher in the middle of a long history can still be cancelled.
            if let Some(request) = self.requests.message().now_or_never() {
                self.handle(request.ok().flatten());
                continue;
            }
            if let Some(response) = self.advance() {
                return Some(Ok(response));
            }
            if self.progress_requested {
                self.progress_requested = false;
                return Some(Ok(self.answer(NO_WATCHER, self.caught_up)));
            }
            match self.wait().await {
                Wake::Closing => {
                    self.ended = true;
                    return Some(Err(Refusal::Stopped.into()));
                }
                Wake::Request(request) => self.handle(request),
                Wake::History => {}
                Wake::ProgressDue => self.report_progress(),
            }
        }
        None
    }

    async fn wait(&mut self) -> Wake {
        let periodic = self
            .watchers
            .values()
            .any(|watcher| watcher.progress == Progress::Periodic);
        tokio::select! {
            biased;
            () = self.shared.closing.cancelled() => Wake::Closing,
            request = self.requests.message() => Wake::Request(request.ok().flatten()),
            changed = self.durable.changed() => match changed {
                Ok(()) => Wake::History,
                Err(_) => Wake::Closing,
            },
            () = sleep_until(self.progress_at), if periodic => Wake::ProgressDue,
        }
    }

    /// Carries out a request; its absence is the client's way to end the stream.
    fn handle(&mut self, request: Option<PbWatchRequest>) {
        let Some(request) = request else {
            self.ended = true;
            return;
        };
        match request.request_union {
            Some(PbWatchRequestUnion::CreateRequest(request)) => {
                let watcher = Watcher {
                    range: watched_range(&request.key, &request.range_end),
                    next: request.start_revision,
                    puts: Delivery::of(&request.filters, WatchFilterType::NoPut),
                    deletes: Delivery::of(&request.filters, WatchFilterType::NoDelete),
                    previous: if request.prev_kv {
                        Previous::Included
                    } else {
                        Previous::Omitted
                    },
                    progress: if request.progress_notify {
                        Progress::Periodic
                    } else {
                        Progress::OnRequest
                    },
                    large: if request.fragment {
                        Large::Fragmented
                    } else {
                        Large::Whole
                    },
                    _counted: self.shared.watchers.add(),
                };
                self.create(request.watch_id, watcher);
            }
            Some(PbWatchRequestUnion::CancelRequest(request)) => self.cancel(request.watch_id),
            Some(PbWatchRequestUnion::ProgressRequest(_)) => self.progress_requested = true,
            None => {}
        }
    }

    fn create(&mut self, wanted_id: i64, mut watcher: Watcher) {
        let revision = self.shared.state.read().durable;
        let mut answer = self.answer(NO_WATCHER, revision);
        answer.created = true;
        let refusal = if watcher.range.is_empty() {
            Some("mvcc: watcher range is empty")
        } else if wanted_id != 0 && self.watchers.contains_key(&wanted_id) {
            Some("mvcc: duplicate watch ID provided on the WatchStream")
        } else {
            None
        };
        if let Some(reason) = refusal {
            answer.canceled = true;
            answer.cancel_reason = reason.to_owned();
        } else {
            if watcher.next == 0 {
                watcher.next = revision + 1;
            }
            answer.watch_id = self.id_for(wanted_id);
            self.watchers.insert(answer.watch_id, watcher);
        }
        self.answers.push_back(answer);
    }

    fn id_for(&mut self, wanted: i64) -> i64 {
        if wanted != 0 {
            return wanted;
        }
        while self.watchers.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    fn cancel(&mut self, id: i64) {
        if self.watchers.remove(&id).is_some() {
            let revision = self.shared.state.read().durable;
            let mut answer = self.answer(id, revision);
            answer.canceled = true;
            self.answers.push_back(answer);
        }
    }

    /// Delivers one piece of history to the watcher that is furthest behind. Watchers that have nothing to hear about
    /// move on silently. `None` when all are up to date.
    fn advance(&mut self) -> Option<PbWatchResponse> {
        let shared = Arc::clone(&self.shared);
        let state = shared.state.read();
        // What is durable by now is delivered here; it must not wake the session again.
        self.durable.mark_unchanged();
        loop {
            let furthest_behind = self
                .watchers
                .iter_mut()
                .min_by_key(|(_, watcher)| watcher.next)
                .filter(|(_, watcher)| watcher.next <= state.durable);
            let Some((id, watcher)) = furthest_behind else {
                self.caught_up = state.durable;
                return None;
            };
            let id = *id;
            let events = state.store.events(
                &watcher.range,
                watcher.next,
                state.durable,
                RESPONSE_BYTES,
                |change| watcher.wants(change),
            );
            let Some(events) = events else {
                return Some(self.compacted(id, &state));
            };
            watcher.next = events.next;
            if events.changes.is_empty() {
                continue;
            }
            let changes = events.changes.iter();
            let found = changes
                .map(|change| watcher.event(&state.store, change))
                .collect();
            let large = watcher.large;
            let mut response = self.answer(id, events.next - 1);
            response.events = found;
            return self.deliver(response, large);
        }
    }

    /// The response, or its first fragment; the others come next.
    fn deliver(&mut self, response: PbWatchResponse, large: Large) -> Option<PbWatchResponse> {
        match large {
            Large::Whole => Some(response),
            Large::Fragmented => {
                self.fragments = fragment::split(response);
                self.fragments.pop_front()
            }
        }
    }

    fn compacted(&mut self, id: i64, state: &State) -> PbWatchResponse {
        self.watchers.remove(&id);
        let mut answer = self.answer(id, state.durable);
        answer.canceled = true;
        // The reason in words stays empty, as in etcd: the revision tells it.
        answer.compact_revision = state.store.compacted();
        answer
    }

    /// Tells the watchers that asked for it that they are up to date.
    fn report_progress(&mut self) {
        self.progress_at = Instant::now() + PROGRESS_INTERVAL;
        let waiting: Vec<i64> = self
            .watchers
            .iter()
            .filter(|(_, watcher)| watcher.progress == Progress::Periodic)
            .map(|(id, _)| *id)
            .collect();
        for id in waiting {
            let answer = self.answer(id, self.caught_up);
            self.answers.push_back(answer);
        }
    }

    /// An answer without events.
    fn answer(&self, id: i64, revision: i64) -> PbWatchResponse {
        PbWatchResponse {
            header: self.shared.header(revision),
            watch_id: id,
            ..PbWatchResponse::default()
        }
    }
}

#[async_trait]
impl PbWatchService for Services {
    type WatchStream = BoxStream<PbWatchResponse>;

    async fn watch(
        &self,
        request: Request<Streaming<PbWatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let session = WatchSession::new(Arc::clone(&self.shared), request.into_inner());
        let responses = unfold(session, |mut session| async move {
            let response = session.next().await?;
            Some((response, session))
        });
        Ok(Response::new(Box::pin(responses)))
    }
}
