//! Members that know each other.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::certificates::Certificates;
use crate::free_port::free_port;
use crate::member::{Member, Plan, check_health};

/// A starting member on a busy machine takes seconds, not minutes.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

/// How clients reach the members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Without encryption.
    Plain,
    /// The server proves who it is.
    Tls,
    /// The client does too.
    MutualTls,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    OfOwner,
    OfProcess,
}

/// One or several members.
#[derive(Debug)]
pub struct Cluster {
    members: Vec<(Plan, Option<Member>)>,
    endpoints: Vec<String>,
    certificates: Option<Certificates>,
    dir: TempDir,
}

impl Cluster {
    /// Starts `count` members and waits until all are healthy.
    ///
    /// # Errors
    /// When they do not start.
    pub async fn start(program: &Path, count: usize, transport: Transport) -> anyhow::Result<Self> {
        Self::start_for(program, count, transport, Life::OfOwner).await
    }

    /// One member that lives as long as this process. A static is never dropped, so its directory is left to the watcher.
    pub(crate) async fn start_static(program: &Path) -> anyhow::Result<Self> {
        Self::start_for(program, 1, Transport::Plain, Life::OfProcess).await
    }

    async fn start_for(
        program: &Path,
        count: usize,
        transport: Transport,
        life: Life,
    ) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("stream-etcd-").tempdir()?;
        let certificates = match transport {
            Transport::Plain => None,
            Transport::Tls | Transport::MutualTls => Some(Certificates::create(dir.path())?),
        };
        let scheme = certificates.as_ref().map_or("http", |_| "https");
        let ports = (0..count)
            .map(|_| Ok([free_port()?, free_port()?, free_port()?]))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let peers: Vec<String> = ports
            .iter()
            .enumerate()
            .map(|(index, [_, peer, _])| format!("m{index}=http://127.0.0.1:{peer}"))
            .collect();
        let mut members = Vec::new();
        let mut endpoints = Vec::new();
        for (index, [client, peer, health]) in ports.iter().enumerate() {
            let endpoint = format!("{scheme}://127.0.0.1:{client}");
            let mut arguments = vec![
                format!("--name=m{index}"),
                format!(
                    "--data-dir={}",
                    dir.path().join(format!("m{index}")).display()
                ),
                format!("--listen-client-urls={endpoint}"),
                format!("--advertise-client-urls={endpoint}"),
                format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
                format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
                format!("--initial-cluster={}", peers.join(",")),
                format!("--listen-metrics-urls=http://127.0.0.1:{health}"),
            ];
            if let Some(files) = &certificates {
                arguments.push(format!("--cert-file={}", files.server.display()));
                arguments.push(format!("--key-file={}", files.server_key.display()));
            }
            if let (Some(files), Transport::MutualTls) = (&certificates, transport) {
                arguments.push(format!("--trusted-ca-file={}", files.ca.display()));
                arguments.push("--client-cert-auth".to_owned());
            }
            let plan = Plan {
                program: program.to_owned(),
                arguments,
                log: dir.path().join(format!("m{index}.log")),
                health_port: *health,
                remove: (life == Life::OfProcess).then(|| dir.path().to_owned()),
            };
            endpoints.push(endpoint);
            let member = Member::start(&plan)?;
            members.push((plan, Some(member)));
        }
        let cluster = Self {
            members,
            endpoints,
            certificates,
            dir,
        };
        for index in 0..count {
            cluster.wait_until_healthy(index).await?;
        }
        Ok(cluster)
    }

    /// The URLs of all members.
    #[must_use]
    pub fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// The certificates; none without TLS.
    #[must_use]
    pub const fn certificates(&self) -> Option<&Certificates> {
        self.certificates.as_ref()
    }

    /// How many members there are.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.members.len()
    }

    /// Kills a member at whatever instruction it is. Nothing happens when it is not running.
    pub fn kill(&mut self, index: usize) {
        if let Some(member) = self.members[index].1.take() {
            member.kill();
        }
    }

    /// Starts a killed member again on what it has on its disk. Nothing happens when it is running.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start_again(&mut self, index: usize) -> anyhow::Result<()> {
        let (plan, member) = &mut self.members[index];
        if member.is_none() {
            *member = Some(Member::start(plan)?);
        }
        Ok(())
    }

    /// Freezes a running member, as if its machine had been paused.
    ///
    /// # Errors
    /// When it is not running.
    pub fn freeze(&self, index: usize) -> anyhow::Result<()> {
        self.running(index)?.signal(Signal::STOP)
    }

    /// Lets a frozen member go on.
    ///
    /// # Errors
    /// When it is not running.
    pub fn thaw(&self, index: usize) -> anyhow::Result<()> {
        self.running(index)?.signal(Signal::CONT)
    }

    fn running(&self, index: usize) -> anyhow::Result<&Member> {
        let member = self.members[index].1.as_ref();
        member.with_context(|| format!("member {index} is not running"))
    }

    /// Waits until a member has a leader and takes writes.
    ///
    /// # Errors
    /// When it does not within a minute, with the end of its log.
    pub async fn wait_until_healthy(&self, index: usize) -> anyhow::Result<()> {
        let plan = &self.members[index].0;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let port = plan.health_port;
            let health = tokio::task::spawn_blocking(move || check_health(port)).await?;
            match health {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    bail!(
                        "member {index} is not healthy: {error}\n{}",
                        self.log(index)
                    )
                }
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    /// The end of a member's log.
    #[must_use]
    pub fn log(&self, index: usize) -> String {
        let text = std::fs::read(&self.members[index].0.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// The directory of everything the members write; one per member, named `m0`, `m1` and so on.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.dir.path().to_owned()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn members_are_killed_and_started_again() {
        let Some(program) = crate::program() else {
            return;
        };
        let mut cluster = Cluster::start(&program, 3, Transport::Plain).await.unwrap();
        let pids: Vec<_> = (0..3).map(|i| cluster.running(i).unwrap().pid()).collect();
        cluster.kill(1);
        assert!(cluster.running(1).is_err());
        let gone = rustix::process::test_kill_process(pids[1]);
        assert!(gone.is_err(), "a killed member is gone, not a zombie");
        cluster.wait_until_healthy(0).await.unwrap();
        cluster.start_again(1).unwrap();
        cluster.wait_until_healthy(1).await.unwrap();
        drop(cluster);
        for pid in [pids[0], pids[2]] {
            assert!(rustix::process::test_kill_process(pid).is_err());
        }
    }

    #[tokio::test]
    async fn serves_over_tls() {
        let Some(program) = crate::program() else {
            return;
        };
        let cluster = Cluster::start(&program, 1, Transport::MutualTls)
            .await
            .unwrap();
        assert!(cluster.endpoints()[0].starts_with("https://"));
        assert!(cluster.certificates().unwrap().client_key.is_file());
    }
}
