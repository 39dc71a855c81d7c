//! Sinks.

use hyper::{Method, StatusCode};

use super::{Group, Operation, example, handler, of_sink, of_source};
use crate::error::Code;
use crate::handler::{lifecycle, settings, sink, update, versions};
use crate::input::settings::Changes;
use crate::input::sink::{NewSink, SinkChange};
use crate::view::settings::SettingsView;
use crate::view::shape;
use crate::view::sink::{SinkView, SinksView};
use crate::view::version::VersionsView;

pub(super) fn group() -> Group {
    let mut operations = lists();
    operations.extend(definition());
    operations.extend(options());
    operations.extend(switches());
    operations.extend(history());
    Group {
        name: "Sinks",
        description: "A sink is a table of a source, with the mapping that makes its rows of records.",
        operations,
    }
}

fn lists() -> Vec<Operation> {
    vec![
        Operation::read(Method::GET, of_source!("/sinks"), handler!(sink::list))
            .named("listSinks", "List the sinks of a source")
            .paged()
            .answers::<SinksView>(StatusCode::OK, "A page of live sinks by identifier."),
        Operation::write(Method::POST, of_source!("/sinks"), handler!(sink::create))
            .named("createSink", "Create a sink and its table")
            .describe(
                "One that was deleted comes back with the new content; its version numbers go on.",
            )
            .takes::<NewSink>(example::new_sink())
            .starts_task()
            .refuses(&[Code::SinkAlreadyExists, Code::SinkCountLimitReached]),
        Operation::read(
            Method::GET,
            of_source!("/sinks/deleted"),
            handler!(sink::list_deleted),
        )
        .named("listDeletedSinks", "List the deleted sinks of a source")
        .paged()
        .answers::<SinksView>(StatusCode::OK, "A page of deleted sinks by identifier."),
    ]
}

fn definition() -> Vec<Operation> {
    vec![
        Operation::read(Method::GET, of_sink!(""), handler!(sink::get))
            .named("getSink", "Show a sink")
            .answers::<SinkView>(StatusCode::OK, "The sink.")
            .example(example::sink()),
        Operation::write(Method::PATCH, of_sink!(""), handler!(update::sink))
            .named("updateSink", "Change a sink")
            .describe("A change of the table closes its file: rows received before are imported under the mapping they came with.")
            .takes::<SinkChange>(example::sink_change())
            .starts_task(),
        Operation::write(Method::DELETE, of_sink!(""), handler!(sink::delete))
            .named("deleteSink", "Delete a sink")
            .describe("Without `cascade` rows received until then are still imported, and the table stays.")
            .flag("cascade", "For good: the definition, all versions, rows that are not in a table yet, and the table.")
            .starts_task(),
    ]
}

fn options() -> Vec<Operation> {
    vec![
        Operation::read(
            Method::GET,
            of_sink!("/settings"),
            handler!(settings::of_sink),
        )
        .named("getSinkSettings", "Show the settings of a sink")
        .answers::<SettingsView>(StatusCode::OK, "All settings by key.")
        .example(example::settings()),
        Operation::write(
            Method::PATCH,
            of_sink!("/settings"),
            handler!(settings::change_sink),
        )
        .named("updateSinkSettings", "Change settings of a sink")
        .describe("They beat those of its source. Its file is closed, and the next one has them.")
        .takes::<Changes>(example::settings_change())
        .starts_task(),
    ]
}

fn switches() -> Vec<Operation> {
    vec![
        Operation::write(
            Method::PUT,
            of_sink!("/disable"),
            handler!(lifecycle::disable_sink),
        )
        .named("disableSink", "Stop making rows for a sink")
        .describe("Rows received until then are still imported.")
        .starts_task(),
        Operation::write(
            Method::PUT,
            of_sink!("/enable"),
            handler!(lifecycle::enable_sink),
        )
        .named("enableSink", "Make rows for a sink again")
        .starts_task(),
        Operation::write(
            Method::PUT,
            of_sink!("/undelete"),
            handler!(lifecycle::undelete_sink),
        )
        .named("undeleteSink", "Bring a deleted sink back")
        .describe("Its source must live.")
        .starts_task()
        .refuses(&[Code::DeletedSinkNotFound]),
    ]
}

fn history() -> Vec<Operation> {
    vec![
        Operation::read(
            Method::GET,
            of_sink!("/versions"),
            handler!(versions::of_sink),
        )
        .named("listSinkVersions", "List the versions of a sink")
        .paged()
        .answers::<VersionsView>(StatusCode::OK, "A page of versions, the oldest first."),
        Operation::read(
            Method::GET,
            of_sink!("/versions/{version}"),
            handler!(versions::one_of_sink),
        )
        .named("getSinkVersion", "Show a version of a sink")
        .answers::<shape::Version>(StatusCode::OK, "The version.")
        .example(example::version())
        .refuses(&[Code::SinkVersionNotFound]),
        Operation::write(
            Method::PUT,
            of_sink!("/versions/{version}/rollback"),
            handler!(versions::roll_sink_back),
        )
        .named("rollbackSink", "Give a sink the content of a version again")
        .describe("As a new version. Whether it is disabled stays as it is.")
        .starts_task()
        .refuses(&[Code::SinkVersionNotFound]),
    ]
}
