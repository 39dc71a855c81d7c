//! What an operation is.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use hyper::{Method, StatusCode};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Value, json};

use crate::context::Context;
use crate::error::{ApiError, Code};
use crate::input::page::MAX_LIMIT;
use crate::request::Call;
use crate::response::Answer;
use crate::view::task::TaskView;

/// Answers a request whose token was checked.
pub(crate) type Handler =
    for<'a> fn(&'a Arc<Context>, &'a Call) -> BoxFuture<'a, Result<Answer, ApiError>>;

/// Makes the schema of a type.
pub(crate) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// Who may ask, and what answers.
#[derive(Clone, Copy)]
pub(crate) enum Run {
    /// Anybody may, without a token. It cannot fail and looks at nothing but the configuration.
    Open(fn(&Context) -> Answer),
    /// The holder of any token may.
    Read(Handler),
    /// Likewise where there is one project. Where there are many, only the operator: the answer is about all of them.
    Survey(Handler),
    /// Only the holder of a token that may change something.
    Write(Handler),
}

/// A parameter after the `?`. All of them may be left out.
pub(crate) struct Parameter {
    pub(crate) name: &'static str,
    pub(crate) description: &'static str,
    pub(crate) schema: Value,
}

/// What a request carries.
pub(crate) enum Body {
    /// A JSON object.
    Json { schema: SchemaOf, example: Value },
    /// Anything; these are the content types that a client should know of.
    Any(&'static [&'static str]),
}

/// What an answer carries.
pub(crate) enum Content {
    Nothing,
    Json(SchemaOf),
    Text(&'static str),
}

/// An answer that is no refusal.
pub(crate) struct Success {
    pub(crate) status: StatusCode,
    pub(crate) description: &'static str,
    pub(crate) content: Content,
    pub(crate) example: Option<Value>,
}

/// A method of a path.
pub(crate) struct Operation {
    pub(crate) method: Method,
    /// The path with the names of its variable parts. Also the label of metrics and logs, so that identifiers, which may be
    /// anything, do not become labels.
    pub(crate) path: &'static str,
    pub(crate) run: Run,
    /// Its name in generated clients.
    pub(crate) id: &'static str,
    /// What it does, in a few words.
    pub(crate) summary: &'static str,
    /// What else is to be known; may be empty.
    pub(crate) description: &'static str,
    pub(crate) query: Vec<Parameter>,
    pub(crate) body: Option<Body>,
    pub(crate) answers: Vec<Success>,
    /// Refusals that do not follow from the rest of the entry.
    own_refusals: &'static [Code],
}

impl Operation {
    /// One that needs no token.
    pub(crate) const fn open(
        method: Method,
        path: &'static str,
        run: fn(&Context) -> Answer,
    ) -> Self {
        Self::new(method, path, Run::Open(run))
    }

    /// One that changes nothing.
    pub(crate) const fn read(method: Method, path: &'static str, handler: Handler) -> Self {
        Self::new(method, path, Run::Read(handler))
    }

    /// One that changes nothing and tells of the whole installation.
    pub(crate) const fn survey(method: Method, path: &'static str, handler: Handler) -> Self {
        Self::new(method, path, Run::Survey(handler))
    }

    /// One that changes something.
    pub(crate) const fn write(method: Method, path: &'static str, handler: Handler) -> Self {
        Self::new(method, path, Run::Write(handler))
    }

    const fn new(method: Method, path: &'static str, run: Run) -> Self {
        Self {
            method,
            path,
            run,
            id: "",
            summary: "",
            description: "",
            query: Vec::new(),
            body: None,
            answers: Vec::new(),
            own_refusals: &[],
        }
    }

    /// Its name in generated clients, and what it does in a few words.
    pub(crate) const fn named(mut self, id: &'static str, summary: &'static str) -> Self {
        self.id = id;
        self.summary = summary;
        self
    }

    /// What else is to be known.
    pub(crate) const fn describe(mut self, description: &'static str) -> Self {
        self.description = description;
        self
    }

    /// Takes a parameter after the `?`.
    pub(crate) fn query(
        mut self,
        name: &'static str,
        description: &'static str,
        schema: Value,
    ) -> Self {
        self.query.push(Parameter {
            name,
            description,
            schema,
        });
        self
    }

    /// Takes a flag after the `?`.
    pub(crate) fn flag(self, name: &'static str, description: &'static str) -> Self {
        let schema = json!({"type": "boolean", "default": false});
        self.query(name, description, schema)
    }

