//! Uploads one slice and records the result.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use stream_model::retry::Retry;
use stream_model::slice::{Kind, Slice};
use stream_model::{Clock, ErrorKind};
use stream_node::error_chain;
use stream_state::{Mirror, StateError, Store, Topology, Versioned};
use stream_storage::crash::{self, Point};
use stream_storage::staging::{Content, Staging, StagingError};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::metrics::Metrics;

/// How long an upload waits for the mirror to show its result, so that it is not begun again from an old picture.
const MIRROR_PATIENCE: Duration = Duration::from_secs(2);
/// How long a slice rests whose upload could not be recorded.
const UNRECORDED_PAUSE: Duration = Duration::from_secs(1);

/// After so long without a word from the state it has been reported as lost, and nothing is reported again.
const KNOWN_AWAY: Duration = Duration::from_secs(4);

/// A slice to upload.
pub(super) struct Upload {
    pub(super) slice: Arc<Versioned<Slice>>,
    pub(super) path: PathBuf,
    /// The opening of the volume that completed the file.
    pub(super) incarnation: u64,
}

/// What uploading works with.
pub(super) struct Uploader {
    pub(super) store: Store,
    pub(super) mirror: Mirror,
    pub(super) staging: Staging,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Metrics,
}

impl Uploader {
    /// Uploads a slice unless it has changed since it was listed: it may have waited for its turn.
    pub(super) async fn run_if_newest(&self, upload: Upload) {
        let (id, listed) = (upload.slice.value.id, upload.slice.revision);
        let newest = |topology: &Topology| topology.slice(id).map(|slice| slice.revision);
        if self.mirror.read(newest) == Some(listed) {
            self.run(upload).await;
        }
    }

    /// Uploads a slice and records the result. A failure is recorded with the slice, which is tried again later; what cannot
    /// be recorded either is tried again from the start, which is quick when the object is there.
    async fn run(&self, upload: Upload) {
        let slice = &upload.slice.value;
        let recorded = match self.upload(&upload).await {
            Ok(object) => {
                let at = self.clock.now();
                crash::point(Point::UploadStored);
                self.store
                    .upload_slice(&upload.slice, object, at, upload.incarnation)
                    .await
            }
            Err(failure) => {
                self.metrics.failed();
                let reason = error_chain(&failure);
                let retry = Retry::next(slice.retry.as_ref(), reason, self.clock.now());
                report(slice, &failure, &retry);
                self.store.fail_slice(&upload.slice, retry).await
            }
        };
        match recorded {
            Ok(slice) => {
                crash::point(Point::UploadRecorded);
                let shown = self.mirror.reached(slice.revision);
                // Without it the upload may be begun again, and end with a conflict.
                let _ = tokio::time::timeout(MIRROR_PATIENCE, shown).await;
            }
            Err(error) => {
                note_unrecorded(slice, &error, self.mirror.staleness());
                tokio::time::sleep(UNRECORDED_PAUSE).await;
            }
        }
    }

    async fn upload(&self, upload: &Upload) -> Result<String, StagingError> {
        let slice = &upload.slice.value;
        let seal = slice.seal().expect("only sealed slices are listed");
        let (bytes, checksum) = (seal.figures.bytes, seal.checksum.clone());
        let name = match slice.kind {
            Kind::Rows => Staging::object_name,
            Kind::Rejects => Staging::rejects_name,
        };
        let object = name(&slice.sink, slice.id, &checksum, slice.compression);
        let begun = Instant::now();
        crash::point(Point::UploadStarting);
        self.staging
            .upload(&object, &upload.path, &Content { bytes, checksum })
            .await?;
        self.metrics.uploaded(bytes, begun.elapsed());
        let elapsed_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        debug!(slice = %slice.id, sink = %slice.sink, bytes, elapsed_ms, "slice uploaded");
        Ok(object)
    }
}

fn note_unrecorded(slice: &Slice, error: &StateError, silence: Duration) {
    match error.kind() {
        ErrorKind::Conflict | ErrorKind::NotFound => {
            debug!(slice = %slice.id, %error, "slice was changed during its upload");
        }
        // The mirror has said that the state is away.
        _ if silence > KNOWN_AWAY => {
            debug!(slice = %slice.id, %error, "result of the upload cannot be recorded yet");
        }
        _ => warn!(slice = %slice.id, %error, "result of the upload cannot be recorded yet"),
    }
}

/// Logs a failure when it is news.
fn report(slice: &Slice, failure: &StagingError, retry: &Retry) {
    let (id, sink, reason) = (slice.id, &slice.sink, &retry.reason);
    let previous = slice.retry.as_ref();
    let is_known = previous.is_some_and(|previous| previous.reason == *reason);
    let is_damage = matches!(failure.kind(), ErrorKind::Corrupt | ErrorKind::NotFound);
    match failure.kind() {
        // A writer that opens its volume completes the files anew before it can say so.
        _ if is_damage && !is_known => {
            info!(slice = %id, %sink, reason, "slice file is not whole, its volume may be being opened, will try again");
        }
        _ if is_known && !(is_damage && retry.attempt.is_power_of_two()) => {
            debug!(slice = %id, %sink, reason, attempt = retry.attempt, "upload still failing");
        }
        ErrorKind::Corrupt | ErrorKind::Invalid | ErrorKind::NotFound => {
            error!(slice = %id, %sink, reason, "upload failed and needs attention, will go on trying");
        }
        ErrorKind::Conflict | ErrorKind::Unavailable | ErrorKind::ShuttingDown => {
            warn!(slice = %id, %sink, reason, "upload failed, will go on trying");
        }
    }
}
