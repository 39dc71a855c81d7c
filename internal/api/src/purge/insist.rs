//! Steps of a purge that are tried again when somebody else was faster.

use std::ops::ControlFlow;
use std::time::Duration;

use stream_state::StateError;
use tracing::debug;

use crate::error::{ApiError, Code};

/// How often a step is tried.
const TRIES: u32 = 32;
/// The pause after somebody else was faster.
const PAUSE: Duration = Duration::from_millis(50);

/// Why an attempt failed.
pub(super) enum Failed {
    /// Somebody else was faster, or is at work on the same thing.
    Overtaken(StateError),
    /// Trying again at once would not help.
    Other(ApiError),
}

impl From<StateError> for Failed {
    fn from(error: StateError) -> Self {
        match error {
            StateError::Conflict { .. } | StateError::TableLeaves { .. } => Self::Overtaken(error),
            error => Self::Other(error.into()),
        }
    }
}

impl From<ApiError> for Failed {
    fn from(error: ApiError) -> Self {
        Self::Other(error)
    }
}

/// Attempts a step until it is done. `Continue` means that there may be more to do. `refusal` is answered when there is no end to it.
pub(super) async fn insist<T, F>(
    refusal: &'static str,
    attempt: impl Fn() -> F,
) -> Result<T, ApiError>
where
    F: Future<Output = Result<ControlFlow<T>, Failed>>,
{
    for _ in 0..TRIES {
        match attempt().await {
            Ok(ControlFlow::Break(done)) => return Ok(done),
            Ok(ControlFlow::Continue(())) => {}
            Err(Failed::Overtaken(error)) => {
                debug!(%error, "somebody else was faster");
                tokio::time::sleep(PAUSE).await;
            }
            Err(Failed::Other(error)) => return Err(error),
        }
    }
    Err(ApiError::new(Code::Conflict, refusal))
}
