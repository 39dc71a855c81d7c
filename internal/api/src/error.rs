//! What a refused request is answered, and the one place where errors of other crates become HTTP statuses.

use std::fmt::Display;

use hyper::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;
use stream_model::ErrorKind;
use stream_node::error_chain;
use stream_state::StateError;
use stream_target::TargetError;
use stream_target::keboola::{Refusal, StorageApiError};

/// Name and status of an error. The names are an interface: clients decide by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Code {
    /// A required field or header is missing.
    MissingField,
    /// A field has another JSON type.
    InvalidFieldType,
    /// A text or list is too short or too long.
    InvalidLength,
    /// A number is out of range.
    InvalidRange,
    /// A field has none of the possible values.
    InvalidEnumValue,
    /// The request is wrong in another way.
    BadRequest,
    /// The token is not known.
    Unauthorized,
    /// The token is not that of a person.
    MasterTokenRequired,
    /// The Storage API refuses, with a status and a name of its own.
    StorageApi,
    /// The token, or anybody, may not do this.
    Forbidden,
    /// There is no such path.
    EndpointNotFound,
    /// The path has no such method.
    MethodNotAllowed,
    /// There is no such branch.
    BranchNotFound,
    /// There is no such source.
    SourceNotFound,
    /// There is no such sink.
    SinkNotFound,
    /// There is no deleted source of that name.
    DeletedSourceNotFound,
    /// There is no deleted sink of that name.
    DeletedSinkNotFound,
    /// The source has no such version.
    SourceVersionNotFound,
    /// The sink has no such version.
    SinkVersionNotFound,
    /// There is no such task.
    TaskNotFound,
    /// There is no such record, or it is forgotten where it is.
    RecordNotFound,
    /// The source exists already, or is being created.
    SourceAlreadyExists,
    /// The sink exists already, or is being created.
    SinkAlreadyExists,
    /// The branch has as many sources as it may have.
    SourceCountLimitReached,
    /// The source has as many sinks as it may have.
    SinkCountLimitReached,
    /// Somebody else changed the same thing at the same time.
    Conflict,
    /// The body is too large.
    BodyTooLarge,
    /// The body is in a form that nobody reads.
    UnsupportedMediaType,
    /// The body can be read, and a mapping cannot make rows of it.
    UnprocessableContent,
    /// Too many requests with tokens that are not known came from the client.
    RateLimited,
    /// The request took too long.
    RequestTimeout,
    /// Something that the answer depends on is away.
    Unavailable,
    /// A fault of the service.
    Internal,
}

impl Code {
    /// Those of a request that needs a token, whatever it asks for.
    pub(crate) const OF_EVERY_TOKEN: [Self; 9] = [
        Self::MissingField,
        Self::Unauthorized,
        Self::MasterTokenRequired,
        Self::RateLimited,
        Self::BadRequest,
        Self::BodyTooLarge,
        Self::RequestTimeout,
        Self::Unavailable,
        Self::Internal,
    ];

    /// Those of a request that carries a JSON object, besides.
    pub(crate) const OF_EVERY_OBJECT: [Self; 3] = [
        Self::InvalidFieldType,
        Self::InvalidLength,
        Self::InvalidEnumValue,
    ];

