#![allow(
    clippy::disallowed_methods,
    reason = "tests join what they spawn, by ending"
)]

use serde_json::json;
use stream_etcd_embedded::{Options as EtcdOptions, Server};
use stream_model::definition::{Settings, Sink, Source};
use stream_model::idempotency::Owner;
use stream_model::level::Defaults;
use stream_model::opening::{self, Opening};
use stream_model::time::ManualClock;
use stream_storage::wire::KeyHash;

use super::*;

const AWAY: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(20);
const SHARD: u8 = 7;

/// A state with a source on two volumes, and the processes that hold them.
struct World {
    _dir: tempfile::TempDir,
    store: Store,
    mirror: Mirror,
    clock: Arc<ManualClock>,
    source: SourceKey,
    /// On either volume.
    slices: Vec<SliceId>,
}

/// A process with one volume.
struct Process {
    owner: KeyOwner,
    lease: Lease,
    incarnation: u64,
}

fn volume(number: u8) -> VolumeId {
    VolumeId::from_bytes([number; 16])
}

fn claim(shard: u8) -> Claim {
    Claim {
        key: KeyHash::from_bytes([shard; 16]),
        body: 1,
    }
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let server = Server::open(EtcdOptions::new(dir.path().join("state"))).expect("opened");
        let endpoint = server.endpoint();
        tokio::spawn(server.run(CancellationToken::new()));
        let client = endpoint.connect(None).await.expect("connected");
        let store = Store::open(client, "test").await.expect("opened");
        let (mirror, task) = Mirror::start(&store).await.expect("started");
        tokio::spawn(task.run(CancellationToken::new()));
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_000_000)));
        let (source, sink) = definitions();
        let key = source.key.clone();
        let (volumes, mut random) = ([volume(1), volume(2)], || rand_bytes());
        let plan = opening::plan(
            &source,
            &sink,
            &Defaults::default(),
            &volumes,
            clock.now(),
            &mut random,
        );
        let Opening { file, slices } = plan;
        let ids = slices.iter().map(|slice| slice.id).collect();
        store.create_source(source).await.expect("created");
        let opening = stream_state::Opening {
            assignment: Some(volumes.to_vec()),
            file,
            slices,
        };
        let created = store.create_sink(sink, Some(opening)).await;
        mirror.reached(created.expect("created").revision).await;
        Self {
            _dir: dir,
            store,
            mirror,
            clock,
            source: key,
            slices: ids,
        }
    }

    async fn set_mode(&self, mode: KeyMode) {
        let levels = Defaults::default().for_table(stream_model::definition::TableKind::Sqlite);
        let changed = self.store.update_source(&self.source, |mut source| {
            let mut settings = Settings::default();
            let set = settings.set(&levels, "idempotency.mode", mode.as_str().into());
            set.expect("it can be set");
            source.settings = settings;
            source.version.number += 1;
            Ok::<_, StateError>(source)
        });
        let revision = changed.await.expect("changed").revision;
        self.mirror.reached(revision).await;
    }

    /// A process that has opened a volume. Its lease is not kept alive.
    async fn process(&self, number: u8) -> Process {
        let lease = self.store.grant_lease(Duration::from_secs(600)).await;
        let lease = lease.expect("granted");
        let node = format!("n{number}").parse().expect("valid");
        let incarnation = self.store.raise_incarnation(volume(number), &node).await;
        let process = Process {
            owner: KeyOwner {
                volume: volume(number),
                fence: Arc::new(Fence::new(self.mirror.clone(), lease.clone())),
                store: self.store.clone(),
                clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
                metrics: Metrics::register(&prometheus::Registry::new()).expect("registered"),
                away_after: AWAY,
                away: Mutex::default(),
            },
            lease,
            incarnation: incarnation.expect("raised"),
        };
        process.register(self).await;
        process
    }

    fn assigned(&self) -> Arc<Assigned> {
        let assigned = |topology: &Topology| topology.sources[&self.source].assignment.clone();
        self.mirror.read(assigned).expect("there are volumes")
    }

    fn owner(&self) -> Owner {
        let owner = self.assigned().owner(&self.source, SHARD);
        owner.expect("there are volumes")
    }

    /// Lets each process look once, and waits until the mirror shows what they did.
    async fn round(&self, processes: &[&Process]) {
        for process in processes {
            process.owner.round().await.expect("the state is there");
            self.follow().await;
        }
    }

    /// Waits until the mirror shows what is stored.
    async fn follow(&self) {
        let stored = self.store.assigned(&self.source).await.expect("read").value;
        let mut revisions = self.mirror.subscribe();
        let follows = async {
            while *self.assigned() != stored {
                revisions.changed().await.expect("the mirror runs");
            }
        };
        let followed = tokio::time::timeout(PATIENCE, follows).await;
        followed.expect("the mirror follows");
    }

    fn may_decide(&self, process: &Process) -> bool {
        let volume = process.owner.volume;
        let slice = self.slices[usize::from(volume == super::tests::volume(2))];
        process
            .owner
            .fence
            .may_decide(volume, slice, &[claim(SHARD)])
    }
}

