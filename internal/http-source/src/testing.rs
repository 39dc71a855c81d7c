//! A volume and a directory for tests. The volume keeps the append protocol to the letter and does on command what disks
//! and networks do at random.

pub(crate) mod wires;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use hyper::HeaderMap;
use parking_lot::Mutex;
use prometheus::Registry;
use stream_encoding::jsonnet::HELLO;
use stream_encoding::{CompiledMapping, ContentType, Headers, Record};
use stream_model::definition::mapping::{DataType, Template};
use stream_model::definition::{Column, ColumnKind, Mapping};
use stream_model::idempotency::Assigned;
use stream_model::level::{Compression, Durability};
use stream_model::{
    BranchId, BranchKey, ProjectId, Secret, SessionId, SliceId, SourceKey, Timestamp, VolumeId,
};
use stream_node::Helpers;
use stream_storage::wire::{
    Answer, Batch, ConnectError, Connection, KeyHash, KnownKey, Opened, Pending, Refusal,
    RefusalReason, Sealed, Transport,
};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::admission::Admission;
use crate::batch::Spares;
use crate::completion::Ticket;
use crate::key::KeyRouting;
use crate::lane::{Answering, Lane, Owner, Surroundings};
use crate::link::Link;
use crate::mapper::{Mapper, Received};
use crate::metrics::Metrics;
use crate::route::{Directory, Fate, Plan, PlannedSink, Ready, Route, State, Target, VolumeRoute};
use crate::table::Table;
use crate::templates::{Evaluators, Limits};

pub(crate) const SESSION: SessionId = SessionId(7);
pub(crate) const WINDOW_SECONDS: u32 = 777;
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) fn slice(id: u8) -> SliceId {
    SliceId::from_bytes([id; 16])
}

pub(crate) fn volume_id(id: u8) -> VolumeId {
    VolumeId::from_bytes([id; 16])
}

pub(crate) fn source() -> SourceKey {
    SourceKey {
        branch: BranchKey {
            project: ProjectId(1),
            branch: BranchId(1),
        },
        source: "orders".parse().expect("valid"),
    }
}

/// What the volume does with the next batch.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Act {
    /// What the protocol says.
    Obey,
    /// The same, but the answer and the connection are lost.
    LoseAnswer,
    /// The connection is lost before the batch arrives.
    LoseBatch,
    /// It refuses.
    Refuse(RefusalReason),
    /// It neither takes the batch nor answers.
    Hang,
}

#[derive(Debug, Default)]
pub(crate) struct ModelSlice {
    pub last: u64,
    pub sealed: Option<Option<SliceId>>,
    pub rows: Vec<String>,
}

type Queued = (u64, Batch, oneshot::Sender<Answer>);

#[derive(Default)]
pub(crate) struct VolumeState {
    epoch: u64,
    broken: u64,
    /// The newest connection with an answer.
    heard: u64,
    pub down: bool,
    pub script: VecDeque<Act>,
    pub slices: BTreeMap<SliceId, ModelSlice>,
    /// What was in slices that the volume no longer knows.
    pub archive: Vec<(SliceId, ModelSlice)>,
    holding: bool,
    held: VecDeque<Queued>,
    /// Not answered, and still to be written unless a newer connection asks first.
    hanging: Vec<Queued>,
    pub opens: usize,
    pub frames: Vec<(SliceId, u64, String)>,
    /// Keys that are remembered, with their bodies.
    pub keys: BTreeMap<KeyHash, u64>,
}

/// The volume.
#[derive(Clone)]
pub(crate) struct ModelVolume {
    id: VolumeId,
    state: Arc<Mutex<VolumeState>>,
    received: Arc<watch::Sender<usize>>,
}

impl ModelVolume {
    pub fn new(id: u8) -> Self {
        let received = Arc::new(watch::Sender::new(0));
        Self {
            id: volume_id(id),
            state: Arc::default(),
            received,
        }
    }

    pub fn with<R>(&self, look: impl FnOnce(&mut VolumeState) -> R) -> R {
        look(&mut self.state.lock())
    }

    pub fn open_slice(&self, id: SliceId) {
        self.with(|state| state.slices.entry(id).or_default().sealed = None);
    }

    pub fn seal(&self, id: SliceId, successor: Option<SliceId>) -> u64 {
        self.with(|state| {
            let slice = state.slices.get_mut(&id).expect("the slice is known");
            slice.sealed = Some(successor);
            slice.last
        })
    }

