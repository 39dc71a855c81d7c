//! Ports on which a process can be started, and started again.
//!
//! They lie below the range from which the system takes the ports of outgoing connections. One from inside the range could
//! be taken by a client while its process is being restarted; a client that connects to such a port when nobody listens can
//! even be connected to itself.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Mutex;

use anyhow::{Context, bail};

/// The first port that is considered.
const FIRST: u16 = 15_000;
/// Where the ports of outgoing connections begin, unless the system says something else.
const USUAL_LIMIT: u16 = 32_768;
/// More than enough to find one on a machine that is not full.
const ATTEMPTS: usize = 1_000;

/// Ports given out by this process.
static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port of 127.0.0.1 on which nobody listens and that this process gives out only once.
///
/// # Errors
/// When none is found.
pub fn free_port() -> anyhow::Result<u16> {
    let limit = first_outgoing().unwrap_or(USUAL_LIMIT);
    if limit <= FIRST {
        bail!("outgoing connections use ports from {limit} on, and none below {FIRST} is tried");
    }
    let mut taken = TAKEN
        .lock()
        .ok()
        .context("a test panicked while it took a port")?;
    for _ in 0..ATTEMPTS {
        let port = rand::random_range(FIRST..limit);
        if taken.contains(&port) || TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err() {
            continue;
        }
        taken.insert(port);
        return Ok(port);
    }
    bail!("no free port found between {FIRST} and {limit}")
}

fn first_outgoing() -> Option<u16> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    range.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_free_and_different() {
        let ports: BTreeSet<u16> = (0..20).map(|_| free_port().expect("a port")).collect();
        assert_eq!(ports.len(), 20);
        for port in ports {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("nobody listens there");
        }
    }
}
