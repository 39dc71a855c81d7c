//! One volume from opening to closing, and again after it failed.

use std::sync::Arc;
use std::time::Duration;

use stream_model::VolumeId;
use stream_node::{
    Activator, CancellationToken, Reconciler, Schedule, TaskError, error_chain, run_reconciler,
};
use stream_state::{Mirror, Registration};
use stream_storage::local::{Health, Options, Recovery, Volume};
use tracing::{error, info, warn};

use super::keeper::{Keeper, KeeperParts};
use super::publish::Publisher;
use super::{Shared, WriterError};
use crate::discover::VolumeDir;

/// The pause before a volume that failed is opened again.
const FIRST_REOPEN_PAUSE: Duration = Duration::from_secs(1);
const MAX_REOPEN_PAUSE: Duration = Duration::from_secs(60);
/// How often a volume is asked for its health.
const HEALTH_PERIOD: Duration = Duration::from_secs(2);
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
    /// Another writer has opened it.
    Superseded,
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
        ..shared.options.volume.clone()
    };
    let opened = tokio::task::spawn_blocking(move || Volume::open(options)).await;
    let opened = opened.expect("opening a volume does not panic, whatever is on its disk");
    let (volume, recovery) = opened.map_err(|source| WriterError::Open {
        label: label.clone(),
        source,
    })?;
    log_recovery(&label, &volume, &recovery);
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
            withdraw(shared, volume.id()).await;
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
    shared.direct.add(volume.clone());
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
async fn withdraw(shared: &Shared, volume: VolumeId) {
    let unregistered = shared.store.unregister_volume(&shared.lease, volume);
    match tokio::time::timeout(WITHDRAW_PATIENCE, unregistered).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(%volume, %error, "registration of the volume cannot be withdrawn"),
        Err(_) => warn!(%volume, "registration of the volume cannot be withdrawn in time"),
    }
    hide(shared, volume);
}

/// Makes a volume unreachable within this process.
fn hide(shared: &Shared, volume: VolumeId) {
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

/// Serves a volume until the stop, and opens it again whenever it failed.
pub(super) async fn supervise(
    shared: Arc<Shared>,
    dir: VolumeDir,
    first: Option<Served>,
    cancel: CancellationToken,
) -> Result<(), TaskError> {
    let (label, mut next, mut pause) = (label(&dir), first, FIRST_REOPEN_PAUSE);
    while !cancel.is_cancelled() || next.is_some() {
        if let Some(served) = next.take() {
            let volume = served.volume.clone();
            match serve(&shared, served, &cancel).await {
                End::Stopped => {
                    withdraw(&shared, volume.id()).await;
                    volume.stop().await;
                    info!(volume = label, "volume closed");
                    return Ok(());
                }
                End::Superseded => {
                    error!(
                        volume = label,
                        "volume was opened by another writer, it is closed here"
                    );
                    shared
                        .readiness
                        .missing(&label, "opened by another writer".to_owned());
                    // The registration is the other writer's now, and whatever is queued here is not this volume's any more.
                    hide(&shared, volume.id());
                    volume.abandon().await;
                    return Ok(());
                }
                End::Failed(reason) => {
                    error!(
                        volume = label,
                        reason, "volume failed, it will be opened again"
                    );
                    shared.readiness.missing(&label, reason);
                    withdraw(&shared, volume.id()).await;
                    volume.stop().await;
                    pause = FIRST_REOPEN_PAUSE;
                }
            }
        }
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
        match open(&shared, &dir).await {
            Ok(served) => next = Some(served),
            Err(error) if error.is_forgotten() => {
                report_forgotten(&label, &error);
                return Ok(());
            }
            Err(error) => {
                let error = error_chain(&error);
                warn!(volume = label, error, "volume still cannot be opened");
                pause = (pause * 2).min(MAX_REOPEN_PAUSE);
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
        label,
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
            () = keeper.superseded() => End::Superseded,
            reason = failure(&volume) => End::Failed(reason),
        };
        stop.cancel();
        end
    };
    let following = follow_mirror(shared.mirror.clone(), activator, &stop);
    let crossed = publisher.publish_crossed(&stop);
    let figures = publisher.publish_figures(&stop);
    let (end, _, (), (), ()) = tokio::join!(watching, rounds, following, crossed, figures);
    end
}

/// Ends when the volume has failed, with the reason.
async fn failure(volume: &Volume) -> String {
    loop {
        if let Health::Failed(reason) = volume.status().health {
            return reason;
        }
        tokio::time::sleep(HEALTH_PERIOD).await;
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
