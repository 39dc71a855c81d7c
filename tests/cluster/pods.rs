//! Every component as a process of its own, on one real etcd: alone, killed in turn under load, restarted in an orderly way, and
//! with encryption between sources and writers.
//!
//! Longer runs: `STREAM_TEST_ROUNDS` (each process, etcd among them, is killed so many times, 1).

mod alone;
mod cuts;
mod encryption;
mod kills;

use stream_tests::service::Service;
use stream_tests::setup::Setup;

use crate::ownership::installation::Installation;

/// The processes: their names, what runs in them, and whose volumes they see.
const PODS: [(&str, &str, &str); 8] = [
    ("api", "api", "none"),
    ("coordinator", "storage-coordinator", "none"),
    ("source-1", "http-source", "none"),
    ("source-2", "http-source", "none"),
    ("writer-1", "storage-writer", "volumes-1"),
    ("writer-2", "storage-writer", "volumes-2"),
    ("reader-1", "storage-reader", "volumes-1"),
    ("reader-2", "storage-reader", "volumes-2"),
];

/// What a process may say when others or etcd are killed, or when it was starved of processors for longer than its time to live, which
/// is short here.
const AFTER_A_KILL: &[&str] = &[
    "lease lost, registering again",
    "state store lost",
    "reconciler failing, will go on trying",
    "cannot read which volumes and coordinators are alive",
    "result of the upload cannot be recorded yet",
    "result of the import cannot be recorded yet",
    "outcome of a batch is still unknown",
    "reached limit cannot be recorded, will go on trying",
    "imported file cannot be cleaned up yet",
];

/// How a process of the installation is started. Each source has both volumes.
fn pod(site: &Installation, name: &str, component: &str, volumes: &str) -> Setup {
    site.node(name, &site.path(volumes))
        .words(&[component])
        .env("STORAGE_LEVEL_LOCAL_VOLUME_ASSIGNMENT_COUNT", "2")
}

/// All processes, running.
pub struct Pods(Vec<Service>);

impl Pods {
    /// Starts them at the same time, in the order of their list.
    async fn start(site: &Installation) -> Self {
        Self::start_as(site, |_, setup| setup).await
    }

    /// The same, and each is started in its own way.
    pub async fn start_as(site: &Installation, own: impl Fn(&str, Setup) -> Setup) -> Self {
        site.volumes("volumes-1", &["one"]);
        site.volumes("volumes-2", &["two"]);
        let mut services = Vec::new();
        for (name, component, volumes) in PODS {
            let setup = own(name, pod(site, name, component, volumes));
            services.push(Service::spawn(setup).expect("it starts"));
        }
        for service in &mut services {
            service.until_ready().await.expect("it gets ready");
        }
        Self(services)
    }

    pub fn named(&mut self, name: &str) -> &mut Service {
        let index = PODS.iter().position(|(own, ..)| *own == name);
        &mut self.0[index.expect("there is one")]
    }

    pub fn sources(&mut self) -> Vec<std::net::SocketAddr> {
        ["source-1", "source-2"]
            .map(|name| self.named(name).setup().source_address())
            .to_vec()
    }

    /// Waits for the import, stops all, and compares row by row.
    async fn settle(
        &mut self,
        site: &Installation,
        name: &str,
        sent: &crate::ownership::load::Sent,
    ) {
        let mut services: Vec<&mut Service> = self.0.iter_mut().collect();
        site.settle(name, sent, &mut services).await;
        self.assert_sound(site).await;
    }

    /// Stops all, and looks at what they leave.
    pub async fn stop(&mut self, site: &Installation) {
        for service in &mut self.0 {
            service.stop().await.expect("it stops");
        }
        let check = site.command(&["state", "check"]).await;
        assert!(check.success, "{}", check.stdout);
        self.assert_sound(site).await;
    }

    async fn assert_sound(&self, site: &Installation) {
        for volumes in ["volumes-1", "volumes-2"] {
            let path = site.path(volumes).display().to_string();
            let verified = site.command(&["volume", "verify", &path]).await;
            assert!(verified.success, "{}{}", verified.stdout, verified.stderr);
        }
        for service in &self.0 {
            service.assert_quiet(AFTER_A_KILL);
        }
    }
}
