//! Transactions: comparisons choose a branch, the branch is carried out in one revision or not at all.
//!
//! As in etcd, all comparisons, those of nested transactions too, and all checks of the chosen operations look at the
//! state before the transaction; only ranges see what the transaction itself wrote before them.

mod check;
mod compare;

pub(crate) use check::{
    MAX_REQUEST_BYTES, check_delete, check_put, check_txn, delete_weight, put_weight, txn_weight,
};

use etcd_client::proto::{
    PbResponseOp, PbTxnOpRequest, PbTxnOpResponse, PbTxnRequest, PbTxnRequestOp, PbTxnResponse,
};

use crate::mvcc::{range, revision_of};
use crate::refusal::Refusal;
use crate::state::State;

/// Carries out a checked transaction.
pub(crate) fn apply(state: &mut State, request: PbTxnRequest) -> Result<PbTxnResponse, Refusal> {
    let mut choices = Vec::new();
    choose(state, &request, &mut choices);
    admit(state, &request, &mut choices.iter().copied())?;
    let base = state.store.revision();
    Ok(execute(state, base, request, &mut choices.into_iter()))
}

/// Decides every transaction that will run, outer before inner, in the order in which they run.
fn choose(state: &State, request: &PbTxnRequest, choices: &mut Vec<bool>) {
    let view = state.store.revision();
    let succeeded = request
        .compare
        .iter()
        .all(|comparison| compare::holds(&state.store, comparison, view));
    choices.push(succeeded);
    for operation in branch(request, succeeded) {
        if let Some(PbTxnOpRequest::RequestTxn(nested)) = &operation.request {
            choose(state, nested, choices);
        }
    }
}

/// Checks the chosen operations against the state, so that carrying them out cannot fail half way.
fn admit(
    state: &State,
    request: &PbTxnRequest,
    choices: &mut dyn Iterator<Item = bool>,
) -> Result<(), Refusal> {
    let succeeded = next(choices);
    for operation in branch(request, succeeded) {
        match &operation.request {
            Some(PbTxnOpRequest::RequestRange(request)) => {
                revision_of(&state.store, request, state.store.revision())?;
            }
            Some(PbTxnOpRequest::RequestPut(request)) => state.admit_put(request)?,
            Some(PbTxnOpRequest::RequestTxn(nested)) => admit(state, nested, choices)?,
            Some(PbTxnOpRequest::RequestDeleteRange(_)) | None => {}
        }
    }
    Ok(())
}

fn execute(
    state: &mut State,
    base: i64,
    request: PbTxnRequest,
    choices: &mut dyn Iterator<Item = bool>,
) -> PbTxnResponse {
    let succeeded = next(choices);
    let operations = if succeeded {
        request.success
    } else {
        request.failure
    };
    let mut responses = Vec::with_capacity(operations.len());
    for operation in operations {
        let response = operation
            .request
            .map(|request| execute_one(state, base, request, choices));
        responses.push(PbResponseOp { response });
    }
    PbTxnResponse {
        header: state.header(),
        succeeded,
        responses,
    }
}

fn execute_one(
    state: &mut State,
    base: i64,
    request: PbTxnOpRequest,
    choices: &mut dyn Iterator<Item = bool>,
) -> PbTxnOpResponse {
    match request {
        PbTxnOpRequest::RequestRange(request) => {
            let response = range(&state.store, &request, state.store.revision());
            PbTxnOpResponse::ResponseRange(
                response.expect("the revision was checked before anything was changed"),
            )
        }
        PbTxnOpRequest::RequestPut(request) => {
            PbTxnOpResponse::ResponsePut(state.put_at(base, request))
        }
        PbTxnOpRequest::RequestDeleteRange(request) => {
            PbTxnOpResponse::ResponseDeleteRange(state.delete_at(base, &request))
        }
        PbTxnOpRequest::RequestTxn(nested) => {
            PbTxnOpResponse::ResponseTxn(execute(state, base, nested, choices))
        }
    }
}

fn branch(request: &PbTxnRequest, succeeded: bool) -> &[PbTxnRequestOp] {
    if succeeded {
        &request.success
    } else {
        &request.failure
    }
}

fn next(choices: &mut dyn Iterator<Item = bool>) -> bool {
    choices
        .next()
        .expect("there is one choice for each transaction that runs")
}
