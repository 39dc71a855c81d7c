//! `state dump` and `state check`: looks at the state of an installation, whether or not its service runs.
//!
//! The state is where the configuration says, as for the service itself: in etcd, or in the data directory. A service that
//! runs on the data directory is asked through its socket; else the embedded store is opened in this process for as long as
//! reading takes, and the data directory is in use for so long.
//!
//! Nothing is written or created: a data directory without state and an empty namespace are refused. Opening the embedded
//! store does what every opening of it does: it revokes the leases of the process that held it before.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use etcd_client::Client;
use stream_etcd_embedded::{Endpoint, OpenError, Options, Server};
use stream_model::Clock;
use stream_model::time::SystemClock;
use stream_state::audit::{self, Snapshot};
use stream_state::{StateError, Store};
use tokio_util::sync::CancellationToken;

use crate::config::Config;

/// The directory of the embedded store in the data directory, and its file.
const DIRECTORY: &str = "state";
const FILE: &str = "etcd.redb";

/// What is to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Everything, as a tree.
    Tree,
    /// Everything, as JSON Lines.
    Lines,
    /// What breaks a rule.
    Check,
}

/// Reads the words after `state`.
///
/// # Errors
/// When there is no such command.
pub fn parse(words: &[&str]) -> anyhow::Result<Look> {
    match words {
        ["dump"] => Ok(Look::Tree),
        ["dump", "json"] => Ok(Look::Lines),
        ["check"] => Ok(Look::Check),
        _ => bail!(
            "\"state {}\" is no command; there are \"state dump\", \"state dump json\" and \"state check\"",
            words.join(" ")
        ),
    }
}

/// Reads the state and prints what was asked for. Exits with 1 when something breaks a rule.
///
/// # Errors
/// When the state cannot be read.
pub async fn run(config: &Config, look: Look) -> anyhow::Result<ExitCode> {
    let state = Box::pin(State::read(config)).await?;
    let now = SystemClock.now();
    let (text, code) = match look {
        Look::Tree => (state.tree(), ExitCode::SUCCESS),
        Look::Lines => (audit::json_lines(&state.snapshot), ExitCode::SUCCESS),
        Look::Check => {
            let findings = audit::check(&state.snapshot.entries, now);
            let code = match findings.is_empty() {
                true => ExitCode::SUCCESS,
                false => ExitCode::FAILURE,
            };
            (state.report(&findings), code)
        }
    };
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("cannot write to standard output")?;
    Ok(code)
}

/// The state, and where it was found.
struct State {
    place: String,
    snapshot: Snapshot,
}

/// Works with the store of an installation, whether or not its service runs.
///
/// # Errors
/// When the state cannot be reached, and what the work returns.
pub async fn with_store<T>(
    config: &Config,
    work: impl AsyncFnOnce(Store) -> Result<T, StateError>,
) -> anyhow::Result<T> {
    let namespace = config.etcd.namespace.trim_matches('/').to_owned();
    reach(config, async |client| {
        let store = Store::open_existing(client, &namespace).await?;
        Ok(work(store).await?)
    })
    .await
}

/// Connects to the state and works with it.
async fn reach<T>(
    config: &Config,
    work: impl AsyncFnOnce(Client) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    if !config.is_standalone() {
        let client = stream_state::connect(&config.etcd_options()).await?;
        return work(client).await;
    }
    let dir = directory(&config.data_dir)?;
    let options = Options::new(&dir);
    let opened = tokio::task::spawn_blocking(|| Server::open(options));
    let opened = opened
        .await
        .context("opening the embedded state store was cut short")?;
    match opened {
        Ok(server) => serve_for(server, work).await,
        Err(OpenError::AlreadyOpen { .. }) => {
            let endpoint = Endpoint::of_directory(&dir)
                .with_context(|| format!("cannot use the data directory {}", dir.display()))?;
            let client = endpoint.connect(None).await.with_context(|| {
                format!(
                    "the process that uses the data directory {} does not answer at {}; it may be starting or stopping, try \
                     again",
                    config.data_dir.display(),
                    endpoint.address()
                )
            })?;
            work(client).await
        }
        Err(error) => Err(error.into()),
    }
}

/// Serves the embedded store in this process until the work is done.
async fn serve_for<T>(
    server: Server,
    work: impl AsyncFnOnce(Client) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let endpoint = server.endpoint();
    let stop = CancellationToken::new();
    let mut serving = Box::pin(server.run(stop.clone()));
    let working = async {
        let client = endpoint
            .connect(None)
            .await
            .context("cannot connect to the embedded state store")?;
        work(client).await
    };
    let done = tokio::select! {
        biased;
        ended = &mut serving => {
            ended?;
            bail!("the embedded state store stopped meanwhile");
        }
        done = working => done,
    };
    stop.cancel();
    serving.await?;
    done
}

impl State {
    async fn read(config: &Config) -> anyhow::Result<Self> {
        let namespace = config.etcd.namespace.trim_matches('/');
        let place = match config.is_standalone() {
            true => directory(&config.data_dir)?.display().to_string(),
            false => format!("etcd at {}", config.etcd.endpoint.join(", ")),
        };
        let place = format!("{place}, namespace {namespace}");
        reach(config, async |client| {
            Self::of(client, namespace, place).await
        })
        .await
    }

    async fn of(client: Client, namespace: &str, place: String) -> anyhow::Result<Self> {
        let store = Store::open_existing(client, namespace).await?;
        let snapshot = store.snapshot().await?;
        if snapshot.entries.is_empty() {
            bail!(
                "there is no state in {place}; the prefix of its keys is etcd.namespace (STREAM_ETCD_NAMESPACE, \
                 --etcd-namespace)"
            );
        }
        Ok(Self { place, snapshot })
    }

    fn tree(&self) -> String {
        let tree = audit::tree(&self.snapshot, SystemClock.now());
        format!("state in {}\n{tree}", self.place)
    }

    /// One finding per line, and their count on the last one.
    fn report(&self, findings: &[audit::Finding]) -> String {
        let mut text = String::new();
        for finding in findings {
            text.push_str(&format!("{finding}\n"));
        }
        let count = match findings.len() {
            1 => "1 finding".to_owned(),
            count => format!("{count} findings"),
        };
        let (keys, revision) = (self.snapshot.entries.len(), self.snapshot.revision);
        text.push_str(&format!(
            "{count} in {keys} keys at revision {revision} of the state in {}\n",
            self.place
        ));
        text
    }
}

/// The directory of the embedded store, which must be there.
fn directory(data_dir: &Path) -> anyhow::Result<PathBuf> {
    let dir = data_dir.join(DIRECTORY);
    let exists = dir
        .join(FILE)
        .try_exists()
        .with_context(|| format!("cannot look into the data directory {}", data_dir.display()))?;
    if !exists {
        bail!(
            "there is no state in the data directory {}; name another one with dataDir (STREAM_DATA_DIR, --data-dir), or \
             an etcd with etcd.endpoint (STREAM_ETCD_ENDPOINT, --etcd-endpoint)",
            data_dir.display()
        );
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_words_are_refused_with_those_that_exist() {
        assert_eq!(parse(&["check"]).expect("a command"), Look::Check);
        assert_eq!(parse(&["dump"]).expect("a command"), Look::Tree);
        assert_eq!(parse(&["dump", "json"]).expect("a command"), Look::Lines);
        for words in [&[][..], &["chek"], &["dump", "yaml"], &["check", "json"]] {
            let error = parse(words).expect_err("no command").to_string();
            assert!(error.contains("\"state dump json\""), "{error}");
        }
    }
}
