//! Tasks, and the state of the installation.

use hyper::{Method, StatusCode};

use super::{Group, Operation, example, handler};
use crate::error::Code;
use crate::handler::{status, task};
use crate::view::status::{DiagnosisView, StatusView};
use crate::view::task::TaskView;

pub(super) fn group() -> Group {
    Group {
        name: "Installation",
        description: "What became of a change, what runs, and what is wrong.",
        operations: vec![
            Operation::read(Method::GET, "/v1/tasks/{*task}", handler!(task::get))
                .named("getTask", "Show a task")
                .describe(
                    "Its identifier contains slashes. It is kept for 1 h after success, 48 h after an error.",
                )
                .answers::<TaskView>(StatusCode::OK, "The task.")
                .example(example::finished_task())
                .refuses(&[Code::TaskNotFound]),
            Operation::survey(Method::GET, "/v1/status", handler!(status::status))
                .named("getStatus", "Show what runs")
                .describe(
                    "Running components, open volumes, and work that waits and for how long, from any API process.",
                )
                .answers::<StatusView>(StatusCode::OK, "The installation."),
            Operation::survey(Method::GET, "/v1/diagnose", handler!(status::diagnose))
                .named("diagnose", "Show what is wrong")
                .describe("Each finding says what to do about it.")
                .answers::<DiagnosisView>(StatusCode::OK, "The findings; none when all is well.")
                .example(example::diagnosis()),
        ],
    }
}
