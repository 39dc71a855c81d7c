//! How many rows are where.

use hyper::{Method, StatusCode};
use serde_json::json;

use super::{Group, Operation, example, handler, of_branch, of_sink, of_source};
use crate::error::Code;
use crate::handler::{aggregation, ledger, record, statistics};
use crate::view::aggregation::AggregationView;
use crate::view::file::FilesView;
use crate::view::ledger::{LedgerView, SourceLedgerView};
use crate::view::record::LocatedView;
use crate::view::rejects::RejectsPage;
use crate::view::statistics::StatisticsView;

pub(super) fn group() -> Group {
    let mut operations = figures();
    operations.extend(ledgers());
    operations.extend(places());
    Group {
        name: "Statistics",
        description: "How many rows are where, what was rejected, and where a record is.",
        operations,
    }
}

fn figures() -> Vec<Operation> {
    vec![
        Operation::read(Method::GET, of_sink!("/statistics/total"), handler!(statistics::total))
            .named("getStatistics", "Show how many rows of a sink are where")
            .describe("A level without rows is left out. Slices that still take rows count once they have reached a limit.")
            .answers::<StatisticsView>(StatusCode::OK, "The figures.")
            .example(example::statistics()),
        Operation::write(Method::DELETE, of_sink!("/statistics/clear"), handler!(statistics::clear_sink))
            .named("clearSinkStatistics", "Count the rows of a sink from now on")
            .describe("What came before does not count any more, and files that were opened before are not listed.")
            .answers_nothing(StatusCode::OK, "Done."),
        Operation::write(Method::DELETE, of_source!("/statistics/clear"), handler!(statistics::clear_source))
            .named("clearSourceStatistics", "Count the rows of all sinks of a source from now on")
            .answers_nothing(StatusCode::OK, "Done."),
    ]
}

fn ledgers() -> Vec<Operation> {
    vec![
        Operation::read(Method::GET, of_sink!("/ledger"), handler!(ledger::of_sink))
            .named(
                "getSinkLedger",
                "Show that every record of a sink is somewhere",
            )
            .describe("Hour by hour: received = rejected + buffered + staged + imported + lost.")
            .between_hours()
            .answers::<LedgerView>(
                StatusCode::OK,
                "The hours, and the sum of the sink's whole life.",
            ),
        Operation::read(
            Method::GET,
            of_source!("/ledger"),
            handler!(ledger::of_source),
        )
        .named(
            "getSourceLedger",
            "Show that every record of a source is somewhere",
        )
        .describe("A record counts once for each sink.")
        .between_hours()
        .answers::<SourceLedgerView>(StatusCode::OK, "The ledgers of all sinks."),
    ]
}

fn places() -> Vec<Operation> {
    vec![
        Operation::read(Method::GET, of_sink!("/statistics/files"), handler!(statistics::files))
            .named("listFiles", "List the files of a sink")
            .describe("The newest 100 that were not cleaned up yet.")
            .flag("failedFiles", "Only files whose last step has failed.")
            .answers::<FilesView>(StatusCode::OK, "Imported ones first, then those that go well, then those that are tried again."),
        Operation::read(Method::GET, of_sink!("/records/{record}"), handler!(record::locate))
            .named("locateRecord", "Show where a record is")
            .describe(
                "By the `X-Request-Id` of its request, when the service made it: then every slice is listed that can have the \
                 records of the request. Or by its position, which the answer has in the header `X-Stream-Position` behind the name \
                 of the sink.\n\nA request id says that the request arrived; the records are there if the answer was 2xx.",
            )
            .query(
                "requestId",
                "With a position, the `X-Request-Id` of the same answer, when the service made it: then it is certain whose the number is.",
                json!({"type": "string"}),
            )
            .answers::<LocatedView>(StatusCode::OK, "The stage and the object; of a request, for each slice that can have its records.")
            .refuses(&[Code::RecordNotFound]),
        Operation::read(Method::GET, of_sink!("/rejected"), handler!(statistics::rejected))
            .named("listRejected", "List the slices with rejected records of a sink")
            .paged()
            .answers::<RejectsPage>(StatusCode::OK, "Oldest first."),
        Operation::read(Method::GET, of_branch!("/aggregation/sources"), handler!(aggregation::sources))
            .named("aggregateSources", "List sources with their sinks, figures and files")
            .paged()
            .answers::<AggregationView>(StatusCode::OK, "A page of sources by identifier."),
    ]
}
