//! The protocol on a wire that is a pipe in memory. What it means for records is tested with the http-source.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::stream::poll_fn;
use parking_lot::Mutex;
use prometheus::Registry;
use proptest::prelude::*;
use stream_model::level::Compression;
use stream_model::{SessionId, SliceId, Timestamp, VolumeId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::message::{Denial, Hello, Reply, Request};
use super::*;
use crate::wire::{
    Answer, Batch, Claim, KeyHash, KnownKey, Opened, Part, Pending, Refusal, RefusalReason, Sealed,
    Transport, Unknown,
};

fn slice(n: u8) -> SliceId {
    SliceId::from_bytes([n; 16])
}

fn volume() -> VolumeId {
    VolumeId::from_bytes([9; 16])
}

fn batch(seq: u64, len: usize) -> Batch {
    let part = Part {
        slice: slice(1),
        seq,
        rows: 1,
        raw_bytes: 1,
        first_at: Timestamp::from_millis(1),
        last_at: Timestamp::from_millis(2),
        compression: Compression::None,
        frame: Bytes::from(vec![b'x'; len]),
    };
    Batch {
        parts: vec![part],
        keys: Vec::new(),
    }
}

/// A volume that notes what it gets and answers when it is told to.
#[derive(Default)]
struct Desk {
    got: Mutex<Vec<(u64, oneshot::Sender<Answer>)>>,
    count: watch::Sender<usize>,
}

impl Desk {
    async fn has(&self, count: usize) {
        let mut seen = self.count.subscribe();
        seen.wait_for(|seen| *seen >= count)
            .await
            .expect("it lives");
    }

    /// Answers what it got last.
    fn answer_last(&self, answer: Answer) {
        let (_, reply) = self.got.lock().pop().expect("it got something");
        reply.send(answer).expect("somebody waits");
    }

    fn numbers(&self) -> Vec<u64> {
        self.got.lock().iter().map(|(seq, _)| *seq).collect()
    }
}

struct DeskConnection(Arc<Desk>);

impl Connection for DeskConnection {
    fn append(&self, batch: Batch) -> Pending<Answer> {
        let (reply, pending) = Pending::channel();
        self.0.got.lock().push((batch.parts[0].seq, reply));
        self.0.count.send_modify(|count| *count += 1);
        pending
    }

    fn open(&self, slices: Vec<SliceId>) -> Pending<BTreeMap<SliceId, Opened>> {
        let (reply, pending) = Pending::channel();
        let opened = slices.into_iter().map(|slice| (slice, Opened::Last(7)));
        reply.send(opened.collect()).expect("just made");
        pending
    }
}

#[async_trait]
impl Admit for Arc<Desk> {
    async fn admit(&self, caller: Caller) -> Result<Box<dyn Connection>, ConnectError> {
        match caller.incarnation {
            3 => Ok(Box::new(DeskConnection(Arc::clone(self)))),
            4 => Err(ConnectError::Closed {
                volume: caller.volume,
                reason: "it is broken".to_owned(),
            }),
            _ => Err(ConnectError::NoRoute(caller.volume)),
        }
    }
}

/// A writer and a way to it.
struct Rig {
    desk: Arc<Desk>,
    network: Network,
    stop: CancellationToken,
    incarnation: Arc<Mutex<Option<u64>>>,
    serving: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
}

struct Pipes(mpsc::UnboundedSender<io::Result<tokio::io::DuplexStream>>);

#[async_trait]
impl Dial for Pipes {
    async fn dial(&self, host: &str, port: u16) -> io::Result<Box<dyn Duplex>> {
        assert_eq!((host, port), ("writer", 6000));
        let (near, far) = tokio::io::duplex(64 << 10);
        let refused = |_| io::Error::from(io::ErrorKind::ConnectionRefused);
        self.0.send(Ok(far)).map_err(refused)?;
        Ok(Box::new(near))
    }
}

struct OneRoute(Arc<Mutex<Option<u64>>>);

impl Routes for OneRoute {
    fn find(&self, _: VolumeId) -> Option<Route> {
        Some(Route {
            address: "writer:6000".to_owned(),
            incarnation: (*self.0.lock())?,
        })
    }

    fn doubt(&self) {}
}

impl Rig {
    #[allow(
        clippy::disallowed_methods,
        reason = "both ends run beside the test, which joins what matters"
    )]
    fn new() -> Self {
        let (pipes, mut far) = mpsc::unbounded_channel();
        let desk = Arc::new(Desk::default());
        let stop = CancellationToken::new();
        let options = NetworkOptions::default();
        let registry = Registry::new();
        let serving = tokio::spawn(serve(
            Arc::new(Arc::clone(&desk)),
            poll_fn(move |cx| far.poll_recv(cx)),
            options,
            ServerMetrics::register(&registry).expect("new"),
            stop.clone(),
        ));
        let incarnation = Arc::new(Mutex::new(Some(3)));
        let routes = OneRoute(Arc::clone(&incarnation));
        let metrics = ClientMetrics::register(&registry).expect("new");
        let (network, task) =
            Network::new(Arc::new(routes), Arc::new(Pipes(pipes)), options, metrics);
        tokio::spawn(task.run(CancellationToken::new()));
        Self {
            desk,
            network,
            stop,
            incarnation,
            serving,
        }
    }

    async fn connect(&self) -> Result<Box<dyn Connection>, ConnectError> {
        self.network.connect(volume(), SessionId(5)).await
    }
}

