//! The routes of all sources, found by the parts of a URL without allocating and without a lock.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use stream_model::SourceKey;
use stream_model::rate::RateLimit;
use subtle::ConstantTimeEq;

use crate::admission::Account;
use crate::intake::{Budgets, Intake};
use crate::route::Route;
use crate::source_metrics::Families;

/// All sources. Sources come and go by a copy of the whole index; a new route for a known source is one swap.
#[derive(Debug)]
pub(crate) struct Table {
    index: ArcSwap<Index>,
    changing: Mutex<()>,
    /// What the sources share.
    pub budgets: Budgets,
    families: Arc<Families>,
}

#[derive(Debug, Default, Clone)]
struct Index {
    by_url: HashMap<u64, HashMap<Box<str>, Vec<Arc<Entry>>>>,
    by_key: HashMap<SourceKey, Arc<Entry>>,
}

/// A source and its present route.
#[derive(Debug)]
pub(crate) struct Entry {
    /// What belongs to the source whatever its route.
    pub intake: Intake,
    route: ArcSwapOption<Route>,
}

impl Entry {
    /// The present route; none when the source is gone.
    pub fn route(&self) -> Option<Arc<Route>> {
        self.route.load_full()
    }
}

impl Table {
    /// No sources yet. They will share these budgets and be counted in these families.
    pub fn new(budgets: Budgets, families: Arc<Families>) -> Self {
        Self {
            index: ArcSwap::default(),
            changing: Mutex::default(),
            budgets,
            families,
        }
    }

    /// Sets what each of these sources may take in a second, and the account of the volume that takes all its rows.
    pub fn limit<'a>(
        &self,
        limits: impl Iterator<Item = (&'a SourceKey, RateLimit, Option<Arc<Account>>)>,
    ) {
        let index = self.index.load();
        for (key, rate, volume) in limits {
            if let Some(entry) = index.by_key.get(key) {
                entry.intake.set_rate(rate);
                entry.intake.set_volume(&self.budgets, volume);
            }
        }
    }

    /// The sources behind a URL: those with this id, in all branches of the project, that have this secret.
    ///
    /// Neither the answer nor, as far as the comparison of secrets goes, its timing tells an unknown source from a wrong
    /// secret.
    pub fn authenticate(&self, project: u64, source: &str, secret: &str) -> Vec<Arc<Entry>> {
        let index = self.index.load();
        let entries = index
            .by_url
            .get(&project)
            .and_then(|sources| sources.get(source));
        let has_secret = |entry: &&Arc<Entry>| {
            let route = entry.route.load();
            route.as_ref().is_some_and(|route| {
                route
                    .secret
                    .expose()
                    .as_bytes()
                    .ct_eq(secret.as_bytes())
                    .into()
            })
        };
        entries
            .into_iter()
            .flatten()
            .filter(has_secret)
            .cloned()
            .collect()
    }

    /// The present route of a source.
    pub fn route(&self, source: &SourceKey) -> Option<Arc<Route>> {
        self.index
            .load()
            .by_key
            .get(source)
            .and_then(|entry| entry.route())
    }

    /// Sets the routes of sources; none for a source that is gone.
    pub fn update(&self, changes: Vec<(SourceKey, Option<Route>)>) {
        let _changing = self.changing.lock();
        let index = self.index.load_full();
        let mut next = None;
        for (key, route) in changes {
            let known = next.as_ref().unwrap_or(&*index).by_key.get(&key);
            match (known, route) {
                (Some(entry), Some(route)) => entry.route.store(Some(Arc::new(route))),
                (Some(entry), None) => {
                    entry.route.store(None);
                    next.get_or_insert_with(|| Index::clone(&index))
                        .remove(&key);
                }
                (None, Some(route)) => {
                    let (project, source) = (key.branch.project.0, key.source.as_str());
                    let intake = Intake::new(&self.budgets, self.families.of(project, source));
                    next.get_or_insert_with(|| Index::clone(&index))
                        .insert(key, route, intake);
                }
                (None, None) => {}
            }
        }
        if let Some(next) = next {
            self.index.store(Arc::new(next));
        }
    }
}

impl Index {
    fn insert(&mut self, key: SourceKey, route: Route, intake: Intake) {
        let entry = Arc::new(Entry {
            intake,
            route: ArcSwapOption::from_pointee(route),
        });
        let sources = self.by_url.entry(key.branch.project.0).or_default();
        sources
            .entry(key.source.as_str().into())
            .or_default()
            .push(Arc::clone(&entry));
        self.by_key.insert(key, entry);
    }

    fn remove(&mut self, key: &SourceKey) {
        let Some(entry) = self.by_key.remove(key) else {
            return;
        };
        let Some(sources) = self.by_url.get_mut(&key.branch.project.0) else {
            return;
        };
        if let Some(entries) = sources.get_mut(key.source.as_str()) {
            entries.retain(|other| !Arc::ptr_eq(other, &entry));
            if entries.is_empty() {
                sources.remove(key.source.as_str());
            }
        }
    }
}

#[cfg(test)]
impl Default for Table {
    /// With the default budgets, and figures that nobody sees.
    fn default() -> Self {
        let families = Families::new(100).expect("valid names");
        Self::new(
            Budgets::new(64 << 20, 20_000, usize::MAX),
            Arc::new(families),
        )
    }
}

#[cfg(test)]
mod tests {
    use stream_model::{BranchId, BranchKey, ProjectId, Secret};

    use super::*;
    use crate::route::State;

    fn key(branch: u64, source: &str) -> SourceKey {
        SourceKey {
            branch: BranchKey {
                project: ProjectId(7),
                branch: BranchId(branch),
            },
            source: source.parse().expect("valid"),
        }
    }

    fn change(key: &SourceKey, secret: &str) -> (SourceKey, Option<Route>) {
        let secret = Secret::new(secret.to_owned());
        (
            key.clone(),
            Some(Route {
                source: key.clone(),
                secret,
                state: State::Disabled,
            }),
        )
    }

    #[test]
    fn only_the_right_secret_finds_a_source() {
        let table = Table::default();
        let orders = key(1, "orders");
        table.update(vec![
            change(&orders, "s1"),
            change(&key(1, "orders-2"), "s2"),
        ]);
        let found = table.authenticate(7, "orders", "s1");
        let route = found
            .first()
            .and_then(|entry| entry.route())
            .expect("found");
        assert_eq!((found.len(), &route.source), (1, &orders));
        for (project, source, secret) in [
            (7, "orders", "s2"),
            (7, "orders", ""),
            (7, "order", "s1"),
            (8, "orders", "s1"),
        ] {
            assert!(
                table.authenticate(project, source, secret).is_empty(),
                "{source} {secret}"
            );
        }
    }

    #[test]
    fn all_branches_with_the_secret_are_found_and_removed_ones_are_not() {
        let table = Table::default();
        let (first, second) = (key(1, "orders"), key(2, "orders"));
        table.update(vec![change(&first, "s"), change(&second, "s")]);
        assert_eq!(table.authenticate(7, "orders", "s").len(), 2);
        table.update(vec![(first.clone(), None)]);
        assert_eq!(table.authenticate(7, "orders", "s").len(), 1);
        assert!(table.route(&first).is_none() && table.route(&second).is_some());
        table.update(vec![change(&second, "new")]);
        assert!(table.authenticate(7, "orders", "s").is_empty());
        table.update(vec![change(&first, "s"), (second, None)]);
        assert_eq!(table.authenticate(7, "orders", "s").len(), 1);
    }
}
