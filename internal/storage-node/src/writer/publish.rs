//! Tells the state what is on a volume: at once which slices have reached a limit, and now and then how much there is.
//!
//! A report that cannot be recorded is tried again for as long as it takes: without it the slice would wait for the next
//! start. The volume reports each slice once, so what is waiting is bounded by its slices.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use stream_model::statistics::{Crossed, Figures, VolumeFigures};
use stream_model::{ErrorKind, VolumeId};
use stream_node::CancellationToken;
use stream_state::{Lease, Mirror, Store};
use stream_storage::local::{CrossedSlice, Volume};
use tracing::{debug, warn};

use super::metrics::Metrics;

/// Reports that are being recorded at the same time.
const CONCURRENT_REPORTS: usize = 16;
/// The pause before a failed report is tried again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// The pause between two publications of a volume's figures.
const FIGURES_PERIOD: Duration = Duration::from_secs(10);

/// What publishing works with.
#[derive(Clone)]
pub(crate) struct Publisher {
    pub(crate) store: Store,
    pub(crate) mirror: Mirror,
    pub(crate) lease: Lease,
    pub(crate) metrics: Metrics,
    pub(crate) volume: Volume,
    pub(crate) label: String,
}

impl Publisher {
    /// Records slices that have reached a limit, until cancelled.
    pub(crate) async fn publish_crossed(&self, cancel: &CancellationToken) {
        let mut reports = FuturesUnordered::new();
        loop {
            self.metrics
                .crossed_waiting
                .set(i64::try_from(reports.len()).unwrap_or(i64::MAX));
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                Some(()) = reports.next() => {}
                crossed = self.volume.next_crossed(), if reports.len() < CONCURRENT_REPORTS => {
                    self.metrics.crossed.inc();
                    reports.push(self.report(crossed));
                }
            }
        }
    }

    async fn report(&self, crossed: CrossedSlice) {
        let volume = self.volume.id();
        let mut pause = FIRST_PAUSE;
        loop {
            let Some(report) = self.crossed(volume, &crossed) else {
                // Its record is gone, or was never there: nobody would read the report.
                debug!(slice = %crossed.slice, "slice that reached a limit has no record");
                return;
            };
            match self.store.put_crossed(report).await {
                Ok(_) => return,
                Err(error)
                    if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Conflict) =>
                {
                    debug!(slice = %crossed.slice, %error, "reached limit cannot be recorded yet");
                }
                // The volume reports a slice once, so giving up would leave its rows where they are.
                Err(error) if pause == FIRST_PAUSE => {
                    warn!(slice = %crossed.slice, %error, "reached limit cannot be recorded, will go on trying");
                }
                Err(error) => {
                    debug!(slice = %crossed.slice, %error, "reached limit still cannot be recorded");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    fn crossed(&self, volume: VolumeId, crossed: &CrossedSlice) -> Option<Crossed> {
        let sink = self.mirror.read(|topology| {
            topology
                .slice(crossed.slice)
                .map(|slice| slice.value.sink.clone())
        })?;
        Some(Crossed {
            sink,
            slice: crossed.slice,
            volume,
            reason: crossed.reason,
            figures: crossed.figures,
            later_hours: crossed.later_hours.clone(),
            at: crossed.at,
        })
    }

    /// Publishes how much is on the volume whenever it has changed, until cancelled.
    pub(crate) async fn publish_figures(&self, cancel: &CancellationToken) {
        let mut published = None;
        loop {
            let figures = self.figures();
            if published != Some(figures) {
                match self
                    .store
                    .publish_figures(&self.lease, self.volume.id(), figures)
                    .await
                {
                    Ok(()) => published = Some(figures),
                    Err(error) => {
                        debug!(volume = self.label, %error, "figures cannot be published yet");
                    }
                }
            }
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(FIGURES_PERIOD) => {}
            }
        }
    }

    fn figures(&self) -> VolumeFigures {
        let slices = self.volume.slices();
        let mut figures = Figures::default();
        for slice in &slices {
            figures.add(&slice.figures);
        }
        // Rounded down: the last bytes change all the time and interest nobody.
        let free_bytes = self.volume.status().free_bytes >> 26 << 26;
        VolumeFigures {
            slices: slices.len() as u64,
            figures,
            free_bytes,
        }
    }
}
