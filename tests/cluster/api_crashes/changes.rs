//! The changes, what is there before each, and how to see whether it was made.

use anyhow::{bail, ensure};
use hyper::Method;
use serde_json::{Value, json};
use stream_tests::client::{Api, PATIENCE, PAUSE, Reply, sink};
use tokio::time::{Instant, sleep};

const SOURCES: &str = "/v1/branches/default/sources";
/// The source of all sinks that are changed, and these. There is room for a hundred.
pub const HUB: &str = "hub";
const SINKS: &str = "/v1/branches/default/sources/hub/sinks";
/// The names before and after a change.
const BEFORE: &str = "before";
const AFTER: &str = "after";

/// A change of a definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    CreateSource,
    UpdateSource,
    RollbackSource,
    DeleteSource,
    CreateSink,
    UpdateSink,
    RollbackSink,
    DeleteSink,
    PurgeSource,
    PurgeSink,
}

impl Change {
    pub const ALL: [Self; 10] = [
        Self::CreateSource,
        Self::UpdateSource,
        Self::RollbackSource,
        Self::DeleteSource,
        Self::CreateSink,
        Self::UpdateSink,
        Self::RollbackSink,
        Self::DeleteSink,
        Self::PurgeSource,
        Self::PurgeSink,
    ];

    /// Whether it is a change of a source, else of a sink.
    const fn is_of_source(self) -> bool {
        matches!(
            self,
            Self::CreateSource
                | Self::UpdateSource
                | Self::RollbackSource
                | Self::DeleteSource
                | Self::PurgeSource
        )
    }

    const fn is_purge(self) -> bool {
        matches!(self, Self::PurgeSource | Self::PurgeSink)
    }
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Done,
    Undone,
}

/// A change of an entity that is used for nothing else.
#[derive(Debug)]
pub struct Trial {
    change: Change,
    /// The name of the source, which is in no other name; its sink is named as well.
    pub name: String,
}

impl Trial {
    pub fn new(change: Change, number: usize) -> Self {
        Self {
            change,
            name: format!("t{number}x"),
        }
    }

