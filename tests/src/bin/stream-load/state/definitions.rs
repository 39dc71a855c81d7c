//! The start of a service that has many definitions: how long it takes, and what they cost in memory and on disk.

use std::time::Duration;

use anyhow::{Context, ensure};
use hyper::Method;
use stream_state::{Mirror, Store};
use stream_tests::client::{Api, Connection, PATIENCE, request};
use tokio::time::Instant;

use super::ground::{Ground, Opened, database_bytes, revision};
use super::memory::{self, Footprint};
use super::{Options, StoreKind, median, seed};
use crate::histogram::Histogram;
use crate::machine;

/// Sets of components that can run alone. The coordinator comes last: it may not like to be without volumes.
const PARTS: [&[&str]; 5] = [
    &["api"],
    &["storage-writer"],
    &["storage-reader", "storage-writer"],
    &["http-source", "storage-writer"],
    &["storage-coordinator"],
];
const ALL: &[&str] = &["all"];
/// Mirrors that are made at the same time: the first also pays for what the allocator keeps.
const MIRRORS: u32 = 5;
/// Calls of the API.
const CALLS: u32 = 200;

/// What was found.
pub struct Measured {
    pub sinks: u64,
    /// How long they took to be written.
    pub seeding: Duration,
    /// Bytes of the database without and with them.
    pub database: [u64; 2],
    /// How long the embedded store takes to open its file; none for a real etcd.
    pub opening: Option<Duration>,
    /// How long it takes to read everything into a mirror.
    pub mirroring: Duration,
    /// Bytes of memory of one mirror.
    pub mirror: u64,
    /// The first page of the sinks of a source.
    pub page: Page,
    /// By components.
    pub starts: Vec<Start>,
}

/// A page of a list.
pub struct Page {
    pub latency: Histogram,
    pub calls: u32,
    pub bytes: usize,
}

/// A start on an empty state and on the full one.
pub struct Start {
    pub components: String,
    pub empty: Started,
    pub full: Started,
}

/// A start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Started {
    /// Until it was ready.
    pub ready: Duration,
    /// When it rested.
    pub footprint: Footprint,
    /// Transactions since it last rested: those of the stop before and those of the start.
    pub revisions: i64,
}

/// Seeds a state and starts services on it.
///
/// # Errors
/// When one does not start.
pub async fn measure(options: Options) -> anyhow::Result<Measured> {
    let empty = Site::new(options.store).await?;
    let mut full = Site::new(options.store).await?;
    let sinks = options.sinks;
    eprintln!("writing {sinks} sinks");
    let mut opened = full.ground.open().await?;
    let without = database_bytes(&mut opened.client).await?;
    let start = Instant::now();
    seed::write(&opened.store, sinks, full.volume).await?;
    let seeding = start.elapsed();
    let database = [without, database_bytes(&mut opened.client).await?];
    full.revision = revision(&mut opened.client).await?;
    opened.close().await?;
    let opening = Instant::now();
    let opened = full.ground.open().await?;
    let opening = (options.store == StoreKind::Embedded).then(|| opening.elapsed());
    let (mirroring, mirror) = read_mirrors(&opened.store, sinks).await?;
    close(opened).await?;
    let (starts, page) = start_all(options, empty, full).await?;
    Ok(Measured {
        sinks,
        seeding,
        database,
        opening,
        mirroring,
        mirror,
        page,
        starts,
    })
}

async fn close(opened: Opened) -> anyhow::Result<()> {
    opened.close().await.context("cannot close the state")
}

async fn start_all(
    options: Options,
    mut empty: Site,
    mut full: Site,
) -> anyhow::Result<(Vec<Start>, Page)> {
    let (mut of_empty, mut of_full, mut page) = (Vec::new(), Vec::new(), None);
    for repeat in 1..=options.repeats {
        eprintln!("starting all ({repeat}/{})", options.repeats);
        of_empty.push(empty.start(ALL, None).await?);
        of_full.push(full.start(ALL, Some(&mut page)).await?);
    }
    let mut starts = vec![Start {
        components: ALL.join(" "),
        empty: middle(&of_empty),
        full: middle(&of_full),
    }];
    for components in PARTS {
        let components_name = components.join(" ");
        eprintln!("starting {components_name}");
        starts.push(Start {
            empty: empty.start(components, None).await?,
            full: full.start(components, None).await?,
            components: components_name,
        });
    }
    Ok((starts, page.context("there is at least one start")?))
}