/// What should take no time. An answer that never comes fails the test instead of holding it up.
async fn soon<T>(work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(std::time::Duration::from_secs(30), work).await;
    done.expect("it takes no time")
}

fn refused(reason: RefusalReason) -> Answer {
    Answer::Refused(Refusal {
        reason,
        expected: BTreeMap::new(),
    })
}

#[tokio::test]
async fn batches_arrive_in_order_and_answers_find_their_batch_in_any() {
    let rig = Rig::new();
    let connection = rig.connect().await.expect("connected");
    let mut answers: Vec<_> = (1..=50)
        .map(|seq| connection.append(batch(seq, 10_000)))
        .collect();
    rig.desk.has(50).await;
    assert_eq!(rig.desk.numbers(), (1..=50).collect::<Vec<_>>());
    rig.desk
        .answer_last(refused(RefusalReason::SinkFull(slice(2))));
    let last = answers.pop().expect("there are 50").await;
    assert_eq!(last, Ok(refused(RefusalReason::SinkFull(slice(2)))));
    rig.desk.answer_last(Answer::Committed);
    let last = answers.pop().expect("there were 50").await;
    assert_eq!(last, Ok(Answer::Committed));
    let opened = connection.open(vec![slice(1), slice(2)]).await;
    let expected = [1, 2].map(|n| (slice(n), Opened::Last(7)));
    assert_eq!(opened, Ok(BTreeMap::from(expected)));
}

#[tokio::test]
async fn a_batch_longer_than_every_buffer_on_the_way_arrives() {
    let rig = Rig::new();
    let connection = rig.connect().await.expect("connected");
    let answer = connection.append(batch(1, 40 << 20));
    rig.desk.has(1).await;
    rig.desk.answer_last(Answer::Committed);
    assert_eq!(answer.await, Ok(Answer::Committed));
}

#[tokio::test]
async fn what_is_not_served_is_told_apart_by_type() {
    let rig = Rig::new();
    let told = async |incarnation| {
        *rig.incarnation.lock() = incarnation;
        rig.connect().await.map(drop).expect_err("it is not served")
    };
    assert_eq!(told(None).await, ConnectError::NoRoute(volume()));
    assert_eq!(told(Some(2)).await, ConnectError::NoRoute(volume()));
    let closed = ConnectError::Closed {
        volume: volume(),
        reason: "it is broken".to_owned(),
    };
    assert_eq!(told(Some(4)).await, closed);
    // The channel is as good as before.
    *rig.incarnation.lock() = Some(3);
    rig.connect().await.map(drop).expect("connected");
}

