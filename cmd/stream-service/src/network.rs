//! The keys `storage.level.local.writer.network.*`: how http-sources reach storage-writers.
//!
//! The same keys serve both ends. What a writer listens on and is reached at is its own; certificates, and how long things may
//! take, are for whichever end the process is.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use stream_model::unit::Interval;
use stream_node::{ClientTls, Tls, TlsError};
use stream_storage::wire::network::NetworkOptions;

use crate::config::between;

/// The key of the address that a writer listens on.
pub const LISTEN: &str = "storage.level.local.writer.network.listen";
/// What all keys begin with.
const KEY: &str = "storage.level.local.writer.network";
/// What is spoken (ALPN).
const PROTOCOL: &[u8] = b"h2";

/// `storage.level.local.writer.*`
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WriterLevel {
    /// The port of the writer.
    pub network: Network,
}

/// `storage.level.local.writer.network.*`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Network {
    /// Address on which a storage-writer takes batches of other processes. Only with `etcd.endpoint`: without it there are none.
    /// Default `0.0.0.0:6000`.
    pub listen: SocketAddr,
    /// Host, or host and port, under which others reach this writer. Default: the address of `listen`; where that is all
    /// addresses of the machine, `hostname`.
    pub advertise: String,
    /// How often a silent connection is asked for a sign of life, 1s to 60s. Without one for as long again it is given up.
    /// Default 5s.
    pub keep_alive_interval: Interval,
    /// How long the opening of a stream may take, connecting included, 1s to 60s. Default 10s.
    pub stream_open_timeout: Interval,
    /// Certificates.
    pub tls: WriterTls,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 6000)),
            advertise: String::new(),
            keep_alive_interval: Interval::from_secs(5),
            stream_open_timeout: Interval::from_secs(10),
            tls: WriterTls::default(),
        }
    }
}

/// `storage.level.local.writer.network.tls.*`
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WriterTls {
    /// PEM file with the certificate of this process. Default: none.
    pub cert: Option<PathBuf>,
    /// PEM file with its key. Default: none.
    pub key: Option<PathBuf>,
    /// PEM file with the authorities that sign the certificates of the other end. An http-source speaks TLS and checks the
    /// writer; a writer demands a certificate. Default: none.
    pub ca: Option<PathBuf>,
}

impl Network {
    /// Checks what single values cannot say.
    ///
    /// # Errors
    /// A sentence that names the key.
    pub fn validate(&self) -> Result<(), String> {
        let (second, minute) = (Interval::from_secs(1), Interval::from_secs(60));
        let key = |name: &str| format!("{KEY}.{name}");
        between(
            &key("keepAliveInterval"),
            self.keep_alive_interval,
            second,
            minute,
        )?;
        between(
            &key("streamOpenTimeout"),
            self.stream_open_timeout,
            second,
            minute,
        )?;
        if self.tls.cert.is_some() != self.tls.key.is_some() {
            return Err(format!(
                "{KEY}.tls.cert and {KEY}.tls.key belong together; set both or neither"
            ));
        }
        if self.advertise.contains('/') || self.advertise.contains('@') {
            return Err(format!(
                "{KEY}.advertise is {:?}; set a host, or a host and a port, such as writer-0.example.com:6000",
                self.advertise
            ));
        }
        Ok(())
    }

    /// Where others reach the writer that listens on `bound`.
    pub fn advertised(&self, bound: SocketAddr, hostname: &str) -> String {
        let host = match self.advertise.as_str() {
            "" if bound.ip().is_unspecified() => hostname,
            "" => return bound.to_string(),
            given => given,
        };
        let is_ipv6 = host.parse::<std::net::Ipv6Addr>().is_ok();
        let has_port = !is_ipv6
            && host
                .rsplit_once(':')
                .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        match (has_port, is_ipv6) {
            (true, _) => host.to_owned(),
            (false, true) => format!("[{host}]:{}", bound.port()),
            (false, false) => format!("{host}:{}", bound.port()),
        }
    }

    /// How streams are kept.
    pub fn options(&self) -> NetworkOptions {
        NetworkOptions {
            keep_alive_interval: self.keep_alive_interval.0,
            open_timeout: self.stream_open_timeout.0,
        }
    }

    /// The certificates of a writer; none without.
    ///
    /// # Errors
    /// When a file cannot be used.
    pub fn server_tls(&self) -> Result<Option<Tls>, TlsError> {
        match (&self.tls.cert, &self.tls.key) {
            (Some(cert), Some(key)) => {
                Tls::load_demanding(cert, key, self.tls.ca.as_deref()).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The certificates of an http-source; none without.
    ///
    /// # Errors
    /// When a file cannot be used.
    pub fn client_tls(&self) -> Result<Option<ClientTls>, TlsError> {
        let Some(authorities) = self.tls.ca.clone() else {
            return Ok(None);
        };
        let tls = ClientTls {
            authorities,
            identity: self.tls.cert.clone().zip(self.tls.key.clone()),
            protocol: PROTOCOL,
        };
        tls.check()?;
        Ok(Some(tls))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_is_reached_at_what_it_says_or_where_it_listens() {
        let all: SocketAddr = "0.0.0.0:6000".parse().expect("valid");
        let one: SocketAddr = "10.1.2.3:7001".parse().expect("valid");
        let six: SocketAddr = "[::1]:6000".parse().expect("valid");
        let cases = [
            ("", all, "pod-1:6000"),
            ("", one, "10.1.2.3:7001"),
            ("", six, "[::1]:6000"),
            ("writer-0.svc", all, "writer-0.svc:6000"),
            ("writer-0.svc:443", all, "writer-0.svc:443"),
            ("fd00::7", all, "[fd00::7]:6000"),
            ("[fd00::7]:1", all, "[fd00::7]:1"),
        ];
        for (advertise, bound, expected) in cases {
            let network = Network {
                advertise: advertise.to_owned(),
                ..Network::default()
            };
            assert_eq!(
                network.advertised(bound, "pod-1"),
                expected,
                "{advertise:?}"
            );
        }
    }

    #[test]
    fn what_makes_no_sense_is_named_with_its_key() {
        let refused = |change: fn(&mut Network)| {
            let mut network = Network::default();
            change(&mut network);
            network.validate().expect_err("it makes no sense")
        };
        let message = refused(|it| it.advertise = "http://writer".to_owned());
        assert!(message.contains("writer.network.advertise"), "{message}");
        let message = refused(|it| it.tls.cert = Some(PathBuf::from("x.pem")));
        assert!(message.contains("writer.network.tls.key"), "{message}");
        let message = refused(|it| it.keep_alive_interval = Interval::from_secs(61));
        assert!(message.contains("keepAliveInterval"), "{message}");
        assert_eq!(Network::default().validate(), Ok(()));
    }
}
