//! Holds what the clients know against what the tables say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, ensure};
use stream_tests::client::PAUSE;
use stream_tests::expectation::check;
use stream_tests::setup::Setup;
use stream_tests::table::{Row, Tables};
use tokio::time::{Duration, Instant, sleep};

use crate::sinks::{self, EVENTS, EVENTS_ID, ID, LATEST, TEMPLATES};
use crate::traffic::{Fate, Traffic};

/// More than the import of everything takes.
const IMPORT_PATIENCE: Duration = Duration::from_secs(120);

/// What became of all records of a run.
pub struct Verdict<'a> {
    traffic: &'a Traffic,
    fates: BTreeMap<u64, Fate>,
    /// The rows that a key of the table with a primary key may show: one, and those of unknown fate after it.
    latest: BTreeMap<(String, String), Candidates>,
}

/// The rows that a key may show.
#[derive(Default)]
struct Candidates {
    /// Whether one of the records is acknowledged, so that there must be a row.
    certain: bool,
    records: BTreeSet<u64>,
}

impl<'a> Verdict<'a> {
    /// Takes the fates in the order in which each client learned them.
    pub fn new(traffic: &'a Traffic, fates: &[(u64, Fate)]) -> Self {
        let mut latest: BTreeMap<_, Candidates> = BTreeMap::new();
        let columns = sinks::latest();
        for (index, fate) in fates {
            if *fate == Fate::Refused {
                continue;
            }
            let record = traffic.record(*index);
            let value = |column: usize| columns[column].expected(&record).unwrap_or_default();
            let candidates = latest.entry((value(0), value(1))).or_default();
            if *fate == Fate::Acknowledged {
                candidates.certain = true;
                candidates.records.clear();
            }
            candidates.records.insert(*index);
        }
        Self {
            traffic,
            fates: fates.iter().copied().collect(),
            latest,
        }
    }

    /// How many records had a fate.
    pub fn count(&self, fate: Fate) -> usize {
        self.fates.values().filter(|own| **own == fate).count()
    }

    fn acknowledged(&self) -> impl Iterator<Item = u64> {
        self.fates
            .iter()
            .filter(|(_, fate)| **fate == Fate::Acknowledged)
            .map(|(index, _)| *index)
    }

    /// Waits until each acknowledged record is in the tables, or replaced by a later one with the same key.
    pub async fn wait_for_import(&self, path: &Path) -> anyhow::Result<()> {
        let deadline = Instant::now() + IMPORT_PATIENCE;
        loop {
            let tables = Tables::open(path)?;
            let mut missing = Vec::new();
            for (table, id) in [(EVENTS, EVENTS_ID), (TEMPLATES, ID)] {
                let found = tables.counts(table, id)?;
                let is_missing = |index: &u64| !found.contains_key(&index.to_string());
                let indexes = self.acknowledged().filter(is_missing);
                missing.extend(indexes.map(|index| (table, index)));
            }
            let shown = tables.counts(LATEST, ID)?;
            let is_shown = |index: &u64| shown.contains_key(&index.to_string());
            let certain = self.latest.values().filter(|candidates| candidates.certain);
            let absent = certain.filter(|candidates| !candidates.records.iter().any(is_shown));
            let absent = absent.filter_map(|candidates| candidates.records.first());
            missing.extend(absent.map(|index| (LATEST, *index)));
            if missing.is_empty() {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "{} acknowledged records are not in their tables: {:?} …",
                missing.len(),
                &missing[..missing.len().min(20)]
            );
            sleep(PAUSE * 10).await;
        }
    }

    /// Records of unknown fate that are in a table.
    pub fn written_unknown(&self, path: &Path) -> anyhow::Result<Vec<u64>> {
        let written = Tables::open(path)?.counts(TEMPLATES, ID)?;
        let unknown = self
            .fates
            .iter()
            .filter(|(_, fate)| **fate == Fate::Unknown);
        let written = unknown.filter(|(index, _)| written.contains_key(&index.to_string()));
        Ok(written.map(|(index, _)| *index).collect())
    }

