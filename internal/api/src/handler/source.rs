//! Sources.

use std::sync::Arc;

use hyper::StatusCode;
use stream_model::definition::sink::Switch;
use stream_model::definition::source::{SECRET_LEN, SourceKind};
use stream_model::definition::{MAX_CHILDREN, Settings, Source};
use stream_model::{Secret, SourceKey};
use stream_state::{StateError, Store};

use super::{Refusal, accept, first, next};
use crate::content;
use crate::context::Context;
use crate::destination::{Wish, with_destinations};
use crate::error::{ApiError, Code, not_found};
use crate::input::page::Window;
use crate::input::source::NewSource;
use crate::purge;
use crate::request::Call;
use crate::response::{Answer, json};
use crate::task::{Done, Entity, Kind, Order, work};
use crate::token::random_text;
use crate::view::page::cut;
use crate::view::source::{SourceView, SourcesView};

/// `GET B/sources`
pub(crate) async fn list(context: &Context, call: &Call) -> Result<Answer, ApiError> {
    let branch = call.path.branch()?;
    let window = Window::read(&call.query)?;
    let sources: Vec<Source> = live(context, &branch).await?;
    let (page, sources) = cut(sources, window, |source| source.key.source.as_str());
    let views = sources
        .iter()
        .map(|source| SourceView::new(source, &context.urls))
        .collect();
    Ok(json(
        StatusCode::OK,
        &SourcesView::new(&branch, page, views),
    ))
}

pub(super) async fn live(
    context: &Context,
    branch: &stream_model::BranchKey,
) -> Result<Vec<Source>, ApiError> {
    let sources = context.store.sources(branch).await?;
    let sources = sources.into_iter().map(|source| source.value);
    Ok(sources.filter(|source| source.deleted.is_none()).collect())
}

/// `GET B/sources/deleted`
pub(crate) async fn list_deleted(context: &Context, call: &Call) -> Result<Answer, ApiError> {
    let branch = call.path.branch()?;
    let window = Window::read(&call.query)?;
    let sources = context.store.sources(&branch).await?.into_iter();
    let deleted = sources.map(|source| source.value);
    let deleted: Vec<Source> = deleted.filter(is_deleted).collect();
    let (page, sources) = cut(deleted, window, |source| source.key.source.as_str());
    let views = sources
        .iter()
        .map(|source| SourceView::new(source, &context.urls))
        .collect();
    Ok(json(
        StatusCode::OK,
        &SourcesView::new(&branch, page, views),
    ))
}

/// Whether it can be brought back.
fn is_deleted(source: &Source) -> bool {
    source.deleted.is_some() && source.purging.is_none()
}

/// `GET B/sources/{source}`
pub(crate) async fn get(context: &Context, call: &Call) -> Result<Answer, ApiError> {
    let source = context.source(&call.path.source()?).await?;
    Ok(json(
        StatusCode::OK,
        &SourceView::new(&source, &context.urls),
    ))
}

/// `POST B/sources`
pub(crate) async fn create(context: &Arc<Context>, call: &Call) -> Result<Answer, ApiError> {
    let branch = call.path.branch()?;
    let new = NewSource::read(&call.body)?;
    let key = SourceKey {
        branch,
        source: new.id.clone(),
    };
    let entity = Entity::Source(key.clone());
    let reservation = context.runner.reserve(&entity).await?;
    let reservation = reservation.ok_or_else(|| in_work(&key))?;
    if let Some(old) = context.store.source(&key).await?
        && old.value.purging.is_some()
    {
        return Err(in_work(&key));
    }
    let sources = live(context, &branch).await?;
    if sources.iter().any(|source| source.key == key) {
        return Err(already_exists(&key));
    }
    if sources.len() >= MAX_CHILDREN {
        return Err(limit_reached());
    }
    let source = define(call, key.clone(), new, context);
    let order = Order {
        kind: Kind::CreateSource,
        entity,
        url: context.urls.of_source(&key),
        work: work({
            let context = Arc::clone(context);
            move |state| store(context, state, source)
        }),
        reservation: Some(reservation),
    };
    accept(context, order).await
}

fn define(call: &Call, key: SourceKey, new: NewSource, context: &Context) -> Source {
    let NewSource {
        name, description, ..
    } = new;
    let stamp = call.stamp(context.clock.as_ref());
    let mut source = Source {
        version: first("New source.".to_owned(), &stamp),
        key,
        kind: SourceKind::Http {
            secret: Secret::new(random_text(SECRET_LEN)),
        },
        name,
        description,
        created: stamp,
        disabled: None,
        deleted: None,
        purging: None,
        settings: Settings::default(),
    };
    source.version = content::of_source(&source).version(source.version.clone());
    source
}

async fn store(
    context: Arc<Context>,
    state: Store,
    source: Source,
) -> Result<&'static str, ApiError> {
    let key = source.key.clone();
    match state.create_source(source).await {
        Ok(created) => context.seen(&created).await,
        Err(StateError::AlreadyExists { .. }) => return Err(already_exists(&key)),
        Err(StateError::LimitReached { .. }) => return Err(limit_reached()),
        Err(error) => return Err(error.into()),
    }
    Ok("The source was created.")
}

