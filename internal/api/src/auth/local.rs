//! Local API tokens, looked up by their hash.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use stream_model::Secret;
use stream_model::definition::Token;
use stream_model::definition::token::token_hash;
use stream_state::Store;
use tokio::time::Instant;

use super::{Caller, OWN_BRANCH};
use crate::error::{ApiError, Code};

/// How long a token that was found is believed. A revoked token works for at most this long.
const BELIEVED_FOR: Duration = Duration::from_secs(60);

/// Looks tokens up in the state and remembers those it found.
///
/// Only found tokens are remembered: a new token works at once, and what clients make up takes no memory.
pub(crate) struct LocalTokens {
    store: Store,
    found: Mutex<HashMap<String, Found>>,
}

struct Found {
    token: Token,
    at: Instant,
}

impl LocalTokens {
    pub(crate) fn new(store: Store) -> Self {
        Self {
            store,
            found: Mutex::default(),
        }
    }

    /// The holder of a token.
    pub(super) async fn caller(&self, token: &Secret<String>) -> Result<Caller, ApiError> {
        let token = self.find(token).await?;
        Ok(Caller {
            home: OWN_BRANCH,
            actor: token.actor(),
            role: token.role,
            owner: None,
        })
    }

    async fn find(&self, token: &Secret<String>) -> Result<Token, ApiError> {
        let hash = token_hash(token);
        if let Some(token) = self.remembered(&hash) {
            return Ok(token);
        }
        let found = self.store.find_token(&hash).await?;
        let token = found.ok_or_else(|| {
            ApiError::new(
                Code::Unauthorized,
                "The token is not valid here; use the one in the file \"admin-token\" in the data directory.",
            )
        })?;
        self.remember(hash, token.clone());
        Ok(token)
    }

    fn remembered(&self, hash: &str) -> Option<Token> {
        let found = self.found.lock();
        let found = found
            .get(hash)
            .filter(|found| found.at.elapsed() < BELIEVED_FOR)?;
        Some(found.token.clone())
    }

    fn remember(&self, hash: String, token: Token) {
        let mut found = self.found.lock();
        found.retain(|_, found| found.at.elapsed() < BELIEVED_FOR);
        found.insert(
            hash,
            Found {
                token,
                at: Instant::now(),
            },
        );
    }
}