    /// Compares all tables row by row.
    pub fn check(&self, path: &Path) -> anyhow::Result<()> {
        let tables = Tables::open(path)?;
        self.check_all_rows(&tables, EVENTS, EVENTS_ID, &sinks::events())?;
        self.check_all_rows(&tables, TEMPLATES, ID, &sinks::templates())?;
        self.check_latest(&tables)?;
        check_uuids(&tables)
    }

    /// Each acknowledged record once, each of unknown fate once or not at all, and nothing else.
    fn check_all_rows(
        &self,
        tables: &Tables,
        table: &str,
        id: &str,
        columns: &[stream_tests::expectation::Column],
    ) -> anyhow::Result<()> {
        let counts = tables.counts(table, id)?;
        for (id, count) in &counts {
            let index: u64 = id.parse().with_context(|| format!("{id} is no record"))?;
            let fate = self.fates.get(&index);
            ensure!(
                *count == 1,
                "record {id} ({fate:?}) is {count} times in table {table}"
            );
            ensure!(
                matches!(fate, Some(Fate::Acknowledged | Fate::Unknown)),
                "record {id} is in table {table}, but was answered {fate:?}"
            );
        }
        for index in self.acknowledged() {
            ensure!(
                counts.contains_key(&index.to_string()),
                "record {index} was acknowledged and is not in table {table}"
            );
        }
        tables.each_row(table, |row| {
            let index = index_of(row)?;
            check(columns, &self.traffic.record(index), row)
                .with_context(|| format!("record {index} in table {table}"))
        })
    }

    /// Each key shows the last record that was written with it.
    fn check_latest(&self, tables: &Tables) -> anyhow::Result<()> {
        let columns = sinks::latest();
        let mut found = BTreeSet::new();
        tables.each_row(LATEST, |row| {
            let key = (
                row.value("connection")?.to_owned(),
                row.value("id")?.to_owned(),
            );
            let index = index_of(row)?;
            let candidates = self.latest.get(&key);
            let candidates = candidates.with_context(|| format!("{key:?} was never written"))?;
            ensure!(
                candidates.records.contains(&index),
                "{key:?} shows record {index} and must show {:?}",
                candidates.records
            );
            check(&columns, &self.traffic.record(index), row)
                .with_context(|| format!("record {index} in table {LATEST}"))?;
            ensure!(found.insert(key.clone()), "{key:?} is there twice");
            Ok(())
        })?;
        let missing = |key: &&(String, String)| !found.contains(*key);
        let certain = self
            .latest
            .iter()
            .filter(|(_, candidates)| candidates.certain);
        let missing: Vec<_> = certain.map(|(key, _)| key).filter(missing).collect();
        ensure!(missing.is_empty(), "keys without a row: {missing:?}");
        Ok(())
    }
}

/// The record of a row, from the column for it or from the headers.
fn index_of(row: &Row) -> anyhow::Result<u64> {
    if let Ok(id) = row.value(ID) {
        return id.parse().with_context(|| format!("{id} is no record"));
    }
    let headers: serde_json::Value =
        serde_json::from_str(row.value("headers")?).context("the headers are no JSON")?;
    let id = headers["X-Record-Id"]
        .as_str()
        .context("the headers have no X-Record-Id")?;
    id.parse().with_context(|| format!("{id} is no record"))
}

fn check_uuids(tables: &Tables) -> anyhow::Result<()> {
    let uuids = tables.counts(EVENTS, "uuid")?;
    let twice: Vec<_> = uuids.iter().filter(|(_, count)| **count > 1).collect();
    ensure!(twice.is_empty(), "rows with the same uuid: {twice:?}");
    Ok(())
}

/// Neither the volumes nor the state break a rule.
pub async fn assert_sound(setup: &Setup) {
    let volumes = setup.data_dir().join("volumes");
    let volumes = volumes.to_str().expect("text");
    for words in [&["volume", "verify", volumes][..], &["state", "check"]] {
        let ended = setup.clone().words(words).run_to_end().await;
        let ended = ended.expect("it ends");
        assert!(
            ended.success,
            "{words:?}:\n{}{}",
            ended.stdout, ended.stderr
        );
    }
}
