//! TLS of the listener.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::*;

/// A directory with a certificate and its key.
struct Files {
    dir: tempfile::TempDir,
    certified: CertifiedKey<rcgen::KeyPair>,
}

impl Files {
    fn new() -> Self {
        let files = Self {
            dir: tempfile::tempdir().expect("a directory"),
            certified: certified(),
        };
        files.write();
        files
    }

    fn certificate(&self) -> PathBuf {
        self.dir.path().join("tls.crt")
    }

    fn key(&self) -> PathBuf {
        self.dir.path().join("tls.key")
    }

    fn write(&self) {
        let (certificate, key) = (&self.certified.cert, &self.certified.signing_key);
        std::fs::write(self.certificate(), certificate.pem()).expect("written");
        std::fs::write(self.key(), key.serialize_pem()).expect("written");
    }

    fn load(&self) -> Result<Tls, TlsError> {
        Tls::load(&self.certificate(), &self.key())
    }

    /// A client that trusts the certificate as it was made.
    async fn connect(
        &self,
        server: &Server,
        protocols: &[&str],
    ) -> io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots
            .add(self.certified.cert.der().clone())
            .expect("a certificate");
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("supported")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| Vec::from(*name)).collect();
        let name = ServerName::try_from("localhost").expect("a name");
        let socket = server.connect().await;
        TlsConnector::from(Arc::new(config))
            .connect(name, socket)
            .await
    }
}

fn certified() -> CertifiedKey<rcgen::KeyPair> {
    generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate")
}

async fn serve(tls: Tls) -> Server {
    start(ServeOptions {
        tls: Some(tls),
        ..ServeOptions::default()
    })
    .await
}

#[tokio::test]
async fn both_versions_are_spoken_and_plain_text_is_not() {
    let files = Files::new();
    let server = serve(files.load().expect("valid")).await;

    let socket = files.connect(&server, &["h2"]).await.expect("trusted");
    assert_eq!(socket.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let mut client = http2::over(socket).await;
    let answer = http2::get(&mut client, "/", "123").await.expect("answered");
    assert!(answer.ends_with(" 3"), "{answer}");

    let mut socket = files
        .connect(&server, &["http/1.1"])
        .await
        .expect("trusted");
    socket
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .expect("sent");
    let mut text = String::new();
    socket
        .read_to_string(&mut text)
        .await
        .expect("closed orderly");
    assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");

    let mut plain = server.connect().await;
    send(&mut plain, GET).await;
    let mut text = Vec::new();
    let read = tokio::time::timeout(SOON, plain.read_to_end(&mut text)).await;
    let _ = read.expect("the server closes the connection");
    assert!(!text.starts_with(b"HTTP/"), "{text:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_shake_hands_is_cut() {
    let files = Files::new();
    let server = start(ServeOptions {
        tls: Some(files.load().expect("valid")),
        header_timeout: Duration::from_millis(100),
        ..ServeOptions::default()
    })
    .await;
    let mut silent = server.connect().await;
    assert_eq!(rest(&mut silent).await, "");
    server.stop().await;
}

#[tokio::test]
async fn a_changed_certificate_is_taken_up_and_a_wrong_one_is_not() {
    let mut files = Files::new();
    let old = Files {
        dir: tempfile::tempdir().expect("a directory"),
        certified: std::mem::replace(&mut files.certified, certified()),
    };
    let tls = Tls::load(&files.certificate(), &files.key()).expect("valid");
    let server = serve(tls.clone()).await;
    old.connect(&server, &[]).await.expect("trusted");

    // Half of the new pair: it does not fit together.
    std::fs::write(files.certificate(), files.certified.cert.pem()).expect("written");
    let error = tls.reload().map(drop).expect_err("they do not fit");
    assert!(matches!(error, TlsError::Mismatch { .. }), "{error}");
    old.connect(&server, &[]).await.expect("still the old one");

    files.write();
    let stop = CancellationToken::new();
    let following = tls.follow_every(Duration::from_millis(10), stop.clone());
    let taken_up = async {
        while files.connect(&server, &[]).await.is_err() {
            tokio::task::yield_now().await;
        }
        stop.cancel();
    };
    let both = async { tokio::join!(following, taken_up) };
    tokio::time::timeout(SOON, both)
        .await
        .expect("it is taken up");
    old.connect(&server, &[]).await.expect_err("not any more");
    server.stop().await;
}

#[test]
fn files_at_fault_are_named() {
    let files = Files::new();
    let other = Files::new();
    let said = |certificate: PathBuf, key: PathBuf| {
        let error = Tls::load(&certificate, &key)
            .map(drop)
            .expect_err("refused");
        error.to_string()
    };
    let missing = files.dir.path().join("missing");
    let text = said(missing.clone(), files.key());
    assert!(
        text.contains("missing cannot be read: No such file"),
        "{text}"
    );
    let text = said(files.key(), files.key());
    assert!(
        text.contains("tls.key does not hold a certificate in PEM"),
        "{text}"
    );
    let text = said(files.certificate(), files.certificate());
    assert!(
        text.contains("tls.crt does not hold a private key"),
        "{text}"
    );
    let text = said(files.certificate(), other.key());
    assert!(
        text.contains("cannot be used with the certificate in"),
        "{text}"
    );
    assert!(!format!("{:?}", files.load().expect("valid")).contains("key"));
}
