//! Who a token belongs to, and the default branch of its project.

use serde::{Deserialize, Deserializer};
use stream_model::Secret;
use stream_model::id::{BranchId, ProjectId};

use super::client::{Ask, StorageApi};
use super::error::StorageApiError;

/// What the Storage API says of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Identifier of the token, not the token.
    pub token_id: String,
    /// Description of the token.
    pub description: String,
    /// The project that it opens.
    pub project: ProjectId,
    /// Whose it is.
    pub holder: Holder,
}

/// Whose a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A person's: a master token.
    Person {
        /// Their role in the project, for example `admin`.
        role: String,
        /// Their identifier.
        id: String,
        /// Their name.
        name: String,
    },
    /// Nobody's in particular: a token with chosen permissions.
    Limited,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Verified {
    #[serde(deserialize_with = "text_or_number")]
    id: String,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    is_master_token: bool,
    owner: Owner,
    #[serde(default)]
    admin: Option<Admin>,
}

#[derive(Deserialize)]
struct Owner {
    id: ProjectId,
}

#[derive(Deserialize)]
struct Admin {
    #[serde(deserialize_with = "text_or_number")]
    id: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    role: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Branch {
    id: BranchId,
    #[serde(default)]
    is_default: bool,
}

/// Identifiers come as texts or as numbers, depending on the endpoint.
pub(super) fn text_or_number<'de, D: Deserializer<'de>>(read: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Text(String),
        Number(u64),
    }
    Ok(match Either::deserialize(read)? {
        Either::Text(text) => text,
        Either::Number(number) => number.to_string(),
    })
}

impl StorageApi {
    /// Asks whether there is a Storage API at the address.
    ///
    /// # Errors
    /// When there is none, or none now.
    pub async fn check(&self) -> Result<(), StorageApiError> {
        let ask = Ask::get("read the index", "?exclude=components");
        self.call::<serde_json::Map<String, serde_json::Value>>(ask)
            .await
            .map(drop)
    }

    /// Asks who a token belongs to.
    ///
    /// # Errors
    /// When the token is not valid, or the Storage API does not say.
    pub async fn verify(&self, token: &Secret<String>) -> Result<Identity, StorageApiError> {
        let ask = Ask::get("verify the token", "tokens/verify").by(token);
        let verified: Verified = self.call(ask).await?;
        let holder = match verified.admin {
            Some(admin) if verified.is_master_token => Holder::Person {
                role: admin.role.unwrap_or_default(),
                id: admin.id,
                name: admin.name.unwrap_or_default(),
            },
            _ => Holder::Limited,
        };
        Ok(Identity {
            token_id: verified.id,
            description: verified.description.unwrap_or_default(),
            project: verified.owner.id,
            holder,
        })
    }

    /// Asks for the default branch of the token's project.
    ///
    /// # Errors
    /// When the Storage API does not say.
    pub async fn default_branch(
        &self,
        token: &Secret<String>,
    ) -> Result<BranchId, StorageApiError> {
        let operation = "find the default branch";
        let ask = Ask::get(operation, "dev-branches").by(token);
        let branches: Vec<Branch> = self.call(ask).await?;
        let default = branches.into_iter().find(|branch| branch.is_default);
        let default = default.ok_or_else(|| StorageApiError::Unreadable {
            operation,
            reason: "no branch is the default one".to_owned(),
        })?;
        Ok(default.id)
    }
}