fn middle(starts: &[Started]) -> Started {
    let footprint =
        |value: fn(&Footprint) -> u64| median(starts.iter().map(|s| value(&s.footprint)));
    Started {
        ready: median(starts.iter().map(|start| start.ready)),
        footprint: Footprint {
            cpu_seconds: median(starts.iter().map(|start| start.footprint.cpu_seconds)),
            resident: footprint(|footprint| footprint.resident),
            anonymous: footprint(|footprint| footprint.anonymous),
        },
        revisions: median(starts.iter().map(|start| start.revisions)),
    }
}

/// A ground on which a service has made its volume.
struct Site {
    ground: Ground,
    volume: stream_model::VolumeId,
    /// When the last process rested.
    revision: i64,
}

impl Site {
    async fn new(store: StoreKind) -> anyhow::Result<Self> {
        let ground = Ground::new(store).await?;
        let mut service = ground.start(ALL).await?;
        let (mut client, store) = ground.connect().await?;
        let volumes = store.volumes().await?;
        let volume = volumes.first().context("the service has no volume")?.0;
        let revision = revision(&mut client).await?;
        service.stop().await?;
        Ok(Self {
            ground,
            volume,
            revision,
        })
    }

    /// Starts components, waits until they rest, and stops them. Looks at a page first where one is wanted.
    async fn start(
        &mut self,
        components: &[&str],
        page: Option<&mut Option<Page>>,
    ) -> anyhow::Result<Started> {
        let start = Instant::now();
        let mut service = self.ground.start(components).await?;
        let ready = start.elapsed();
        let footprint = memory::at_rest(service.pid()).await?;
        let (mut client, _) = self.ground.connect().await?;
        let found = revision(&mut client).await?;
        let revisions = found - std::mem::replace(&mut self.revision, found);
        if let Some(page @ None) = page {
            *page = Some(read_pages(&service.api()?).await?);
        }
        service.stop().await?;
        Ok(Started {
            ready,
            footprint,
            revisions,
        })
    }
}

/// Makes mirrors as a service does at its start: how long one takes, and how much memory one has.
async fn read_mirrors(store: &Store, sinks: u64) -> anyhow::Result<(Duration, u64)> {
    let (mut mirrors, mut times, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    let own = std::process::id();
    for _ in 0..MIRRORS {
        let start = Instant::now();
        let (mirror, feed) = Mirror::start(store).await?;
        times.push(start.elapsed());
        // Nothing changes here, so nothing has to be followed.
        drop(feed);
        memory.push(machine::anonymous_memory(own)?);
        let found: usize = mirror.read(|topology| {
            topology
                .sources
                .values()
                .map(|source| source.sinks.len())
                .sum()
        });
        ensure!(found as u64 == sinks, "the mirror shows {found} sinks");
        mirrors.push(mirror);
    }
    let grown = memory.last().unwrap_or(&0).saturating_sub(memory[0]);
    Ok((median(times), grown / u64::from(MIRRORS - 1)))
}

/// Asks for the sinks of one source again and again, on one connection.
async fn read_pages(api: &Api) -> anyhow::Result<Page> {
    let (source, sinks) = seed::sources(seed::MOST_SINKS)
        .next()
        .context("there is one")?;
    let path = format!("/v1/branches/default/sources/{source}/sinks");
    let token = api.token.as_deref().unwrap_or_default();
    let mut connection = Connection::open(api.address).await?;
    let mut page = Page {
        latency: Histogram::new(),
        calls: CALLS,
        bytes: 0,
    };
    let deadline = Instant::now() + PATIENCE;
    for _ in 0..CALLS {
        let mut request = request(Method::GET, &path, "");
        request
            .headers_mut()
            .insert("x-storageapi-token", token.parse()?);
        let start = Instant::now();
        let reply = connection.send(request).await?;
        page.latency.record(start.elapsed());
        let found = reply.json()["sinks"].as_array().map_or(0, Vec::len);
        ensure!(
            reply.status == 200 && found > 0,
            "{path}: {} with {found} of {sinks}",
            reply.status
        );
        ensure!(Instant::now() < deadline, "{path} is too slow");
        page.bytes = reply.body.len();
    }
    Ok(page)
}