    /// The type of its task.
    pub const fn kind(&self) -> &'static str {
        match self.change {
            Change::CreateSource => "api.create.source/",
            Change::UpdateSource => "api.update.source/",
            Change::RollbackSource => "api.rollback.sourceVersion/",
            Change::DeleteSource | Change::PurgeSource => "api.delete.source/",
            Change::CreateSink => "api.create.sink/",
            Change::UpdateSink => "api.update.sink/",
            Change::RollbackSink => "api.rollback.sinkVersion/",
            Change::DeleteSink | Change::PurgeSink => "api.delete.sink/",
        }
    }

    fn source(&self) -> String {
        format!("{SOURCES}/{}", self.name)
    }

    /// Its sink: in a source of its own, or in the one of all sinks that are changed.
    fn sink(&self) -> String {
        match self.change.is_of_source() {
            true => format!("{}/sinks/{}", self.source(), self.name),
            false => format!("{SINKS}/{}", self.name),
        }
    }

    /// The entity that is changed.
    fn entity(&self) -> String {
        match self.change.is_of_source() {
            true => self.source(),
            false => self.sink(),
        }
    }

    fn source_body(&self) -> Value {
        json!({"type": "http", "name": BEFORE, "sourceId": self.name})
    }

    fn sink_body(&self) -> Value {
        let mut body = sink(&self.name, &[json!({"type": "body", "name": "body"})]);
        body["name"] = json!(BEFORE);
        body
    }

    /// The change as a call: method, path and body.
    fn call(&self) -> (Method, String, Value) {
        let entity = self.entity();
        match self.change {
            Change::CreateSource => (Method::POST, SOURCES.to_owned(), self.source_body()),
            Change::CreateSink => (Method::POST, SINKS.to_owned(), self.sink_body()),
            Change::UpdateSource => (Method::PATCH, entity, json!({"name": AFTER})),
            Change::UpdateSink => {
                let columns =
                    json!([{"type": "body", "name": "body"}, {"type": "ip", "name": "ip"}]);
                let change = json!({"name": AFTER, "table": {"mapping": {"columns": columns}}});
                (Method::PATCH, entity, change)
            }
            Change::RollbackSource | Change::RollbackSink => {
                let path = format!("{entity}/versions/1/rollback");
                (Method::PUT, path, Value::Null)
            }
            Change::DeleteSource | Change::DeleteSink => (Method::DELETE, entity, Value::Null),
            Change::PurgeSource | Change::PurgeSink => {
                let path = format!("{entity}?cascade=true");
                (Method::DELETE, path, Value::Null)
            }
        }
    }

    /// Makes what is there before the change.
    pub async fn prepare(&self, api: &Api) -> anyhow::Result<()> {
        match self.change {
            Change::CreateSource | Change::CreateSink => {}
            change if change.is_of_source() => {
                api.done(Method::POST, SOURCES, &self.source_body()).await?;
            }
            _ => {
                api.done(Method::POST, SINKS, &self.sink_body()).await?;
            }
        }
        if matches!(self.change, Change::DeleteSource | Change::PurgeSource) {
            let sinks = format!("{}/sinks", self.source());
            api.done(Method::POST, &sinks, &self.sink_body()).await?;
        }
        if matches!(self.change, Change::RollbackSource | Change::RollbackSink) {
            let change = json!({"name": AFTER});
            api.done(Method::PATCH, &self.entity(), &change).await?;
        }
        Ok(())
    }

    /// Asks for the change.
    pub async fn send(&self, api: &Api) -> anyhow::Result<Reply> {
        let (method, path, body) = self.call();
        api.call(method, &path, &body).await
    }

    /// Whether the change was made. An error when it was made in part.
    pub async fn fate(&self, api: &Api) -> anyhow::Result<Fate> {
        let found = api.call(Method::GET, &self.entity(), &Value::Null).await?;
        let (status, entity) = (found.status, found.json());
        let seen = (
            entity["name"].as_str(),
            entity["version"]["number"].as_u64(),
        );
        let is_done = match (self.change, status, seen) {
            (Change::CreateSource | Change::CreateSink, 404, _) => false,
            (Change::CreateSource | Change::CreateSink, 200, (Some(BEFORE), Some(1))) => true,
            (Change::UpdateSource | Change::UpdateSink, 200, (Some(BEFORE), Some(1))) => false,
            (Change::UpdateSource | Change::UpdateSink, 200, (Some(AFTER), Some(2))) => true,
            (Change::RollbackSource | Change::RollbackSink, 200, (Some(AFTER), Some(2))) => false,
            (Change::RollbackSource | Change::RollbackSink, 200, (Some(BEFORE), Some(3))) => true,
            // A purge that has begun is finished by whoever lives.
            (
                Change::DeleteSource | Change::DeleteSink | Change::PurgeSource | Change::PurgeSink,
                status @ (200 | 404),
                seen,
            ) => {
                let is_whole = status == 404 || seen == (Some(BEFORE), Some(1));
                ensure!(is_whole, "{self:?}: {status} {entity}");
                status == 404
            }
            _ => bail!("{self:?}: {status} {entity}"),
        };
        if matches!(self.change, Change::DeleteSource | Change::PurgeSource) {
            let sink = api.call(Method::GET, &self.sink(), &Value::Null).await?;
            let goes_along = (sink.status == 404) == is_done;
            ensure!(goes_along, "{self:?}: its sink is answered {}", sink.status);
        }
        Ok(match is_done {
            true => Fate::Done,
            false => Fate::Undone,
        })
    }

    /// Asks again, as a person does who has been told nothing, until it is done. A lock of the process that died may be there for
    /// as long as its lease.
    pub async fn repeat(&self, api: &Api) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.fate(api).await? == Fate::Undone {
            ensure!(Instant::now() < deadline, "it is never done");
            let (method, path, body) = self.call();
            match api.done(method, &path, &body).await {
                Ok(_) => {}
                // It is taken for being created still.
                Err(error) if error.to_string().contains("409") => sleep(PAUSE).await,
                Err(error) => return Err(error),
            }
        }
        match self.change.is_purge() {
            true => self.create_anew(api).await,
            false => Ok(()),
        }
    }

    /// After a purge the name begins anew.
    async fn create_anew(&self, api: &Api) -> anyhow::Result<()> {
        let create = match self.change.is_of_source() {
            true => Self {
                change: Change::CreateSource,
                name: self.name.clone(),
            },
            false => Self {
                change: Change::CreateSink,
                name: self.name.clone(),
            },
        };
        let (method, path, body) = create.call();
        let deadline = Instant::now() + PATIENCE;
        loop {
            match api.done(method.clone(), &path, &body).await {
                Ok(_) => break,
                // It is still on its way out.
                Err(error) if error.to_string().contains("409") => sleep(PAUSE).await,
                Err(error) => return Err(error),
            }
            ensure!(Instant::now() < deadline, "{self:?}: it never goes");
        }
        ensure!(
            create.fate(api).await? == Fate::Done,
            "it is not the first version"
        );
        if self.change.is_of_source() {
            let sink = api.call(Method::GET, &self.sink(), &Value::Null).await?;
            ensure!(
                sink.status == 404,
                "the old sink is answered {}",
                sink.status
            );
        }
        Ok(())
    }
}
