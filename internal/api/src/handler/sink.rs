//! Sinks.

use std::sync::Arc;

use hyper::StatusCode;
use stream_model::definition::sink::Switch;
use stream_model::definition::{MAX_CHILDREN, Settings, Sink, Source, Table};
use stream_model::placement::{Candidate, assign};
use stream_model::{Secret, SinkKey, SourceKey, VolumeId, opening, rejects};
use stream_state::keyspace::Key;
use stream_state::{Opening, StateError, Store, Versioned};
use tracing::{debug, info};

use super::{accept, first};
use crate::content;
use crate::context::Context;
use crate::destination::{Wish, with_destinations};
use crate::error::{ApiError, Code, not_found};
use crate::input::page::Window;
use crate::input::sink::NewSink;
use crate::purge;
use crate::request::Call;
use crate::response::{Answer, json};
use crate::task::{Done, Entity, Kind, Order, work};
use crate::token::random_bytes;
use crate::view::page::cut;
use crate::view::sink::{SinkView, SinksView};

/// How often a sink is created together with its first file. Then without: the coordinator opens what has none.
const OPENING_TRIES: u32 = 3;

/// The most volumes of a sink whose slices for rejected records are opened together with it.
const MAX_WITH_REJECTS: usize = 50;

/// `GET S`
pub(crate) async fn list(context: &Context, call: &Call) -> Result<Answer, ApiError> {
    let key = call.path.source()?;
    let window = Window::read(&call.query)?;
    context.source(&key).await?;
    let (page, sinks) = cut(live(context, &key).await?, window, |sink| {
        sink.key.sink.as_str()
    });
    let views = sinks.iter().map(SinkView::from).collect();
    Ok(json(StatusCode::OK, &SinksView::new(&key, page, views)))
}

pub(super) async fn live(context: &Context, source: &SourceKey) -> Result<Vec<Sink>, ApiError> {
    let sinks = context
        .store
        .sinks(source)
        .await?
        .into_iter()
        .map(|sink| sink.value);
    Ok(sinks.filter(|sink| sink.deleted.is_none()).collect())
}

/// `GET S/deleted`
pub(crate) async fn list_deleted(context: &Context, call: &Call) -> Result<Answer, ApiError> {
    let key = call.path.source()?;
    let window = Window::read(&call.query)?;
    context.source(&key).await?;
    let sinks = context.store.sinks(&key).await?.into_iter();
    let deleted = sinks.map(|sink| sink.value);
    let deleted: Vec<Sink> = deleted.filter(is_deleted).collect();
    let (page, sinks) = cut(deleted, window, |sink| sink.key.sink.as_str());
    let views = sinks.iter().map(SinkView::from).collect();
    Ok(json(StatusCode::OK, &SinksView::new(&key, page, views)))
}

/// Whether it can be brought back.
fn is_deleted(sink: &Sink) -> bool {
    sink.deleted.is_some() && sink.purging.is_none()
}

/// `GET S/{sink}`
pub(crate) async fn get(context: &Context, call: &Call) -> Result<Answer, ApiError> {
    let (_, sink) = context.sink(&call.path.sink()?).await?;
    Ok(json(StatusCode::OK, &SinkView::from(&sink)))
}

/// `POST S`
pub(crate) async fn create(context: &Arc<Context>, call: &Call) -> Result<Answer, ApiError> {
    let source = call.path.source()?;
    let new = NewSink::read(&call.body, &context.targets, context.default_kind())?;
    check_primary_key(context, &new.table)?;
    context.source(&source).await?;
    context.templates.check(&new.table.mapping).await?;
    let key = SinkKey {
        source,
        sink: new.id.clone(),
    };
    let entity = Entity::Sink(key.clone());
    let reservation = context.runner.reserve(&entity).await?;
    let reservation = reservation.ok_or_else(|| in_work(&key))?;
    if let Some(old) = context.store.sink(&key).await?
        && old.value.purging.is_some()
    {
        return Err(in_work(&key));
    }
    let sinks = live(context, &key.source).await?;
    if sinks.iter().any(|sink| sink.key == key) {
        return Err(already_exists(&key));
    }
    if sinks.len() >= MAX_CHILDREN {
        return Err(limit_reached());
    }
    let sink = define(call, key.clone(), new, context);
    let owner = call.owner.clone();
    let order = Order {
        kind: Kind::CreateSink,
        entity,
        url: context.urls.of_sink(&key),
        work: work({
            let context = Arc::clone(context);
            move |state| prepare_and_store(context, state, sink, owner)
        }),
        reservation: Some(reservation),
    };
    accept(context, order).await
}

