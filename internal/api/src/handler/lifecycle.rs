//! Disabling, enabling and undeleting.

use std::sync::Arc;

use stream_model::definition::{Sink, Source, Stamp};
use stream_model::{Secret, SinkKey, SourceKey};
use stream_state::{StateError, Store};

use super::{Refusal, accept};
use crate::context::Context;
use crate::destination::{Wish, with_destinations};
use crate::error::{ApiError, not_found};
use crate::lifecycle::{self, Turn};
use crate::request::Call;
use crate::response::Answer;
use crate::task::{Entity, Kind, Order, work};

/// `PUT B/sources/{source}/disable`
pub(crate) async fn disable_source(
    context: &Arc<Context>,
    call: &Call,
) -> Result<Answer, ApiError> {
    turn_source(context, call, Turn::Off).await
}

/// `PUT B/sources/{source}/enable`
pub(crate) async fn enable_source(context: &Arc<Context>, call: &Call) -> Result<Answer, ApiError> {
    turn_source(context, call, Turn::On).await
}

async fn turn_source(context: &Arc<Context>, call: &Call, turn: Turn) -> Result<Answer, ApiError> {
    let key = call.path.source()?;
    context.source(&key).await?;
    let stamp = call.stamp(context.clock.as_ref());
    let kind = match turn {
        Turn::On => Kind::EnableSource,
        Turn::Off => Kind::DisableSource,
    };
    let context = Arc::clone(context);
    let url = context.urls.of_source(&key);
    let order = Order {
        kind,
        entity: Entity::Source(key.clone()),
        url,
        work: work({
            let context = Arc::clone(&context);
            move |state| store_turned_source(context, state, key, turn, stamp)
        }),
        reservation: None,
    };
    accept(&context, order).await
}

async fn store_turned_source(
    context: Arc<Context>,
    state: Store,
    key: SourceKey,
    turn: Turn,
    stamp: Stamp,
) -> Result<&'static str, ApiError> {
    let gone = || not_found::source(key.source.as_str());
    let tree = state
        .update_source_tree(&key, |source, sinks| {
            if source.deleted.is_some() {
                return Err(Refusal::Api(gone()));
            }
            Ok(lifecycle::turn_source(source, sinks, turn, &stamp))
        })
        .await
        .map_err(|refusal| refusal.or_gone(gone))?;
    context.seen(&tree.source).await;
    Ok(match turn {
        Turn::On => "The source was enabled, and the sinks that were disabled along with it.",
        Turn::Off => {
            "The source and its sinks were disabled; rows received until now are still imported."
        }
    })
}

/// `PUT S/{sink}/disable`
pub(crate) async fn disable_sink(context: &Arc<Context>, call: &Call) -> Result<Answer, ApiError> {
    turn_sink(context, call, Turn::Off).await
}

/// `PUT S/{sink}/enable`
pub(crate) async fn enable_sink(context: &Arc<Context>, call: &Call) -> Result<Answer, ApiError> {
    turn_sink(context, call, Turn::On).await
}

async fn turn_sink(context: &Arc<Context>, call: &Call, turn: Turn) -> Result<Answer, ApiError> {
    let key = call.path.sink()?;
    context.sink(&key).await?;
    let stamp = call.stamp(context.clock.as_ref());
    let kind = match turn {
        Turn::On => Kind::EnableSink,
        Turn::Off => Kind::DisableSink,
    };
    let order = Order {
        kind,
        entity: Entity::Sink(key.clone()),
        url: context.urls.of_sink(&key),
        work: work({
            let context = Arc::clone(context);
            move |state| store_turned_sink(context, state, key, turn, stamp)
        }),
        reservation: None,
    };
    accept(context, order).await
}

async fn store_turned_sink(
    context: Arc<Context>,
    state: Store,
    key: SinkKey,
    turn: Turn,
    stamp: Stamp,
) -> Result<&'static str, ApiError> {
    let gone = || not_found::sink(key.sink.as_str());
    let turned = state
        .update_sink(&key, |sink| {
            if sink.deleted.is_some() {
                return Err(Refusal::Api(gone()));
            }
            Ok(lifecycle::turn_sink(sink, turn, &stamp))
        })
        .await
        .map_err(|refusal| refusal.or_gone(gone))?;
    context.seen(&turned).await;
    Ok(match turn {
        Turn::On => "The sink was enabled.",
        Turn::Off => "The sink was disabled; rows received until now are still imported.",
    })
}