    /// Uploaded and cleaned: only the record is left.
    pub fn forget(&self, id: SliceId) {
        self.with(|state| {
            let slice = state.slices.remove(&id).expect("the slice is known");
            state.archive.push((id, slice));
        });
    }

    pub fn script(&self, acts: impl IntoIterator<Item = Act>) {
        self.with(|state| state.script.extend(acts));
    }

    /// Leaves batches unanswered until [`Self::release`].
    pub fn hold(&self) {
        self.with(|state| state.holding = true);
    }

    pub fn release(&self) {
        self.with(|state| {
            state.holding = false;
            while let Some((epoch, batch, answer)) = state.held.pop_front() {
                state.take(epoch, batch, answer);
            }
        });
    }

    /// Waits until that many batches were sent.
    pub async fn received(&self, count: usize) {
        let mut received = self.received.subscribe();
        received
            .wait_for(|received| *received >= count)
            .await
            .expect("the volume lives");
    }

    pub fn rows(&self, id: SliceId) -> Vec<String> {
        self.with(|state| {
            state
                .slices
                .get(&id)
                .map_or_else(Vec::new, |slice| slice.rows.clone())
        })
    }
}

impl VolumeState {
    fn take(&mut self, epoch: u64, batch: Batch, answer: oneshot::Sender<Answer>) {
        if epoch <= self.broken {
            return;
        }
        let refuse = |reason| {
            Answer::Refused(Refusal {
                reason,
                expected: BTreeMap::new(),
            })
        };
        if epoch < self.epoch {
            answer.send(refuse(RefusalReason::Superseded)).ok();
            return;
        }
        // What hung before is in front.
        for (_, batch, unheard) in std::mem::take(&mut self.hanging) {
            self.obey(&batch);
            drop(unheard);
        }
        match self.script.pop_front().unwrap_or(Act::Obey) {
            Act::Obey => {
                self.heard = epoch;
                drop(answer.send(self.obey(&batch)));
            }
            Act::LoseAnswer => {
                self.obey(&batch);
                self.broken = epoch;
            }
            Act::LoseBatch => self.broken = epoch,
            Act::Refuse(reason) => drop(answer.send(refuse(reason))),
            Act::Hang => self.hanging.push((epoch, batch, answer)),
        }
    }

    fn obey(&mut self, batch: &Batch) -> Answer {
        assert!(!batch.parts.is_empty(), "a batch has a part");
        let known = |part: &&stream_storage::wire::Part| self.slices.contains_key(&part.slice);
        let expected = batch
            .parts
            .iter()
            .filter(known)
            .map(|p| (p.slice, self.slices[&p.slice].last + 1));
        let refuse = |reason, expected| Answer::Refused(Refusal { reason, expected });
        let expected: BTreeMap<_, _> = expected.collect();
        if let Some(part) = batch
            .parts
            .iter()
            .find(|p| !expected.contains_key(&p.slice))
        {
            return refuse(RefusalReason::UnknownSlice(part.slice), expected);
        }
        if batch
            .parts
            .iter()
            .all(|part| part.seq < expected[&part.slice])
        {
            return Answer::Committed;
        }
        let sealed = batch.parts.iter().filter_map(|part| {
            let slice = &self.slices[&part.slice];
            let successor = slice.sealed?;
            Some((
                part.slice,
                Sealed {
                    last: slice.last,
                    successor,
                },
            ))
        });
        let sealed: BTreeMap<_, _> = sealed.collect();
        if !sealed.is_empty() {
            return Answer::Sealed(sealed);
        }
        if batch
            .parts
            .iter()
            .any(|part| part.seq != expected[&part.slice])
        {
            return refuse(RefusalReason::OutOfOrder, expected);
        }
        let known = (0..).zip(&batch.keys).filter_map(|(position, claim)| {
            let body = *self.keys.get(&claim.key)?;
            Some(KnownKey { position, body })
        });
        let known: Vec<KnownKey> = known.collect();
        if !known.is_empty() {
            return Answer::KnownKeys(known);
        }
        for claim in &batch.keys {
            let twice = self.keys.insert(claim.key, claim.body);
            assert_eq!(twice, None, "a key occurs twice in a batch");
        }
        for part in &batch.parts {
            let text = String::from_utf8(part.frame.to_vec()).expect("not compressed");
            let rows: Vec<_> = text.lines().map(str::to_owned).collect();
            assert_eq!(rows.len(), part.rows as usize, "the row count is right");
            assert_eq!(
                text.len(),
                part.raw_bytes as usize,
                "the byte count is right"
            );
            let slice = self.slices.get_mut(&part.slice).expect("checked");
            slice.last = part.seq;
            slice.rows.extend(rows);
            self.frames.push((part.slice, part.seq, text));
        }
        Answer::Committed
    }

