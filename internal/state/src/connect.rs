//! Connecting to a real etcd.

use std::time::Duration;

use etcd_client::Client;
use stream_model::Secret;

use crate::error::StateError;

/// How to reach a real etcd.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// One URL or `host:port` per member.
    pub endpoints: Vec<String>,
    /// User name; none when etcd has no authentication.
    pub username: Option<String>,
    /// Password of the user.
    pub password: Option<Secret<String>>,
    /// How long the first connection may take.
    pub connect_timeout: Duration,
    /// How often a connection is probed.
    pub keep_alive_interval: Duration,
    /// How long the answer to a probe may take.
    pub keep_alive_timeout: Duration,
}

impl ConnectOptions {
    fn client_options(&self) -> etcd_client::ConnectOptions {
        let options = etcd_client::ConnectOptions::new()
            .with_connect_timeout(self.connect_timeout)
            .with_keep_alive(self.keep_alive_interval, self.keep_alive_timeout)
            // etcd closes connections that are probed while nothing is open on them ("too many pings"). Ours always
            // carry a watch or a keep-alive stream.
            .with_keep_alive_while_idle(false)
            // A member that lost its cluster would otherwise go on answering watches, with nothing.
            .with_require_leader(true)
            // Tokens of etcd live 5 minutes by default, and the client does not renew them unless told to.
            .with_auto_token_refresh(true);
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
}

/// Connects to a real etcd and checks that it answers.
///
/// # Errors
/// When no endpoint answers within the connect timeout, or the user is not accepted.
pub async fn connect(options: &ConnectOptions) -> Result<Client, StateError> {
    if options.endpoints.is_empty() {
        return Err(StateError::Refused {
            reason: "no etcd endpoint is configured".to_owned(),
        });
    }
    let attempt = async {
        let mut client =
            Client::connect(&options.endpoints, Some(options.client_options())).await?;
        client.status().await?;
        Ok::<_, etcd_client::Error>(client)
    };
    match tokio::time::timeout(options.connect_timeout, Box::pin(attempt)).await {
        Ok(Ok(client)) => Ok(client),
        Ok(Err(error)) => Err(explain(options, StateError::from_etcd(&error))),
        Err(_) => Err(StateError::unavailable(format!(
            "etcd at {} does not answer within {} s",
            options.described(),
            options.connect_timeout.as_secs_f32()
        ))),
    }
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
            connect_timeout: Duration::from_millis(300),
            keep_alive_interval: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(5),
        }
    }

    #[tokio::test]
    async fn unreachable_etcd_is_one_sentence_without_secrets() {
        // Bound but never accepted: the port is taken and nobody answers.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = listener.local_addr().expect("has an address");
        let options = options(&format!("http://root:hunter2@{address}"));
        let Err(error) = connect(&options).await else {
            panic!("nobody answers");
        };
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let text = format!("{error} {error:?} {options:?}");
        assert!(error.to_string().contains(&address.to_string()), "{error}");
        assert!(!error.to_string().contains("hunter2"), "{text}");
    }

    #[tokio::test]
    async fn no_endpoint_is_refused_at_once() {
        let none = ConnectOptions {
            endpoints: vec![],
            ..options("x")
        };
        let Err(error) = connect(&none).await else {
            panic!("nothing to connect to");
        };
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}
