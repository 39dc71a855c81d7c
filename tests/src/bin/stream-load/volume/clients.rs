//! Who appends to a volume: so many clients with one append outstanding each, all on one thread.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use stream_model::level::Durability;
use stream_model::trigger::UploadTrigger;
use stream_model::unit::{ByteSize, Interval};
use stream_model::{SessionId, SliceId, Timestamp};
use stream_storage::local::{SliceSpec, Volume, VolumeConnection};
use stream_storage::wire::{Answer, Batch, Connection, Opened, Part};
use tokio::task::LocalSet;

use crate::frames::{COMPRESSION, Frames};
use crate::histogram::Histogram;

/// How long a client waits after a refusal.
const PAUSE: Duration = Duration::from_millis(5);

/// A slice that takes rows.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The slice.
    pub id: SliceId,
    /// Number of the next part.
    next: u64,
    outstanding: u32,
    /// Something was refused: what is outstanding must be answered before the numbers are known again.
    lost: bool,
}

/// Opens slices that no trigger will ever rotate. `from` tells them from those of other calls.
pub fn open_slices(volume: &Volume, from: u64, count: u64) -> Vec<Target> {
    let mut rng = StdRng::seed_from_u64(from);
    let mut open = |_| {
        let id = SliceId::from_bytes(rng.random());
        volume.open_slice(SliceSpec {
            id,
            compression: COMPRESSION,
            durability: Durability::Disk,
            trigger: UploadTrigger {
                count: u64::MAX,
                size: ByteSize(u64::MAX),
                interval: Interval::from_secs(1 << 30),
                min_interval: Interval::from_secs(1 << 30),
            },
        });
        Target {
            id,
            next: 1,
            outstanding: 0,
            lost: false,
        }
    };
    (0..count).map(&mut open).collect()
}

/// What came of a time of appending.
#[derive(Debug)]
pub struct Tally {
    /// Appends that were answered as durable.
    pub appends: u64,
    /// Rows in them.
    pub rows: u64,
    /// Bytes of their rows.
    pub raw_bytes: u64,
    /// Bytes of their frames.
    pub frame_bytes: u64,
    /// Appends that were refused.
    pub refused: u64,
    /// From the call to the answer.
    pub latency: Histogram,
}

impl Tally {
    fn new() -> Self {
        Self {
            appends: 0,
            rows: 0,
            raw_bytes: 0,
            frame_bytes: 0,
            refused: 0,
            latency: Histogram::new(),
        }
    }
}

/// The clients of one volume.
pub struct Clients {
    connection: VolumeConnection,
    frames: Frames,
    targets: RefCell<Vec<Target>>,
    rng: RefCell<StdRng>,
    tally: RefCell<Tally>,
    stopped: Cell<bool>,
}

impl Clients {
    /// Clients of `volume` that append to `targets`.
    ///
    /// # Errors
    /// When the volume has stopped.
    pub fn new(volume: &Volume, frames: Frames, targets: Vec<Target>) -> anyhow::Result<Rc<Self>> {
        Ok(Rc::new(Self {
            connection: volume.connect(SessionId(1))?,
            frames,
            targets: RefCell::new(targets),
            rng: RefCell::new(StdRng::seed_from_u64(3)),
            tally: RefCell::new(Tally::new()),
            stopped: Cell::new(false),
        }))
    }

    /// Lets `count` clients append until `enough` is done. What they have outstanding then is waited for and not counted.
    ///
    /// # Errors
    /// When the volume stops.
    pub async fn run<T>(
        self: &Rc<Self>,
        count: u64,
        enough: impl Future<Output = T>,
    ) -> anyhow::Result<(Tally, T)> {
        self.stopped.set(false);
        let local = LocalSet::new();
        let clients: Vec<_> = (0..count)
            .map(|_| local.spawn_local(Rc::clone(self).append_until_stopped()))
            .collect();
        self.tally.replace(Tally::new());
        let end = local.run_until(enough).await;
        let tally = self.tally.replace(Tally::new());
        self.stopped.set(true);
        local.await;
        for client in clients {
            client.await??;
        }
        Ok((tally, end))
    }

    async fn append_until_stopped(self: Rc<Self>) -> anyhow::Result<()> {
        while !self.stopped.get() {
            match self.any_target() {
                Some(position) => self.append(position).await?,
                None => tokio::time::sleep(PAUSE).await,
            }
        }
        Ok(())
    }

    /// A slice whose next number is known.
    fn any_target(&self) -> Option<usize> {
        let (targets, mut rng) = (self.targets.borrow(), self.rng.borrow_mut());
        let mut choose = || rng.random_range(0..targets.len());
        (0..8).map(|_| choose()).find(|at| !targets[*at].lost)
    }

    async fn append(&self, position: usize) -> anyhow::Result<()> {
        let frame = self.frames.any(&mut self.rng.borrow_mut());
        let (rows, raw, packed) = (frame.rows, frame.raw_bytes, frame.bytes.len());
        let part = {
            let target = &mut self.targets.borrow_mut()[position];
            target.next += 1;
            target.outstanding += 1;
            Part {
                slice: target.id,
                seq: target.next - 1,
                rows,
                raw_bytes: raw,
                first_at: Timestamp::from_millis(0),
                last_at: Timestamp::from_millis(1),
                compression: COMPRESSION,
                frame: frame.bytes,
            }
        };
        let start = Instant::now();
        let answer = self
            .connection
            .append(Batch {
                parts: vec![part],
                keys: Vec::new(),
            })
            .await;
        self.targets.borrow_mut()[position].outstanding -= 1;
        match answer.context("the volume stopped")? {
            Answer::Committed => {
                let tally = &mut *self.tally.borrow_mut();
                tally.latency.record(start.elapsed());
                tally.appends += 1;
                tally.rows += u64::from(rows);
                tally.raw_bytes += u64::from(raw);
                tally.frame_bytes += packed as u64;
                Ok(())
            }
            Answer::Refused(_) => self.refused(position).await,
            Answer::Sealed(_) => bail!("a slice was sealed"),
            Answer::KnownKeys(_) => bail!("a batch without keys has known ones"),
        }
    }

    /// Learns the next number again, once nothing is outstanding, and gives the volume a moment.
    async fn refused(&self, position: usize) -> anyhow::Result<()> {
        self.tally.borrow_mut().refused += 1;
        let (id, outstanding) = {
            let target = &mut self.targets.borrow_mut()[position];
            target.lost = true;
            (target.id, target.outstanding)
        };
        tokio::time::sleep(PAUSE).await;
        if outstanding == 0 {
            let opened = self.connection.open(vec![id]).await?;
            let Some(Opened::Last(last)) = opened.get(&id) else {
                return Err(anyhow!("slice {id} is not open any more"));
            };
            let target = &mut self.targets.borrow_mut()[position];
            target.next = last + 1;
            target.lost = false;
        }
        Ok(())
    }
}
