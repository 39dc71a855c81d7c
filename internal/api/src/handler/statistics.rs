//! Statistics of a sink, and what it rejected.

use hyper::StatusCode;
use stream_model::SinkKey;
use stream_state::{SinkNode, Topology};

use super::sink::live;
use crate::context::Context;
use crate::error::ApiError;
use crate::input::page::Window;
use crate::request::Call;
use crate::response::{Answer, done, json};
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

/// `DELETE …/sinks/{sink}/statistics/clear`
pub(crate) async fn clear_sink(context: &Context, call: &Call) -> Result<Answer, ApiError> {
    let key = call.path.sink()?;
    context.sink(&key).await?;
    clear(context, vec![key]).await
}

/// `DELETE B/sources/{source}/statistics/clear`
pub(crate) async fn clear_source(context: &Context, call: &Call) -> Result<Answer, ApiError> {
    let key = call.path.source()?;
    context.source(&key).await?;
    let sinks = live(context, &key).await?.into_iter();
    clear(context, sinks.map(|sink| sink.key).collect()).await
}

/// Notes what is known of the sinks now, which from then on does not count.
async fn clear(context: &Context, sinks: Vec<SinkKey>) -> Result<Answer, ApiError> {
    let at = context.clock.now();
    let cleared = |topology: &Topology, key: SinkKey| {
        let none = SinkNode::default();
        let node = topology.sink(&key).unwrap_or(&none);
        let cleared = ByLevel::cleared(node, at);
        (key, cleared)
    };
    let cleared: Vec<_> = context.mirror.read(|topology| {
        let sinks = sinks.into_iter();
        sinks.map(|key| cleared(topology, key)).collect()
    });
    if !cleared.is_empty() {
        let revision = context.store.clear_statistics(&cleared).await?;
        context.reached(revision).await;
    }
    Ok(done())
}