fn define(call: &Call, key: SinkKey, new: NewSink, context: &Context) -> Sink {
    let NewSink {
        name,
        description,
        table,
        ..
    } = new;
    let stamp = call.stamp(context.clock.as_ref());
    let mut sink = Sink {
        version: first("New sink.".to_owned(), &stamp),
        key,
        name,
        description,
        table,
        created: stamp,
        disabled: None,
        deleted: None,
        purging: None,
        settings: Settings::default(),
    };
    sink.version = content::of_sink(&sink).version(sink.version.clone());
    sink
}

/// The table first: a sink whose table cannot be made would take rows that can never be imported.
async fn prepare_and_store(
    context: Arc<Context>,
    state: Store,
    sink: Sink,
    owner: Option<Secret<String>>,
) -> Result<&'static str, ApiError> {
    let key = sink.key.clone();
    let wishes = vec![Wish::table(key.clone(), sink.table.clone())];
    let storing = Box::pin(async {
        let stored = store(&context, &state, sink).await;
        stored.map_err(|error| match error {
            StateError::AlreadyExists { .. } => already_exists(&key),
            StateError::LimitReached { .. } => limit_reached(),
            StateError::NotFound { .. } => not_found::source(key.source.source.as_str()),
            error => error.into(),
        })
    });
    let created = with_destinations(&context, &state, owner.as_ref(), wishes, storing).await?;
    context.seen(&created).await;
    Ok("The sink and its table were created.")
}

/// Stores the sink, with its first file where there are volumes, so that it takes rows at once.
async fn store(
    context: &Context,
    state: &Store,
    sink: Sink,
) -> Result<Versioned<Sink>, StateError> {
    let own_key = Key::Sink(sink.key.clone()).to_string();
    for _ in 0..OPENING_TRIES {
        let Some(opening) = first_opening(context, &sink).await? else {
            break;
        };
        match state.create_sink(sink.clone(), Some(opening)).await {
            // Another sink of the source was given volumes first, or the file of a deleted sink of this name is still open.
            Err(StateError::AlreadyExists { key }) if key != own_key => {
                debug!(sink = %sink.key, key, "opening was planned on old knowledge");
            }
            outcome => return outcome,
        }
    }
    info!(sink = %sink.key, "sink created without a file, the coordinator opens it");
    state.create_sink(sink, None).await
}

/// The last row of a key is the one that came last, which only one volume can tell.
pub(super) fn check_primary_key(context: &Context, table: &Table) -> Result<(), ApiError> {
    let volumes = context.defaults.local.assignment.count;
    if volumes > 1 && table.mapping.primary_key().next().is_some() {
        return Err(ApiError::bad_request(format!(
            "A table with a primary key needs the rows of its source on one volume, but \
             storage.level.local.volume.assignment.count is {volumes}; set it to 1, or leave out \"primaryKey\"."
        )));
    }
    Ok(())
}

/// The first file of a sink, on the volumes that its source has or on a choice of the live ones; none when there are no
/// volumes.
async fn first_opening(context: &Context, sink: &Sink) -> Result<Option<Opening>, StateError> {
    let key = &sink.key.source;
    let Some(source) = context.store.source(key).await?.map(|source| source.value) else {
        return Ok(None);
    };
    let assigned = context
        .store
        .assignment(key)
        .await?
        .map(|volumes| volumes.value);
    let assigned = assigned.filter(|volumes| !volumes.is_empty());
    let (volumes, assignment) = match assigned {
        Some(volumes) => (volumes, None),
        None => {
            let chosen = choose_volumes(context, &source, sink).await?;
            (chosen.clone(), Some(chosen))
        }
    };
    if volumes.is_empty() {
        return Ok(None);
    }
    let now = context.clock.now();
    let plan = opening::plan(
        &source,
        sink,
        &context.defaults,
        &volumes,
        now,
        &mut random_bytes::<10>,
    );
    let mut slices = plan.slices;
    // With many volumes they would not fit into the transaction: the coordinator opens them at once after it.
    if let Some(rows) = slices.first().filter(|_| volumes.len() <= MAX_WITH_REJECTS) {
        let trigger = context.defaults.rejects;
        slices.extend(rejects::plan(&plan.file, rows, &volumes, trigger, now));
    }
    Ok(Some(Opening {
        assignment,
        file: plan.file,
        slices,
    }))
}

