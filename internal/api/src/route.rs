//! Which path leads where: the operations of the table by their paths.

use hyper::Method;
use hyper::header::HeaderValue;
use matchit::Router;

use crate::error::{ApiError, Code};
use crate::operation::{self, Operation};
use crate::request::Path;

/// A path of the API with its operations.
pub(crate) struct Endpoint {
    operations: Vec<Operation>,
    /// Its methods, as in an `Allow` header.
    pub(crate) allow: HeaderValue,
}

impl Endpoint {
    /// All of one path; there is at least one.
    fn new(operations: Vec<Operation>) -> Self {
        let methods = operations.iter().map(|operation| operation.method.as_str());
        let methods: Vec<_> = methods.chain(["OPTIONS"]).collect();
        let allow = HeaderValue::from_str(&methods.join(", "));
        Self {
            operations,
            allow: allow.expect("names of methods are plain letters"),
        }
    }

    /// The path with the names of its variable parts, for metrics and logs.
    pub(crate) fn label(&self) -> &'static str {
        self.operations
            .first()
            .map_or("none", |operation| operation.path)
    }

    /// What the method does here.
    pub(crate) fn operation(&self, method: &Method) -> Option<&Operation> {
        self.operations
            .iter()
            .find(|operation| operation.method == *method)
    }

    /// Says which methods the path has.
    pub(crate) fn method_not_allowed(&self, method: &Method) -> ApiError {
        let allowed = self.allow.to_str().unwrap_or_default();
        let message = format!("The endpoint has no method {method}; use one of {allowed}.");
        ApiError::new(Code::MethodNotAllowed, message)
    }
}

/// All paths.
pub(crate) struct Routes(Router<Endpoint>);

impl Routes {
    pub(crate) fn new() -> Self {
        let mut router = Router::new();
        let mut rest = operation::all();
        while let Some(path) = rest.first().map(|operation| operation.path) {
            let (same, others) = rest
                .into_iter()
                .partition(|operation| operation.path == path);
            rest = others;
            router
                .insert(path, Endpoint::new(same))
                .expect("the paths of the table do not overlap");
        }
        Self(router)
    }

    /// The endpoint of a path and the variable parts of the path. A slash at the end makes no difference.
    pub(crate) fn find(&self, path: &str) -> Result<(&Endpoint, Path), ApiError> {
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
        Ok((found.value, Path::new(found.params.iter())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(path: &str) -> Result<&'static str, Code> {
        let routes = Routes::new();
        let found = routes.find(path).map(|(endpoint, _)| endpoint.label());
        found.map_err(|error| error.code)
    }

    fn allow(path: &str) -> String {
        let routes = Routes::new();
        let (endpoint, _) = routes.find(path).expect("a path");
        endpoint.allow.to_str().expect("a text").to_owned()
    }

    #[test]
    fn paths_lead_to_their_endpoint_with_decoded_parts() {
        let routes = Routes::new();
        let (endpoint, path) = routes
            .find("/v1/branches/default/sources/a/sinks/b%20c/")
            .expect("a path");
        assert_eq!(
            endpoint.label(),
            "/v1/branches/{branch}/sources/{source}/sinks/{sink}"
        );
        assert_eq!((path.part("source"), path.part("sink")), ("a", "b c"));
        let (endpoint, path) = routes
            .find("/v1/tasks/api.create.sink/1/a/b/x_y")
            .expect("a path");
        assert_eq!(endpoint.label(), "/v1/tasks/{*task}");
        assert_eq!(path.part("task"), "api.create.sink/1/a/b/x_y");
        for unknown in ["/v2", "/v1/tasks", "/v1/branches/1/sources/a/nothing"] {
            assert_eq!(label(unknown), Err(Code::EndpointNotFound), "{unknown}");
        }
        assert_eq!(label("//"), Ok("/"));
        assert_eq!(
            label("/v1/branches/1/sources/deleted"),
            Ok("/v1/branches/{branch}/sources/deleted"),
            "not a source of that name"
        );
    }

    #[test]
    fn every_endpoint_has_the_methods_of_its_operations() {
        assert_eq!(
            allow("/v1/branches/1/sources/a"),
            "GET, PATCH, DELETE, OPTIONS"
        );
        assert_eq!(allow("/v1/branches/1/sources"), "GET, POST, OPTIONS");
        assert_eq!(
            allow("/v1/branches/1/sources/a/sinks/b/versions/1/rollback"),
            "PUT, OPTIONS"
        );
        let routes = Routes::new();
        let (endpoint, _) = routes.find("/v1/branches/1/sources/a").expect("a path");
        assert!(endpoint.operation(&Method::PATCH).is_some());
        assert!(endpoint.operation(&Method::PUT).is_none());
        assert!(endpoint.operation(&Method::HEAD).is_none());
    }

    #[test]
    fn no_operation_is_in_the_table_twice() {
        let mut seen = std::collections::BTreeSet::new();
        for operation in operation::all() {
            let method = operation.method.to_string();
            assert!(
                seen.insert((operation.path, method.clone())),
                "{method} {}",
                operation.path
            );
        }
    }
}
