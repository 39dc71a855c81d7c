//! TLS of a client: which servers it believes, and who it is itself.
//!
//! The files are read for each connection. Connections between processes are few and last long, so this costs next to nothing,
//! and a certificate that was replaced is used from the next connection on.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;

use super::tls::{TlsError, chain, private_key, read, roots};

/// Certificates of a client.
#[derive(Debug, Clone)]
pub struct ClientTls {
    /// PEM file with the authorities of the servers.
    pub authorities: PathBuf,
    /// PEM files with the own certificate and its key, for servers that ask for one.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The protocol that is asked for (ALPN).
    pub protocol: &'static [u8],
}

impl ClientTls {
    /// Reads the files, to find out at the start whether they can be used.
    ///
    /// # Errors
    /// A sentence that names the file at fault.
    pub fn check(&self) -> Result<(), TlsError> {
        self.config().map(|_| ())
    }

    fn config(&self) -> Result<ClientConfig, TlsError> {
        let roots = roots(&self.authorities, &read(&self.authorities)?)?;
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has the default versions")
            .with_root_certificates(roots);
        let mut config = match &self.identity {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                let own = chain(certificate, &read(certificate)?)?;
                let own_key = private_key(key, &read(key)?)?;
                let config = config.with_client_auth_cert(own, own_key);
                config.map_err(|error| TlsError::Mismatch {
                    certificate: certificate.clone(),
                    key: key.clone(),
                    reason: error.to_string(),
                })?
            }
        };
        config.alpn_protocols = vec![self.protocol.to_vec()];
        Ok(config)
    }

    /// Shakes hands with a server, which must prove that it is `host`, a name or an address.
    ///
    /// # Errors
    /// When a file cannot be used, or either side does not believe the other.
    pub async fn connect(&self, host: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let own = self.clone();
        // Small files, but on a file system that may be a network's.
        let config = tokio::task::spawn_blocking(move || own.config()).await;
        let config = config
            .map_err(io::Error::other)?
            .map_err(io::Error::other)?;
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
    }
}
