//! What is known of records by the settings of other components: how late they can be, and for how long they can be found.

use std::time::Duration;

use stream_model::unit::Interval;

/// What passes beside the times of a request: it waits for a slice and for templates, and the clocks of machines differ.
const BESIDE: Duration = Duration::from_secs(30);

/// Settings of the HTTP source and the storage-coordinator, as this process knows them. They are meant to be the same everywhere.
#[derive(Debug, Clone, Copy)]
pub struct Traces {
    /// The most time for the body of a request, and again from the batch to the answer.
    pub request_timeout: Duration,
    /// For how long slices are known.
    pub kept: Kept,
}

/// For how long slices are known after their import, or upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// For ever: there is no clean-up.
    All,
    /// Until the clean-up.
    Newest {
        /// Imported files of a sink.
        files: usize,
        /// Objects of a sink with rejected records.
        rejects: usize,
        /// How long those at most.
        rejects_for: Duration,
    },
}

impl Traces {
    /// The most time between the arrival of a record and its place in a slice.
    pub(crate) fn late(&self) -> Duration {
        self.request_timeout * 2 + BESIDE
    }

    /// A sentence about what is kept.
    pub(crate) fn kept(&self) -> String {
        match self.kept {
            Kept::All => "Slices are kept for ever.".to_owned(),
            Kept::Newest {
                files,
                rejects,
                rejects_for,
            } => format!(
                "Slices are known until their file is imported and {files} newer ones of the sink are, rejected records for {} \
                 and in the newest {rejects} objects.",
                Interval(rejects_for)
            ),
        }
    }
}