#[tokio::test]
async fn an_answer_that_will_not_come_makes_everything_without_one_unknown() {
    let rig = Rig::new();
    let connection = rig.connect().await.expect("connected");
    let answers: Vec<_> = (1..=3)
        .map(|seq| connection.append(batch(seq, 1)))
        .collect();
    rig.desk.has(3).await;
    let forgotten = rig.desk.got.lock().remove(1);
    drop(forgotten);
    for answer in answers {
        assert_eq!(soon(answer).await, Err(Unknown));
    }
    // Also what is sent on it afterwards.
    assert_eq!(connection.append(batch(4, 1)).await, Err(Unknown));
    assert_eq!(connection.open(vec![slice(1)]).await, Err(Unknown));
    rig.connect().await.map(drop).expect("connected again");
}

#[tokio::test]
async fn a_connection_that_is_dropped_leaves_its_batches_unknown() {
    let rig = Rig::new();
    let connection = rig.connect().await.expect("connected");
    let answer = connection.append(batch(1, 1));
    rig.desk.has(1).await;
    drop(connection);
    assert_eq!(answer.await, Err(Unknown));
}

#[tokio::test]
async fn a_writer_that_stops_answers_what_it_has_and_refuses_the_rest_for_certain() {
    let rig = Rig::new();
    let connection = rig.connect().await.expect("connected");
    let first = connection.append(batch(1, 1));
    rig.desk.has(1).await;
    rig.stop.cancel();
    // Until it has said goodbye more may be sent, and is answered too.
    let mut sent = 1;
    let refusal = loop {
        let mut answer = connection.append(batch(99, 1));
        let got = rig.desk.has(sent + 1);
        let late = tokio::time::sleep(std::time::Duration::from_secs(30));
        tokio::select! {
            biased;
            answer = &mut answer => break answer,
            () = got => sent += 1,
            () = late => panic!("it says no goodbye"),
        }
    };
    assert_eq!(refusal, Ok(refused(RefusalReason::Stopping)));
    while !rig.desk.got.lock().is_empty() {
        rig.desk.answer_last(Answer::Committed);
    }
    assert_eq!(first.await, Ok(Answer::Committed));
    let served = soon(rig.serving).await.expect("no panic");
    served.expect("it ends by itself");
    let gone = connection.append(batch(99, 1)).await;
    assert!(
        gone == Err(Unknown) || gone == Ok(refused(RefusalReason::Stopping)),
        "{gone:?}"
    );
}

#[tokio::test]
async fn what_may_wait_is_bounded_and_the_rest_refused_for_certain() {
    let rig = Rig::new();
    let connection = rig.connect().await.expect("connected");
    let half = MAX_OUTSTANDING_BYTES / 2;
    let first = connection.append(batch(1, half));
    let second = connection.append(batch(2, half));
    let third = soon(connection.append(batch(3, 1))).await;
    assert_eq!(third, Ok(refused(RefusalReason::Overloaded)));
    rig.desk.has(2).await;
    rig.desk.answer_last(Answer::Committed);
    assert_eq!(second.await, Ok(Answer::Committed));
    let third = connection.append(batch(3, 1));
    rig.desk.has(3).await;
    rig.desk.answer_last(Answer::Committed);
    assert_eq!(third.await, Ok(Answer::Committed));
    drop(first);
}

#[tokio::test]
async fn a_writer_of_another_version_is_named_so() {
    let registry = Registry::new();
    let rig = Rig::new();
    let (pipes, mut far) = mpsc::unbounded_channel();
    let channel = tonic::transport::Endpoint::from_static("http://writer:6000");
    let dial = Arc::new(Pipes(pipes));
    let channel = channel.connect_with_connector_lazy(tower::service_fn(move |_| {
        let dial = Arc::clone(&dial);
        async move {
            let pipe = dial.dial("writer", 6000).await;
            pipe.map(hyper_util::rt::TokioIo::new)
        }
    }));
    let serving = serve(
        Arc::new(Arc::clone(&rig.desk)),
        poll_fn(move |cx| far.poll_recv(cx)),
        NetworkOptions::default(),
        ServerMetrics::register(&registry).expect("new"),
        CancellationToken::new(),
    );
    let hello = Request::Hello(Hello {
        oldest: 8,
        newest: 9,
        session: SessionId(1),
        volume: volume(),
        incarnation: 3,
    });
    let asking = async {
        let mut grpc = tonic::client::Grpc::new(channel);
        grpc.ready().await.expect("connected");
        let path = tonic::codegen::http::uri::PathAndQuery::from_static(PATH);
        let requests = futures_util::stream::iter([hello]);
        let codec = super::codec::Messages::<Request, Reply>::new();
        let replies = grpc.streaming(tonic::Request::new(requests), path, codec);
        let mut replies = replies.await.expect("answered").into_inner();
        let reply = replies.message().await.expect("a message");
        let versions = Denial::Version {
            oldest: 1,
            newest: 1,
        };
        assert_eq!(reply, Some(Reply::Denied(versions)));
        assert_eq!(replies.message().await.expect("the end"), None);
    };
    tokio::select! {
        _ = serving => panic!("it serves until it is stopped"),
        () = asking => {}
    }
}

