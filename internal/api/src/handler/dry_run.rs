//! The dry run of a source.

use hyper::StatusCode;
use stream_model::definition::Sink;

use crate::context::Context;
use crate::dry_run::Sample;
use crate::error::ApiError;
use crate::fields::not_one_of;
use crate::request::Call;
use crate::response::{Answer, json};
use crate::view::dry_run::DryRunView;

/// The kinds of records of an OTLP source. The records of other sources are of no kind.
const SIGNALS: [&str; 3] = ["logs", "metrics", "traces"];

/// `POST B/sources/{source}/test?signal=`
pub(crate) async fn of_source(context: &Context, call: &Call) -> Result<Answer, ApiError> {
    let key = call.path.source()?;
    if let Some(signal) = call.query.get("signal")
        && !SIGNALS.contains(&signal)
    {
        return Err(not_one_of("signal", signal, SIGNALS.into_iter()));
    }
    context.source(&key).await?;
    let sample = Sample::read(call, context.record_limits, context.clock.now()).await?;
    let sinks = context.store.sinks(&key).await?.into_iter();
    let sinks = sinks.map(|sink| sink.value);
    let sinks: Vec<Sink> = sinks.filter(|sink| sink.deleted.is_none()).collect();
    let tables = sample.map(context, &sinks).await?;
    Ok(json(StatusCode::OK, &DryRunView::new(&key, tables)))
}
