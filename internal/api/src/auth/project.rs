//! Tokens of projects, verified by the Storage API of their installation.
//!
//! What it says of a token is believed for a minute. Requests that come with the same token while it is being verified wait for
//! that one verification, whatever its outcome; a refusal is shared with them and then forgotten, so that a token works as soon
//! as it is made.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use stream_model::definition::token::{Role, token_hash};
use stream_model::definition::{Actor, Project};
use stream_model::{BranchKey, Clock, ProjectId, Secret};
use stream_state::Store;
use stream_target::keboola::{Holder, Identity, StorageApi};
use tokio::time::Instant;

use super::Caller;
use crate::error::{ApiError, Code};
use crate::metrics::Metrics;

/// How long the outcome of a verification is believed. A token that was deleted works for at most this long.
const BELIEVED_FOR: Duration = Duration::from_secs(60);
/// The role that may change things.
const ADMIN: &str = "admin";

/// Verifies tokens of projects.
pub(crate) struct ProjectTokens {
    storage_api: StorageApi,
    store: Store,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    /// By hash. Filled by requests; what is old and waited for by nobody is removed by the next new token.
    slots: Mutex<HashMap<String, Arc<Slot>>>,
}

/// The place of one token. Whoever holds its lock verifies.
type Slot = tokio::sync::Mutex<Option<Known>>;

/// The outcome of a verification.
#[derive(Clone)]
struct Known {
    outcome: Result<Verified, ApiError>,
    at: Instant,
}

/// What is known of a token.
#[derive(Clone)]
struct Verified {
    home: BranchKey,
    actor: Actor,
    role: Role,
}

impl Known {
    /// Whether a request may rely on it that arrived at `arrived`.
    fn serves(&self, arrived: Instant) -> bool {
        self.at >= arrived || (self.outcome.is_ok() && self.at.elapsed() < BELIEVED_FOR)
    }
}

impl ProjectTokens {
    pub(crate) fn new(
        storage_api: StorageApi,
        store: Store,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
    ) -> Self {
        Self {
            storage_api,
            store,
            clock,
            metrics,
            slots: Mutex::default(),
        }
    }

    /// The holder of a token.
    pub(super) async fn caller(&self, token: Secret<String>) -> Result<Caller, ApiError> {
        let arrived = Instant::now();
        let slot = self.slot(token_hash(&token));
        let mut known = slot.lock().await;
        let outcome = match known.as_ref().filter(|known| known.serves(arrived)) {
            Some(known) => known.outcome.clone(),
            None => {
                let outcome = self.verify(&token).await;
                *known = Some(Known {
                    outcome: outcome.clone(),
                    at: Instant::now(),
                });
                outcome
            }
        };
        let Verified { home, actor, role } = outcome?;
        Ok(Caller {
            home,
            actor,
            role,
            owner: Some(token),
        })
    }

    fn slot(&self, hash: String) -> Arc<Slot> {
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.get(&hash) {
            return Arc::clone(slot);
        }
        slots.retain(|_, slot| {
            let is_used = Arc::strong_count(slot) > 1;
            is_used
                || slot.try_lock().is_ok_and(|known| {
                    let known = known.as_ref();
                    known.is_some_and(|it| it.outcome.is_ok() && it.at.elapsed() < BELIEVED_FOR)
                })
        });
        Arc::clone(slots.entry(hash).or_default())
    }

    async fn verify(&self, token: &Secret<String>) -> Result<Verified, ApiError> {
        let outcome = self.ask(token).await;
        let counted = match &outcome {
            Ok(_) => "valid",
            Err(error) if error.status().is_server_error() => "failed",
            Err(_) => "refused",
        };
        let verifications = &self.metrics.verifications;
        verifications.with_label_values(&[counted]).inc();
        outcome
    }

    async fn ask(&self, token: &Secret<String>) -> Result<Verified, ApiError> {
        let identity = self.storage_api.verify(token).await?;
        let (actor, role) = holder(&identity)?;
        let project = self.project(identity.project, token).await?;
        Ok(Verified {
            home: BranchKey {
                project: identity.project,
                branch: project.default_branch,
            },
            actor,
            role,
        })
    }

    /// The project, asked for and recorded when it is used for the first time.
    async fn project(&self, id: ProjectId, token: &Secret<String>) -> Result<Project, ApiError> {
        if let Some(project) = self.store.project(id).await? {
            return Ok(project);
        }
        let project = Project {
            default_branch: self.storage_api.default_branch(token).await?,
            first_used_at: self.clock.now(),
        };
        Ok(self.store.record_project(id, project).await?)
    }
}

/// The holder as the author of changes, and what they may do.
fn holder(identity: &Identity) -> Result<(Actor, Role), ApiError> {
    let Holder::Person { role, id, name } = &identity.holder else {
        return Err(ApiError::new(
            Code::MasterTokenRequired,
            "The token is a limited one; use a master token, which belongs to a person in the project.",
        ));
    };
    let actor = Actor::User {
        token_id: identity.token_id.clone(),
        token_desc: identity.description.clone(),
        user_id: id.clone(),
        user_name: name.clone(),
    };
    let role = match role.as_str() {
        ADMIN => Role::Admin,
        _ => Role::ReadOnly,
    };
    Ok((actor, role))
}