/// `DELETE B/sources/{source}`
pub(crate) async fn delete(context: &Arc<Context>, call: &Call) -> Result<Answer, ApiError> {
    let key = call.path.source()?;
    let cascade = call.query.flag("cascade")?;
    check_deletable(context, &key, cascade).await?;
    let switch = Switch {
        stamp: call.stamp(context.clock.as_ref()),
        directly: true,
    };
    let order = Order {
        kind: Kind::DeleteSource,
        entity: Entity::Source(key.clone()),
        url: context.urls.of_source(&key),
        work: {
            let (context, owner) = (Arc::clone(context), call.owner.clone());
            match cascade {
                true => work(move |state| purge_source(context, state, key, switch, owner)),
                false => work(move |state| mark_deleted(context, state, key, switch, owner)),
            }
        },
        reservation: None,
    };
    accept(context, order).await
}

/// What is being purged is deleted, and may be asked to be purged again.
async fn check_deletable(
    context: &Context,
    key: &SourceKey,
    cascade: bool,
) -> Result<(), ApiError> {
    let source = context.store.source(key).await?;
    if cascade && source.is_some_and(|source| source.value.purging.is_some()) {
        return Ok(());
    }
    context.source(key).await.map(|_| ())
}

async fn purge_source(
    context: Arc<Context>,
    state: Store,
    key: SourceKey,
    switch: Switch,
    owner: Option<Secret<String>>,
) -> Result<Done, ApiError> {
    let sinks = state.sinks(&key).await?.into_iter();
    let wishes = sinks.map(|sink| Wish::purged(sink.value)).collect();
    let beginning = Box::pin(async {
        let begun = state.begin_source_purge(&key, switch).await;
        begun.map_err(|error| match error {
            StateError::NotFound { .. } => not_found::source(key.source.as_str()),
            error => error.into(),
        })
    });
    let begun = with_destinations(&context, &state, owner.as_ref(), wishes, beginning).await?;
    context.seen(&begun.source).await;
    let (discarded, outcome) = purge::source(&context, &state, &key).await;
    let sentence = "The source and its sinks were purged with their versions, their tables and all rows that were not imported yet.";
    Ok(Done {
        outcome: outcome.map(|()| sentence),
        discarded: Some(discarded),
    })
}

async fn mark_deleted(
    context: Arc<Context>,
    state: Store,
    key: SourceKey,
    switch: Switch,
    owner: Option<Secret<String>>,
) -> Result<&'static str, ApiError> {
    let sinks = state.sinks(&key).await?.into_iter();
    let live = sinks.filter(|sink| sink.value.deleted.is_none());
    let wishes = live.map(|sink| Wish::nothing(sink.value.key)).collect();
    let storing = Box::pin(async {
        let deleted = state.delete_source(&key, switch).await;
        deleted.map_err(|error| match error {
            StateError::NotFound { .. } => not_found::source(key.source.as_str()),
            error => error.into(),
        })
    });
    let deleted = with_destinations(&context, &state, owner.as_ref(), wishes, storing).await?;
    context.seen(&deleted.source).await;
    Ok("The source and its sinks were deleted; rows received until now are still imported.")
}

/// `POST B/sources/{source}/rotate-secret`
///
/// Not a task: whoever has to lock an intruder out wants to know at once that it is done. Records that come with the old
/// secret are refused as soon as the HTTP sources have seen the change, usually within milliseconds.
pub(crate) async fn rotate_secret(context: &Arc<Context>, call: &Call) -> Result<Answer, ApiError> {
    let key = call.path.source()?;
    let gone = || not_found::source(key.source.as_str());
    let stamp = call.stamp(context.clock.as_ref());
    let rotated = context
        .store
        .update_source(&key, |mut source| {
            if source.deleted.is_some() {
                return Err(Refusal::Api(gone()));
            }
            source.kind = SourceKind::Http {
                secret: Secret::new(random_text(SECRET_LEN)),
            };
            let version = next(&source.version, "Rotated secret.".to_owned(), &stamp);
            source.version = content::of_source(&source).version(version);
            Ok(source)
        })
        .await
        .map_err(|refusal| refusal.or_gone(gone))?;
    context.seen(&rotated).await;
    Ok(json(
        StatusCode::OK,
        &SourceView::new(&rotated.value, &context.urls),
    ))
}

fn already_exists(key: &SourceKey) -> ApiError {
    let message = format!(
        "Source {:?} exists already in the branch; choose another \"sourceId\".",
        key.source.as_str()
    );
    ApiError::new(Code::SourceAlreadyExists, message)
}

/// Somebody creates, changes or deletes it at this moment.
fn in_work(key: &SourceKey) -> ApiError {
    let message = format!(
        "Source {:?} is being created or changed by another request; look at it in a moment, or choose another \"sourceId\".",
        key.source.as_str()
    );
    ApiError::new(Code::SourceAlreadyExists, message)
}

pub(super) fn limit_reached() -> ApiError {
    let message =
        format!("The branch has {MAX_CHILDREN} sources, which is the limit; delete one first.");
    ApiError::new(Code::SourceCountLimitReached, message)
}