async fn choose_volumes(
    context: &Context,
    source: &Source,
    sink: &Sink,
) -> Result<Vec<VolumeId>, StateError> {
    let live = context.store.volumes().await?.into_iter();
    let candidates: Vec<Candidate> = live
        .map(|(volume, registration)| Candidate {
            volume,
            kind: registration.kind,
        })
        .collect();
    let assignment = context.levels(source, sink).local.assignment;
    Ok(assign(&source.key.to_string(), &assignment, &candidates))
}

/// `DELETE S/{sink}`
pub(crate) async fn delete(context: &Arc<Context>, call: &Call) -> Result<Answer, ApiError> {
    let key = call.path.sink()?;
    let cascade = call.query.flag("cascade")?;
    check_deletable(context, &key, cascade).await?;
    let switch = Switch {
        stamp: call.stamp(context.clock.as_ref()),
        directly: true,
    };
    let order = Order {
        kind: Kind::DeleteSink,
        entity: Entity::Sink(key.clone()),
        url: context.urls.of_sink(&key),
        work: {
            let (context, owner) = (Arc::clone(context), call.owner.clone());
            match cascade {
                true => work(move |state| purge_sink(context, state, key, switch, owner)),
                false => work(move |state| mark_deleted(context, state, key, switch, owner)),
            }
        },
        reservation: None,
    };
    accept(context, order).await
}

/// What is being purged is deleted, and may be asked to be purged again.
async fn check_deletable(context: &Context, key: &SinkKey, cascade: bool) -> Result<(), ApiError> {
    let sink = context.store.sink(key).await?;
    if cascade && sink.is_some_and(|sink| sink.value.purging.is_some()) {
        return Ok(());
    }
    context.sink(key).await.map(|_| ())
}

async fn purge_sink(
    context: Arc<Context>,
    state: Store,
    key: SinkKey,
    switch: Switch,
    owner: Option<Secret<String>>,
) -> Result<Done, ApiError> {
    let sink = state.sink(&key).await?.into_iter();
    let wishes = sink.map(|sink| Wish::purged(sink.value)).collect();
    let beginning = Box::pin(async {
        let begun = state.begin_sink_purge(&key, switch).await;
        begun.map_err(|error| match error {
            StateError::NotFound { .. } => not_found::sink(key.sink.as_str()),
            error => error.into(),
        })
    });
    let begun = with_destinations(&context, &state, owner.as_ref(), wishes, beginning).await?;
    context.seen(&begun).await;
    let discarded = purge::sink(&context, &state, &key).await?;
    Ok(Done {
        outcome: Ok(
            "The sink was purged with its versions, its table and all rows that were not imported yet.",
        ),
        discarded: Some(discarded),
    })
}

async fn mark_deleted(
    context: Arc<Context>,
    state: Store,
    key: SinkKey,
    switch: Switch,
    owner: Option<Secret<String>>,
) -> Result<&'static str, ApiError> {
    let wishes = vec![Wish::nothing(key.clone())];
    let storing = Box::pin(async {
        let deleted = state.delete_sink(&key, switch).await;
        deleted.map_err(|error| match error {
            StateError::NotFound { .. } => not_found::sink(key.sink.as_str()),
            error => error.into(),
        })
    });
    let deleted = with_destinations(&context, &state, owner.as_ref(), wishes, storing).await?;
    context.seen(&deleted).await;
    Ok("The sink was deleted; rows received until now are still imported.")
}

fn already_exists(key: &SinkKey) -> ApiError {
    let message = format!(
        "Sink {:?} exists already in the source; choose another \"sinkId\".",
        key.sink.as_str()
    );
    ApiError::new(Code::SinkAlreadyExists, message)
}

/// Somebody creates, changes or deletes it at this moment.
fn in_work(key: &SinkKey) -> ApiError {
    let message = format!(
        "Sink {:?} is being created or changed by another request; look at it in a moment, or choose another \"sinkId\".",
        key.sink.as_str()
    );
    ApiError::new(Code::SinkAlreadyExists, message)
}

pub(super) fn limit_reached() -> ApiError {
    let message =
        format!("The source has {MAX_CHILDREN} sinks, which is the limit; delete one first.");
    ApiError::new(Code::SinkCountLimitReached, message)
}
