//! Fills a volume and leaves it as a killed process does.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use serde::{Deserialize, Serialize};
use stream_model::time::SystemClock;
use stream_storage::local::{self, Volume};

use super::Case;
use crate::frames::Frames;
use crate::volume::{Clients, Target, open_slices};

/// Bytes of a sealed slice: where the default trigger rotates.
const SLICE_BYTES: u64 = 50 << 20;
/// Rows of an append to a slice that is to be sealed: enough that the frame is kept as it is.
const STORED_ROWS: u64 = 1_000;
/// Slices that are filled at a time.
const FILLED_AT_ONCE: u64 = 8;
/// Appends that are outstanding.
const CLIENTS: u64 = 256;
/// How often the length of the journal is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// What is on a volume.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Filled {
    /// Slices.
    pub slices: u64,
    /// Rows in them.
    pub rows: u64,
    /// Bytes of the journal.
    pub journal_bytes: u64,
}

/// Fills a new volume.
///
/// # Errors
/// When it refuses something.
pub fn run(case: &Case, dir: &Path) -> anyhow::Result<Filled> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    runtime.block_on(async {
        if case.stored > 0 {
            store(case.stored << 30, dir).await?;
        }
        fill_journal(case, dir).await
    })
}

/// Adds sealed slices, and takes them out of the journal.
async fn store(bytes: u64, dir: &Path) -> anyhow::Result<()> {
    let (volume, _) = Volume::open(local::Options {
        // Small, so that little is left in the journal.
        checkpoint_bytes: 64 << 20,
        ..options(dir)
    })?;
    for from in (0..bytes.div_ceil(SLICE_BYTES)).step_by(FILLED_AT_ONCE as usize) {
        let targets = open_slices(&volume, 1_000_000 + from, FILLED_AT_ONCE);
        let clients = Clients::new(&volume, Frames::new(STORED_ROWS, 1_024)?, targets.clone())?;
        let full = FILLED_AT_ONCE * SLICE_BYTES;
        append_until(&clients, 16, || bytes_in(&volume, &targets) >= full).await?;
        for target in &targets {
            volume.seal(target.id, None).await?;
        }
    }
    volume.stop().await;
    Ok(())
}

fn bytes_in(volume: &Volume, targets: &[Target]) -> u64 {
    targets
        .iter()
        .filter_map(|target| volume.slice(target.id))
        .map(|status| status.figures.bytes)
        .sum()
}

/// Fills the journal without a checkpoint.
async fn fill_journal(case: &Case, dir: &Path) -> anyhow::Result<Filled> {
    let (volume, _) = Volume::open(local::Options {
        checkpoint_bytes: u64::MAX,
        max_journal_bytes: u64::MAX,
        ..options(dir)
    })?;
    let targets = open_slices(&volume, 1, case.slices);
    let clients = Clients::new(&volume, Frames::new(case.rows, 1_024)?, targets)?;
    let before = volume.status().journal_bytes;
    let enough = case.journal << 20;
    append_until(&clients, CLIENTS, || {
        volume.status().journal_bytes.saturating_sub(before) >= enough
    })
    .await?;
    let filled = Filled {
        slices: volume.slices().len() as u64,
        rows: volume.figures().rows,
        journal_bytes: volume.status().journal_bytes,
    };
    volume.abandon().await;
    Ok(filled)
}

async fn append_until(
    clients: &Rc<Clients>,
    count: u64,
    enough: impl Fn() -> bool,
) -> anyhow::Result<()> {
    let watch = async {
        while !enough() {
            tokio::time::sleep(LOOK).await;
        }
    };
    let (tally, ()) = clients.run(count, watch).await?;
    ensure!(tally.appends > 0, "nothing was appended");
    Ok(())
}

fn options(dir: &Path) -> local::Options {
    local::Options::new(dir.to_owned(), Arc::new(SystemClock))
}
