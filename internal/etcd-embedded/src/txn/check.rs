//! Checks of a request that need no state, and its weight in the queue.

use std::collections::BTreeSet;

use etcd_client::proto::{
    PbDeleteRequest, PbPutRequest, PbTxnOpRequest, PbTxnRequest, PbTxnRequestOp,
};

use crate::mvcc::{KeyRange, check_range};
use crate::refusal::Refusal;

/// etcd's default limit of a request.
pub(crate) const MAX_REQUEST_BYTES: usize = 1_536 << 10;
/// etcd's default limit of comparisons, and of operations in a branch, counted along the nesting.
const MAX_OPERATIONS: usize = 128;

pub(crate) fn check_put(request: &PbPutRequest) -> Result<(), Refusal> {
    if request.key.is_empty() {
        return Err(Refusal::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(Refusal::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Refusal::LeaseProvided);
    }
    Ok(())
}

pub(crate) fn check_delete(request: &PbDeleteRequest) -> Result<(), Refusal> {
    if request.key.is_empty() {
        return Err(Refusal::EmptyKey);
    }
    Ok(())
}

pub(crate) fn check_txn(request: &PbTxnRequest) -> Result<(), Refusal> {
    check_operations(request, MAX_OPERATIONS)?;
    check_writes(&request.success)?;
    check_writes(&request.failure)?;
    Ok(())
}

fn check_operations(request: &PbTxnRequest, limit: usize) -> Result<(), Refusal> {
    let longest = request
        .compare
        .len()
        .max(request.success.len())
        .max(request.failure.len());
    if longest > limit {
        return Err(Refusal::TooManyOperations);
    }
    if request
        .compare
        .iter()
        .any(|comparison| comparison.key.is_empty())
    {
        return Err(Refusal::EmptyKey);
    }
    for operation in request.success.iter().chain(&request.failure) {
        match &operation.request {
            Some(PbTxnOpRequest::RequestRange(range)) => check_range(range)?,
            Some(PbTxnOpRequest::RequestPut(put)) => check_put(put)?,
            Some(PbTxnOpRequest::RequestDeleteRange(delete)) => check_delete(delete)?,
            Some(PbTxnOpRequest::RequestTxn(nested)) => check_operations(nested, limit - longest)?,
            None => return Err(Refusal::KeyNotFound),
        }
    }
    Ok(())
}

/// What a branch may write, nested branches included.
#[derive(Default)]
struct Writes {
    puts: BTreeSet<Vec<u8>>,
    deletes: Vec<KeyRange>,
}

impl Writes {
    fn add_put(&mut self, key: &[u8]) -> Result<(), Refusal> {
        if self.is_deleted(key) || !self.puts.insert(key.to_vec()) {
            return Err(Refusal::DuplicateKey);
        }
        Ok(())
    }

    fn is_deleted(&self, key: &[u8]) -> bool {
        self.deletes.iter().any(|range| range.contains(key))
    }
}

/// Refuses a branch that could put a key twice, or delete and then put it. The two branches of a nested transaction
/// exclude each other, so both may write the same key.
fn check_writes(operations: &[PbTxnRequestOp]) -> Result<Writes, Refusal> {
    let mut writes = Writes::default();
    for operation in operations {
        if let Some(PbTxnOpRequest::RequestDeleteRange(delete)) = &operation.request {
            let range = KeyRange::new(&delete.key, &delete.range_end);
            writes.deletes.push(range);
        }
    }
    for operation in operations {
        if let Some(PbTxnOpRequest::RequestTxn(nested)) = &operation.request {
            add_nested(&mut writes, nested)?;
        }
    }
    for operation in operations {
        if let Some(PbTxnOpRequest::RequestPut(put)) = &operation.request {
            writes.add_put(&put.key)?;
        }
    }
    Ok(writes)
}

fn add_nested(writes: &mut Writes, nested: &PbTxnRequest) -> Result<(), Refusal> {
    let success = check_writes(&nested.success)?;
    let failure = check_writes(&nested.failure)?;
    for key in &success.puts {
        writes.add_put(key)?;
    }
    for key in failure.puts.difference(&success.puts) {
        writes.add_put(key)?;
    }
    // After the puts: one branch may delete what the other puts.
    writes.deletes.extend(success.deletes);
    writes.deletes.extend(failure.deletes);
    Ok(())
}

pub(crate) fn put_weight(request: &PbPutRequest) -> usize {
    request.key.len() + request.value.len()
}

pub(crate) fn delete_weight(request: &PbDeleteRequest) -> usize {
    request.key.len() + request.range_end.len()
}

/// Bytes of all keys and values in a transaction.
pub(crate) fn txn_weight(request: &PbTxnRequest) -> usize {
    let mut weight = 0;
    for comparison in &request.compare {
        weight += comparison.key.len() + comparison.range_end.len();
    }
    for operation in request.success.iter().chain(&request.failure) {
        weight += match &operation.request {
            Some(PbTxnOpRequest::RequestRange(range)) => range.key.len() + range.range_end.len(),
            Some(PbTxnOpRequest::RequestPut(put)) => put_weight(put),
            Some(PbTxnOpRequest::RequestDeleteRange(delete)) => delete_weight(delete),
            Some(PbTxnOpRequest::RequestTxn(nested)) => txn_weight(nested),
            None => 0,
        };
    }
    weight
}