    fn look_up(&mut self, epoch: u64, slices: &[SliceId]) -> Option<BTreeMap<SliceId, Opened>> {
        self.opens += 1;
        self.hanging.retain(|(of, _, _)| *of >= epoch);
        let (older, own): (VecDeque<_>, _) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|(of, _, _)| *of < epoch);
        for (_, _, answer) in older {
            let superseded = Refusal {
                reason: RefusalReason::Superseded,
                expected: BTreeMap::new(),
            };
            answer.send(Answer::Refused(superseded)).ok();
        }
        self.held = own;
        if epoch <= self.broken || epoch < self.epoch {
            return None;
        }
        let opened = |id: &SliceId| match self.slices.get(id) {
            None => Opened::UnknownSlice,
            Some(ModelSlice {
                last, sealed: None, ..
            }) => Opened::Last(*last),
            Some(ModelSlice {
                last,
                sealed: Some(successor),
                ..
            }) => Opened::Sealed(Sealed {
                last: *last,
                successor: *successor,
            }),
        };
        Some(slices.iter().map(|id| (*id, opened(id))).collect())
    }
}

struct ModelConnection {
    volume: ModelVolume,
    epoch: u64,
}

impl Connection for ModelConnection {
    fn append(&self, batch: Batch) -> Pending<Answer> {
        let (sender, pending) = Pending::channel();
        self.volume.with(|state| {
            if state.holding {
                state.held.push_back((self.epoch, batch, sender));
            } else {
                state.take(self.epoch, batch, sender);
            }
        });
        self.volume.received.send_modify(|received| *received += 1);
        pending
    }

    fn open(&self, slices: Vec<SliceId>) -> Pending<BTreeMap<SliceId, Opened>> {
        let (sender, pending) = Pending::channel();
        if let Some(opened) = self.volume.with(|state| state.look_up(self.epoch, &slices)) {
            sender.send(opened).ok();
        }
        pending
    }

    /// As through the network: it comes with the first answer.
    fn key_window_seconds(&self) -> Option<u32> {
        let has_heard = self.volume.with(|state| state.heard >= self.epoch);
        has_heard.then_some(WINDOW_SECONDS)
    }
}

#[async_trait]
impl Transport for ModelVolume {
    async fn connect(
        &self,
        volume: VolumeId,
        _session: SessionId,
    ) -> Result<Box<dyn Connection>, ConnectError> {
        let epoch = self.with(|state| {
            if state.down || volume != self.id {
                return Err(ConnectError::NoRoute(volume));
            }
            state.epoch += 1;
            Ok(state.epoch)
        })?;
        Ok(Box::new(ModelConnection {
            volume: self.clone(),
            epoch,
        }))
    }
}

/// The directory.
pub(crate) struct ModelDirectory {
    pub table: Arc<Table>,
    pub fates: Mutex<HashMap<SliceId, Fate>>,
    /// Revisions that are heard of and not in the table yet.
    pub ahead: AtomicI64,
    news: watch::Sender<i64>,
}

impl ModelDirectory {
    pub fn new() -> Arc<Self> {
        Self::with(Table::default())
    }

    pub fn with(table: Table) -> Arc<Self> {
        let news = watch::Sender::new(0);
        Arc::new(Self {
            table: Arc::new(table),
            fates: Mutex::default(),
            ahead: AtomicI64::new(0),
            news,
        })
    }

    pub fn set_route(&self, route: Route) {
        self.table.update(vec![(route.source.clone(), Some(route))]);
        self.announce();
    }

    pub fn set_fate(&self, slice: SliceId, fate: Fate) {
        self.fates.lock().insert(slice, fate);
        self.announce();
    }

    pub fn announce(&self) {
        self.news.send_modify(|news| *news += 1);
    }
}

