//! TLS of a listener: a certificate and its key from two files, taken up anew when they change.
//!
//! Whoever renews certificates replaces the files; nothing has to be restarted. Files that do not fit
//! together, as in the moment between the two replacements, change nothing: connections go on with
//! what was read before, and the files are looked at again.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How often the files are looked at.
const PERIOD: Duration = Duration::from_secs(10);
/// The protocols that are offered (ALPN), the preferred one first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// A certificate or key that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The file of the certificate holds none.
    #[error(
        "{} does not hold a certificate in PEM; it should hold that of this server first, then those that signed it",
        path.display()
    )]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// The file of the key holds none.
    #[error("{} does not hold a private key in PEM that has no password", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// They are of no use together.
    #[error("the key in {} cannot be used with the certificate in {}: {reason}", key.display(), certificate.display())]
    Mismatch {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// What the library says.
        reason: String,
    },
    /// The file of the authorities is of no use.
    #[error("{} does not hold certificates of authorities in PEM: {reason}", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// What the library says.
        reason: String,
    },
}

/// Certificate and key of a listener. Clones share them.
#[derive(Clone)]
pub struct Tls(Arc<Shared>);

struct Shared {
    certificate: PathBuf,
    key: PathBuf,
    /// Whoever has a certificate of one of these may connect; without the file, everybody.
    authorities: Option<PathBuf>,
    current: RwLock<Current>,
}

struct Current {
    config: Arc<ServerConfig>,
    /// What the files held.
    read: Content,
}

#[derive(PartialEq, Eq)]
struct Content {
    certificate: Vec<u8>,
    key: Vec<u8>,
    authorities: Option<Vec<u8>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("certificate", &self.0.certificate)
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads certificate and key, each in PEM: the certificate followed by those that signed it.
    ///
    /// # Errors
    /// A sentence that names the file at fault.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        Self::load_demanding(certificate, key, None)
    }

    /// The same, and clients must show a certificate of one of these authorities, if any are given.
    ///
    /// # Errors
    /// A sentence that names the file at fault.
    pub fn load_demanding(
        certificate: &Path,
        key: &Path,
        authorities: Option<&Path>,
    ) -> Result<Self, TlsError> {
        let read = Content::read(certificate, key, authorities)?;
        let config = read.config(certificate, key, authorities)?;
        Ok(Self(Arc::new(Shared {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            authorities: authorities.map(Path::to_owned),
            current: RwLock::new(Current { config, read }),
        })))
    }

    /// Looks at the files now and then until told to stop, and takes them up when they have changed.
    pub async fn follow(self, stop: CancellationToken) {
        self.follow_every(PERIOD, stop).await;
    }

    pub(super) async fn follow_every(self, period: Duration, stop: CancellationToken) {
        let mut told = None;
        while stop
            .run_until_cancelled(tokio::time::sleep(period))
            .await
            .is_some()
        {
            let own = self.clone();
            // Two small files, but on a file system that may be a network's.
            let reloaded = tokio::task::spawn_blocking(move || own.reload()).await;
            match reloaded.expect("reading files does not panic") {
                Ok(Reloaded::Same) => told = None,
                Ok(Reloaded::Changed) => {
                    told = None;
                    let certificate = self.0.certificate.display();
                    info!(%certificate, "new certificate taken up");
                }
                Err(error) => {
                    let error = error.to_string();
                    // Once for each reason: it lasts until somebody acts.
                    if told.as_ref() != Some(&error) {
                        warn!(
                            error,
                            "changed certificate cannot be used, the one before stays"
                        );
                        told = Some(error);
                    }
                }
            }
        }
    }

    pub(super) fn reload(&self) -> Result<Reloaded, TlsError> {
        let Shared {
            certificate,
            key,
            authorities,
            current,
        } = &*self.0;
        let authorities = authorities.as_deref();
        let read = Content::read(certificate, key, authorities)?;
        if current.read().read == read {
            return Ok(Reloaded::Same);
        }
        let config = read.config(certificate, key, authorities)?;
        *current.write() = Current { config, read };
        Ok(Reloaded::Changed)
    }

    /// Shakes hands with a client.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let config = Arc::clone(&self.0.current.read().config);
        TlsAcceptor::from(config).accept(stream).await
    }
}

pub(super) enum Reloaded {
    Same,
    Changed,
}

impl Content {
    fn read(certificate: &Path, key: &Path, authorities: Option<&Path>) -> Result<Self, TlsError> {
        Ok(Self {
            certificate: read(certificate)?,
            key: read(key)?,
            authorities: authorities.map(read).transpose()?,
        })
    }

    fn config(
        &self,
        certificate: &Path,
        key: &Path,
        authorities: Option<&Path>,
    ) -> Result<Arc<ServerConfig>, TlsError> {
        let chain = chain(certificate, &self.certificate)?;
        let own_key = private_key(key, &self.key)?;
        let mismatch = |error: rustls::Error| TlsError::Mismatch {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            reason: error.to_string(),
        };
        let provider = Arc::new(ring::default_provider());
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(mismatch)?;
        let config = match authorities.zip(self.authorities.as_deref()) {
            None => config.with_no_client_auth(),
            Some((path, pem)) => {
                let roots = Arc::new(roots(path, pem)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                let verifier = verifier.build().map_err(|error| TlsError::Authorities {
                    path: path.to_owned(),
                    reason: error.to_string(),
                })?;
                config.with_client_cert_verifier(verifier)
            }
        };
        let mut config = config.with_single_cert(chain, own_key).map_err(mismatch)?;
        config.alpn_protocols = PROTOCOLS.map(Vec::from).into();
        Ok(Arc::new(config))
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::File {
        path: path.to_owned(),
        source,
    })
}

/// The certificates in the content of a file.
pub(super) fn chain(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty());
    chain.ok_or_else(|| TlsError::NoCertificate {
        path: path.to_owned(),
    })
}

/// The private key in the content of a file. The reason of the library may quote the file, so it is not told.
pub(super) fn private_key(path: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| TlsError::NoKey {
        path: path.to_owned(),
    })
}

/// The authorities in the content of a file.
pub(super) fn roots(path: &Path, pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in chain(path, pem)? {
        roots
            .add(authority)
            .map_err(|error| TlsError::Authorities {
                path: path.to_owned(),
                reason: error.to_string(),
            })?;
    }
    Ok(roots)
}
