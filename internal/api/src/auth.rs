//! Who sends a request.
//!
//! | installation | tokens |
//! |---|---|
//! | on its own | local ones, looked up by their hash: [`local`] |
//! | with `storageApiHost` | those of projects, verified there: [`project`]; local ones only for what is the operator's |

mod local;
mod project;

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use stream_model::definition::Actor;
use stream_model::definition::token::{Role, token_hash};
use stream_model::{BranchId, BranchKey, ProjectId, Secret};

use crate::error::{ApiError, Code};

pub(crate) use local::LocalTokens;
pub(crate) use project::ProjectTokens;

/// The header that existing clients send.
const TOKEN_HEADER: &str = "x-storageapi-token";
/// The header that names the project of a token which is not one of a project.
const PROJECT_HEADER: &str = "x-kbc-projectid";
/// What such tokens begin with.
const PROGRAMMATIC: [&str; 2] = ["kbc_at_", "kbc_pat_"];

/// The only project of an installation on its own, and its only branch.
pub(crate) const OWN_BRANCH: BranchKey = BranchKey {
    project: ProjectId(1),
    branch: BranchId(1),
};

/// The holder of a token.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// The only branch that the caller can use.
    pub(crate) home: BranchKey,
    /// As the author of changes.
    pub(crate) actor: Actor,
    /// What the caller may do.
    pub(crate) role: Role,
    /// The token itself, for what a change needs in the project; none for a local token.
    pub(crate) owner: Option<Secret<String>>,
}

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum About {
    /// What belongs to one project.
    Project,
    /// All of the installation, whoever's it is.
    Installation,
}

/// Knows the holders of tokens.
pub(crate) struct Authenticator {
    local: LocalTokens,
    /// Only with `storageApiHost`.
    project: Option<ProjectTokens>,
}

impl Authenticator {
    pub(crate) const fn new(local: LocalTokens, project: Option<ProjectTokens>) -> Self {
        Self { local, project }
    }

    /// The holder of the token in the headers.
    pub(crate) async fn authenticate(
        &self,
        about: About,
        headers: &HeaderMap,
    ) -> Result<Caller, ApiError> {
        let token = sent_token(headers)?;
        let Some(project) = &self.project else {
            return self.local.caller(&token).await;
        };
        if about == About::Project {
            refuse_programmatic(&token, headers)?;
            return project.caller(token).await;
        }
        // Everything of every project is in the answer.
        self.local.caller(&token).await.map_err(|error| match error.code {
            Code::Unauthorized => ApiError::new(
                Code::Forbidden,
                "This is for the operator of the installation, with a token of \"stream-service token create\"; tokens of \
                 projects see only what is theirs.",
            ),
            _ => error,
        })
    }
}

/// The hash of the token in the headers.
pub(crate) fn sent_hash(headers: &HeaderMap) -> Result<String, ApiError> {
    Ok(token_hash(&sent_token(headers)?))
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
    let plain = headers.remove(TOKEN_HEADER);
    if plain.is_none_or(|value| value.to_str().is_err()) {
        headers.remove(AUTHORIZATION);
    }
}

/// The token after the word `Bearer`, in any case.
fn bearer_token(value: &str) -> Option<&str> {
    let (scheme, token) = value.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

/// Such a token would have to be exchanged for one of a project first, which is not done here.
fn refuse_programmatic(token: &Secret<String>, headers: &HeaderMap) -> Result<(), ApiError> {
    let mut beginnings = PROGRAMMATIC.into_iter();
    if !beginnings.any(|beginning| token.expose().starts_with(beginning)) {
        return Ok(());
    }
    if !headers.contains_key(PROJECT_HEADER) {
        return Err(ApiError::new(
            Code::MissingField,
            "Header \"X-KBC-ProjectId\" is missing: the token does not say of which project it is. Programmatic tokens are \
             not supported here in any case; use a Storage API token of the project.",
        ));
    }
    Err(ApiError::new(
        Code::Unauthorized,
        "Programmatic tokens are not supported here; use a Storage API token of the project.",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().expect("a header value"));
        headers
    }

    fn sent(name: &'static str, value: &str) -> Result<String, Code> {
        sent_token(&headers(name, value))
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

    #[test]
    fn programmatic_tokens_are_refused_and_say_what_to_use() {
        let refused = |token: &str, headers: &HeaderMap| {
            let token = Secret::new(token.to_owned());
            refuse_programmatic(&token, headers).map_err(|error| error.code)
        };
        let (without, with) = (headers("accept", "*/*"), headers(PROJECT_HEADER, "12"));
        assert_eq!(refused("kbc_at_x", &without), Err(Code::MissingField));
        assert_eq!(refused("kbc_at_x", &with), Err(Code::Unauthorized));
        assert_eq!(refused("kbc_pat_x", &with), Err(Code::Unauthorized));
        assert_eq!(refused("12-34-abc", &without), Ok(()));
    }
}