    /// The name in answers.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::MissingField => "stream.api.missingField",
            Self::InvalidFieldType => "stream.api.invalidFieldType",
            Self::InvalidLength => "stream.api.invalidLength",
            Self::InvalidRange => "stream.api.invalidRange",
            Self::InvalidEnumValue => "stream.api.invalidEnumValue",
            Self::BadRequest => "stream.api.badRequest",
            Self::Unauthorized => "stream.api.unauthorized",
            Self::MasterTokenRequired => "stream.api.masterTokenRequired",
            Self::StorageApi => "storage.refused",
            Self::Forbidden => "stream.api.forbidden",
            Self::EndpointNotFound => "stream.api.endpointNotFound",
            Self::MethodNotAllowed => "stream.api.methodNotAllowed",
            Self::BranchNotFound => "stream.api.branchNotFound",
            Self::SourceNotFound => "stream.api.sourceNotFound",
            Self::SinkNotFound => "stream.api.sinkNotFound",
            Self::DeletedSourceNotFound => "stream.api.deletedSourceNotFound",
            Self::DeletedSinkNotFound => "stream.api.deletedSinkNotFound",
            Self::SourceVersionNotFound => "stream.api.sourceVersionNotFound",
            Self::SinkVersionNotFound => "stream.api.sinkVersionNotFound",
            Self::TaskNotFound => "stream.api.taskNotFound",
            Self::RecordNotFound => "stream.api.recordNotFound",
            Self::SourceAlreadyExists => "stream.api.sourceAlreadyExists",
            Self::SinkAlreadyExists => "stream.api.sinkAlreadyExists",
            Self::SourceCountLimitReached => "stream.api.sourceCountLimitReached",
            Self::SinkCountLimitReached => "stream.api.sinkCountLimitReached",
            Self::Conflict => "stream.api.conflict",
            Self::BodyTooLarge => "stream.api.bodyTooLarge",
            Self::UnsupportedMediaType => "stream.api.unsupportedMediaType",
            Self::UnprocessableContent => "stream.api.unprocessableContent",
            Self::RateLimited => "stream.api.rateLimited",
            Self::RequestTimeout => "stream.api.requestTimeout",
            Self::Unavailable => "stream.api.serviceUnavailable",
            Self::Internal => "stream.api.internalError",
        }
    }

    /// The status of the answer.
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::MissingField
            | Self::InvalidFieldType
            | Self::InvalidLength
            | Self::InvalidRange
            | Self::InvalidEnumValue
            | Self::BadRequest
            | Self::StorageApi => StatusCode::BAD_REQUEST,
            Self::Unauthorized | Self::MasterTokenRequired => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::EndpointNotFound
            | Self::BranchNotFound
            | Self::SourceNotFound
            | Self::SinkNotFound
            | Self::DeletedSourceNotFound
            | Self::DeletedSinkNotFound
            | Self::SourceVersionNotFound
            | Self::SinkVersionNotFound
            | Self::TaskNotFound
            | Self::RecordNotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::SourceAlreadyExists
            | Self::SinkAlreadyExists
            | Self::SourceCountLimitReached
            | Self::SinkCountLimitReached
            | Self::Conflict => StatusCode::CONFLICT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::UnprocessableContent => StatusCode::UNPROCESSABLE_ENTITY,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// A refused request. The message is for people: one sentence that says what is wrong and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ApiError {
    pub(crate) code: Code,
    pub(crate) message: String,
    /// What the Storage API said, when it is the one that refuses.
    refusal: Option<Box<Refusal>>,
    /// Seconds after which to try again, where that is known.
    pub(crate) retry_after: Option<u64>,
}

impl ApiError {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            refusal: None,
            retry_after: None,
        }
    }

    /// The refusal of something that may be tried again after so many seconds.
    pub(crate) const fn after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// The status of the answer.
    pub(crate) fn status(&self) -> StatusCode {
        let own = |refusal: &Refusal| StatusCode::from_u16(refusal.status).ok();
        let own = self.refusal.as_deref().and_then(own);
        own.unwrap_or(self.code.status())
    }

    /// The name in the answer.
    pub(crate) fn name(&self) -> &str {
        let own = self.refusal.as_deref();
        own.map_or(self.code.name(), |refusal| refusal.name.as_str())
    }

    /// What finds the case in the logs of whoever refuses.
    pub(crate) fn exception_id(&self) -> Option<&str> {
        self.refusal.as_deref()?.exception_id.as_deref()
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Code::BadRequest, message)
    }

    /// An error of another crate whose text is fit for the client.
    pub(crate) fn of_kind(kind: ErrorKind, error: &dyn Display) -> Self {
        let code = match kind {
            ErrorKind::Conflict => Code::Conflict,
            ErrorKind::NotFound | ErrorKind::Invalid => Code::BadRequest,
            ErrorKind::Unavailable | ErrorKind::ShuttingDown => Code::Unavailable,
            ErrorKind::Corrupt => Code::Internal,
        };
        Self::new(code, sentence(error))
    }
}

/// Why a request was refused.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Error")]
pub(crate) struct ErrorBody<'a> {
    /// The status of the answer.
    pub(crate) status_code: u16,
    /// The name of the error, to decide by.
    pub(crate) error: &'a str,
    /// A sentence for people. It may change.
    pub(crate) message: &'a str,
    /// Only for faults of the service, where it finds the log line, and what the Storage API gives one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) exception_id: Option<&'a str>,
}

