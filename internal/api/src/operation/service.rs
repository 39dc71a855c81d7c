//! The service itself: what anybody may ask, tasks, and the state of the installation.

use hyper::Method;

use super::{Operation, handler, of_branch};
use crate::handler::{aggregation, service, status, task};

pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::open(Method::GET, "/", |_| service::root()),
        Operation::open(Method::GET, "/v1", service::index),
        Operation::open(Method::GET, "/health-check", |_| service::health()),
        Operation::survey(Method::GET, "/v1/status", handler!(status::status)),
        Operation::survey(Method::GET, "/v1/diagnose", handler!(status::diagnose)),
        Operation::read(Method::GET, "/v1/tasks/{*task}", handler!(task::get)),
        Operation::read(
            Method::GET,
            of_branch!("/aggregation/sources"),
            handler!(aggregation::sources),
        ),
    ]
}
