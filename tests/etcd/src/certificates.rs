//! A certificate authority of a test, and what it signed.

use std::path::{Path, PathBuf};

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// PEM files of one authority, a server and a client.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// The authority that signed both.
    pub ca: PathBuf,
    /// Certificate of the servers, for `127.0.0.1` and `localhost`.
    pub server: PathBuf,
    /// Its key.
    pub server_key: PathBuf,
    /// Certificate of the client.
    pub client: PathBuf,
    /// Its key.
    pub client_key: PathBuf,
}

impl Certificates {
    /// Makes new ones in `dir`.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn create(dir: &Path) -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "stream test authority");
        let ca = params.self_signed(&key)?;
        let issuer = Issuer::new(params, key);
        let files = Self {
            ca: dir.join("ca.pem"),
            server: dir.join("server.pem"),
            server_key: dir.join("server.key"),
            client: dir.join("client.pem"),
            client_key: dir.join("client.key"),
        };
        write(&files.ca, &ca.pem())?;
        let names = ["127.0.0.1", "localhost"].map(str::to_owned).to_vec();
        sign(&issuer, names, "etcd", &files.server, &files.server_key)?;
        let none = Vec::new();
        sign(&issuer, none, "stream", &files.client, &files.client_key)?;
        Ok(files)
    }
}

fn sign(
    issuer: &Issuer<'_, KeyPair>,
    names: Vec<String>,
    common_name: &str,
    certificate: &Path,
    key_file: &Path,
) -> anyhow::Result<()> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names)?;
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    let signed = params.signed_by(&key, issuer)?;
    write(certificate, &signed.pem())?;
    write(key_file, &key.serialize_pem())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