/// `PUT B/sources/{source}/undelete`
pub(crate) async fn undelete_source(
    context: &Arc<Context>,
    call: &Call,
) -> Result<Answer, ApiError> {
    let key = call.path.source()?;
    let source = context.store.source(&key).await?;
    let is_deleted = |source: &Source| source.deleted.is_some() && source.purging.is_none();
    if !source.is_some_and(|source| is_deleted(&source.value)) {
        return Err(not_found::deleted_source(key.source.as_str()));
    }
    let stamp = call.stamp(context.clock.as_ref());
    let order = Order {
        kind: Kind::UndeleteSource,
        entity: Entity::Source(key.clone()),
        url: context.urls.of_source(&key),
        work: work({
            let (context, owner) = (Arc::clone(context), call.owner.clone());
            move |state| store_undeleted_source(context, state, key, stamp, owner)
        }),
        reservation: None,
    };
    accept(context, order).await
}

/// The tables first, as at a creation: they may have been dropped meanwhile.
async fn store_undeleted_source(
    context: Arc<Context>,
    state: Store,
    key: SourceKey,
    stamp: Stamp,
    owner: Option<Secret<String>>,
) -> Result<&'static str, ApiError> {
    let sinks = state.sinks(&key).await?.into_iter().map(|sink| sink.value);
    let along = sinks.filter(|sink| sink.deleted.as_ref().is_some_and(|it| !it.directly));
    let wishes = along
        .map(|sink| Wish::table(sink.key, sink.table))
        .collect();
    let gone = || not_found::deleted_source(key.source.as_str());
    let storing = Box::pin(async {
        let undeleted = state
            .update_source_tree(&key, |source, sinks| {
                if source.deleted.is_none() || source.purging.is_some() {
                    return Err(Refusal::Api(gone()));
                }
                Ok(lifecycle::undelete_source(source, sinks, &stamp))
            })
            .await;
        undeleted.map_err(|refusal| match refusal {
            Refusal::State(StateError::LimitReached { .. }) => super::source::limit_reached(),
            other => other.or_gone(gone),
        })
    });
    let tree = with_destinations(&context, &state, owner.as_ref(), wishes, storing).await?;
    context.seen(&tree.source).await;
    Ok("The source was undeleted, and the sinks that were deleted along with it.")
}

/// `PUT S/{sink}/undelete`
pub(crate) async fn undelete_sink(context: &Arc<Context>, call: &Call) -> Result<Answer, ApiError> {
    let key = call.path.sink()?;
    context.source(&key.source).await?;
    let sink = context.store.sink(&key).await?;
    let is_deleted = |sink: &Sink| sink.deleted.is_some() && sink.purging.is_none();
    if !sink.is_some_and(|sink| is_deleted(&sink.value)) {
        return Err(not_found::deleted_sink(key.sink.as_str()));
    }
    let stamp = call.stamp(context.clock.as_ref());
    let order = Order {
        kind: Kind::UndeleteSink,
        entity: Entity::Sink(key.clone()),
        url: context.urls.of_sink(&key),
        work: work({
            let (context, owner) = (Arc::clone(context), call.owner.clone());
            move |state| store_undeleted_sink(context, state, key, stamp, owner)
        }),
        reservation: None,
    };
    accept(context, order).await
}

async fn store_undeleted_sink(
    context: Arc<Context>,
    state: Store,
    key: SinkKey,
    stamp: Stamp,
    owner: Option<Secret<String>>,
) -> Result<&'static str, ApiError> {
    let gone = || not_found::deleted_sink(key.sink.as_str());
    let deleted = state.sink(&key).await?.ok_or_else(gone)?.value;
    let wishes = vec![Wish::table(deleted.key, deleted.table)];
    let storing = Box::pin(async {
        let revived = state
            .update_sink(&key, |sink| {
                if sink.deleted.is_none() || sink.purging.is_some() {
                    return Err(Refusal::Api(gone()));
                }
                Ok(lifecycle::undelete_sink(sink, &stamp))
            })
            .await;
        revived.map_err(|refusal| match refusal {
            Refusal::State(StateError::LimitReached { .. }) => super::sink::limit_reached(),
            // The sink was found a moment ago: it is its source that went.
            other => other.or_gone(|| not_found::source(key.source.source.as_str())),
        })
    });
    let revived = with_destinations(&context, &state, owner.as_ref(), wishes, storing).await?;
    context.seen(&revived).await;
    Ok("The sink was undeleted.")
}
