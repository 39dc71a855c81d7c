//! The routes of all sources, found by the parts of a URL without allocating and without a lock.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use stream_model::SourceKey;
use subtle::ConstantTimeEq;

use crate::route::Route;

/// All sources. Sources come and go by a copy of the whole index; a new route for a known source is one swap.
#[derive(Debug, Default)]
pub(crate) struct Table {
    index: ArcSwap<Index>,
    changing: Mutex<()>,
}

#[derive(Debug, Default, Clone)]
struct Index {
    by_url: HashMap<u64, HashMap<Box<str>, Vec<Arc<Entry>>>>,
    by_key: HashMap<SourceKey, Arc<Entry>>,
}

/// A source and its present route.
#[derive(Debug)]
pub(crate) struct Entry {
    route: ArcSwapOption<Route>,
}

impl Entry {
    /// The present route; none when the source is gone.
    pub fn route(&self) -> Option<Arc<Route>> {
        self.route.load_full()
    }
}

impl Table {
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
                    next.get_or_insert_with(|| Index::clone(&index))
                        .insert(key, route);
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
    fn insert(&mut self, key: SourceKey, route: Route) {
        let entry = Arc::new(Entry {
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