impl Process {
    async fn register(&self, world: &World) {
        let registration = stream_state::Registration {
            node: "n".parse().expect("valid"),
            kind: "default".to_owned(),
            label: "local".to_owned(),
            incarnation: self.incarnation,
        };
        let volume = self.owner.volume;
        let registered = world
            .store
            .register_volume(&self.lease, volume, registration);
        registered.await.expect("registered");
    }

    async fn unregister(&self, world: &World) {
        let gone = world
            .store
            .unregister_volume(&self.lease, self.owner.volume);
        gone.await.expect("withdrawn");
    }
}

fn rand_bytes() -> [u8; 10] {
    use std::sync::atomic::{AtomicU8, Ordering};
    static NEXT: AtomicU8 = AtomicU8::new(1);
    [NEXT.fetch_add(1, Ordering::Relaxed); 10]
}

fn definitions() -> (Source, Sink) {
    let stamp = json!({"at": "2026-01-01T00:00:00.000Z", "by": {"type": "system"}});
    let version = json!({"number": 1, "hash": "00", "description": "", "at": "2026-01-01T00:00:00.000Z", "by": {"type": "system"}});
    let source = json!({
        "key": {"project": 1, "branch": 1, "source": "orders"},
        "kind": {"type": "http", "secret": "x"},
        "name": "Orders", "description": "", "version": version, "created": stamp,
    });
    let sink = json!({
        "key": {"project": 1, "branch": 1, "source": "orders", "sink": "raw"},
        "name": "Raw", "description": "", "version": version, "created": stamp,
        "table": {"type": "sqlite", "tableId": "t", "mapping": {"columns": [{"type": "body", "name": "body"}]}},
    });
    let read = |value| serde_json::from_value(value);
    (
        read(source).expect("a source"),
        serde_json::from_value(sink).expect("a sink"),
    )
}

#[tokio::test]
async fn in_the_strict_mode_nothing_is_taken_over_and_no_lease_is_asked_for() {
    let world = World::new().await;
    let (one, two) = (world.process(1).await, world.process(2).await);
    let before = world.owner();
    for process in [&one, &two] {
        assert_eq!(
            world.may_decide(process),
            process.owner.volume == before.volume
        );
        process.unregister(&world).await;
        assert_eq!(
            world.may_decide(process),
            process.owner.volume == before.volume
        );
    }
    world.round(&[&one, &two]).await;
    world.clock.advance(AWAY * 2);
    world.round(&[&one, &two]).await;
    assert_eq!(*world.assigned(), Assigned::to(vec![volume(1), volume(2)]));
}

#[tokio::test]
async fn what_a_volume_has_is_taken_over_when_it_has_been_away_for_long_enough_and_stays_there() {
    let world = World::new().await;
    let (one, two) = (world.process(1).await, world.process(2).await);
    world.set_mode(KeyMode::Available).await;
    assert!(!world.may_decide(&one) && !world.may_decide(&two));
    world.round(&[&one, &two]).await;
    assert_eq!(world.assigned().yielding, [volume(1), volume(2)]);
    // What they have said has come back to them.
    world.round(&[&one, &two]).await;
    let before = world.owner();
    let (gone, left) = match before.volume == volume(1) {
        true => (one, two),
        false => (two, one),
    };
    assert!(world.may_decide(&gone) && !world.may_decide(&left));

    gone.unregister(&world).await;
    // It knows that it may be taken for away before anybody can do that.
    assert!(!world.may_decide(&gone));
    world.round(&[&left]).await;
    world.clock.advance(AWAY - Duration::from_millis(1));
    world.round(&[&left]).await;
    assert_eq!(world.owner(), before, "not yet");
    assert!(!world.may_decide(&left));
    world.clock.advance(Duration::from_millis(1));
    world.round(&[&left]).await;
    let after = world.owner();
    assert_eq!(after.volume, left.owner.volume);
    assert_eq!(after.since, Some(world.clock.now()));
    assert!(world.may_decide(&left) && !world.may_decide(&gone));

    // It is back, and has lost what it had.
    gone.register(&world).await;
    world.round(&[&gone, &left]).await;
    assert_eq!(world.owner(), after);
    assert!(world.may_decide(&left) && !world.may_decide(&gone));
    // Whoever is registered anew looks first what was taken over.
    left.unregister(&world).await;
    left.register(&world).await;
    assert!(!world.may_decide(&left));
    world.round(&[&left]).await;
    assert!(world.may_decide(&left));
}

