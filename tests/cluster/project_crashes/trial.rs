//! A change of a sink in a project: what is there before, whether it was made, and what the project has then.

use std::collections::BTreeMap;

use anyhow::{bail, ensure};
use hyper::Method;
use serde_json::{Value, json};
use stream_tests::client::{Api, PATIENCE, PAUSE, Reply};
use stream_tests_storage_api::Holdings;
use tokio::time::{Instant, sleep};

/// A change of what a sink has in its project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Create,
    /// To a table in another bucket.
    Move,
    Delete,
    Undelete,
    Purge,
}

impl Change {
    pub const ALL: [Self; 5] = [
        Self::Create,
        Self::Move,
        Self::Delete,
        Self::Undelete,
        Self::Purge,
    ];

    /// More calls of the Storage API than it takes when one of them fails.
    pub const fn most_calls(self) -> usize {
        match self {
            Self::Create | Self::Move => 12,
            Self::Undelete => 7,
            Self::Delete | Self::Purge => 5,
        }
    }
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    Done,
    Undone,
}

/// A change of a sink that is used for nothing else, by a person who does nothing else.
#[derive(Debug)]
pub struct Trial {
    change: Change,
    /// The name of the sink, which is in no other name, and in those of its buckets.
    pub name: String,
    source: String,
    /// The token of the person.
    pub person: String,
}

impl Trial {
    pub fn new(change: Change, number: usize, source: &str, person: String) -> Self {
        Self {
            change,
            name: format!("t{number}x"),
            source: source.to_owned(),
            person,
        }
    }

    fn sinks(&self) -> String {
        format!("/v1/branches/default/sources/{}/sinks", self.source)
    }

    fn sink(&self) -> String {
        format!("{}/{}", self.sinks(), self.name)
    }

    fn bucket_before(&self) -> String {
        format!("in.c-{}", self.name)
    }

    fn bucket_after(&self) -> String {
        format!("in.c-{}-after", self.name)
    }

    fn table(bucket: &str) -> String {
        format!("{bucket}.rows")
    }

    fn body(&self) -> Value {
        json!({
            "type": "table", "name": self.name, "sinkId": self.name,
            "table": {"type": "keboola", "tableId": Self::table(&self.bucket_before()),
                "mapping": {"columns": [{"type": "body", "name": "body"}]}},
        })
    }

    /// The change as a call: method, path and body.
    fn call(&self) -> (Method, String, Value) {
        match self.change {
            Change::Create => (Method::POST, self.sinks(), self.body()),
            Change::Move => {
                let table = json!({"tableId": Self::table(&self.bucket_after())});
                (Method::PATCH, self.sink(), json!({"table": table}))
            }
            Change::Delete => (Method::DELETE, self.sink(), Value::Null),
            Change::Undelete => {
                let path = format!("{}/undelete", self.sink());
                (Method::PUT, path, Value::Null)
            }
            Change::Purge => {
                let path = format!("{}?cascade=true", self.sink());
                (Method::DELETE, path, Value::Null)
            }
        }
    }

    /// Makes what is there before the change.
    pub async fn prepare(&self, api: &Api) -> anyhow::Result<()> {
        if self.change == Change::Create {
            return Ok(());
        }
        api.done(Method::POST, &self.sinks(), &self.body()).await?;
        if self.change == Change::Undelete {
            api.done(Method::DELETE, &self.sink(), &Value::Null).await?;
        }
        Ok(())
    }

    /// Asks for the change.
    pub async fn send(&self, api: &Api) -> anyhow::Result<Reply> {
        let (method, path, body) = self.call();
        api.call(method, &path, &body).await
    }

    /// Whether the change was made.
    pub async fn fate(&self, api: &Api) -> anyhow::Result<Fate> {
        let found = api.call(Method::GET, &self.sink(), &Value::Null).await?;
        let (status, sink) = (found.status, found.json());
        let table = sink["table"]["tableId"].as_str();
        let is_at = |bucket: String| table == Some(&Self::table(&bucket));
        let is_done = match (self.change, status) {
            (Change::Move, 200) if is_at(self.bucket_after()) => true,
            (Change::Move, 200) if is_at(self.bucket_before()) => false,
            (Change::Create | Change::Undelete, 200) if is_at(self.bucket_before()) => true,
            (Change::Create | Change::Undelete, 404) => false,
            (Change::Delete | Change::Purge, 200) if is_at(self.bucket_before()) => false,
            (Change::Delete | Change::Purge, 404) => true,
            _ => bail!("{self:?}: {status} {sink}"),
        };
        Ok(match is_done {
            true => Fate::Done,
            false => Fate::Undone,
        })
    }

