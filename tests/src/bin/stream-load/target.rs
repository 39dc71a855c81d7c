//! Where requests are sent.

use std::net::{SocketAddr, ToSocketAddrs};

use anyhow::{Context, bail};

/// An `http://` URL in the parts that a request needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The address behind the host name.
    pub address: SocketAddr,
    /// The host as it stands in the URL.
    pub host: String,
    /// Path and query.
    pub path: String,
}

impl Target {
    /// Reads a URL and looks its host up.
    ///
    /// # Errors
    /// When it is no `http://` URL, or the host is not known.
    pub fn parse(url: &str) -> anyhow::Result<Self> {
        let Some(rest) = url.strip_prefix("http://") else {
            bail!("{url} does not start with http://; only plain HTTP is supported");
        };
        let (host, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        let with_port = if host.contains(':') {
            host.to_owned()
        } else {
            format!("{host}:80")
        };
        let mut addresses = with_port
            .to_socket_addrs()
            .with_context(|| format!("cannot find the host of {url}"))?;
        let address = addresses
            .next()
            .with_context(|| format!("{host} has no address"))?;
        Ok(Self {
            address,
            host: host.to_owned(),
            path: path.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let target = Target::parse("http://127.0.0.1:7000/stream/1/a/b?x=1").expect("valid");
        assert_eq!(target.address, SocketAddr::from(([127, 0, 0, 1], 7000)));
        assert_eq!(
            (target.host.as_str(), target.path.as_str()),
            ("127.0.0.1:7000", "/stream/1/a/b?x=1")
        );
        assert_eq!(Target::parse("http://127.0.0.1").expect("valid").path, "/");
        assert!(Target::parse("https://127.0.0.1/").is_err());
    }
}