#[tokio::test]
async fn a_volume_that_was_away_for_a_moment_only_keeps_what_it_has() {
    let world = World::new().await;
    let (one, two) = (world.process(1).await, world.process(2).await);
    world.set_mode(KeyMode::Available).await;
    world.round(&[&one, &two]).await;
    let before = world.assigned();
    for _ in 0..3 {
        one.unregister(&world).await;
        world.round(&[&two]).await;
        world.clock.advance(AWAY / 2);
        world.round(&[&two]).await;
        one.register(&world).await;
        world.round(&[&two]).await;
        world.clock.advance(AWAY / 2);
    }
    assert_eq!(world.assigned(), before);
}

#[tokio::test]
async fn a_volume_that_has_not_agreed_is_never_taken_over_from() {
    let world = World::new().await;
    let (one, two) = (world.process(1).await, world.process(2).await);
    one.unregister(&world).await;
    // The mode is set while it is away: it does not know of it, and may still decide.
    world.set_mode(KeyMode::Available).await;
    world.round(&[&two]).await;
    world.clock.advance(AWAY * 2);
    world.round(&[&two]).await;
    let assigned = world.assigned();
    assert_eq!(
        (&assigned.yielding[..], &assigned.moved[..]),
        (&[volume(2)][..], &[][..])
    );
}

#[tokio::test]
async fn back_in_the_strict_mode_a_volume_takes_back_that_it_yields() {
    let world = World::new().await;
    let (one, two) = (world.process(1).await, world.process(2).await);
    world.set_mode(KeyMode::Available).await;
    world.round(&[&one, &two]).await;
    let owner = world.owner().volume;
    let holder = if owner == volume(1) { &one } else { &two };
    world.set_mode(KeyMode::Strict).await;
    holder.unregister(&world).await;
    // As long as the others may believe that it yields it keeps to that.
    assert!(!world.may_decide(holder));
    world.round(&[&one, &two]).await;
    assert_eq!(world.assigned().yielding, []);
    assert!(world.may_decide(holder));
}

/// The question may be carried out although its answer is lost, and long before the mirror shows it.
#[tokio::test]
async fn whoever_asks_to_yield_keeps_to_it_from_then_on() {
    let world = World::new().await;
    let (one, two) = (world.process(1).await, world.process(2).await);
    let owner = world.owner().volume;
    let holder = if owner == volume(1) { &one } else { &two };
    holder.unregister(&world).await;
    assert!(world.may_decide(holder), "no lease is needed yet");
    let duty = Duty {
        source: world.source.clone(),
        mode: KeyMode::Available,
        assigned: world.assigned(),
    };
    let asked = tokio::time::timeout(Duration::ZERO, holder.owner.yield_in(&duty)).await;
    assert!(asked.is_err(), "it was answered at once");
    assert!(!world.may_decide(holder));
}

#[tokio::test]
async fn a_volume_that_is_back_decides_only_when_it_knows_what_was_taken_over() {
    let world = World::new().await;
    let (one, two) = (world.process(1).await, world.process(2).await);
    world.set_mode(KeyMode::Available).await;
    world.round(&[&one, &two]).await;
    let before = world.assigned();
    one.unregister(&world).await;
    world.round(&[&two]).await;
    world.clock.advance(AWAY);
    world.round(&[&two]).await;
    one.register(&world).await;
    let (fence, source) = (&one.owner.fence, &world.source);
    // What its mirror showed a moment ago, and what it shows now.
    for (assigned, is_known) in [(before, false), (world.assigned(), true)] {
        let duty = Duty {
            source: source.clone(),
            mode: KeyMode::Available,
            assigned,
        };
        one.owner.confirm(&duty).await.expect("the state is there");
        assert_eq!(fence.is_confirmed(volume(1), source), is_known);
    }
}
