//! Statistics of a sink, and what it rejected.

use hyper::StatusCode;

use crate::context::Context;
use crate::error::ApiError;
use crate::input::page::Window;
use crate::request::Call;
use crate::response::{Answer, json};
use crate::view::file::FilesView;
use crate::view::page::cut;
use crate::view::rejects::{RejectsPage, RejectsView};
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

/// `GET …/sinks/{sink}/rejected`
pub(crate) async fn rejected(context: &Context, call: &Call) -> Result<Answer, ApiError> {
    let key = call.path.sink()?;
    let window = Window::read(&call.query)?;
    context.sink(&key).await?;
    let slices = context
        .mirror
        .read(|topology| topology.sink(&key).map(RejectsView::of_sink));
    // Identifiers begin with the time of opening, so this is their order already.
    let (page, slices) = cut(slices.unwrap_or_default(), window, |slice| {
        slice.slice_id.as_str()
    });
    Ok(json(StatusCode::OK, &RejectsPage::new(&key, page, slices)))
}
