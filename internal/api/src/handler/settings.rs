//! Settings of sources and sinks.

use std::sync::Arc;

use hyper::StatusCode;
use stream_encoding::CompiledMapping;
use stream_model::definition::mapping::DataType;
use stream_model::definition::settings::KEY_PATH;
use stream_model::definition::{Column, ColumnKind, Mapping, Settings, Stamp};
use stream_model::{SinkKey, SourceKey};
use stream_state::Store;

use super::{Refusal, accept, next};
use crate::content;
use crate::context::Context;
use crate::error::{ApiError, not_found};
use crate::input::settings::Changes;
use crate::request::Call;
use crate::response::{Answer, json};
use crate::task::{Entity, Kind, Order, work};
use crate::view::settings::SettingsView;

/// `GET B/sources/{source}/settings`
pub(crate) async fn of_source(context: &Context, call: &Call) -> Result<Answer, ApiError> {
    let source = context.source(&call.path.source()?).await?;
    let view = SettingsView::of_source(
        &source.settings,
        &context.default_levels(None),
        context.catalogue(),
    );
    Ok(json(StatusCode::OK, &view))
}

/// `GET S/{sink}/settings`
pub(crate) async fn of_sink(context: &Context, call: &Call) -> Result<Answer, ApiError> {
    let (source, sink) = context.sink(&call.path.sink()?).await?;
    let inherited = source
        .settings
        .apply(&context.default_levels(Some(sink.table.kind)));
    Ok(json(
        StatusCode::OK,
        &SettingsView::of_sink(&sink.settings, &inherited, context.catalogue()),
    ))
}

/// `PATCH B/sources/{source}/settings`
pub(crate) async fn change_source(context: &Arc<Context>, call: &Call) -> Result<Answer, ApiError> {
    let key = call.path.source()?;
    let changes = Changes::read(&call.body)?;
    let source = context.source(&key).await?;
    let levels = context.default_levels(None);
    check_key_path(&changes.apply(&source.settings, &levels, context.catalogue())?)?;
    let stamp = call.stamp(context.clock.as_ref());
    let order = Order {
        kind: Kind::UpdateSourceSettings,
        entity: Entity::Source(key.clone()),
        url: context.urls.of_source(&key),
        work: work({
            let context = Arc::clone(context);
            move |state| update_source(context, state, key, changes, stamp)
        }),
        reservation: None,
    };
    accept(context, order).await
}

async fn update_source(
    context: Arc<Context>,
    state: Store,
    key: SourceKey,
    changes: Changes,
    stamp: Stamp,
) -> Result<&'static str, ApiError> {
    let gone = || not_found::source(key.source.as_str());
    let levels = context.default_levels(None);
    let updated = state
        .update_source(&key, |mut source| {
            if source.deleted.is_some() {
                return Err(Refusal::Api(gone()));
            }
            source.settings = changes
                .apply(&source.settings, &levels, context.catalogue())
                .map_err(Refusal::Api)?;
            let version = next(&source.version, changes.description.clone(), &stamp);
            source.version = content::of_source(&source).version(version);
            Ok(source)
        })
        .await
        .map_err(|refusal| refusal.or_gone(gone))?;
    context.seen(&updated).await;
    Ok("The settings of the source were changed.")
}

/// `PATCH S/{sink}/settings`
pub(crate) async fn change_sink(context: &Arc<Context>, call: &Call) -> Result<Answer, ApiError> {
    let key = call.path.sink()?;
    let changes = Changes::read(&call.body)?;
    changes.refuse_settings_of_sources()?;
    let (_, sink) = context.sink(&key).await?;
    changes.apply(
        &sink.settings,
        &context.default_levels(Some(sink.table.kind)),
        context.catalogue(),
    )?;
    let stamp = call.stamp(context.clock.as_ref());
    let order = Order {
        kind: Kind::UpdateSinkSettings,
        entity: Entity::Sink(key.clone()),
        url: context.urls.of_sink(&key),
        work: work({
            let context = Arc::clone(context);
            move |state| update_sink(context, state, key, changes, stamp)
        }),
        reservation: None,
    };
    accept(context, order).await
}

/// The new version makes the coordinator rotate the sink's file, so that the settings count for the rows from now on.
async fn update_sink(
    context: Arc<Context>,
    state: Store,
    key: SinkKey,
    changes: Changes,
    stamp: Stamp,
) -> Result<&'static str, ApiError> {
    let gone = || not_found::sink(key.sink.as_str());
    let updated = state
        .update_sink(&key, |mut sink| {
            if sink.deleted.is_some() {
                return Err(Refusal::Api(gone()));
            }
            let levels = context.default_levels(Some(sink.table.kind));
            sink.settings = changes
                .apply(&sink.settings, &levels, context.catalogue())
                .map_err(Refusal::Api)?;
            let version = next(&sink.version, changes.description.clone(), &stamp);
            sink.version = content::of_sink(&sink).version(version);
            Ok(sink)
        })
        .await
        .map_err(|refusal| refusal.or_gone(gone))?;
    context.seen(&updated).await;
    Ok("The settings of the sink were changed.")
}

/// Refuses a path for keys that the source could not read: it would refuse every record.
fn check_key_path(settings: &Settings) -> Result<(), ApiError> {
    let Some(path) = settings.key_path() else {
        return Ok(());
    };
    let kind = ColumnKind::Path {
        path: path.to_owned(),
        default_value: None,
        raw_string: false,
    };
    let column = Column {
        kind,
        name: KEY_PATH.to_owned(),
        primary_key: false,
        data_type: DataType::String,
    };
    let columns = vec![column];
    let compiled = CompiledMapping::compile(&Mapping { columns });
    compiled.map(drop).map_err(|error| {
        let reason = error.to_string();
        ApiError::bad_request(format!("Setting {KEY_PATH:?} is not a path: {reason}."))
    })
}
