//! Sources.

use hyper::{Method, StatusCode};
use serde_json::json;

use super::{Group, Operation, example, handler, of_branch, of_source};
use crate::error::Code;
use crate::handler::{dry_run, lifecycle, settings, source, update, versions};
use crate::input::settings::Changes;
use crate::input::source::{NewSource, SourceChange};
use crate::view::dry_run::DryRunView;
use crate::view::settings::SettingsView;
use crate::view::shape;
use crate::view::source::{SourceView, SourcesView};
use crate::view::version::VersionsView;

pub(super) fn group() -> Group {
    let mut operations = lists();
    operations.extend(definition());
    operations.extend(options());
    operations.extend(switches());
    operations.extend(history());
    Group {
        name: "Sources",
        description: "A source is a URL that takes records.",
        operations,
    }
}

fn lists() -> Vec<Operation> {
    vec![
        Operation::read(Method::GET, of_branch!("/sources"), handler!(source::list))
            .named("listSources", "List the sources of a branch")
            .paged()
            .answers::<SourcesView>(StatusCode::OK, "A page of live sources by identifier."),
        Operation::write(
            Method::POST,
            of_branch!("/sources"),
            handler!(source::create),
        )
        .named("createSource", "Create a source")
        .describe(
            "One that was deleted comes back with the new content; its version numbers go on.",
        )
        .takes::<NewSource>(example::new_source())
        .starts_task()
        .example(example::task())
        .refuses(&[Code::SourceAlreadyExists, Code::SourceCountLimitReached]),
        Operation::read(
            Method::GET,
            of_branch!("/sources/deleted"),
            handler!(source::list_deleted),
        )
        .named("listDeletedSources", "List the deleted sources of a branch")
        .paged()
        .answers::<SourcesView>(StatusCode::OK, "A page of deleted sources by identifier."),
    ]
}

fn definition() -> Vec<Operation> {
    vec![
        Operation::read(Method::GET, of_source!(""), handler!(source::get))
            .named("getSource", "Show a source")
            .describe("Its URL ends in the secret: whoever sees the source may write to it.")
            .answers::<SourceView>(StatusCode::OK, "The source.")
            .example(example::source()),
        Operation::write(Method::PATCH, of_source!(""), handler!(update::source))
            .named("updateSource", "Change a source")
            .takes::<SourceChange>(example::source_change())
            .starts_task(),
        Operation::write(Method::DELETE, of_source!(""), handler!(source::delete))
            .named("deleteSource", "Delete a source and its sinks")
            .describe("Without `cascade` rows received until then are still imported, and the tables stay.")
            .flag("cascade", "For good: the definition, all versions, rows that are not in a table yet, and the tables.")
            .starts_task(),
        Operation::write(
            Method::POST,
            of_source!("/rotate-secret"),
            handler!(source::rotate_secret),
        )
        .named("rotateSecret", "Give a source a new secret")
        .describe("At once: the old URL stops working.")
        .answers::<SourceView>(StatusCode::OK, "The source with its new URL.")
        .example(example::source()),
    ]
}

fn options() -> Vec<Operation> {
    vec![
        Operation::read(
            Method::GET,
            of_source!("/settings"),
            handler!(settings::of_source),
        )
        .named("getSourceSettings", "Show the settings of a source")
        .answers::<SettingsView>(StatusCode::OK, "All settings by key.")
        .example(example::settings()),
        Operation::write(
            Method::PATCH,
            of_source!("/settings"),
            handler!(settings::change_source),
        )
        .named("updateSourceSettings", "Change settings of a source")
        .describe("They are inherited by its sinks and count from the next file on.")
        .takes::<Changes>(example::settings_change())
        .starts_task(),
        Operation::read(Method::POST, of_source!("/test"), handler!(dry_run::of_source))
            .named("testSource", "Show the rows that a body would become")
            .describe("Of all sinks, also disabled ones. Nothing is stored. The body and its headers are those of a request to the source.")
            .flag("batch", "The JSON body is an array of records.")
            .query(
                "signal",
                "The kind of the records of an OTLP source; of no effect for others.",
                json!({"type": "string", "enum": ["logs", "metrics", "traces"]}),
            )
            .takes_any(&["application/json", "application/x-ndjson", "application/x-www-form-urlencoded", "text/csv", "text/plain"])
            .answers::<DryRunView>(StatusCode::OK, "The rows of each sink, in the order of their columns.")
            .refuses(&[
                Code::InvalidEnumValue,
                Code::UnsupportedMediaType,
                Code::UnprocessableContent,
            ]),
    ]
}

fn switches() -> Vec<Operation> {
    vec![
        Operation::write(
            Method::PUT,
            of_source!("/disable"),
            handler!(lifecycle::disable_source),
        )
        .named("disableSource", "Stop taking records")
        .describe("Its enabled sinks are disabled along with it.")
        .starts_task(),
        Operation::write(
            Method::PUT,
            of_source!("/enable"),
            handler!(lifecycle::enable_source),
        )
        .named("enableSource", "Take records again")
        .describe("Enables the sinks that were disabled along with it.")
        .starts_task(),
        Operation::write(
            Method::PUT,
            of_source!("/undelete"),
            handler!(lifecycle::undelete_source),
        )
        .named("undeleteSource", "Bring a deleted source back")
        .describe("With the sinks that were deleted along with it.")
        .starts_task()
        .refuses(&[Code::DeletedSourceNotFound]),
    ]
}

fn history() -> Vec<Operation> {
    vec![
        Operation::read(
            Method::GET,
            of_source!("/versions"),
            handler!(versions::of_source),
        )
        .named("listSourceVersions", "List the versions of a source")
        .paged()
        .answers::<VersionsView>(StatusCode::OK, "A page of versions, the oldest first."),
        Operation::read(
            Method::GET,
            of_source!("/versions/{version}"),
            handler!(versions::one_of_source),
        )
        .named("getSourceVersion", "Show a version of a source")
        .answers::<shape::Version>(StatusCode::OK, "The version.")
        .example(example::version())
        .refuses(&[Code::SourceVersionNotFound]),
        Operation::write(
            Method::PUT,
            of_source!("/versions/{version}/rollback"),
            handler!(versions::roll_source_back),
        )
        .named(
            "rollbackSource",
            "Give a source the content of a version again",
        )
        .describe("As a new version. The secret and whether it is disabled stay as they are.")
        .starts_task()
        .refuses(&[Code::SourceVersionNotFound]),
    ]
}
