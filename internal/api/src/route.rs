//! Which path leads where.

use std::sync::Arc;

use hyper::Method;
use hyper::header::HeaderValue;
use matchit::Router;

use crate::context::Context;
use crate::error::{ApiError, Code};
use crate::handler::{service, settings, sink, source, statistics, task};
use crate::request::{Call, Path};
use crate::response::Answer;

/// A path of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    Root,
    Index,
    HealthCheck,
    Sources,
    Source,
    SourceSettings,
    Sinks,
    Sink,
    SinkSettings,
    SinkStatistics,
    SinkRejected,
    Task,
}

const ROUTES: &[Route] = &[
    Route::Root,
    Route::Index,
    Route::HealthCheck,
    Route::Sources,
    Route::Source,
    Route::SourceSettings,
    Route::Sinks,
    Route::Sink,
    Route::SinkSettings,
    Route::SinkStatistics,
    Route::SinkRejected,
    Route::Task,
];

impl Route {
    /// The path with the names of its variable parts. Also the label of metrics and logs, so that identifiers, which may
    /// be anything, do not become labels.
    pub(crate) const fn pattern(self) -> &'static str {
        match self {
            Self::Root => "/",
            Self::Index => "/v1",
            Self::HealthCheck => "/health-check",
            Self::Sources => "/v1/branches/{branch}/sources",
            Self::Source => "/v1/branches/{branch}/sources/{source}",
            Self::SourceSettings => "/v1/branches/{branch}/sources/{source}/settings",
            Self::Sinks => "/v1/branches/{branch}/sources/{source}/sinks",
            Self::Sink => "/v1/branches/{branch}/sources/{source}/sinks/{sink}",
            Self::SinkSettings => "/v1/branches/{branch}/sources/{source}/sinks/{sink}/settings",
            Self::SinkStatistics => {
                "/v1/branches/{branch}/sources/{source}/sinks/{sink}/statistics/total"
            }
            Self::SinkRejected => "/v1/branches/{branch}/sources/{source}/sinks/{sink}/rejected",
            Self::Task => "/v1/tasks/{*task}",
        }
    }

    /// The methods of the path, as in an `Allow` header.
    pub(crate) const fn methods(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Root
            | Self::Index
            | Self::HealthCheck
            | Self::SinkStatistics
            | Self::SinkRejected
            | Self::Task => "GET, OPTIONS",
            Self::Sources | Self::Sinks => "GET, POST, OPTIONS",
            Self::Source | Self::Sink => "GET, DELETE, OPTIONS",
            Self::SourceSettings | Self::SinkSettings => "GET, PATCH, OPTIONS",
        })
    }

    /// Whether the path has this method.
    pub(crate) fn allows(self, method: &Method) -> bool {
        let methods = self.methods();
        let methods = methods.to_str().unwrap_or_default();
        methods
            .split(", ")
            .any(|allowed| allowed == method.as_str())
    }

    /// Whether anybody may ask, without a token.
    pub(crate) const fn is_open(self) -> bool {
        matches!(self, Self::Root | Self::Index | Self::HealthCheck)
    }
}

/// All routes.
pub(crate) struct Routes(Router<Route>);

impl Routes {
    pub(crate) fn new() -> Self {
        let mut router = Router::new();
        for route in ROUTES {
            router
                .insert(route.pattern(), *route)
                .expect("the patterns above do not overlap");
        }
        Self(router)
    }

    /// The route of a path and its variable parts. A slash at the end makes no difference.
    pub(crate) fn find(&self, path: &str) -> Result<(Route, Path), ApiError> {
        let trimmed = path.trim_end_matches('/');
        let found = self
            .0
            .at(if trimmed.is_empty() { "/" } else { trimmed })
            .map_err(|_| {
                // A long path would hide the sentence.
                let path: String = path.chars().take(200).collect();
                ApiError::new(
                    Code::EndpointNotFound,
                    format!("There is no endpoint {path:?}."),
                )
            })?;
        Ok((*found.value, Path::new(found.params.iter())))
    }
}

/// Answers a request to an open route.
pub(crate) fn open(context: &Context, route: Route) -> Answer {
    match route {
        Route::Root => service::root(),
        Route::HealthCheck => service::health(),
        _ => service::index(context),
    }
}

/// Answers a request whose token was checked.
pub(crate) async fn dispatch(
    context: &Arc<Context>,
    route: Route,
    method: &Method,
    call: &Call,
) -> Result<Answer, ApiError> {
    match (route, method.as_str()) {
        (Route::Sources, "GET") => source::list(context, call).await,
        (Route::Sources, "POST") => source::create(context, call).await,
        (Route::Source, "GET") => source::get(context, call).await,
        (Route::Source, "DELETE") => source::delete(context, call).await,
        (Route::SourceSettings, "GET") => settings::of_source(context, call).await,
        (Route::SourceSettings, "PATCH") => settings::change_source(context, call).await,
        (Route::Sinks, "GET") => sink::list(context, call).await,
        (Route::Sinks, "POST") => sink::create(context, call).await,
        (Route::Sink, "GET") => sink::get(context, call).await,
        (Route::Sink, "DELETE") => sink::delete(context, call).await,
        (Route::SinkSettings, "GET") => settings::of_sink(context, call).await,
        (Route::SinkSettings, "PATCH") => settings::change_sink(context, call).await,
        (Route::SinkStatistics, "GET") => statistics::total(context, call).await,
        (Route::SinkRejected, "GET") => statistics::rejected(context, call).await,
        (Route::Task, "GET") => task::get(context, call).await,
        _ => Err(method_not_allowed(route, method)),
    }
}

/// Says which methods the path has.
pub(crate) fn method_not_allowed(route: Route, method: &Method) -> ApiError {
    let allowed = route.methods();
    let allowed = allowed.to_str().unwrap_or_default();
    let message = format!("The endpoint has no method {method}; use one of {allowed}.");
    ApiError::new(Code::MethodNotAllowed, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_their_route_with_decoded_parts() {
        let routes = Routes::new();
        let (route, path) = routes
            .find("/v1/branches/default/sources/a/sinks/b%20c/")
            .expect("a route");
        assert_eq!(route, Route::Sink);
        assert_eq!((path.part("source"), path.part("sink")), ("a", "b c"));
        let (route, path) = routes
            .find("/v1/tasks/api.create.sink/1/a/b/x_y")
            .expect("a route");
        assert_eq!(
            (route, path.part("task")),
            (Route::Task, "api.create.sink/1/a/b/x_y")
        );
        for unknown in [
            "/v2",
            "/v1/tasks",
            "/v1/branches/1/sources/a/versions",
            "//",
        ] {
            let found = routes.find(unknown).map(|(route, _)| route);
            let code = found.as_ref().map_err(|error| error.code);
            assert!(
                matches!(code, Err(Code::EndpointNotFound) | Ok(Route::Root)),
                "{unknown}"
            );
        }
    }

    #[test]
    fn every_route_has_the_methods_it_names() {
        for route in ROUTES {
            assert!(
                route.allows(&Method::GET) && route.allows(&Method::OPTIONS),
                "{route:?}"
            );
            assert!(!route.allows(&Method::PUT), "{route:?}");
        }
        assert!(Route::Sinks.allows(&Method::POST));
        assert!(!Route::Sinks.allows(&Method::DELETE));
    }
}
