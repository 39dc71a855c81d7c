//! Checks the templates of a new sink, and tries them on records: in an evaluator process that is started for it and ended
//! after it.
//!
//! A template of a few characters can keep the parser busy or overflow its stack, so it is never looked at in this process.

use std::time::Duration;

use stream_encoding::jsonnet::{Answer, Request, TemplateFailure, TemplateValues, Templates};
use stream_encoding::{CompiledMapping, MapError, Record};
use stream_model::definition::Mapping;
use stream_node::{Budget, Helper, HelperError, Helpers, error_chain};
use tokio::sync::Semaphore;
use tracing::warn;

use crate::dry_run::RecordLimits;
use crate::error::{ApiError, Code, sentence};

/// How long compiling the templates of a mapping may take.
const COMPILE_WITHIN: Budget = Budget {
    cpu: Duration::from_secs(2),
    wall: Duration::from_secs(20),
};
/// Evaluators at the same time.
const MAX_EVALUATORS: usize = 2;

/// The most time that may pass, as a multiple of the CPU time.
const PATIENCE: u32 = 20;

/// Checks and tries templates.
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
            Err(error @ HelperError::Start(_)) => Err(no_evaluator(&error)),
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

    /// Evaluates templates for records, in their order. Ends with the first record that has no values.
    ///
    /// # Errors
    /// When nobody could evaluate them.
    pub(crate) async fn evaluate(
        &self,
        templates: &Templates,
        records: &[Record],
        limits: RecordLimits,
    ) -> Result<Vec<Result<TemplateValues, MapError>>, ApiError> {
        let _permit = self.permits.acquire().await;
        let mut helper = match self.helpers.start().await {
            Ok(helper) => helper,
            Err(error) => return Err(no_evaluator(&error)),
        };
        if let Err(failure) = define(&mut helper, templates).await {
            let error = failure.of(templates, 0, COMPILE_WITHIN.cpu, limits);
            return Ok(vec![Err(error)]);
        }
        let mut all = Vec::with_capacity(records.len());
        for record in records {
            let values = evaluate(&mut helper, templates, record, limits).await;
            let failed = values.is_err();
            all.push(values);
            if failed {
                break;
            }
        }
        Ok(all)
    }
}

/// Why there is no value of a template.
enum Failure {
    /// It says so itself.
    Failed(TemplateFailure),
    /// Its evaluator is of no more use.
    Helper(HelperError),
}

impl Failure {
    /// What the HTTP source would say.
    fn of(
        self,
        templates: &Templates,
        position: usize,
        cpu: Duration,
        limits: RecordLimits,
    ) -> MapError {
        let column = templates.column(position).to_owned();
        match self {
            Self::Failed(failure) => templates.failed(position, failure, limits.row),
            Self::Helper(HelperError::Time) => MapError::TemplateTime {
                column,
                limit_ms: u64::try_from(cpu.as_millis()).unwrap_or(u64::MAX),
            },
            Self::Helper(_) => MapError::TemplateMemory { column },
        }
    }
}

async fn define(helper: &mut Helper, templates: &Templates) -> Result<(), Failure> {
    let sent = helper
        .send(&Request::define(templates), COMPILE_WITHIN.wall)
        .await;
    sent.map_err(Failure::Helper)?;
    match receive(helper, COMPILE_WITHIN).await? {
        Answer::Defined => Ok(()),
        Answer::Invalid { message, .. } => Err(Failure::Failed(TemplateFailure::Failed(message))),
        Answer::Value(_) | Answer::Failed(_) => Err(Failure::Helper(HelperError::Stranger)),
    }
}

/// The values of one record.
async fn evaluate(
    helper: &mut Helper,
    templates: &Templates,
    record: &Record,
    limits: RecordLimits,
) -> Result<TemplateValues, MapError> {
    let cpu = limits.template_time;
    let budget = Budget {
        cpu,
        wall: cpu * PATIENCE,
    };
    let request = Request::evaluate(templates.id(), record);
    let failed = |failure: Failure, position| failure.of(templates, position, cpu, limits);
    let sent = helper.send(&request, COMPILE_WITHIN.wall).await;
    sent.map_err(|error| failed(Failure::Helper(error), 0))?;
    let mut values = Vec::with_capacity(templates.count());
    while values.len() < templates.count() {
        let position = values.len();
        let answer = receive(helper, budget).await;
        match answer.map_err(|failure| failed(failure, position))? {
            Answer::Value(json) => values.push(json.into()),
            Answer::Failed(failure) => return Err(failed(Failure::Failed(failure), position)),
            Answer::Defined | Answer::Invalid { .. } => {
                return Err(failed(Failure::Helper(HelperError::Stranger), position));
            }
        }
    }
    Ok(TemplateValues::new(values))
}

async fn receive(helper: &mut Helper, budget: Budget) -> Result<Answer, Failure> {
    let frame = helper.receive(budget).await.map_err(Failure::Helper)?;
    Answer::decode(&frame).map_err(|_| Failure::Helper(HelperError::Stranger))
}

fn no_evaluator(error: &HelperError) -> ApiError {
    warn!(reason = %error_chain(error), "cannot start an evaluator of templates");
    let message = "The templates cannot be evaluated at present; try again in a moment.";
    ApiError::new(Code::Unavailable, message)
}
