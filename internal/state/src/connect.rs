//! Connecting to a real etcd, and refusing one that cannot be worked with, in one sentence.
//!
//! A connection that is returned has reached a member that knows a leader, runs a version that has everything that is needed,
//! and accepts the user. What may be over soon, a member that is starting or a cluster that elects its leader, is waited for
//! until the timeout; what only a person can change is told at once.

use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_client::{Certificate, Client, Identity, TlsOptions};
use stream_model::Secret;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::transport::Endpoint;

use crate::error::StateError;
use crate::failover;

/// The oldest release that the tests run against.
const OLDEST: (u32, u32) = (3, 4);
/// Between two looks at a cluster that cannot be used yet.
const PAUSE: Duration = Duration::from_millis(200);
/// How long one look may take.
const LOOK: Duration = Duration::from_secs(2);
/// How long a majority may take to agree on a read.
const AGREEMENT: Duration = Duration::from_millis(1500);
/// A key that is read to see whether reading is possible.
const PROBE: &str = "stream-probe";
const NO_QUORUM: &str =
    "it has no quorum, at most half of its members reach each other and nothing can be agreed on";

/// How to reach a real etcd.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// One URL or `host:port` per member.
    pub endpoints: Vec<String>,
    /// User name; none when etcd has no authentication.
    pub username: Option<String>,
    /// Password of the user.
    pub password: Option<Secret<String>>,
    /// Certificates; none for a connection without encryption.
    pub tls: Option<Tls>,
    /// How long the first connection may take.
    pub connect_timeout: Duration,
    /// How often a connection is probed.
    pub keep_alive_interval: Duration,
    /// How long the answer to a probe may take.
    pub keep_alive_timeout: Duration,
}

