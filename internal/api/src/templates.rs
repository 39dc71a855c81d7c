//! Checks the templates of a new sink: in an evaluator process that is started for it and ended after it.
//!
//! A template of a few characters can keep the parser busy or overflow its stack, so it is never looked at in this process.

use std::time::Duration;

use stream_encoding::CompiledMapping;
use stream_encoding::jsonnet::{Answer, Request, Templates};
use stream_model::definition::Mapping;
use stream_node::{Budget, HelperError, Helpers, error_chain};
use tokio::sync::Semaphore;
use tracing::warn;

use crate::error::{ApiError, Code, sentence};

/// How long compiling the templates of a mapping may take.
const COMPILE_WITHIN: Budget = Budget {
    cpu: Duration::from_secs(2),
    wall: Duration::from_secs(20),
};
/// Evaluators at the same time.
const MAX_EVALUATORS: usize = 2;

/// Checks templates.
pub(crate) struct TemplateCheck {
    helpers: Helpers,
    permits: Semaphore,
}

impl TemplateCheck {
    pub(crate) fn new(helpers: Helpers) -> Self {
        Self {
            helpers,
            permits: Semaphore::new(MAX_EVALUATORS),
        }
    }

    /// Checks the templates of a mapping, if it has any that are not native.
    ///
    /// # Errors
    /// The first template that does not compile, with its place; or that nobody could look at it.
    pub(crate) async fn check(&self, mapping: &Mapping) -> Result<(), ApiError> {
        let mapping = CompiledMapping::compile(mapping)
            .map_err(|error| ApiError::bad_request(sentence(&error)))?;
        let Some(templates) = mapping.templates() else {
            return Ok(());
        };
        let _permit = self.permits.acquire().await;
        match self.compile(templates).await {
            Ok(Answer::Defined) => Ok(()),
            Ok(Answer::Invalid { position, message }) => {
                let column = templates.column(position);
                Err(ApiError::bad_request(format!(
                    "Column {column:?}: the template is invalid: {message}."
                )))
            }
            Err(HelperError::Start(error)) => {
                warn!(reason = %error_chain(&error), "cannot start an evaluator of templates");
                let message = "The templates cannot be checked at present; try again in a moment.";
                Err(ApiError::new(Code::Unavailable, message))
            }
            Ok(_) | Err(_) => Err(ApiError::bad_request(format!(
                "Column {:?}: the templates from this one on cannot be compiled within 2 s and the memory of an evaluator; \
                 make them simpler.",
                templates.column(0)
            ))),
        }
    }

    async fn compile(&self, templates: &Templates) -> Result<Answer, HelperError> {
        let mut helper = self.helpers.start().await?;
        let within = COMPILE_WITHIN.wall;
        helper.send(&Request::define(templates), within).await?;
        let answer = helper.receive(COMPILE_WITHIN).await?;
        Answer::decode(&answer).map_err(|_| HelperError::Stranger)
    }
}
