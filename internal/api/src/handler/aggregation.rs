//! Everything about the sources of a branch in one answer.

use hyper::StatusCode;
use stream_model::definition::{Sink, Source};

use super::source::live;
use crate::context::Context;
use crate::error::ApiError;
use crate::input::page::Window;
use crate::request::Call;
use crate::response::{Answer, json};
use crate::view::aggregation::{AggregatedSource, AggregationView};
use crate::view::page::cut;

/// `GET B/aggregation/sources`
pub(crate) async fn sources(context: &Context, call: &Call) -> Result<Answer, ApiError> {
    let branch = call.path.branch()?;
    let window = Window::read(&call.query)?;
    let (page, sources) = cut(live(context, &branch).await?, window, |source| {
        source.key.source.as_str()
    });
    let mut found: Vec<(Source, Vec<Sink>)> = Vec::with_capacity(sources.len());
    for source in sources {
        let sinks = context.store.sinks(&source.key).await?.into_iter();
        let sinks = sinks.map(|sink| sink.value);
        let sinks = sinks.filter(|sink| sink.deleted.is_none()).collect();
        found.push((source, sinks));
    }
    let views = context.mirror.read(|topology| {
        let views = found.iter().map(|(source, sinks)| {
            let node = topology.sources.get(&source.key);
            AggregatedSource::new(source, sinks, node, &context.urls)
        });
        views.collect()
    });
    Ok(json(
        StatusCode::OK,
        &AggregationView::new(&branch, page, views),
    ))
}
