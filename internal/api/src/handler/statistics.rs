//! Statistics of a sink.

use hyper::StatusCode;

use crate::context::Context;
use crate::error::ApiError;
use crate::request::Call;
use crate::response::{Answer, json};
use crate::view::file::FilesView;
use crate::view::statistics::{ByLevel, StatisticsView};

/// `GET …/sinks/{sink}/statistics/total`
pub(crate) async fn total(context: &Context, call: &Call) -> Result<Answer, ApiError> {
    let key = call.path.sink()?;
    context.sink(&key).await?;
    let sums = context.mirror.read(|topology| {
        let source = topology.sources.get(&key.source);
        source
            .and_then(|source| source.sinks.get(&key.sink))
            .map(ByLevel::of_sink)
    });
    // Not mirrored yet means created a moment ago.
    let view = StatisticsView::from(sums.unwrap_or_default());
    Ok(json(StatusCode::OK, &view))
}

/// `GET …/sinks/{sink}/statistics/files?failedFiles=`
pub(crate) async fn files(context: &Context, call: &Call) -> Result<Answer, ApiError> {
    let key = call.path.sink()?;
    let only_failed = call.query.flag("failedFiles")?;
    context.sink(&key).await?;
    let view = context.mirror.read(|topology| {
        let sink = topology.sink(&key);
        sink.map(|sink| FilesView::new(sink, only_failed))
    });
    Ok(json(StatusCode::OK, &view.unwrap_or_default()))
}
