//! Sources.

use hyper::Method;

use super::{Operation, handler, of_branch, of_source};
use crate::handler::{dry_run, ledger, lifecycle, settings, source, statistics, update, versions};

pub(super) fn operations() -> Vec<Operation> {
    let mut operations = definition();
    operations.extend(switches());
    operations.extend(history());
    operations
}

fn definition() -> Vec<Operation> {
    vec![
        Operation::read(Method::GET, of_branch!("/sources"), handler!(source::list)),
        Operation::write(
            Method::POST,
            of_branch!("/sources"),
            handler!(source::create),
        ),
        Operation::read(Method::GET, of_source!(""), handler!(source::get)),
        Operation::write(Method::PATCH, of_source!(""), handler!(update::source)),
        Operation::write(Method::DELETE, of_source!(""), handler!(source::delete)),
        Operation::read(
            Method::GET,
            of_source!("/settings"),
            handler!(settings::of_source),
        ),
        Operation::write(
            Method::PATCH,
            of_source!("/settings"),
            handler!(settings::change_source),
        ),
        Operation::write(
            Method::DELETE,
            of_source!("/statistics/clear"),
            handler!(statistics::clear_source),
        ),
        Operation::read(
            Method::GET,
            of_source!("/ledger"),
            handler!(ledger::of_source),
        ),
        Operation::read(
            Method::POST,
            of_source!("/test"),
            handler!(dry_run::of_source),
        ),
    ]
}

fn switches() -> Vec<Operation> {
    vec![
        Operation::read(
            Method::GET,
            of_branch!("/sources/deleted"),
            handler!(source::list_deleted),
        ),
        Operation::write(
            Method::PUT,
            of_source!("/disable"),
            handler!(lifecycle::disable_source),
        ),
        Operation::write(
            Method::PUT,
            of_source!("/enable"),
            handler!(lifecycle::enable_source),
        ),
        Operation::write(
            Method::PUT,
            of_source!("/undelete"),
            handler!(lifecycle::undelete_source),
        ),
        Operation::write(
            Method::POST,
            of_source!("/rotate-secret"),
            handler!(source::rotate_secret),
        ),
    ]
}

fn history() -> Vec<Operation> {
    vec![
        Operation::read(
            Method::GET,
            of_source!("/versions"),
            handler!(versions::of_source),
        ),
        Operation::read(
            Method::GET,
            of_source!("/versions/{version}"),
            handler!(versions::one_of_source),
        ),
        Operation::write(
            Method::PUT,
            of_source!("/versions/{version}/rollback"),
            handler!(versions::roll_source_back),
        ),
    ]
}
