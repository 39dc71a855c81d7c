//! Who sends a request: local API tokens, looked up by their hash.

use std::collections::HashMap;
use std::time::Duration;

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use parking_lot::Mutex;
use stream_model::Secret;
use stream_model::definition::Token;
use stream_model::definition::token::token_hash;
use stream_state::Store;
use tokio::time::Instant;

use crate::error::{ApiError, Code};

/// The header that existing clients send.
const TOKEN_HEADER: &str = "x-storageapi-token";

/// How long a token that was found is believed. A revoked token works for at most this long.
const BELIEVED_FOR: Duration = Duration::from_secs(60);

/// Looks tokens up in the state and remembers those it found.
///
/// Only found tokens are remembered: a new token works at once, and what clients make up takes no memory.
pub(crate) struct Authenticator {
    store: Store,
    found: Mutex<HashMap<String, Found>>,
}

struct Found {
    token: Token,
    at: Instant,
}

impl Authenticator {
    pub(crate) fn new(store: Store) -> Self {
        Self {
            store,
            found: Mutex::default(),
        }
    }

    /// The holder of the token in the headers.
    pub(crate) async fn authenticate(&self, headers: &HeaderMap) -> Result<Token, ApiError> {
        let hash = token_hash(&sent_token(headers)?);
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

/// The token of either header.
fn sent_token(headers: &HeaderMap) -> Result<Secret<String>, ApiError> {
    let plain = headers
        .get(TOKEN_HEADER)
        .and_then(|value| value.to_str().ok());
    let bearer = || {
        headers
            .get(AUTHORIZATION)?
            .to_str()
            .ok()
            .and_then(bearer_token)
    };
    let token = plain
        .or_else(bearer)
        .map(str::trim)
        .filter(|token| !token.is_empty());
    token.map(|token| Secret::new(token.to_owned())).ok_or_else(|| {
        ApiError::new(
            Code::MissingField,
            "Header \"X-StorageApi-Token\" is missing; send the API token in it, or as \"Authorization: Bearer …\".",
        )
    })
}

/// Takes the token out of the headers, wherever it was found. What else is in them is the client's own.
pub(crate) fn remove_token(headers: &mut HeaderMap) {
    if headers.remove(TOKEN_HEADER).is_none() {
        headers.remove(AUTHORIZATION);
    }
}

/// The token after the word `Bearer`, in any case.
fn bearer_token(value: &str) -> Option<&str> {
    let (scheme, token) = value.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(name: &'static str, value: &str) -> Result<String, Code> {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().expect("a header value"));
        sent_token(&headers)
            .map(|token| token.expose().clone())
            .map_err(|error| error.code)
    }

    #[test]
    fn both_headers_are_accepted() {
        assert_eq!(sent("x-storageapi-token", " abc ").as_deref(), Ok("abc"));
        assert_eq!(sent("authorization", "Bearer abc").as_deref(), Ok("abc"));
        assert_eq!(sent("authorization", "bearer  abc").as_deref(), Ok("abc"));
    }

    #[test]
    fn an_absent_or_empty_token_is_a_missing_field() {
        assert_eq!(sent("x-storageapi-token", ""), Err(Code::MissingField));
        assert_eq!(sent("authorization", "Basic abc"), Err(Code::MissingField));
        assert_eq!(sent("authorization", "Bearer "), Err(Code::MissingField));
        assert_eq!(sent("accept", "*/*"), Err(Code::MissingField));
    }
}