impl Directory for ModelDirectory {
    fn route(&self, source: &SourceKey) -> Option<Arc<Route>> {
        self.table.route(source)
    }

    fn fate(&self, slice: SliceId, _session: SessionId) -> Fate {
        self.fates.lock().get(&slice).copied().unwrap_or(Fate::Live)
    }

    fn news(&self) -> watch::Receiver<i64> {
        self.news.subscribe()
    }

    fn heard(&self) -> i64 {
        *self.news.borrow() + self.ahead.load(Ordering::SeqCst)
    }
}

/// A sink whose one column is the body.
pub(crate) fn body_sink(name: &str, version: u64) -> PlannedSink {
    sink(name, version, ColumnKind::Body)
}

/// A sink whose one column is the value at a path; a record without it is refused.
pub(crate) fn path_sink(name: &str, version: u64, path: &str) -> PlannedSink {
    let path = path.to_owned();
    sink(
        name,
        version,
        ColumnKind::Path {
            path,
            default_value: None,
            raw_string: true,
        },
    )
}

pub(crate) fn sink(name: &str, version: u64, kind: ColumnKind) -> PlannedSink {
    let column = Column {
        kind,
        name: "c".to_owned(),
        primary_key: false,
        data_type: DataType::String,
    };
    let columns = Mapping {
        columns: vec![column],
    };
    let mapping = CompiledMapping::compile(&columns);
    PlannedSink {
        sink: name.parse().expect("valid"),
        mapping_version: version,
        mapping: Arc::new(mapping.expect("valid")),
        columns: Arc::new(columns),
    }
}

pub(crate) fn target(slice: SliceId) -> Target {
    Target {
        slice,
        compression: Compression::None,
        durability: Durability::Disk,
    }
}

pub(crate) fn route_on(
    volume: VolumeId,
    lane: &Lane,
    sinks: Vec<PlannedSink>,
    targets: &[Target],
) -> Route {
    let volumes = vec![VolumeRoute {
        volume,
        lane: lane.clone(),
        targets: targets.into(),
        rejects: vec![None; targets.len()].into(),
    }];
    let state = State::Ready(Ready {
        plan: Arc::new(Plan::new(sinks)),
        volumes,
        keys: Arc::new(KeyRouting {
            path: None,
            assigned: Assigned::to(vec![volume]),
        }),
    });
    Route {
        source: source(),
        secret: Secret::new("secret".to_owned()),
        state,
    }
}

/// A sink whose one column is a template; its value is written raw.
pub(crate) fn template_sink(name: &str, version: u64, content: &str) -> PlannedSink {
    let template = Template {
        language: "jsonnet".to_owned(),
        content: content.to_owned(),
    };
    sink(
        name,
        version,
        ColumnKind::Template {
            template,
            raw_string: true,
        },
    )
}

/// Evaluators that are threads of the test.
pub(crate) fn helpers() -> Helpers {
    let serve = |socket: std::os::unix::net::UnixStream| {
        let output = socket.try_clone().expect("another handle");
        // The line breaks when the test is done with it.
        let _ = stream_encoding::jsonnet::serve(socket, output);
    };
    Helpers::threads(serve, HELLO)
}

pub(crate) const LIMITS: Limits = Limits {
    workers: 2,
    time: Duration::from_secs(5),
    row: 512 << 10,
};

fn evaluators(metrics: &Metrics, stop: CancellationToken) -> Evaluators {
    let spawn = |task| drop(tokio::spawn(task));
    let metrics = metrics.templates.clone();
    Evaluators::new(helpers(), LIMITS, metrics, Box::new(spawn), stop)
}

/// A lane with its task, one volume and a directory.
pub(crate) struct Rig {
    pub volume: ModelVolume,
    pub directory: Arc<ModelDirectory>,
    pub lane: Lane,
    pub link: Arc<Link>,
    pub mapper: Arc<Mapper>,
    pub evaluators: Evaluators,
    pub metrics: Arc<Metrics>,
    pub admission: Admission,
    pub stop: CancellationToken,
    pub task: tokio::task::JoinHandle<()>,
}

impl Rig {
    pub fn new() -> Self {
        let volume = ModelVolume::new(1);
        let directory = ModelDirectory::new();
        Self::with(volume, directory, 1)
    }

