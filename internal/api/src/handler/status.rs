//! The state of the installation, for the person on call.

use std::time::Duration;

use hyper::StatusCode;
use stream_model::Timestamp;

use crate::context::Context;
use crate::error::ApiError;
use crate::request::Call;
use crate::response::{Answer, json};
use crate::survey::{COMPONENTS, Finding, Registered, findings, work};
use crate::view::status::{DiagnosisView, StatusView};

/// `GET /v1/status`
pub(crate) async fn status(context: &Context, _: &Call) -> Result<Answer, ApiError> {
    let registered = registered(context).await?;
    let now = context.clock.now();
    let (work, revision) = (context.mirror).read(|it| (work(it, now), it.revision));
    let found = found(context, &registered, now);
    let age = context.mirror.staleness().as_secs();
    let view = StatusView::new(&registered, work, (revision, age), found.len());
    Ok(json(StatusCode::OK, &view))
}

/// `GET /v1/diagnose`
pub(crate) async fn diagnose(context: &Context, _: &Call) -> Result<Answer, ApiError> {
    let registered = registered(context).await?;
    let found = found(context, &registered, context.clock.now());
    Ok(json(StatusCode::OK, &DiagnosisView::new(found)))
}

fn found(context: &Context, registered: &Registered, now: Timestamp) -> Vec<Finding> {
    let staleness: Duration = context.mirror.staleness();
    (context.mirror).read(|topology| findings(topology, registered, staleness, now))
}

async fn registered(context: &Context) -> Result<Registered, ApiError> {
    let store = &context.store;
    let mut instances = Vec::new();
    for component in COMPONENTS {
        let nodes = store.nodes(component).await?;
        instances.extend(nodes.into_iter().map(|(node, it)| (component, node, it)));
    }
    Ok(Registered {
        instances,
        volumes: store.volumes().await?,
        figures: store.volume_figures().await?,
    })
}
