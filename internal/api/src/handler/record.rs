//! Where a record is: found by the position that the source has answered with, or by the id of its request.

use std::time::Duration;

use hyper::StatusCode;
use stream_model::request::Chance;
use stream_model::slice::Kind;
use stream_model::statistics::Figures;
use stream_model::{RequestId, SessionId, SinkKey, SliceId, Timestamp};
use stream_state::{Topology, Whereabouts};

use crate::context::Context;
use crate::error::{ApiError, Code};
use crate::request::Call;
use crate::response::{Answer, json};
use crate::view::record::{LocatedView, Origin, Place, PlaceView, RecordView, RequestView};

/// How often a slice is read again whose file was removed meanwhile.
const TRIES: u32 = 3;

/// What a record is asked for by.
enum Name {
    Position(Place),
    Request(RequestId),
}

/// `GET S/{sink}/records/{slice}:{seq}?requestId=` and `GET S/{sink}/records/{request id}`
///
/// Read from the state itself and not from the mirror, so that it is true for every answer that came before the question. A
/// sink need not live: its rows are still on their way.
pub(crate) async fn locate(context: &Context, call: &Call) -> Result<Answer, ApiError> {
    let key = call.path.sink()?;
    let name = read_name(call.path.part("record"))?;
    let session = call.query.get("requestId").map(read_session).transpose()?;
    let found = match name {
        Name::Position(place) => find(context, &key, place, session)
            .await?
            .filter(|view| !view.is_beyond())
            .map(|view| LocatedView::Record(Box::new(view)))
            .ok_or_else(|| unknown(place)),
        Name::Request(id) => {
            let known = context.store.whereabouts(&key).await?;
            let (places, forgotten) = places(&known, id, context.traces.late());
            match places.is_empty() {
                false => Ok(LocatedView::Request(RequestView::new(
                    id, places, &forgotten,
                ))),
                true => Err(unknown_request(context, id, &forgotten)),
            }
        }
    };
    match found {
        Ok(view) => Ok(json(StatusCode::OK, &view)),
        Err(unknown) => {
            context.sink(&key).await?;
            Err(unknown)
        }
    }
}

async fn find(
    context: &Context,
    key: &SinkKey,
    place: Place,
    session: Option<SessionId>,
) -> Result<Option<RecordView>, ApiError> {
    for _ in 0..TRIES {
        let Some(slice) = context.store.slice(key, place.slice).await? else {
            let note = |topology: &Topology| topology.purged(place.slice).cloned();
            let note = context.mirror.read(note);
            let note = note.filter(|note| note.value.slice.sink == *key);
            return Ok(note.map(|note| RecordView::new(place, session, &Origin::Note(&note.value))));
        };
        let slice = slice.value;
        if !slice.kind.is_rows() {
            let origin = Origin::State(&slice, None);
            return Ok(Some(RecordView::new(place, session, &origin)));
        }
        if let Some(file) = context.store.file(key, slice.file).await? {
            let origin = Origin::State(&slice, Some(&file.value));
            return Ok(Some(RecordView::new(place, session, &origin)));
        }
    }
    Ok(None)
}

/// Every slice that can have the records of a request, those with rows first; and the kinds of which slices are forgotten.
fn places(known: &Whereabouts, id: RequestId, late: Duration) -> (Vec<PlaceView>, Vec<Kind>) {
    let stored = known.slices.iter();
    let stored = stored.map(|(slice, file)| Origin::State(slice, file.as_ref()));
    let all: Vec<Origin<'_>> = stored
        .chain(known.purged.iter().map(Origin::Note))
        .collect();
    let (mut places, mut forgotten) = (Vec::new(), Vec::new());
    for (kind, removed) in [
        (Kind::Rows, &known.removed),
        (Kind::Rejects, &known.rejects_removed),
    ] {
        if spans(removed, id.arrived_at()) {
            forgotten.push(kind);
        }
        let of_kind = all.iter().filter(|origin| origin.slice().kind == kind);
        let chances = of_kind.map(|origin| (origin, id.chance_in(origin.slice(), late)));
        let found: Vec<_> = chances.filter(|(_, it)| *it != Chance::None).collect();
        let is_only = matches!(found[..], [(_, Chance::Sealed)]);
        let certain = is_only && !forgotten.contains(&kind);
        places.extend(
            found
                .iter()
                .map(|(origin, _)| PlaceView::new(origin, certain)),
        );
    }
    (places, forgotten)
}

/// Whether there were records both before and after that time, or then.
fn spans(figures: &Figures, at: Timestamp) -> bool {
    let (first, last) = (figures.first_at, figures.last_at);
    first.is_some_and(|first| first <= at) && last.is_some_and(|last| last >= at)
}

fn read_name(text: &str) -> Result<Name, ApiError> {
    let place = || {
        let (slice, seq) = text.split_once(':')?;
        let (slice, seq): (SliceId, u64) = (slice.parse().ok()?, seq.parse().ok()?);
        (seq > 0).then_some(Place { slice, seq })
    };
    if let Some(place) = place() {
        return Ok(Name::Position(place));
    }
    let id: Option<RequestId> = text.parse().ok();
    // Those of earlier versions tell no time.
    let id = id.filter(|id| id.arrived_at().as_millis() > 0);
    id.map(Name::Request).ok_or_else(|| {
        ApiError::bad_request(
            "A record is found by the X-Request-Id that the service has made for its request. When the client has chosen the id \
             itself, ask for \"<slice>:<seq>\", as it is in the header X-Stream-Position of the answer behind the name of the \
             sink.",
        )
    })
}

/// The session in a request id of the service: what its number belongs to.
fn read_session(id: &str) -> Result<SessionId, ApiError> {
    let id: Result<RequestId, _> = id.parse();
    id.map(|id| id.session).map_err(|_| {
        ApiError::bad_request(
            "\"requestId\" must be an X-Request-Id that the service has made; leave it out when the client made its own.",
        )
    })
}

fn unknown_request(context: &Context, id: RequestId, forgotten: &[Kind]) -> ApiError {
    let why = match forgotten.is_empty() {
        true => "The request was refused, or was for another source or sink, or it is too long ago",
        false => {
            "Slices with records from that time are forgotten: those with rows are in the table"
        }
    };
    let message = format!(
        "No slice of the sink can have a record of request {id}, which arrived at {}. {why}. {}",
        id.arrived_at(),
        context.traces.kept()
    );
    ApiError::new(Code::RecordNotFound, message)
}

fn unknown(place: Place) -> ApiError {
    let Place { slice, seq } = place;
    let message = format!(
        "The sink has no record {slice}:{seq}; when it was imported some time ago, it is in the table and its slice is \
         forgotten."
    );
    ApiError::new(Code::RecordNotFound, message)
}
