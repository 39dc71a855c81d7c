//! Versions of definitions, and the way back to one.

use std::sync::Arc;

use hyper::StatusCode;
use stream_model::definition::Stamp;
use stream_model::{Secret, SinkKey, SourceKey};
use stream_state::Store;

use super::sink::check_primary_key;
use super::{Refusal, accept, next};
use crate::content;
use crate::context::Context;
use crate::destination::{Wish, with_destinations};
use crate::error::{ApiError, not_found};
use crate::input::page::Window;
use crate::input::sink::check;
use crate::request::Call;
use crate::response::{Answer, json};
use crate::task::{Entity, Kind, Order, work};
use crate::view::version::VersionsView;

/// `GET B/sources/{source}/versions`
pub(crate) async fn of_source(context: &Context, call: &Call) -> Result<Answer, ApiError> {
    let key = call.path.source()?;
    let window = Window::read(&call.query)?;
    context.source(&key).await?;
    let versions = context.store.source_versions(&key).await?;
    let versions = versions.into_iter().map(|source| source.version).collect();
    Ok(json(StatusCode::OK, &VersionsView::new(versions, window)?))
}

/// `GET B/sources/{source}/versions/{version}`
pub(crate) async fn one_of_source(context: &Context, call: &Call) -> Result<Answer, ApiError> {
    let (key, number) = (call.path.source()?, call.path.version()?);
    context.source(&key).await?;
    let source = context.store.source_version(&key, number).await?;
    let source = source.ok_or_else(|| not_found::source_version(key.source.as_str(), number))?;
    Ok(json(StatusCode::OK, &source.version))
}

/// `PUT B/sources/{source}/versions/{version}/rollback`
pub(crate) async fn roll_source_back(
    context: &Arc<Context>,
    call: &Call,
) -> Result<Answer, ApiError> {
    let (key, number) = (call.path.source()?, call.path.version()?);
    context.source(&key).await?;
    let version = context.store.source_version(&key, number).await?;
    if version.is_none() {
        return Err(not_found::source_version(key.source.as_str(), number));
    }
    let stamp = call.stamp(context.clock.as_ref());
    let order = Order {
        kind: Kind::RollbackSource,
        entity: Entity::Source(key.clone()),
        url: context.urls.of_source(&key),
        work: work({
            let context = Arc::clone(context);
            move |state| store_source(context, state, key, number, stamp)
        }),
        reservation: None,
    };
    accept(context, order).await
}

/// Name, description and settings go back. The secret does not: it was rotated because somebody knew it.
async fn store_source(
    context: Arc<Context>,
    state: Store,
    key: SourceKey,
    number: u64,
    stamp: Stamp,
) -> Result<&'static str, ApiError> {
    let gone = || not_found::source(key.source.as_str());
    let old = state.source_version(&key, number).await?;
    let old = old.ok_or_else(|| not_found::source_version(key.source.as_str(), number))?;
    let updated = state
        .update_source(&key, |mut source| {
            if source.deleted.is_some() {
                return Err(Refusal::Api(gone()));
            }
            source.name.clone_from(&old.name);
            source.description.clone_from(&old.description);
            source.settings = old.settings.clone();
            let version = next(&source.version, rolled_back(number), &stamp);
            source.version = content::of_source(&source).version(version);
            Ok(source)
        })
        .await
        .map_err(|refusal| refusal.or_gone(gone))?;
    context.seen(&updated).await;
    Ok("The source has the content of that version again.")
}

/// `GET S/{sink}/versions`
pub(crate) async fn of_sink(context: &Context, call: &Call) -> Result<Answer, ApiError> {
    let key = call.path.sink()?;
    let window = Window::read(&call.query)?;
    context.sink(&key).await?;
    let versions = context.store.sink_versions(&key).await?;
    let versions = versions.into_iter().map(|sink| sink.version).collect();
    Ok(json(StatusCode::OK, &VersionsView::new(versions, window)?))
}

/// `GET S/{sink}/versions/{version}`
pub(crate) async fn one_of_sink(context: &Context, call: &Call) -> Result<Answer, ApiError> {
    let (key, number) = (call.path.sink()?, call.path.version()?);
    context.sink(&key).await?;
    let sink = context.store.sink_version(&key, number).await?;
    let sink = sink.ok_or_else(|| not_found::sink_version(key.sink.as_str(), number))?;
    Ok(json(StatusCode::OK, &sink.version))
}

/// `PUT S/{sink}/versions/{version}/rollback`
pub(crate) async fn roll_sink_back(
    context: &Arc<Context>,
    call: &Call,
) -> Result<Answer, ApiError> {
    let (key, number) = (call.path.sink()?, call.path.version()?);
    context.sink(&key).await?;
    let old = context.store.sink_version(&key, number).await?;
    let old = old.ok_or_else(|| not_found::sink_version(key.sink.as_str(), number))?;
    // What was right then may not be now: its target may have gone, or the rules become stricter.
    check(&old.table, &context.targets)?;
    check_primary_key(context, &old.table)?;
    context.templates.check(&old.table.mapping).await?;
    let stamp = call.stamp(context.clock.as_ref());
    let order = Order {
        kind: Kind::RollbackSink,
        entity: Entity::Sink(key.clone()),
        url: context.urls.of_sink(&key),
        work: work({
            let (context, owner) = (Arc::clone(context), call.owner.clone());
            move |state| store_sink(context, state, key, (number, stamp), owner)
        }),
        reservation: None,
    };
    accept(context, order).await
}

/// The table first: a sink whose table cannot be made would take rows that can never be imported.
async fn store_sink(
    context: Arc<Context>,
    state: Store,
    key: SinkKey,
    (number, stamp): (u64, Stamp),
    owner: Option<Secret<String>>,
) -> Result<&'static str, ApiError> {
    let gone = || not_found::sink(key.sink.as_str());
    let old = state.sink_version(&key, number).await?;
    let old = old.ok_or_else(|| not_found::sink_version(key.sink.as_str(), number))?;
    let wishes = vec![Wish::table(key.clone(), old.table.clone())];
    let storing = Box::pin(async {
        let updated = state
            .update_sink(&key, |mut sink| {
                if sink.deleted.is_some() {
                    return Err(Refusal::Api(gone()));
                }
                sink.name.clone_from(&old.name);
                sink.description.clone_from(&old.description);
                sink.table = old.table.clone();
                sink.settings = old.settings.clone();
                let version = next(&sink.version, rolled_back(number), &stamp);
                sink.version = content::of_sink(&sink).version(version);
                Ok(sink)
            })
            .await;
        updated.map_err(|refusal| refusal.or_gone(gone))
    });
    let updated = with_destinations(&context, &state, owner.as_ref(), wishes, storing).await?;
    context.seen(&updated).await;
    Ok("The sink has the content of that version again.")
}

fn rolled_back(number: u64) -> String {
    format!("Rollback to version \"{number}\".")
}