fn ids() -> impl Strategy<Value = SliceId> {
    any::<[u8; 16]>().prop_map(SliceId::from_bytes)
}

fn parts() -> impl Strategy<Value = Part> {
    let compression = prop_oneof![
        Just(Compression::None),
        any::<u8>().prop_map(|level| Compression::Gzip { level }),
        any::<u8>().prop_map(|level| Compression::Zstd { level }),
    ];
    let numbers = any::<(u64, u32, u32, i64, i64)>();
    let frame = proptest::collection::vec(any::<u8>(), 0..200);
    (ids(), numbers, compression, frame).prop_map(|(slice, numbers, compression, frame)| {
        let (seq, rows, raw_bytes, first_at, last_at) = numbers;
        Part {
            slice,
            seq,
            rows,
            raw_bytes,
            first_at: Timestamp::from_millis(first_at),
            last_at: Timestamp::from_millis(last_at),
            compression,
            frame: Bytes::from(frame),
        }
    })
}

fn claims() -> impl Strategy<Value = Claim> {
    any::<([u8; 16], u64)>().prop_map(|(key, body)| Claim {
        key: KeyHash::from_bytes(key),
        body,
    })
}

fn batches() -> impl Strategy<Value = Batch> {
    let parts = proptest::collection::vec(parts(), 0..5);
    let keys = proptest::collection::vec(claims(), 0..5);
    (parts, keys).prop_map(|(parts, keys)| Batch { parts, keys })
}

fn requests() -> impl Strategy<Value = Request> {
    let hello = (any::<(u16, u16, u64, u64)>(), any::<[u8; 16]>());
    prop_oneof![
        hello.prop_map(|((oldest, newest, session, incarnation), volume)| {
            Request::Hello(Hello {
                oldest,
                newest,
                session: SessionId(session),
                volume: VolumeId::from_bytes(volume),
                incarnation,
            })
        }),
        (any::<u64>(), batches()).prop_map(|(id, batch)| Request::Append { id, batch }),
        (any::<u64>(), proptest::collection::vec(ids(), 0..9))
            .prop_map(|(id, slices)| Request::Open { id, slices }),
    ]
}

fn reasons() -> impl Strategy<Value = RefusalReason> {
    (0..11_u8, ids()).prop_map(|(n, slice)| match n {
        0 => RefusalReason::UnknownSlice(slice),
        1 => RefusalReason::OutOfOrder,
        2 => RefusalReason::TooManySessions(slice),
        3 => RefusalReason::DiskFull,
        4 => RefusalReason::VolumeFull,
        5 => RefusalReason::SinkFull(slice),
        6 => RefusalReason::Overloaded,
        7 => RefusalReason::WriteFailed,
        8 => RefusalReason::Superseded,
        9 => RefusalReason::Stopping,
        10 => RefusalReason::KeysElsewhere,
        _ => RefusalReason::Malformed("it breaks a rule that the log of the writer names"),
    })
}