    /// The buckets with their tables that are there, and the one that the sink works with.
    fn expected(&self, fate: Fate) -> (Vec<String>, Option<String>) {
        let (before, after) = (self.bucket_before(), self.bucket_after());
        match (self.change, fate) {
            (Change::Create, Fate::Undone) | (Change::Purge, Fate::Done) => (vec![], None),
            // The rows that are in a table are its owner's.
            (Change::Delete, Fate::Done) | (Change::Undelete, Fate::Undone) => (vec![before], None),
            (Change::Move, Fate::Done) => (vec![before, after.clone()], Some(after)),
            (Change::Create | Change::Undelete, Fate::Done)
            | (Change::Move | Change::Delete | Change::Purge, Fate::Undone) => {
                (vec![before.clone()], Some(before))
            }
        }
    }

    /// What is wrong with what the project has and the state knows, when nobody works on it.
    pub fn faults(
        &self,
        fate: Fate,
        state: &BTreeMap<String, Value>,
        held: &Holdings,
    ) -> Vec<String> {
        let (buckets, own) = self.expected(fate);
        let mut faults = Vec::new();
        let mut check = |what: &str, mut expected: Vec<String>, mut found: Vec<String>| {
            expected.sort();
            found.sort();
            if expected != found {
                let trial = format!("{:?} {} {fate:?}", self.change, self.name);
                faults.push(format!("{trial}: {what} are {found:?}, not {expected:?}"));
            }
        };
        let having = |texts: &[String], part: String| {
            let texts = texts.iter().filter(|text| text.contains(&part));
            texts.cloned().collect::<Vec<_>>()
        };
        let tables: Vec<String> = held.tables.iter().map(|(table, _)| table.clone()).collect();
        let own_buckets = format!("in.c-{}", self.name);
        check(
            "buckets",
            buckets.clone(),
            having(&held.buckets, own_buckets.clone()),
        );
        let expected = buckets.iter().map(|it| Self::table(it)).collect();
        check("tables", expected, having(&tables, own_buckets.clone()));
        let scopes: Vec<String> = held.permissions.iter().map(Value::to_string).collect();
        let expected = own.iter().map(|own| json!({own: "write"}).to_string());
        check(
            "permissions",
            expected.collect(),
            having(&scopes, own_buckets),
        );
        let count = |found: Vec<String>| vec![found.len().to_string()];
        let expected = vec![usize::from(own.is_some()).to_string()];
        let tokens = having(&held.tokens, format!("/{} (", self.name));
        check("tokens", expected.clone(), count(tokens));
        let files = having(&held.files, format!("-{}-", self.name));
        check("files", expected, count(files));
        let of_sink = |kind: &'static str| {
            let keys = state.iter().filter(move |(key, _)| key.starts_with(kind));
            keys.filter(|(key, _)| key.split('/').any(|part| part == self.name))
        };
        let destinations = of_sink("destination/");
        let found = destinations.map(|(_, it)| it["tableId"].as_str().unwrap_or("").to_owned());
        let expected = own.iter().map(|own| Self::table(own));
        check("destinations", expected.collect(), found.collect());
        let changes = of_sink("provisioning/").map(|(key, _)| key.clone());
        check("changes under way", vec![], changes.collect());
        faults
    }

    /// Asks again, as a person does who has been told nothing, until it is done.
    pub async fn repeat(&self, api: &Api) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.fate(api).await? == Fate::Undone {
            ensure!(Instant::now() < deadline, "it is never done");
            let (method, path, body) = self.call();
            match api.done(method, &path, &body).await {
                Ok(_) => {}
                // It is being settled at this moment.
                Err(error) if error.to_string().contains("409") => sleep(PAUSE).await,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