    pub fn with(volume: ModelVolume, directory: Arc<ModelDirectory>, id: u8) -> Self {
        let transport = Arc::new(volume.clone());
        Self::over(transport, volume, directory, id)
    }

    /// The same with another way to the volume.
    pub fn over(
        transport: Arc<dyn Transport>,
        volume: ModelVolume,
        directory: Arc<ModelDirectory>,
        id: u8,
    ) -> Self {
        let lane = Lane::new(TIMEOUT, Spares::default());
        let mapper = Arc::new(Mapper::new(512 << 10, 1));
        let metrics = Metrics::register(&Registry::new()).expect("a fresh registry");
        let stop = CancellationToken::new();
        let evaluators = evaluators(&metrics, stop.clone());
        let around = Surroundings {
            directory: Arc::clone(&directory) as Arc<dyn Directory>,
            mapper: Arc::clone(&mapper),
            evaluators: evaluators.clone(),
            metrics: Arc::clone(&metrics),
            stop: stop.clone(),
        };
        let link = Arc::new(Link::new(volume_id(id), SESSION, transport));
        let owner = Owner::new(lane.clone(), source(), Arc::clone(&link), around);
        let task = tokio::spawn(owner.run());
        let admission = directory.table.budgets.bytes.clone();
        Self {
            volume,
            directory,
            lane,
            link,
            mapper,
            evaluators,
            metrics,
            admission,
            stop,
            task,
        }
    }

    /// Sets the route: sinks with their slices, which the volume opens.
    pub fn route(&self, sinks: Vec<PlannedSink>, slices: &[SliceId]) {
        slices.iter().for_each(|id| self.volume.open_slice(*id));
        self.announce(sinks, slices);
    }

    /// The same without telling the volume.
    pub fn announce(&self, sinks: Vec<PlannedSink>, slices: &[SliceId]) {
        let targets: Vec<_> = slices.iter().copied().map(target).collect();
        self.directory
            .set_route(route_on(self.volume.id, &self.lane, sinks, &targets));
    }

    /// Sets a route whose sinks keep what they reject in the slices `rejects`, which the volume opens like the others.
    pub fn route_keeping(&self, sinks: Vec<PlannedSink>, slices: &[SliceId], rejects: &[SliceId]) {
        let all = slices.iter().chain(rejects);
        all.for_each(|id| self.volume.open_slice(*id));
        self.announce_keeping(sinks, slices, rejects);
    }

    /// The same without telling the volume.
    pub fn announce_keeping(
        &self,
        sinks: Vec<PlannedSink>,
        slices: &[SliceId],
        rejects: &[SliceId],
    ) {
        let targets: Vec<_> = slices.iter().copied().map(target).collect();
        let mut route = route_on(self.volume.id, &self.lane, sinks, &targets);
        if let State::Ready(ready) = &mut route.state {
            ready.volumes[0].rejects = rejects.iter().map(|id| Some(target(*id))).collect();
        }
        self.directory.set_route(route);
    }

    /// Adds a record, mapped as the present route says.
    pub fn append(&self, body: &str) -> Ticket {
        self.append_answering(body, Answering::ByOutcome)
    }

    /// Adds a record that arrived then.
    pub fn append_at(&self, body: &str, received_at: Timestamp) -> Ticket {
        let record = Record {
            received_at,
            ..record(body)
        };
        self.append_record(record, Answering::ByOutcome)
    }

    pub fn append_answering(&self, body: &str, answering: Answering) -> Ticket {
        self.append_record(record(body), answering)
    }

    fn append_record(&self, record: Record, answering: Answering) -> Ticket {
        let route = self.directory.route(&source()).expect("a route is set");
        let State::Ready(ready) = &route.state else {
            panic!("the route is ready")
        };
        let reserved = self.admission.reserve(record.body.len()).expect("fits");
        let received = Received::new(record, HeaderMap::new());
        self.mapper.map(&ready.plan, received, |received, mapped| {
            let appended = self.lane.append(
                &ready.plan,
                received,
                mapped,
                reserved,
                answering,
                Instant::now(),
            );
            appended.map_err(drop).expect("the lane lives")
        })
    }
}

pub(crate) fn record(body: &str) -> Record {
    Record {
        received_at: Timestamp::from_millis(1_000),
        client_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
        headers: Headers::default(),
        content_type: ContentType::Json,
        body: Bytes::copy_from_slice(body.as_bytes()),
    }
}
