//! Which servers are believed: those that an authority of the machine vouches for.
//!
//! The authorities are read from the file that OpenSSL would use: `SSL_CERT_FILE` where it is set, else the bundle of the
//! system. There is none inside the program, so that whoever runs it decides.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Where systems have their bundle: Debian and its kin, Fedora, openSUSE, Alpine.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Why no server can be believed.
#[derive(Debug, thiserror::Error)]
pub enum NoAuthorities {
    /// There is no bundle.
    #[error(
        "no bundle of certificate authorities was found; install the package ca-certificates, or name a PEM file in SSL_CERT_FILE"
    )]
    Missing,
    /// The bundle has no certificate.
    #[error("{} has no usable certificate of an authority", .0.display())]
    Unusable(PathBuf),
}

/// A connector that believes the authorities in `bundle`, or those of the machine.
pub(super) fn connector(bundle: Option<&Path>) -> Result<TlsConnector, NoAuthorities> {
    let bundle = match bundle {
        Some(bundle) => bundle.to_owned(),
        None => BUNDLES
            .into_iter()
            .map(PathBuf::from)
            .find(|path| path.is_file())
            .ok_or(NoAuthorities::Missing)?,
    };
    let unusable = || NoAuthorities::Unusable(bundle.clone());
    let certificates = CertificateDer::pem_file_iter(&bundle).map_err(|_| unusable())?;
    let mut roots = RootCertStore::empty();
    // A bundle may hold a certificate that this library does not read; the others are as good as before.
    let (added, _) = roots.add_parsable_certificates(certificates.filter_map(Result::ok));
    if added == 0 {
        return Err(unusable());
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_without_a_certificate_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ca.pem");
        std::fs::write(&path, "nothing").expect("written");
        for path in [path, dir.path().join("missing.pem")] {
            let error = connector(Some(&path)).err().expect("refused").to_string();
            assert!(error.contains(&path.display().to_string()), "{error}");
        }
    }
}