    /// Shows a list page by page.
    pub(crate) fn paged(self) -> Self {
        let limit =
            json!({"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": MAX_LIMIT});
        self.query("limit", "The most items of the page.", limit)
            .query(
                "afterId",
                "Only items after this one: `lastId` of the page before.",
                json!({"type": "string", "default": ""}),
            )
    }

    /// Shows hours.
    pub(crate) fn between_hours(mut self) -> Self {
        let time = json!({"type": "string", "format": "date-time"});
        self.own_refusals = &[Code::InvalidRange];
        self.query(
            "from",
            "The first hour; 23 h before the last one when left out.",
            time.clone(),
        )
        .query(
            "to",
            "The last hour, at most 31 days later; now when left out.",
            time,
        )
    }

    /// Takes a JSON object.
    pub(crate) fn takes<T: JsonSchema>(mut self, example: Value) -> Self {
        let schema: SchemaOf = SchemaGenerator::subschema_for::<T>;
        self.body = Some(Body::Json { schema, example });
        self
    }

    /// Takes a body of any content type, such as these.
    pub(crate) fn takes_any(mut self, content_types: &'static [&'static str]) -> Self {
        self.body = Some(Body::Any(content_types));
        self
    }

    /// Answers with a JSON object.
    pub(crate) fn answers<T: JsonSchema>(
        self,
        status: StatusCode,
        description: &'static str,
    ) -> Self {
        let schema: SchemaOf = SchemaGenerator::subschema_for::<T>;
        self.answer(status, description, Content::Json(schema))
    }

    /// Answers with a text of that type.
    pub(crate) fn answers_text(
        self,
        content_type: &'static str,
        description: &'static str,
    ) -> Self {
        self.answer(StatusCode::OK, description, Content::Text(content_type))
    }

    /// Answers without a body.
    pub(crate) fn answers_nothing(self, status: StatusCode, description: &'static str) -> Self {
        self.answer(status, description, Content::Nothing)
    }

    /// Answers with the task that it started.
    pub(crate) fn starts_task(self) -> Self {
        self.answers::<TaskView>(
            StatusCode::ACCEPTED,
            "The change was checked and is being made; the task says how it ended.",
        )
    }

    fn answer(mut self, status: StatusCode, description: &'static str, content: Content) -> Self {
        self.answers.push(Success {
            status,
            description,
            content,
            example: None,
        });
        self
    }

    /// Shows an example of the answer that was declared last.
    pub(crate) fn example(mut self, example: Value) -> Self {
        let last = self.answers.last_mut();
        last.expect("an answer is declared before its example")
            .example = Some(example);
        self
    }

    /// Names refusals that do not follow from the token, the path, the parameters and the body.
    pub(crate) const fn refuses(mut self, refusals: &'static [Code]) -> Self {
        self.own_refusals = refusals;
        self
    }

    /// The names of the variable parts of the path.
    pub(crate) fn parts(&self) -> Vec<&'static str> {
        let segments = self.path.split('/');
        let parts = segments.filter_map(|it| it.strip_prefix('{')?.strip_suffix('}'));
        parts.map(|part| part.trim_start_matches('*')).collect()
    }

    /// All refusals.
    pub(crate) fn refusals(&self) -> BTreeSet<Code> {
        let mut refusals = BTreeSet::new();
        refusals.extend(self.own_refusals);
        match self.run {
            Run::Open(_) => return refusals,
            Run::Read(_) => {}
            Run::Survey(_) => refusals.extend([Code::Forbidden]),
            Run::Write(_) => refusals.extend([Code::Forbidden, Code::Conflict]),
        }
        refusals.extend(Code::OF_EVERY_TOKEN);
        for part in self.parts() {
            refusals.extend(match part {
                "branch" => Some(Code::BranchNotFound),
                "source" => Some(Code::SourceNotFound),
                "sink" => Some(Code::SinkNotFound),
                "version" => Some(Code::InvalidFieldType),
                _ => None,
            });
        }
        if !self.query.is_empty() {
            refusals.insert(Code::InvalidFieldType);
        }
        if self.query.iter().any(|it| it.name == "limit") {
            refusals.insert(Code::InvalidRange);
        }
        if matches!(self.body, Some(Body::Json { .. })) {
            refusals.extend(Code::OF_EVERY_OBJECT);
        }
        refusals
    }
}
