//! The first opening of each volume, and what is said about it.

use tracing::{error, warn};

use super::serve::{self, First, Served};
use super::{Shared, WriterError};
use crate::copies::Sorted;
use crate::discover::VolumeDir;

/// What became of the volumes when they were opened first.
#[derive(Default)]
pub(super) struct Start {
    /// How many are open.
    pub(super) served: usize,
    /// How many another process has.
    pub(super) waiting: usize,
    /// Why the first of those that are neither is not.
    pub(super) failure: Option<WriterError>,
}

impl Start {
    /// Says how an opening ended. None for a volume that stays closed for good.
    pub(super) fn note(
        &mut self,
        shared: &Shared,
        dir: &VolumeDir,
        opened: Result<Served, WriterError>,
    ) -> Option<First> {
        let volume = serve::label(dir);
        let error = match opened {
            Ok(served) => {
                self.served += 1;
                return Some(First::Served(served));
            }
            Err(error) => error,
        };
        if error.is_in_use() {
            serve::report_in_use(shared, &volume, &error);
            self.waiting += 1;
            return Some(First::InUse);
        }
        let is_forgotten = error.is_forgotten();
        if is_forgotten {
            serve::report_forgotten(&volume, &error);
        } else {
            let reason = stream_node::error_chain(&error);
            error!(volume, error = reason, "volume cannot be opened");
            shared.readiness.missing(&volume, error.reason());
        }
        self.failure.get_or_insert(error);
        (!is_forgotten).then_some(First::Failed)
    }
}

/// Says which directories are not opened because of others. Returns the first reason that a person must see to.
pub(super) fn report_copies(shared: &Shared, dirs: &Sorted) -> Option<WriterError> {
    for repeated in &dirs.repeated {
        let (volume, path) = (serve::label(repeated), repeated.path.display());
        warn!(volume, %path, "directory of another volume under another path is left alone");
    }
    let mut failure = None;
    for same in &dirs.copies {
        let [first, second, ..] = &same[..] else {
            continue;
        };
        let (first, second) = (serve::label(first), serve::label(second));
        let reason = WriterError::Copies { first, second };
        error!(reason = %reason, "a volume and its copy are not opened");
        for copy in same {
            let label = serve::label(copy);
            shared.readiness.missing(&label, reason.to_string());
        }
        failure = failure.or(Some(reason));
    }
    failure
}
