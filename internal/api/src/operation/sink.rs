//! Sinks, and where their rows are.

use hyper::Method;

use super::{Operation, handler, of_sink, of_source};
use crate::handler::{ledger, lifecycle, record, settings, sink, statistics, update, versions};

pub(super) fn operations() -> Vec<Operation> {
    let mut operations = definition();
    operations.extend(switches());
    operations.extend(history());
    operations.extend(figures());
    operations
}

fn definition() -> Vec<Operation> {
    vec![
        Operation::read(Method::GET, of_source!("/sinks"), handler!(sink::list)),
        Operation::write(Method::POST, of_source!("/sinks"), handler!(sink::create)),
        Operation::read(Method::GET, of_sink!(""), handler!(sink::get)),
        Operation::write(Method::PATCH, of_sink!(""), handler!(update::sink)),
        Operation::write(Method::DELETE, of_sink!(""), handler!(sink::delete)),
        Operation::read(
            Method::GET,
            of_sink!("/settings"),
            handler!(settings::of_sink),
        ),
        Operation::write(
            Method::PATCH,
            of_sink!("/settings"),
            handler!(settings::change_sink),
        ),
    ]
}

fn switches() -> Vec<Operation> {
    vec![
        Operation::read(
            Method::GET,
            of_source!("/sinks/deleted"),
            handler!(sink::list_deleted),
        ),
        Operation::write(
            Method::PUT,
            of_sink!("/disable"),
            handler!(lifecycle::disable_sink),
        ),
        Operation::write(
            Method::PUT,
            of_sink!("/enable"),
            handler!(lifecycle::enable_sink),
        ),
        Operation::write(
            Method::PUT,
            of_sink!("/undelete"),
            handler!(lifecycle::undelete_sink),
        ),
    ]
}

fn history() -> Vec<Operation> {
    vec![
        Operation::read(
            Method::GET,
            of_sink!("/versions"),
            handler!(versions::of_sink),
        ),
        Operation::read(
            Method::GET,
            of_sink!("/versions/{version}"),
            handler!(versions::one_of_sink),
        ),
        Operation::write(
            Method::PUT,
            of_sink!("/versions/{version}/rollback"),
            handler!(versions::roll_sink_back),
        ),
    ]
}

fn figures() -> Vec<Operation> {
    vec![
        Operation::read(
            Method::GET,
            of_sink!("/statistics/total"),
            handler!(statistics::total),
        ),
        Operation::read(
            Method::GET,
            of_sink!("/statistics/files"),
            handler!(statistics::files),
        ),
        Operation::write(
            Method::DELETE,
            of_sink!("/statistics/clear"),
            handler!(statistics::clear_sink),
        ),
        Operation::read(Method::GET, of_sink!("/ledger"), handler!(ledger::of_sink)),
        Operation::read(
            Method::GET,
            of_sink!("/records/{record}"),
            handler!(record::locate),
        ),
        Operation::read(
            Method::GET,
            of_sink!("/rejected"),
            handler!(statistics::rejected),
        ),
    ]
}
