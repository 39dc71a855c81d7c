//! Many definitions, written as the API writes them but without a service in between.

use anyhow::Context;
use serde_json::{Value, json};
use stream_model::definition::actor::content_hash;
use stream_model::definition::source::SourceKind;
use stream_model::definition::{
    Actor, MAX_CHILDREN, Settings, Sink, Source, Stamp, Table, Version,
};
use stream_model::level::Defaults;
use stream_model::time::SystemClock;
use stream_model::{
    BranchId, BranchKey, Clock, ProjectId, Secret, SinkKey, SourceKey, VolumeId, opening,
};
use stream_state::{StateError, Store};
use tokio::task::JoinSet;

/// The most sinks of a branch.
pub const MOST_SINKS: u64 = (MAX_CHILDREN * MAX_CHILDREN) as u64;
/// Sources that are written at the same time.
const CONCURRENT: usize = 16;
/// Versions of each sink.
pub const VERSIONS: u64 = 3;

/// Names of the sources of so many sinks, with the number of sinks of each.
pub fn sources(sinks: u64) -> impl Iterator<Item = (String, u64)> {
    let most = MAX_CHILDREN as u64;
    (0..sinks.div_ceil(most)).map(move |source| {
        let left = sinks - source * most;
        (format!("source-{source:03}"), left.min(most))
    })
}

/// Name of a sink. Each has a table of its own, so the names differ between sources too.
pub fn sink_name(source: &str, number: u64) -> String {
    format!("{source}-sink-{number:03}")
}

/// The columns of every sink.
pub fn columns() -> Vec<Value> {
    let path = |name: &str, path: &str| json!({"type": "path", "name": name, "path": path, "rawString": true, "defaultValue": ""});
    vec![
        json!({"type": "uuid", "name": "uuid"}),
        json!({"type": "datetime", "name": "received"}),
        path("id", "id"),
        path("type", "type"),
        path("actor", "actor.name"),
        path("amount", "data.amount"),
        path("currency", "data.currency"),
        path("text", "text"),
    ]
}

/// Writes sources with sinks of [`VERSIONS`] versions, each with an open file on `volume`.
///
/// # Errors
/// When the state refuses one.
pub async fn write(store: &Store, sinks: u64, volume: VolumeId) -> anyhow::Result<()> {
    let (mut writing, mut sources) = (JoinSet::new(), sources(sinks));
    loop {
        while writing.len() < CONCURRENT
            && let Some((name, sinks)) = sources.next()
        {
            let seed = Seed {
                store: store.clone(),
                volume,
                source: key(&name)?,
            };
            writing.spawn(async move { seed.write(sinks).await });
        }
        match writing.join_next().await {
            Some(written) => written??,
            None => return Ok(()),
        }
    }
}

fn key(source: &str) -> anyhow::Result<SourceKey> {
    let branch = BranchKey {
        project: ProjectId(1),
        branch: BranchId(1),
    };
    let source = source.parse()?;
    Ok(SourceKey { branch, source })
}

/// Writes one source.
struct Seed {
    store: Store,
    volume: VolumeId,
    source: SourceKey,
}

impl Seed {
    async fn write(&self, sinks: u64) -> anyhow::Result<()> {
        let source = self.store.create_source(self.define_source()).await?.value;
        for number in 0..sinks {
            let first = self.define_sink(number)?;
            let key = first.key.clone();
            self.store.create_sink(first, None).await?;
            for number in 2..=VERSIONS {
                let update = |sink: Sink| Ok::<_, StateError>(changed(sink, number));
                self.store.update_sink(&key, update).await?;
            }
            self.open_file(&source, &key).await?;
        }
        Ok(())
    }

    fn define_source(&self) -> Source {
        let name = self.source.source.to_string();
        Source {
            kind: SourceKind::Http {
                secret: Secret::new("s".repeat(stream_model::definition::source::SECRET_LEN)),
            },
            version: version(1, &name),
            created: stamp(),
            disabled: None,
            deleted: None,
            purging: None,
            settings: Settings::default(),
            description: String::new(),
            name,
            key: self.source.clone(),
        }
    }

    fn define_sink(&self, number: u64) -> anyhow::Result<Sink> {
        let name = sink_name(self.source.source.as_str(), number);
        let table = json!({"type": "sqlite", "tableId": name, "mapping": {"columns": columns()}});
        let table: Table = serde_json::from_value(table)?;
        Ok(Sink {
            key: SinkKey {
                source: self.source.clone(),
                sink: name.parse()?,
            },
            version: version(1, &name),
            created: stamp(),
            disabled: None,
            deleted: None,
            purging: None,
            settings: Settings::default(),
            description: String::new(),
            name,
            table,
        })
    }

    /// Opens the file that the newest version has.
    async fn open_file(&self, source: &Source, key: &SinkKey) -> anyhow::Result<()> {
        let sink = self.store.sink(key).await?.context("it was just written")?;
        let assigned = self.store.assignment(&self.source).await?;
        let assignment = assigned.is_none().then(|| vec![self.volume]);
        let plan = opening::plan(
            source,
            &sink.value,
            &Defaults::default(),
            &[self.volume],
            SystemClock.now(),
            &mut rand::random,
        );
        let opened = self
            .store
            .open_file(&sink, assignment, plan.file, plan.slices);
        opened.await?;
        Ok(())
    }
}

fn changed(sink: Sink, number: u64) -> Sink {
    let description = format!("Version {number} of a sink that was changed now and then.");
    Sink {
        version: version(number, &description),
        description,
        ..sink
    }
}

fn version(number: u64, content: &str) -> Version {
    let Stamp { at, by } = stamp();
    Version {
        number,
        hash: content_hash(&content),
        description: "Changed by hand.".to_owned(),
        at,
        by,
    }
}

/// As the API stamps what the token of the installation does.
fn stamp() -> Stamp {
    Stamp {
        at: SystemClock.now(),
        by: Actor::User {
            token_id: "0123456789abcdef".to_owned(),
            token_desc: "Admin token of the installation".to_owned(),
            user_id: String::new(),
            user_name: String::new(),
        },
    }
}
