//! One volume from opening to closing, and again after it failed.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use stream_node::{
    Activator, CancellationToken, Reconciler, Schedule, TaskError, error_chain, run_reconciler,
};
use stream_state::{Mirror, Registration, StateError};
use stream_storage::crash::{self, Point};
use stream_storage::local::{Health, Options, Recovery, Volume};
use stream_storage::wire::KeyGate;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::keeper::{Keeper, KeeperParts};
use super::key_owner::KeyOwner;
use super::publish::Publisher;
use super::{Shared, WriterError};
use crate::discover::VolumeDir;

/// The pause before a volume that failed is opened again.
const FIRST_REOPEN_PAUSE: Duration = Duration::from_secs(1);
const MAX_REOPEN_PAUSE: Duration = Duration::from_secs(60);
/// The pause before a volume is tried again that another process has: it may be about to end, and asking costs next to nothing.
const IN_USE_PAUSE: Duration = Duration::from_millis(500);
/// A volume that failed after so long counts as one that failed for the first time.
const STEADY: Duration = Duration::from_secs(60);
/// How long the stop waits for the state to withdraw a registration, which the end of the lease withdraws anyway.
const WITHDRAW_PATIENCE: Duration = Duration::from_secs(2);

/// A volume that is open and reachable.
pub(super) struct Served {
    volume: Volume,
    label: String,
    keeper: Arc<Keeper>,
}

/// Why a volume is not served any more.
enum End {
    /// The process stops.
    Stopped,
    /// Another writer has opened it, or a person has given it up.
    Superseded(StateError),
    /// Its disk failed.
    Failed(String),
}

/// Type and label, for logs and metrics.
pub(super) fn label(dir: &VolumeDir) -> String {
    format!("{}/{}", dir.kind, dir.label)
}

/// Opens a volume, announces it and makes it reachable.
pub(super) async fn open(shared: &Arc<Shared>, dir: &VolumeDir) -> Result<Served, WriterError> {
    let label = label(dir);
    let options = Options {
        dir: dir.path.clone(),
        key_gate: Some(Arc::clone(&shared.fence) as Arc<dyn KeyGate>),
        ..shared.options.volume.clone()
    };
    let opened = tokio::task::spawn_blocking(move || Volume::open(options)).await;
    let opened = opened.expect("opening a volume does not panic, whatever is on its disk");
    let (volume, recovery) = opened.map_err(|source| WriterError::Open {
        label: label.clone(),
        source,
    })?;
    log_recovery(&label, &volume, &recovery);
    crash::point(Point::VolumeRecovered);
    match announce(shared, dir, &label, &volume).await {
        Ok(keeper) => {
            info!(volume = label, id = %volume.id(), "volume opened");
            Ok(Served {
                volume,
                label,
                keeper,
            })
        }
        Err(source) => {
            withdraw(shared, &volume).await;
            volume.stop().await;
            Err(WriterError::State { label, source })
        }
    }
}

async fn announce(
    shared: &Arc<Shared>,
    dir: &VolumeDir,
    label: &str,
    volume: &Volume,
) -> Result<Arc<Keeper>, stream_state::StateError> {
    let incarnation = shared
        .store
        .raise_incarnation(volume.id(), &shared.node)
        .await?;
    crash::point(Point::IncarnationRaised);
    let keeper = Arc::new(Keeper::new(KeeperParts {
        store: shared.store.clone(),
        mirror: shared.mirror.clone(),
        clock: Arc::clone(&shared.clock),
        metrics: shared.metrics.clone(),
        volume: volume.clone(),
        label: label.to_owned(),
        incarnation,
    }));
    // Before it is reachable: the first batches should not meet closed slices.
    keeper.open_slices();
    shared.volumes.add(volume.clone());
    shared.direct.add_incarnation(volume.clone(), incarnation);
    let registration = Registration {
        node: shared.node.clone(),
        kind: dir.kind.clone(),
        label: dir.label.clone(),
        incarnation,
    };
    shared
        .store
        .register_volume(&shared.lease, volume.id(), registration)
        .await?;
    crash::point(Point::VolumeRegistered);
    shared.readiness.served(label);
    Ok(keeper)
}