fn replies() -> impl Strategy<Value = Reply> {
    let sealed = || {
        let known = (any::<u64>(), proptest::option::of(ids()));
        known.prop_map(|(last, successor)| Sealed { last, successor })
    };
    let opened = prop_oneof![
        any::<u64>().prop_map(Opened::Last),
        sealed().prop_map(Opened::Sealed),
        Just(Opened::UnknownSlice),
    ];
    let expected = proptest::collection::btree_map(ids(), any::<u64>(), 0..5);
    let answer = prop_oneof![
        Just(Answer::Committed),
        proptest::collection::btree_map(ids(), sealed(), 0..5).prop_map(Answer::Sealed),
        (reasons(), expected)
            .prop_map(|(reason, expected)| Answer::Refused(Refusal { reason, expected })),
        proptest::collection::vec(any::<(u32, u64)>(), 0..5).prop_map(|keys| {
            let known = |(position, body)| KnownKey { position, body };
            Answer::KnownKeys(keys.into_iter().map(known).collect())
        }),
    ];
    let window = proptest::option::of(0..100_000_u32);
    let denial = prop_oneof![
        Just(Denial::NoRoute),
        ".{0,30}".prop_map(Denial::Closed),
        any::<(u16, u16)>().prop_map(|(oldest, newest)| Denial::Version { oldest, newest }),
    ];
    prop_oneof![
        any::<u16>().prop_map(|version| Reply::Welcome { version }),
        denial.prop_map(Reply::Denied),
        (any::<u64>(), window, answer).prop_map(|(id, window, answer)| Reply::Answer {
            id,
            window,
            answer
        }),
        (
            any::<u64>(),
            proptest::collection::btree_map(ids(), opened, 0..5)
        )
            .prop_map(|(id, opened)| Reply::Opened { id, opened }),
        Just(Reply::Goodbye),
    ]
}

fn bytes_of(request: Request) -> Bytes {
    let len = request.len();
    let mut out = BytesMut::new();
    request.write(&mut out);
    assert_eq!(out.len(), len, "the length is known beforehand");
    out.freeze()
}

proptest! {
    #[test]
    fn a_request_is_read_as_it_was_written(request in requests()) {
        let text = format!("{request:?}");
        let read = Request::read(&mut bytes_of(request)).expect("it is one");
        prop_assert_eq!(format!("{:?}", read), text);
    }

    #[test]
    fn a_reply_is_read_as_it_was_written(reply in replies()) {
        let mut out = BytesMut::new();
        reply.write(&mut out);
        prop_assert_eq!(Reply::read(&mut out.freeze()).expect("it is one"), reply);
    }

    #[test]
    fn a_request_that_is_cut_or_goes_on_is_none(request in requests(), cut in any::<proptest::sample::Index>()) {
        let whole = bytes_of(request);
        let cut = cut.index(whole.len());
        prop_assert!(Request::read(&mut whole.slice(..cut)).is_err());
        let mut longer = BytesMut::from(&whole[..]);
        longer.extend_from_slice(&[0]);
        prop_assert!(Request::read(&mut longer.freeze()).is_err());
    }

    #[test]
    fn a_batch_that_changed_on_the_way_is_none(
        batch in batches().prop_filter("one with parts", |batch| !batch.parts.is_empty()),
        place in any::<proptest::sample::Index>(),
        bit in 0..8,
    ) {
        let whole = bytes_of(Request::Append { id: 1, batch });
        let mut changed = BytesMut::from(&whole[..]);
        // Kind and number are the stream's own business: an unknown number is an answer that nobody waits for.
        let place = 9 + place.index(whole.len() - 9);
        changed[place] ^= 1_u8 << bit;
        prop_assert!(Request::read(&mut changed.freeze()).is_err());
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 0..7_u8) {
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() {
            *first = kind;
        }
        let bytes = Bytes::from(bytes);
        let _ = Request::read(&mut bytes.clone());
        let _ = Reply::read(&mut bytes.clone());
    }
}

#[test]
fn a_count_that_the_message_cannot_hold_is_refused_before_anything_is_made() {
    for kind in [2, 3] {
        let mut bytes = vec![kind];
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(&u32::MAX.to_le_bytes());
        bytes.extend_from_slice(&[0; 64]);
        let read = Request::read(&mut Bytes::from(bytes));
        assert!(matches!(read, Err(super::message::Garbled::Short)));
    }
}
