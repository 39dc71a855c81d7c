//! Real etcd servers for tests.
//!
//! A [`Cluster`] is one or several members on loopback, on directories of their own, that can be killed, frozen and started
//! again. It ends with its owner, even when the owner is killed: each member hangs on a pipe that its owner holds open.
//!
//! The program comes from `STREAM_TEST_ETCD`, else from `PATH`; `make test` installs Debian's `etcd-server` where it can.
//! Without it [`program`] tells the test to skip, and fails it when `CI` is `true`.

mod certificates;
mod cluster;
pub mod free_port;
mod member;

pub use certificates::Certificates;
pub use cluster::{Cluster, Transport};

use std::path::PathBuf;

use tokio::sync::OnceCell;

/// One etcd for all tests of the process, started by the first that asks; none when there is none on this machine. Tests
/// keep out of each other's keys.
///
/// # Panics
/// When it does not start, or as [`program`].
pub async fn shared() -> Option<&'static Cluster> {
    static SHARED: OnceCell<Cluster> = OnceCell::const_new();
    let program = program()?;
    let start = async || Cluster::start_static(&program).await.expect("etcd starts");
    Some(SHARED.get_or_init(start).await)
}

/// The etcd to test with; none when there is none on this machine.
///
/// # Panics
/// When there is none and `CI` is `true`: a suite that silently does not run proves nothing.
#[must_use]
#[allow(clippy::print_stderr, reason = "a skipped test should say so")]
pub fn program() -> Option<PathBuf> {
    let named = std::env::var_os("STREAM_TEST_ETCD").map(PathBuf::from);
    let found = named.or_else(|| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path)
            .map(|dir| dir.join("etcd"))
            .find(|candidate| candidate.is_file())
    });
    if found.is_none() {
        assert!(
            !std::env::var("CI").is_ok_and(|ci| ci == "true"),
            "etcd is not installed: install etcd-server, or name the program in STREAM_TEST_ETCD"
        );
        eprintln!("skipped: etcd is not installed (etcd-server, or STREAM_TEST_ETCD)");
    }
    found
}