fn log_recovery(label: &str, volume: &Volume, recovery: &Recovery) {
    let elapsed_ms = u64::try_from(recovery.elapsed.as_millis()).unwrap_or(u64::MAX);
    let (id, slices, rows) = (volume.id(), recovery.slices, recovery.rows);
    if recovery.created {
        info!(volume = label, %id, "volume created");
    } else {
        info!(volume = label, %id, slices, rows, elapsed_ms, "volume recovered");
    }
    for file in &recovery.unknown_files {
        info!(volume = label, file = %file.display(), "unknown file left alone");
    }
    for damage in &recovery.damage {
        warn!(volume = label, %damage, "damage found on the volume");
    }
}

/// Makes a volume unreachable, here and for others. Its connections go on until it is stopped.
async fn withdraw(shared: &Shared, volume: &Volume) {
    let id = volume.id();
    let unregistered = shared.store.unregister_volume(&shared.lease, id);
    match tokio::time::timeout(WITHDRAW_PATIENCE, unregistered).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            warn!(volume = %id, %error, "registration of the volume cannot be withdrawn");
        }
        Err(_) => warn!(volume = %id, "registration of the volume cannot be withdrawn in time"),
    }
    hide(shared, volume);
}

/// Makes a volume unreachable within this process.
fn hide(shared: &Shared, volume: &Volume) {
    shared.direct.remove(volume);
    shared.volumes.remove(volume);
}

/// The volume stays closed for good. Its directory is left as it is: only a person removes data.
pub(super) fn report_forgotten(label: &str, error: &WriterError) {
    error!(
        volume = label,
        error = error_chain(error),
        "volume was forgotten and stays closed, move its directory away"
    );
}

/// Another process has the volume. Said once, however often it is tried again.
pub(super) fn report_in_use(shared: &Shared, label: &str, error: &WriterError) {
    let reason = error.reason();
    shared.readiness.missing(label, reason.clone());
    warn!(
        volume = label,
        reason, "volume is taken over as soon as it is free"
    );
}

/// The volume is somebody else's, or nobody's. It was abandoned already: whatever was queued here is not its any more.
async fn give_up(shared: &Shared, label: &str, volume: &Volume, reason: StateError) {
    let reason = WriterError::State {
        label: label.to_owned(),
        source: reason,
    };
    if reason.is_forgotten() {
        report_forgotten(label, &reason);
    } else {
        error!(
            volume = label,
            error = error_chain(&reason),
            "volume was opened by another writer, it is closed here"
        );
        shared.readiness.missing(label, reason.reason());
    }
    // Only what this process has registered: what the other writer has is left alone.
    withdraw(shared, volume).await;
}

/// How long a volume is left alone that has failed so many times in a row, from 1. Opening is no sign that its disk works: a
/// disk that only fails to write is found out by the first batch.
fn pause_after(failures: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
    FIRST_REOPEN_PAUSE
        .saturating_mul(doubled)
        .min(MAX_REOPEN_PAUSE)
}

/// How the first opening of a volume ended.
pub(super) enum First {
    Served(Served),
    /// Another process has it, which was reported.
    InUse,
    /// It failed, which was reported.
    Failed,
}

/// Serves a volume until the stop, and opens it again whenever it failed.
pub(super) async fn supervise(
    shared: Arc<Shared>,
    dir: VolumeDir,
    first: First,
    cancel: CancellationToken,
) -> Result<(), TaskError> {
    let label = label(&dir);
    // Openings that failed, and volumes that failed soon after.
    let mut failures = u32::from(!matches!(first, First::Served(_)));
    let mut pause = pause_after(failures);
    let mut in_use = matches!(first, First::InUse);
    let mut next = match first {
        First::Served(served) => Some(served),
        First::InUse | First::Failed => None,
    };
    while !cancel.is_cancelled() || next.is_some() {
        if let Some(served) = next.take() {
            let volume = served.volume.clone();
            let since = Instant::now();
            match serve(&shared, served, &cancel).await {
                End::Stopped => {
                    withdraw(&shared, &volume).await;
                    volume.stop().await;
                    info!(volume = label, "volume closed");
                    return Ok(());
                }
                End::Superseded(reason) => {
                    give_up(&shared, &label, &volume, reason).await;
                    return Ok(());
                }
                End::Failed(reason) => {
                    error!(
                        volume = label,
                        reason, "volume failed, it will be opened again"
                    );
                    shared.readiness.missing(&label, reason);
                    withdraw(&shared, &volume).await;
                    volume.stop().await;
                    failures = match since.elapsed() >= STEADY {
                        true => 1,
                        false => failures + 1,
                    };
                    pause = pause_after(failures);
                }
            }
        }
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
        match open(&shared, &dir).await {
            Ok(served) => (next, in_use) = (Some(served), false),
            Err(error) if error.is_forgotten() => {
                report_forgotten(&label, &error);
                return Ok(());
            }
            Err(error) if error.is_in_use() => {
                if !in_use {
                    report_in_use(&shared, &label, &error);
                }
                (in_use, pause) = (true, IN_USE_PAUSE);
            }
            Err(error) => {
                in_use = false;
                let error = error_chain(&error);
                warn!(volume = label, error, "volume still cannot be opened");
                failures += 1;
                pause = pause_after(failures);
            }
        }
    }
    Ok(())
}

