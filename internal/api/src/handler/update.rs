//! Changes of the content of sources and sinks: name, description, table.

use std::sync::Arc;

use stream_model::definition::Stamp;
use stream_model::{Secret, SinkKey, SourceKey};
use stream_state::Store;

use super::sink::check_primary_key;
use super::{Refusal, accept, next};
use crate::content;
use crate::context::Context;
use crate::destination::{Wish, with_destinations};
use crate::error::{ApiError, not_found};
use crate::input::sink::{SinkChange, check};
use crate::input::source::SourceChange;
use crate::request::Call;
use crate::response::Answer;
use crate::task::{Entity, Kind, Order, work};

/// `PATCH B/sources/{source}`
pub(crate) async fn source(context: &Arc<Context>, call: &Call) -> Result<Answer, ApiError> {
    let key = call.path.source()?;
    let change = SourceChange::read(&call.body)?;
    context.source(&key).await?;
    let stamp = call.stamp(context.clock.as_ref());
    let order = Order {
        kind: Kind::UpdateSource,
        entity: Entity::Source(key.clone()),
        url: context.urls.of_source(&key),
        work: work({
            let context = Arc::clone(context);
            move |state| store_source(context, state, key, change, stamp)
        }),
        reservation: None,
    };
    accept(context, order).await
}

async fn store_source(
    context: Arc<Context>,
    state: Store,
    key: SourceKey,
    change: SourceChange,
    stamp: Stamp,
) -> Result<&'static str, ApiError> {
    let gone = || not_found::source(key.source.as_str());
    let updated = state
        .update_source(&key, |mut source| {
            if source.deleted.is_some() {
                return Err(Refusal::Api(gone()));
            }
            change
                .texts
                .apply(&mut source.name, &mut source.description);
            let version = next(&source.version, change.texts.version.clone(), &stamp);
            source.version = content::of_source(&source).version(version);
            Ok(source)
        })
        .await
        .map_err(|refusal| refusal.or_gone(gone))?;
    context.seen(&updated).await;
    Ok("The source was changed.")
}

/// `PATCH S/{sink}`
pub(crate) async fn sink(context: &Arc<Context>, call: &Call) -> Result<Answer, ApiError> {
    let key = call.path.sink()?;
    let change = SinkChange::read(&call.body)?;
    let (_, sink) = context.sink(&key).await?;
    let table = change.table.over(&sink.table);
    check(&table, &context.targets)?;
    check_primary_key(context, &table)?;
    if change.table.has_mapping() {
        context.templates.check(&table.mapping).await?;
    }
    let stamp = call.stamp(context.clock.as_ref());
    let order = Order {
        kind: Kind::UpdateSink,
        entity: Entity::Sink(key.clone()),
        url: context.urls.of_sink(&key),
        work: work({
            let (context, owner) = (Arc::clone(context), call.owner.clone());
            move |state| store_sink(context, state, key, (change, stamp), owner)
        }),
        reservation: None,
    };
    accept(context, order).await
}

/// The table first: a sink whose table cannot be made would take rows that can never be imported. The new version makes
/// the coordinator close the sink's file, so that rows of the old mapping are imported under the old one.
async fn store_sink(
    context: Arc<Context>,
    state: Store,
    key: SinkKey,
    (change, stamp): (SinkChange, Stamp),
    owner: Option<Secret<String>>,
) -> Result<&'static str, ApiError> {
    let gone = || not_found::sink(key.sink.as_str());
    let current = state.sink(&key).await?.ok_or_else(gone)?;
    let table = change.table.over(&current.value.table);
    // An earlier task may have changed it since the request was checked.
    check(&table, &context.targets)?;
    let wishes = vec![Wish::table(key.clone(), table)];
    let storing = Box::pin(async {
        let updated = state
            .update_sink(&key, |mut sink| {
                if sink.deleted.is_some() {
                    return Err(Refusal::Api(gone()));
                }
                change.texts.apply(&mut sink.name, &mut sink.description);
                sink.table = change.table.over(&sink.table);
                let version = next(&sink.version, change.texts.version.clone(), &stamp);
                sink.version = content::of_sink(&sink).version(version);
                Ok(sink)
            })
            .await;
        updated.map_err(|refusal| refusal.or_gone(gone))
    });
    let updated = with_destinations(&context, &state, owner.as_ref(), wishes, storing).await?;
    context.seen(&updated).await;
    Ok("The sink was changed.")
}
