//! The ledger of a sink, or of all sinks of a source: every record is somewhere, hour by hour.

use hyper::StatusCode;
use stream_model::ledger::Hour;
use stream_model::{SinkKey, Timestamp};

use super::sink::live;
use crate::context::Context;
use crate::error::{ApiError, Code};
use crate::request::Call;
use crate::response::{Answer, json};
use crate::view::ledger::{Account, LedgerView, SourceLedgerView};

/// Hours of an answer that does not say from when on.
const USUAL_HOURS: u64 = 24;
/// The most hours of an answer: a month.
const MOST_HOURS: u64 = 31 * 24;

/// Which hours are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hours {
    pub(crate) first: Hour,
    /// This one is shown, too.
    pub(crate) last: Hour,
}

/// `GET S/{sink}/ledger?from=&to=`
pub(crate) async fn of_sink(context: &Context, call: &Call) -> Result<Answer, ApiError> {
    let key = call.path.sink()?;
    let hours = read_hours(call, context.clock.now())?;
    context.sink(&key).await?;
    let account = account(context, &key).await?;
    let view = LedgerView::new(&key, hours, &account);
    Ok(json(StatusCode::OK, &view))
}

/// `GET B/sources/{source}/ledger?from=&to=`
pub(crate) async fn of_source(context: &Context, call: &Call) -> Result<Answer, ApiError> {
    let key = call.path.source()?;
    let hours = read_hours(call, context.clock.now())?;
    context.source(&key).await?;
    let mut accounts = Vec::new();
    for sink in live(context, &key).await? {
        let account = account(context, &sink.key).await?;
        accounts.push((sink.key, account));
    }
    let view = SourceLedgerView::new(&key, hours, &accounts);
    Ok(json(StatusCode::OK, &view))
}

async fn account(context: &Context, key: &SinkKey) -> Result<Account, ApiError> {
    let ledger = context.store.ledger(key).await?;
    // What writers have reported of slices that take records still. It may be older than the ledger, and is less then.
    let reported = context.mirror.read(|topology| {
        let node = topology.sink(key);
        node.map(|node| (node.crossed.clone(), node.rejects_crossed.clone()))
    });
    let (rows, rejects) = reported.unwrap_or_default();
    let reported = rows.into_iter().chain(rejects);
    let reported = reported.map(|(slice, crossed)| (slice, crossed.value.clone()));
    Ok(Account::new(&ledger, &reported.collect()))
}

fn read_hours(call: &Call, now: Timestamp) -> Result<Hours, ApiError> {
    let read = |name: &str| {
        call.query
            .get(name)
            .map(|text| read_hour(name, text))
            .transpose()
    };
    let last = read("to")?.unwrap_or(Hour::of(now));
    let usual = Hour(last.0.saturating_sub(USUAL_HOURS - 1));
    let first = read("from")?.unwrap_or(usual);
    if first > last || last.0 - first.0 >= MOST_HOURS {
        let message = format!(
            "\"from\" must not be later than \"to\", nor more than {MOST_HOURS} hours earlier."
        );
        return Err(ApiError::new(Code::InvalidRange, message));
    }
    Ok(Hours { first, last })
}

fn read_hour(name: &str, text: &str) -> Result<Hour, ApiError> {
    let at: Timestamp = text.parse().map_err(|_| {
        let message =
            format!("{name:?} must be a time such as 2026-01-31T15:00:00.000Z, not {text:?}.");
        ApiError::new(Code::InvalidFieldType, message)
    })?;
    Ok(Hour::of(at))
}
