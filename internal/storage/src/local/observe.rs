//! The look that the flush thread takes at its volume every second: what there is room for, and what is shown to people.
//!
//! Nothing here is done per batch. Commits count bytes up; everything else is summed up here.

use std::sync::atomic::Ordering;

use stream_model::Timestamp;

use super::index::{Index, Stage};
use super::metrics::Observation;
use super::space::Turned;
use super::volume::{Health, Shared};

impl Shared {
    /// Takes a look and shows what it saw. Returns whether the volume has become full since the last one.
    pub fn observe(&self) -> bool {
        match self.disk.free_bytes(&self.dir) {
            Ok(free) => self.free_bytes.store(free, Ordering::Relaxed),
            Err(error) => {
                tracing::warn!(volume = %self.label, error = %error, "cannot read the free space");
            }
        }
        let now = self.clock.now();
        let (observation, turned) = self.observation(now);
        self.metrics.observe(&observation);
        for sink in turned {
            self.report_sink(&sink);
        }
        let before = self.show_health();
        match (&before, self.health()) {
            (Some(_), Health::Full) => {
                let free_bytes = self.free_bytes.load(Ordering::Relaxed);
                let Observation {
                    journal_bytes,
                    slice_bytes,
                    ..
                } = observation;
                tracing::warn!(
                    volume = %self.label, free_bytes, journal_bytes, slice_bytes,
                    "the volume is full and takes no batches until there is room"
                );
                true
            }
            (Some(Health::Full), Health::Healthy) => {
                tracing::info!(volume = %self.label, "the volume has room again");
                false
            }
            _ => false,
        }
    }

    fn observation(&self, now: Timestamp) -> (Observation, Vec<Turned>) {
        let mut index = self.index.lock();
        let Index { slices, space, .. } = &mut *index;
        space.recount(slices.values());
        let (sinks_at_limit, turned) = index.space.look();
        let slices = index.slices.values();
        let oldest = slices
            .clone()
            .filter_map(|slice| slice.figures.first_at)
            .min();
        let open = slices.clone().filter(|slice| slice.stage == Stage::Open);
        let oldest_open = open.filter_map(|slice| slice.figures.first_at).min();
        let age = |at: Option<Timestamp>| at.map_or(0.0, |at| now.since(at).as_secs_f64());
        let observation = Observation {
            journal_bytes: index.usage.bytes(),
            slice_bytes: index.space.bytes(),
            ballast_bytes: self.pool.ballast.bytes(),
            free_bytes: self.free_bytes.load(Ordering::Relaxed),
            queue_bytes: self.queue.bytes() as u64,
            slices: slices.len() as u64,
            sinks_at_limit: sinks_at_limit as u64,
            unsealed_seconds: age(oldest_open),
            unreleased_seconds: age(oldest),
            keys: self.keys.count(),
            key_window_seconds: self.keys.window(now).as_secs_f64(),
        };
        (observation, turned)
    }

    fn report_sink(&self, sink: &Turned) {
        let Turned {
            sink,
            bytes,
            at_limit,
        } = sink;
        if *at_limit {
            tracing::warn!(
                volume = %self.label, sink = %sink, bytes,
                "the sink holds as much on the volume as it may and is refused until slices of it are uploaded"
            );
        } else {
            tracing::info!(volume = %self.label, sink = %sink, bytes, "the sink is below its limit again");
        }
    }
}