/// Refusals for identifiers that name nothing that lives.
pub(crate) mod not_found {
    use super::{ApiError, Code};

    pub(crate) fn source(id: &str) -> ApiError {
        ApiError::new(
            Code::SourceNotFound,
            format!("Source {id:?} does not exist in the branch."),
        )
    }

    pub(crate) fn sink(id: &str) -> ApiError {
        ApiError::new(
            Code::SinkNotFound,
            format!("Sink {id:?} does not exist in the source."),
        )
    }

    pub(crate) fn deleted_source(id: &str) -> ApiError {
        ApiError::new(
            Code::DeletedSourceNotFound,
            format!("The branch has no deleted source {id:?}."),
        )
    }

    pub(crate) fn deleted_sink(id: &str) -> ApiError {
        ApiError::new(
            Code::DeletedSinkNotFound,
            format!("The source has no deleted sink {id:?}."),
        )
    }

    pub(crate) fn source_version(id: &str, number: u64) -> ApiError {
        ApiError::new(
            Code::SourceVersionNotFound,
            format!("Source {id:?} has no version {number}; the oldest versions are forgotten."),
        )
    }

    pub(crate) fn sink_version(id: &str, number: u64) -> ApiError {
        ApiError::new(
            Code::SinkVersionNotFound,
            format!("Sink {id:?} has no version {number}; the oldest versions are forgotten."),
        )
    }

    pub(crate) fn task(id: &str) -> ApiError {
        let message =
            format!("Task {id:?} does not exist; finished tasks are removed after a while.");
        ApiError::new(Code::TaskNotFound, message)
    }
}

impl From<StateError> for ApiError {
    fn from(error: StateError) -> Self {
        match &error {
            // The state refuses something that the client did not ask for: it is not the request that is wrong.
            StateError::AccessDenied { .. }
            | StateError::Refused { .. }
            | StateError::Slice(_)
            | StateError::File(_)
            | StateError::Violation(_)
            | StateError::TooLarge { .. } => Self::new(Code::Internal, sentence(&error)),
            _ => Self::of_kind(error.kind(), &error),
        }
    }
}

impl From<TargetError> for ApiError {
    fn from(error: TargetError) -> Self {
        Self::of_kind(error.kind(), &error_chain(&error))
    }
}

impl From<StorageApiError> for ApiError {
    fn from(error: StorageApiError) -> Self {
        match error {
            StorageApiError::Refused(refusal) => Self {
                code: Code::StorageApi,
                message: sentence(&refusal.message),
                refusal: Some(Box::new(refusal)),
                retry_after: None,
            },
            // Whether it is away or talks nonsense: it is theirs, and may be over in a moment.
            StorageApiError::Unavailable { .. } | StorageApiError::Unreadable { .. } => {
                Self::new(Code::Unavailable, sentence(&error))
            }
        }
    }
}

/// An error text as a sentence. Errors inside the service begin in lower case and have no full stop, so that they can be
/// chained; answers are read by people.
pub(crate) fn sentence(error: &dyn Display) -> String {
    let text = error.to_string();
    let mut chars = text.chars();
    let Some(first) = chars.next() else {
        return text;
    };
    let mut sentence: String = first.to_uppercase().collect();
    sentence.push_str(chars.as_str());
    if !sentence.ends_with(['.', '!', '?']) {
        sentence.push('.');
    }
    sentence
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_texts_become_sentences() {
        assert_eq!(sentence(&"column \"x\": no path"), "Column \"x\": no path.");
        assert_eq!(sentence(&"Done."), "Done.");
        assert_eq!(sentence(&""), "");
    }

    #[test]
    fn what_can_be_repeated_is_answered_503() {
        let status = |kind| ApiError::of_kind(kind, &"x").code.status().as_u16();
        assert_eq!(status(ErrorKind::Unavailable), 503);
        assert_eq!(status(ErrorKind::ShuttingDown), 503);
        assert_eq!(status(ErrorKind::Invalid), 400);
        assert_eq!(status(ErrorKind::Conflict), 409);
        assert_eq!(status(ErrorKind::Corrupt), 500);
        let denied = StateError::AccessDenied {
            reason: "no".to_owned(),
        };
        assert_eq!(
            ApiError::from(denied).code,
            Code::Internal,
            "not the client's fault"
        );
    }
}
