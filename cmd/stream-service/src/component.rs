//! The components that a process can run, and which sets of them make sense.

use std::collections::BTreeSet;
use std::fmt;

/// A component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    /// The configuration API.
    Api,
    /// Receives records.
    HttpSource,
    /// Rotates slices and files, imports, cleans up.
    StorageCoordinator,
    /// Uploads sealed slices.
    StorageReader,
    /// Keeps rows on local volumes.
    StorageWriter,
}

impl Component {
    /// All of them, sorted by name.
    pub const ALL: [Self; 5] = [
        Self::Api,
        Self::HttpSource,
        Self::StorageCoordinator,
        Self::StorageReader,
        Self::StorageWriter,
    ];

    /// The argument that chooses it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::HttpSource => "http-source",
            Self::StorageCoordinator => "storage-coordinator",
            Self::StorageReader => "storage-reader",
            Self::StorageWriter => "storage-writer",
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of components that cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidComponents {
    /// None was given.
    #[error(
        "specify at least one service component as a positional argument: api, http-source, storage-coordinator, \
         storage-reader, storage-writer, or all for every one"
    )]
    None,
    /// Something else was given.
    #[error(
        "unexpected service component: {0}; the components are api, http-source, storage-coordinator, storage-reader, storage-writer and all"
    )]
    Unknown(String),
    /// They would have to find another process, and nothing tells them where it is.
    #[error(
        "{component} needs storage-writer: without etcd.endpoint the state is kept in the data directory, and this process is the \
         only one that uses it; run \"stream-service {component} storage-writer …\" or \"stream-service all\", or set \
         etcd.endpoint (STREAM_ETCD_ENDPOINT, --etcd-endpoint) to run components as processes of their own"
    )]
    NeedsWriter {
        /// The component.
        component: Component,
    },
}

/// Reads the component arguments. Repeating one is fine; their order has no meaning.
///
/// # Errors
/// When there is none, or one is unknown.
pub fn parse(words: &[String]) -> Result<BTreeSet<Component>, InvalidComponents> {
    let mut components = BTreeSet::new();
    let mut unknown = Vec::new();
    for word in words {
        if word == "all" {
            components.extend(Component::ALL);
            continue;
        }
        match Component::ALL
            .into_iter()
            .find(|component| component.name() == word)
        {
            Some(component) => {
                components.insert(component);
            }
            None => unknown.push(format!("{word:?}")),
        }
    }
    if !unknown.is_empty() {
        return Err(InvalidComponents::Unknown(unknown.join(", ")));
    }
    if components.is_empty() {
        return Err(InvalidComponents::None);
    }
    Ok(components)
}

/// Checks that the components of a process that keeps the state itself have everything that they need: nobody else can help.
///
/// # Errors
/// When one of them could never do anything.
pub fn check_standalone(components: &BTreeSet<Component>) -> Result<(), InvalidComponents> {
    let needs_writer = [Component::HttpSource, Component::StorageReader];
    let lonely = needs_writer.into_iter().find(|component| {
        components.contains(component) && !components.contains(&Component::StorageWriter)
    });
    match lonely {
        Some(component) => Err(InvalidComponents::NeedsWriter { component }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn all_and_any_order_and_repetition() {
        assert_eq!(parse(&words("all")).expect("valid").len(), 5);
        let set = parse(&words("storage-writer api storage-writer")).expect("valid");
        assert_eq!(
            set,
            BTreeSet::from([Component::Api, Component::StorageWriter])
        );
    }

    #[test]
    fn what_cannot_work_is_refused_with_a_sentence() {
        assert_eq!(parse(&[]), Err(InvalidComponents::None));
        let unknown = parse(&words("api foo bar")).expect_err("unknown");
        assert!(
            unknown
                .to_string()
                .starts_with("unexpected service component: \"foo\", \"bar\"")
        );
        for set in ["http-source", "storage-reader api"] {
            let components = parse(&words(set)).expect("each is one");
            let error = check_standalone(&components).expect_err(set);
            assert!(
                error.to_string().contains("needs storage-writer"),
                "{error}"
            );
            assert!(error.to_string().contains("etcd.endpoint"), "{error}");
        }
        let all = parse(&words("all")).expect("valid");
        assert_eq!(check_standalone(&all), Ok(()));
    }
}
