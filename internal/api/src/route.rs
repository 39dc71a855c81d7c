//! Which path leads where.

use std::sync::Arc;

use hyper::Method;
use hyper::header::HeaderValue;
use matchit::Router;

use crate::context::Context;
use crate::error::{ApiError, Code};
use crate::handler::{
    aggregation, lifecycle, service, settings, sink, source, statistics, status, task, update,
    versions,
};
use crate::lifecycle::Turn;
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
    DeletedSources,
    SourceDisable,
    SourceEnable,
    SourceUndelete,
    SourceSecret,
    SourceVersions,
    SourceVersion,
    SourceRollback,
    DeletedSinks,
    SinkDisable,
    SinkEnable,
    SinkUndelete,
    SinkVersions,
    SinkVersion,
    SinkRollback,
    Status,
    Diagnosis,
    SinkFiles,
    Aggregation,
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
    Route::DeletedSources,
    Route::SourceDisable,
    Route::SourceEnable,
    Route::SourceUndelete,
    Route::SourceSecret,
    Route::SourceVersions,
    Route::SourceVersion,
    Route::SourceRollback,
    Route::DeletedSinks,
    Route::SinkDisable,
    Route::SinkEnable,
    Route::SinkUndelete,
    Route::SinkVersions,
    Route::SinkVersion,
    Route::SinkRollback,
    Route::Status,
    Route::Diagnosis,
    Route::SinkFiles,
    Route::Aggregation,
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
            Self::SinkFiles => {
                "/v1/branches/{branch}/sources/{source}/sinks/{sink}/statistics/files"
            }
            Self::Aggregation => "/v1/branches/{branch}/aggregation/sources",
            Self::Status => "/v1/status",
            Self::Diagnosis => "/v1/diagnose",
            Self::DeletedSources => "/v1/branches/{branch}/sources/deleted",
            Self::SourceDisable => "/v1/branches/{branch}/sources/{source}/disable",
            Self::SourceEnable => "/v1/branches/{branch}/sources/{source}/enable",
            Self::SourceUndelete => "/v1/branches/{branch}/sources/{source}/undelete",
            Self::SourceSecret => "/v1/branches/{branch}/sources/{source}/rotate-secret",
            Self::SourceVersions => "/v1/branches/{branch}/sources/{source}/versions",
            Self::SourceVersion => "/v1/branches/{branch}/sources/{source}/versions/{version}",
            Self::SourceRollback => {
                "/v1/branches/{branch}/sources/{source}/versions/{version}/rollback"
            }
            Self::DeletedSinks => "/v1/branches/{branch}/sources/{source}/sinks/deleted",
            Self::SinkDisable => "/v1/branches/{branch}/sources/{source}/sinks/{sink}/disable",
            Self::SinkEnable => "/v1/branches/{branch}/sources/{source}/sinks/{sink}/enable",
            Self::SinkUndelete => "/v1/branches/{branch}/sources/{source}/sinks/{sink}/undelete",
            Self::SinkVersions => "/v1/branches/{branch}/sources/{source}/sinks/{sink}/versions",
            Self::SinkVersion => {
                "/v1/branches/{branch}/sources/{source}/sinks/{sink}/versions/{version}"
            }
            Self::SinkRollback => {
                "/v1/branches/{branch}/sources/{source}/sinks/{sink}/versions/{version}/rollback"
            }
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
            | Self::Task
            | Self::DeletedSources
            | Self::Status
            | Self::SinkFiles
            | Self::Aggregation
            | Self::Diagnosis
            | Self::DeletedSinks
            | Self::SourceVersions
            | Self::SourceVersion
            | Self::SinkVersions
            | Self::SinkVersion => "GET, OPTIONS",
            Self::Sources | Self::Sinks => "GET, POST, OPTIONS",
            Self::Source | Self::Sink => "GET, PATCH, DELETE, OPTIONS",
            Self::SourceSecret => "POST, OPTIONS",
            Self::SourceDisable
            | Self::SourceEnable
            | Self::SourceUndelete
            | Self::SourceRollback
            | Self::SinkDisable
            | Self::SinkEnable
            | Self::SinkUndelete
            | Self::SinkRollback => "PUT, OPTIONS",
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
        (Route::Source, "PATCH") => update::source(context, call).await,
        (Route::Sink, "PATCH") => update::sink(context, call).await,
        (Route::DeletedSources, "GET") => source::list_deleted(context, call).await,
        (Route::DeletedSinks, "GET") => sink::list_deleted(context, call).await,
        (Route::SourceDisable, "PUT") => lifecycle::turn_source(context, call, Turn::Off).await,
        (Route::SourceEnable, "PUT") => lifecycle::turn_source(context, call, Turn::On).await,
        (Route::SourceUndelete, "PUT") => lifecycle::undelete_source(context, call).await,
        (Route::SourceSecret, "POST") => source::rotate_secret(context, call).await,
        (Route::SourceVersions, "GET") => versions::of_source(context, call).await,
        (Route::SourceVersion, "GET") => versions::one_of_source(context, call).await,
        (Route::SourceRollback, "PUT") => versions::roll_source_back(context, call).await,
        (Route::SinkDisable, "PUT") => lifecycle::turn_sink(context, call, Turn::Off).await,
        (Route::SinkEnable, "PUT") => lifecycle::turn_sink(context, call, Turn::On).await,
        (Route::SinkUndelete, "PUT") => lifecycle::undelete_sink(context, call).await,
        (Route::SinkVersions, "GET") => versions::of_sink(context, call).await,
        (Route::SinkVersion, "GET") => versions::one_of_sink(context, call).await,
        (Route::SinkRollback, "PUT") => versions::roll_sink_back(context, call).await,
        (Route::SinkFiles, "GET") => statistics::files(context, call).await,
        (Route::Aggregation, "GET") => aggregation::sources(context, call).await,
        (Route::Status, "GET") => status::status(context).await,
        (Route::Diagnosis, "GET") => status::diagnose(context).await,
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
        for unknown in ["/v2", "/v1/tasks", "/v1/branches/1/sources/a/nothing", "//"] {
            let found = routes.find(unknown).map(|(route, _)| route);
            let code = found.as_ref().map_err(|error| error.code);
            assert!(
                matches!(code, Err(Code::EndpointNotFound) | Ok(Route::Root)),
                "{unknown}"
            );
        }
    }

    fn routes_of(path: &str) -> Route {
        Routes::new().find(path).expect("a route").0
    }

    #[test]
    fn every_route_has_the_methods_it_names() {
        for route in ROUTES {
            assert!(route.allows(&Method::OPTIONS), "{route:?}");
            assert!(!route.allows(&Method::HEAD), "{route:?}");
        }
        let found = routes_of("/v1/branches/1/sources/deleted");
        assert_eq!(found, Route::DeletedSources, "not a source of that name");
        assert!(Route::SinkRollback.allows(&Method::PUT));
        assert!(!Route::SinkRollback.allows(&Method::GET));
        assert!(Route::Sinks.allows(&Method::POST));
        assert!(!Route::Sinks.allows(&Method::DELETE));
    }
}