/// Runs everything that an open volume needs until it ends.
async fn serve(shared: &Arc<Shared>, served: Served, cancel: &CancellationToken) -> End {
    let Served {
        volume,
        label,
        keeper,
    } = served;
    let stop = cancel.child_token();
    let activator = Activator::new();
    let publisher = Publisher {
        store: shared.store.clone(),
        mirror: shared.mirror.clone(),
        lease: shared.lease.clone(),
        metrics: shared.metrics.clone(),
        volume: volume.clone(),
        label: label.clone(),
    };
    let key_owner = KeyOwner {
        volume: volume.id(),
        fence: Arc::clone(&shared.fence),
        store: shared.store.clone(),
        clock: Arc::clone(&shared.clock),
        metrics: shared.metrics.clone(),
        away_after: shared.options.keys_away_after,
        away: Mutex::default(),
    };
    let schedule = Schedule {
        period: Duration::from_secs(10),
        min_pause: Duration::from_millis(10),
    };
    let reconciler: Arc<dyn Reconciler> = Arc::clone(&keeper) as Arc<dyn Reconciler>;
    let status = shared.status.clone();
    let rounds = run_reconciler(
        reconciler,
        activator.clone(),
        schedule,
        status,
        stop.clone(),
    );
    let watching = async {
        let end = tokio::select! {
            biased;
            () = cancel.cancelled() => End::Stopped,
            reason = keeper.superseded() => {
                // At once: every answer from now on is about rows that are imported nowhere.
                volume.abandon().await;
                End::Superseded(reason)
            }
            reason = follow_health(shared, &label, &volume) => End::Failed(reason),
        };
        stop.cancel();
        end
    };
    let following = follow_mirror(shared.mirror.clone(), activator, &stop);
    let crossed = publisher.publish_crossed(&stop);
    let figures = publisher.publish_figures(&stop);
    let keys = key_owner.run(&stop);
    let (end, _, (), (), (), ()) =
        tokio::join!(watching, rounds, following, crossed, figures, keys);
    end
}

/// Says whether the volume is ready as its disk fails and works again. Ends when the volume has failed for good, with the
/// reason.
async fn follow_health(shared: &Shared, label: &str, volume: &Volume) -> String {
    let mut health = volume.health();
    let mut suspended = false;
    loop {
        let seen = health.borrow_and_update().clone();
        match seen {
            Health::Failed(reason) => return reason,
            Health::Suspended(reason) => {
                shared.readiness.missing(label, reason);
                suspended = true;
            }
            Health::Healthy | Health::Full if suspended => {
                shared.readiness.served(label);
                suspended = false;
            }
            Health::Healthy | Health::Full => {}
        }
        if health.changed().await.is_err() {
            return "the volume is gone".to_owned();
        }
    }
}

async fn follow_mirror(mirror: Mirror, activator: Activator, cancel: &CancellationToken) {
    let mut revisions = mirror.subscribe();
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            changed = revisions.changed() => match changed {
                Ok(()) => activator.activate(),
                Err(_) => return,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_that_fails_again_and_again_is_left_alone_for_longer_and_longer() {
        let pauses: Vec<u64> = (1..=8).map(|n| pause_after(n).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pause_after(u32::MAX), MAX_REOPEN_PAUSE);
    }
}
