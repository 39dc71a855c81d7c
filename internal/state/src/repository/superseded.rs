//! Learning that a volume is somebody else's now.
//!
//! The number of a volume's incarnation only rises. Whoever holds an older one must not answer for the volume any more: what
//! it commits from then on is in no slice that is imported. Seals and uploads compare the number anyway; this is how a holder
//! notices that has nothing to seal.

use std::time::Duration;

use etcd_client::{WatchOptions, WatchResponse, WatchStream};
use stream_model::VolumeId;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::debug;

use super::volume::Incarnation;
use crate::error::StateError;
use crate::keyspace::Key;
use crate::metrics::Operation;
use crate::mirror::{PROBE, SILENCE};
use crate::store::{RawEntry, Store, Versioned};

/// The longest pause before etcd is asked again. Short: after an outage the holder acknowledges until it has asked.
const PAUSE: Duration = Duration::from_millis(500);

impl Store {
    /// Waits until somebody else has opened the volume, or given it up for lost, since `ours` was opened. Answers which:
    /// `StaleIncarnation` or `Forgotten`. Outlives every failure of etcd; what happened meanwhile is found when it is back.
    ///
    /// # Cancel safety
    /// Safe: the next call begins with what is stored.
    pub async fn superseded(&self, volume: VolumeId, ours: u64) -> StateError {
        loop {
            match self.follow_incarnation(volume, ours).await {
                Ok(superseded) => return superseded,
                // The mirror of the process says that the state is away.
                Err(error) => debug!(%volume, %error, "incarnation cannot be followed"),
            }
            tokio::time::sleep(PAUSE.mul_f64(rand::random_range(0.5..=1.0))).await;
        }
    }

    /// One look and one watch, until the incarnation is another one or the watch fails.
    async fn follow_incarnation(
        &self,
        volume: VolumeId,
        ours: u64,
    ) -> Result<StateError, StateError> {
        let (stored, revision) = self.incarnation_now(volume).await?;
        if stored != Some(ours) {
            return Ok(self.reason(volume, ours, stored).await);
        }
        let mut watch = self.watch_incarnation(volume, revision + 1).await?;
        let mut probe = tokio::time::interval(PROBE);
        probe.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                biased;
                answer = watch.message() => {
                    let answer = answer.map_err(|error| StateError::from_etcd(&error))?;
                    let answer = answer.ok_or_else(|| StateError::unavailable("the watch ended"))?;
                    heard = Instant::now();
                    if let Some(stored) = self.newest(&answer)?.filter(|stored| *stored != Some(ours)) {
                        return Ok(self.reason(volume, ours, stored).await);
                    }
                }
                _ = probe.tick() => {
                    if heard.elapsed() > SILENCE {
                        return Err(StateError::unavailable("the watch fell silent"));
                    }
                    self.ask(Operation::Watch, watch.request_progress()).await?;
                }
            }
        }
    }

    /// The number of the incarnation, and the revision at which that was so.
    async fn incarnation_now(&self, volume: VolumeId) -> Result<(Option<u64>, i64), StateError> {
        let mut kv = self.kv();
        let full = self.full(&Key::Incarnation(volume).to_string());
        let mut answer = self.ask(Operation::Read, kv.get(full, None)).await?;
        let revision = answer
            .header()
            .map_or(0, etcd_client::ResponseHeader::revision);
        let kv = answer.take_kvs().into_iter().next();
        let number = kv.map(|kv| self.number(kv.key(), kv.value(), kv.mod_revision()));
        Ok((number.transpose()?, revision))
    }

    async fn watch_incarnation(
        &self,
        volume: VolumeId,
        revision: i64,
    ) -> Result<WatchStream, StateError> {
        let options = WatchOptions::new().with_start_revision(revision);
        let mut client = self.watch_client();
        let full = self.full(&Key::Incarnation(volume).to_string());
        let opening = client.watch(full, Some(options));
        self.ask(Operation::Watch, opening).await
    }

    /// The number after the last event of an answer; none when it has no event.
    fn newest(&self, answer: &WatchResponse) -> Result<Option<Option<u64>>, StateError> {
        if answer.canceled() {
            let reason = format!("the watch was cancelled: {}", answer.cancel_reason());
            return Err(StateError::unavailable(reason));
        }
        let events = answer.0.events.iter();
        let Some(kv) = events.filter_map(|event| event.kv.as_ref()).next_back() else {
            return Ok(None);
        };
        // A deletion has no value, and no create revision.
        let is_there = kv.create_revision > 0;
        let number = is_there.then(|| self.number(&kv.key, &kv.value, kv.mod_revision));
        number.transpose().map(Some)
    }

    fn number(&self, key: &[u8], value: &[u8], revision: i64) -> Result<u64, StateError> {
        let entry = RawEntry {
            key: self.relative(key),
            value: value.to_owned(),
            revision,
        };
        let stored: Versioned<Incarnation> = entry.decode()?;
        Ok(stored.value.number)
    }

    /// Why the incarnation is another one. That it is is certain, so a failure to learn more changes nothing.
    async fn reason(&self, volume: VolumeId, ours: u64, stored: Option<u64>) -> StateError {
        self.forget_incarnation(volume);
        match self.refuse_forgotten(volume).await {
            Err(forgotten @ StateError::Forgotten { .. }) => forgotten,
            Ok(()) | Err(_) => StateError::StaleIncarnation {
                volume,
                ours,
                newest: stored.unwrap_or(0),
            },
        }
    }
}