/// PEM files for an encrypted connection.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Certificates of the authorities that sign those of the members. No others are trusted.
    pub ca: PathBuf,
    /// Certificate and key by which this process proves who it is; none when etcd does not ask for it.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl Tls {
    fn options(&self) -> Result<TlsOptions, StateError> {
        let mut options = TlsOptions::new().ca_certificate(Certificate::from_pem(read(&self.ca)?));
        if let Some((certificate, key)) = &self.identity {
            options = options.identity(Identity::from_pem(read(certificate)?, read(key)?));
        }
        Ok(options)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, StateError> {
    let text = std::fs::read(path)
        .map_err(|error| refused(format!("cannot read {}: {error}", path.display())))?;
    // Whatever else is in the file would be ignored, and the failure seen only later and somewhere else.
    if !text.windows(11).any(|window| window == b"-----BEGIN ") {
        return Err(refused(format!("{} is not a PEM file", path.display())));
    }
    Ok(text)
}

fn refused(reason: String) -> StateError {
    StateError::Refused { reason }
}

impl ConnectOptions {
    /// One endpoint per member. Nothing is connected yet.
    fn members(&self) -> Result<Vec<Endpoint>, StateError> {
        let tls = self.tls.as_ref().map(Tls::options).transpose()?;
        let member = |endpoint: &String| self.member(endpoint, tls.clone());
        self.endpoints.iter().map(member).collect()
    }

    fn member(&self, endpoint: &str, tls: Option<TlsOptions>) -> Result<Endpoint, StateError> {
        let unusable = |error: tonic::transport::Error| {
            let shown = endpoint.rsplit('@').next().unwrap_or(endpoint);
            let reason = StateError::from_transport(&error);
            refused(format!(
                "{shown:?} cannot be used as an etcd endpoint: {reason}"
            ))
        };
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = match endpoint.contains("://") {
            true => endpoint.to_owned(),
            false => format!("{scheme}://{endpoint}"),
        };
        let member = Endpoint::from_shared(url)
            .map_err(unusable)?
            .connect_timeout(self.connect_timeout.min(LOOK))
            .http2_keep_alive_interval(self.keep_alive_interval)
            .keep_alive_timeout(self.keep_alive_timeout)
            // etcd closes connections that are probed while nothing is open on them ("too many pings"). Ours always
            // carry a watch or a keep-alive stream.
            .keep_alive_while_idle(false);
        match tls {
            Some(tls) => member.tls_config(tls).map_err(unusable),
            None => Ok(member),
        }
    }

    fn client_options() -> etcd_client::ConnectOptions {
        etcd_client::ConnectOptions::new()
            // A member that lost its cluster would otherwise go on answering watches, with nothing.
            .with_require_leader(true)
            // Tokens of etcd live 5 minutes by default, and the client does not renew them unless told to.
            .with_auto_token_refresh(true)
    }

    fn with_user(&self, options: etcd_client::ConnectOptions) -> etcd_client::ConnectOptions {
        match (&self.username, &self.password) {
            (Some(user), password) => {
                let password = password.as_ref().map_or("", |secret| secret.expose());
                options.with_user(user.as_str(), password)
            }
            (None, _) => options,
        }
    }

    /// The endpoints for people. Whatever stands before an `@` might be a password.
    fn described(&self) -> String {
        let hosts: Vec<&str> = self
            .endpoints
            .iter()
            .map(|endpoint| endpoint.rsplit('@').next().unwrap_or(endpoint))
            .collect();
        hosts.join(", ")
    }

    fn check(&self) -> Result<(), StateError> {
        if self.endpoints.is_empty() {
            return Err(refused("no etcd endpoint is configured".to_owned()));
        }
        let is = |scheme: &str| self.endpoints.iter().any(|url| url.starts_with(scheme));
        match &self.tls {
            None if is("https://") => Err(refused(format!(
                "etcd at {} is to be reached over https, and no certificate authority is configured (etcd.tls.ca)",
                self.described()
            ))),
            Some(_) if is("http://") => Err(refused(format!(
                "etcd at {} is to be reached over http, and certificates are configured (etcd.tls): use https",
                self.described()
            ))),
            _ => Ok(()),
        }
    }
}

/// Connects to a real etcd and checks that it can be worked with.
///
/// # Errors
/// `Unavailable` when no member answers within the connect timeout, or none has a leader until then; `AccessDenied` when the
/// user is not accepted; `Refused` when the options contradict each other, a certificate cannot be read, or etcd is too old.
pub async fn connect(options: &ConnectOptions) -> Result<Client, StateError> {
    options.check()?;
    let deadline = Instant::now() + options.connect_timeout;
    let channel = failover::channel(options.members()?);
    let usable = Box::pin(wait_until_usable(options, channel.clone(), deadline)).await?;
    if options.username.is_none() {
        return Ok(usable);
    }
    let with_user = options.with_user(ConnectOptions::client_options());
    let login = Box::pin(Client::from_channel(channel, Some(with_user)));
    match timeout_at(deadline, login).await {
        Ok(Ok(client)) => Ok(client),
        Ok(Err(error)) => Err(explain(options, StateError::from_etcd(&error))),
        Err(_) => Err(StateError::unavailable(format!(
            "etcd at {} does not answer the login within {} s",
            options.described(),
            options.connect_timeout.as_secs_f32()
        ))),
    }
}

/// What one look at a cluster found.
enum Look {
    Usable,
    NoQuorum,
    NotYet(String),
    Never(StateError),
}

/// Waits for a member that knows a leader. Which one answers is up to chance, so a member that is cut off is passed over.
async fn wait_until_usable(
    options: &ConnectOptions,
    channel: etcd_client::Channel,
    deadline: Instant,
) -> Result<Client, StateError> {
    let anonymous = Some(ConnectOptions::client_options());
    let client = Client::from_channel(channel, anonymous).await;
    let mut client = client.map_err(|error| explain(options, StateError::from_etcd(&error)))?;
    let mut last = None;
    loop {
        let until = deadline.min(Instant::now() + LOOK);
        match timeout_at(until, look(&mut client)).await {
            Ok(Look::Usable) => return Ok(client),
            Ok(Look::Never(error)) => return Err(explain(options, error)),
            Ok(Look::NoQuorum) => last = Some(NO_QUORUM.to_owned()),
            // That members which are away do not answer explains less.
            Ok(Look::NotYet(reason)) if last.as_deref() != Some(NO_QUORUM) => last = Some(reason),
            Ok(Look::NotYet(_)) => {}
            Err(_) => {}
        }
        if Instant::now() + PAUSE >= deadline {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    let reason = match last {
        Some(reason) => reason,
        None => why_not(options).await,
    };
    Err(StateError::unavailable(format!(
        "etcd at {} cannot be used within {} s: {reason}",
        options.described(),
        options.connect_timeout.as_secs_f32()
    )))
}

async fn look(client: &mut Client) -> Look {
    let status = match client.status().await {
        Ok(status) => status,
        Err(error) => {
            return match StateError::from_etcd(&error) {
                StateError::Unavailable { reason } if reason.contains("no leader") => {
                    Look::NoQuorum
                }
                StateError::Unavailable { reason } => Look::NotYet(reason),
                other => Look::Never(other),
            };
        }
    };
    if let Err(error) = check_version(status.version()) {
        return Look::Never(error);
    }
    // A leader that has just lost the others does not know yet: only an answer that the majority agrees on proves it.
    let agreed = timeout(AGREEMENT, client.get(PROBE, None)).await;
    match agreed.map(|answer| answer.map_err(|error| StateError::from_etcd(&error))) {
        // Whether the user may read that key is not the question.
        Ok(Ok(_) | Err(StateError::AccessDenied { .. })) => Look::Usable,
        Ok(Err(StateError::Unavailable { .. })) | Err(_) => Look::NoQuorum,
        Ok(Err(other)) => Look::Never(other),
    }
}

fn check_version(version: &str) -> Result<(), StateError> {
    let mut numbers = version.split('.').map(str::parse::<u32>);
    let found = match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        // A server that says nothing is not an old one.
        _ => return Ok(()),
    };
    if found < OLDEST {
        let (major, minor) = OLDEST;
        return Err(refused(format!(
            "it is version {version}, and {major}.{minor} or later is needed"
        )));
    }
    Ok(())
}

/// Why no member answers, each asked alone.
async fn why_not(options: &ConnectOptions) -> String {
    let mut reasons = Vec::new();
    for member in options.members().unwrap_or_default() {
        let reason = match timeout(LOOK, member.connect()).await {
            Ok(Ok(_)) => "a member takes the connection and does not answer: it hangs, or its cluster has no quorum".to_owned(),
            Ok(Err(error)) => StateError::from_transport(&error),
            Err(_) => "no connection".to_owned(),
        };
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }
    reasons.join("; ")
}

fn explain(options: &ConnectOptions, error: StateError) -> StateError {
    let hosts = options.described();
    match error {
        StateError::Unavailable { reason } => {
            StateError::unavailable(format!("etcd at {hosts} cannot be reached: {reason}"))
        }
        StateError::AccessDenied { reason } => StateError::AccessDenied {
            reason: format!("etcd at {hosts} does not accept the user: {reason}"),
        },
        StateError::Refused { reason } => {
            refused(format!("etcd at {hosts} cannot be used: {reason}"))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stream_model::ErrorKind;

    fn options(endpoint: &str) -> ConnectOptions {
        ConnectOptions {
            endpoints: vec![endpoint.to_owned()],
            username: Some("user".to_owned()),
            password: Some(Secret::new("hunter2".to_owned())),
            tls: None,
            connect_timeout: Duration::from_millis(300),
            keep_alive_interval: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(5),
        }
    }

    async fn refusal(options: &ConnectOptions) -> StateError {
        match connect(options).await {
            Ok(_) => panic!("nothing to connect to"),
            Err(error) => error,
        }
    }

    #[tokio::test]
    async fn unreachable_etcd_is_one_sentence_without_secrets() {
        // Bound but never accepted: the port is taken and nobody answers.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = listener.local_addr().expect("has an address");
        let options = options(&format!("http://root:hunter2@{address}"));
        let error = refusal(&options).await;
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let text = format!("{error} {error:?} {options:?}");
        assert!(error.to_string().contains(&address.to_string()), "{error}");
        assert!(!error.to_string().contains("hunter2"), "{text}");
    }

    #[tokio::test]
    async fn a_port_without_a_listener_is_told_as_such() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = listener.local_addr().expect("has an address");
        drop(listener);
        let error = refusal(&options(&address.to_string())).await;
        assert!(error.to_string().contains("refused"), "{error}");
    }

    #[tokio::test]
    async fn contradictory_options_are_refused_at_once() {
        let none = ConnectOptions {
            endpoints: vec![],
            ..options("x")
        };
        let error = refusal(&none).await;
        assert_eq!(error.kind(), ErrorKind::Invalid);

        let error = refusal(&options("https://etcd:2379")).await;
        assert!(error.to_string().contains("etcd.tls.ca"), "{error}");

        let dir = tempfile::tempdir().expect("a directory");
        let tls = |ca: &Path| ConnectOptions {
            tls: Some(Tls {
                ca: ca.to_owned(),
                identity: None,
            }),
            ..options("https://etcd:2379")
        };
        let missing = dir.path().join("missing.pem");
        let error = refusal(&tls(&missing)).await;
        assert!(error.to_string().contains("missing.pem"), "{error}");

        let other = dir.path().join("other.pem");
        std::fs::write(&other, "hunter2").expect("written");
        let error = refusal(&tls(&other)).await;
        assert!(error.to_string().contains("is not a PEM file"), "{error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");

        let plain = ConnectOptions {
            endpoints: vec!["http://etcd:2379".to_owned()],
            ..tls(&other)
        };
        let error = refusal(&plain).await;
        assert!(error.to_string().contains("use https"), "{error}");
    }

    #[test]
    fn old_releases_are_refused() {
        for old in ["3.3.27", "2.3.8", "3.0.0"] {
            let error = check_version(old).expect_err("too old");
            assert!(error.to_string().contains("3.4 or later"), "{error}");
        }
        for new in ["3.4.0", "3.4.23", "3.5.1", "3.10.0-rc.1", "4.0.0", ""] {
            assert!(check_version(new).is_ok(), "{new}");
        }
    }
}
