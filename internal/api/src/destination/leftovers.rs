//! Settles changes of destinations whose task did not: its process died, or the Storage API was away.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use stream_model::SinkKey;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Destinations;
use crate::context::Context;
use crate::error::ApiError;
use crate::task::Entity;

/// The pause between two looks.
const PERIOD: Duration = Duration::from_secs(10);
/// The pause while somebody works on a sink with such a change: it is a task, or the lock of a process that is gone, and either
/// ends soon.
const SHORT: Duration = Duration::from_secs(1);

/// What became of one try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tried {
    Settled,
    /// Somebody works on the sink or its source.
    Busy,
}

/// Looks for such changes until the stop.
pub(crate) async fn settle_leftovers(context: Arc<Context>, stop: CancellationToken) {
    let Some(destinations) = &context.destinations else {
        return;
    };
    // Those that were reported.
    let mut failing: BTreeSet<Option<SinkKey>> = BTreeSet::new();
    loop {
        let found = context.store.provisionings().await;
        let found = found.map(|it| it.into_iter().map(|(sink, _)| sink).collect::<Vec<_>>());
        let (mut failed, mut pause) = (BTreeSet::new(), PERIOD);
        match found {
            Ok(sinks) => {
                for sink in sinks {
                    let settled = settle(&context, destinations, &sink);
                    let outcome = tokio::select! {
                        biased;
                        () = stop.cancelled() => return,
                        outcome = settled => outcome,
                    };
                    match outcome {
                        Ok(Tried::Settled) => {}
                        Ok(Tried::Busy) => pause = SHORT,
                        Err(error) => {
                            report(&failing, Some(&sink), &error);
                            failed.insert(Some(sink));
                        }
                    }
                }
            }
            Err(error) => {
                report(&failing, None, &error.into());
                failed.insert(None);
            }
        }
        failing = failed;
        if tokio::time::timeout(pause, stop.cancelled()).await.is_ok() {
            return;
        }
    }
}

/// Settles the change of a sink that nobody works on.
async fn settle(
    context: &Context,
    destinations: &Destinations,
    sink: &SinkKey,
) -> Result<Tried, ApiError> {
    // Tasks of a source change its sinks too.
    let parent = Entity::Source(sink.source.clone());
    let Some(_parent) = context.runner.reserve(&parent).await? else {
        debug!(%sink, "a task is at work on the source");
        return Ok(Tried::Busy);
    };
    let own = Entity::Sink(sink.clone());
    let Some(own) = context.runner.reserve(&own).await? else {
        debug!(%sink, "a task is at work on the sink");
        return Ok(Tried::Busy);
    };
    let state = own.guard(&context.store);
    destinations.settle(&state, sink, None).await?;
    Ok(Tried::Settled)
}

/// Logs a failure when it is news.
fn report(known: &BTreeSet<Option<SinkKey>>, sink: Option<&SinkKey>, error: &ApiError) {
    let sink = sink.cloned();
    if known.contains(&sink) {
        debug!(%error, "still cannot settle what a sink has in its project");
        return;
    }
    let sink = sink.map_or_else(|| "any".to_owned(), |sink| sink.to_string());
    warn!(sink, %error, "cannot settle what a sink has in its project, will go on trying");
}
