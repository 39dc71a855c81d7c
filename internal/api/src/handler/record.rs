//! Where a record is: found by the position that the source has answered with.

use hyper::StatusCode;
use stream_model::{SessionId, SinkKey, SliceId};
use stream_state::Topology;

use crate::context::Context;
use crate::error::{ApiError, Code};
use crate::request::Call;
use crate::response::{Answer, json};
use crate::view::record::{Origin, Place, RecordView};

/// How often a slice is read again whose file was removed meanwhile.
const TRIES: u32 = 3;

/// `GET S/{sink}/records/{slice}:{seq}?requestId=`
///
/// Read from the state itself and not from the mirror, so that it is true for every answer that came before the question. A
/// sink need not live: its rows are still on their way.
pub(crate) async fn locate(context: &Context, call: &Call) -> Result<Answer, ApiError> {
    let key = call.path.sink()?;
    let place = read_place(call.path.part("record"))?;
    let session = call.query.get("requestId").map(read_session).transpose()?;
    let Some(view) = find(context, &key, place, session).await? else {
        context.sink(&key).await?;
        return Err(unknown(place));
    };
    if view.is_beyond() {
        return Err(unknown(place));
    }
    Ok(json(StatusCode::OK, &view))
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

fn read_place(text: &str) -> Result<Place, ApiError> {
    let place = || {
        let (slice, seq) = text.split_once(':')?;
        let (slice, seq): (SliceId, u64) = (slice.parse().ok()?, seq.parse().ok()?);
        (seq > 0).then_some(Place { slice, seq })
    };
    place().ok_or_else(|| {
        ApiError::bad_request(
            "A record is found by \"<slice>:<seq>\", as it is in the header X-Stream-Position of the answer behind the name of \
             the sink; a request id alone does not say where the record is.",
        )
    })
}

/// The session in a request id of the service: what its number belongs to.
fn read_session(id: &str) -> Result<SessionId, ApiError> {
    let session = id
        .split_once('-')
        .and_then(|(session, _)| session.parse().ok());
    session.ok_or_else(|| {
        ApiError::bad_request(
            "\"requestId\" must be an X-Request-Id that the service has made; leave it out when the client made its own.",
        )
    })
}

fn unknown(place: Place) -> ApiError {
    let Place { slice, seq } = place;
    let message = format!(
        "The sink has no record {slice}:{seq}; when it was imported some time ago, it is in the table and its slice is \
         forgotten."
    );
    ApiError::new(Code::RecordNotFound, message)
}
