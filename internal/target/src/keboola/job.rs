//! Work that the Storage API does in the background.

use std::time::Duration;

use serde::Deserialize;
use tokio::time::{Instant, sleep};

use super::client::Ask;
use super::error::{Refusal, StorageApiError};
use super::project::Project;

/// How long a job may take. Shorter than a task, which has to undo what was done.
const JOB_LIMIT: Duration = Duration::from_secs(3 * 60);
/// The pause between two looks at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A job that was started.
#[derive(Debug, Deserialize)]
pub(super) struct Started {
    id: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Job {
    status: String,
    #[serde(default)]
    error: Option<Failure>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Failure {
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    exception_id: Option<String>,
}

impl Started {
    /// Waits until the job has ended.
    pub(super) async fn finished(
        self,
        project: &Project<'_>,
        operation: &'static str,
    ) -> Result<(), StorageApiError> {
        let (until, mut pause) = (Instant::now() + JOB_LIMIT, FIRST_PAUSE);
        loop {
            let ask = Ask::get(operation, format!("jobs/{}", self.id)).by(project.token);
            let job: Job = project.api.call(ask).await?;
            match job.status.as_str() {
                "success" => return Ok(()),
                "waiting" | "processing" => {}
                other => return Err(failed(operation, other, job.error)),
            }
            if Instant::now() + pause >= until {
                let minutes = JOB_LIMIT.as_secs() / 60;
                return Err(StorageApiError::Unavailable {
                    operation,
                    reason: format!("job {} takes longer than {minutes} min", self.id),
                });
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

fn failed(operation: &str, status: &str, failure: Option<Failure>) -> StorageApiError {
    let failure = failure.unwrap_or(Failure {
        code: None,
        message: None,
        exception_id: None,
    });
    let message = failure.message.unwrap_or_else(|| {
        format!("the Storage API could not {operation}: its job ended with status {status:?}")
    });
    StorageApiError::Refused(Refusal {
        status: 400,
        name: failure
            .code
            .unwrap_or_else(|| "storage.jobFailed".to_owned()),
        message,
        exception_id: failure.exception_id,
    })
}
