//! API tokens, stored under their hashes only.

use stream_model::definition::Token;

use crate::error::StateError;
use crate::keyspace::{Key, prefix};
use crate::store::{Store, Versioned, Written};

impl Store {
    /// Stores a token under the hash from `stream_model::definition::token::token_hash`.
    ///
    /// # Errors
    /// `AlreadyExists`; `InvalidName` when the hash is none.
    pub async fn create_token(
        &self,
        hash: &str,
        token: Token,
    ) -> Result<Versioned<Token>, StateError> {
        if !is_hash(hash) {
            // Whatever it is, it might be the token itself: it is not shown.
            return Err(StateError::InvalidName {
                what: "a token hash",
                name: "***".to_owned(),
                rule: "it must be 64 lower-case hexadecimal digits",
            });
        }
        let key = Key::Token(hash.to_owned());
        self.txn()
            .absent(&key)
            .put(&key, &token)
            .commit_as(Written::new(token))
            .await
    }

    /// Finds a token by its hash.
    ///
    /// # Errors
    /// When etcd is away or the value cannot be read.
    pub async fn find_token(&self, hash: &str) -> Result<Option<Token>, StateError> {
        if !is_hash(hash) {
            return Ok(None);
        }
        let token = self.get(&Key::Token(hash.to_owned())).await?;
        Ok(token.map(|token| token.value))
    }

    /// Lists all tokens.
    ///
    /// # Errors
    /// When etcd is away.
    pub async fn tokens(&self) -> Result<Vec<Token>, StateError> {
        let tokens = self.list_readable(prefix::TOKENS).await?;
        Ok(tokens.into_iter().map(|(_, token)| token.value).collect())
    }

    /// Revokes the token with this short identifier.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when somebody else is revoking it.
    pub async fn revoke_token(&self, id: &str) -> Result<(), StateError> {
        let tokens = self.list_readable::<Token>(prefix::TOKENS).await?;
        let Some((key, token)) = tokens.into_iter().find(|(_, token)| token.value.id == id) else {
            return Err(StateError::not_found(format!("token {id}")));
        };
        let txn = self.txn().unmodified(&key, token.revision).delete(&key);
        txn.commit().await.map(|_| ())
    }
}

pub(crate) fn is_hash(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}
