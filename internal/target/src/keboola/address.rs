//! Where the Storage API is, as `storageApiHost` says it.

use std::fmt;
use std::str::FromStr;

use hyper::Uri;

/// A host, or a URL with scheme and port. Without a scheme it is HTTPS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub(super) scheme: Scheme,
    /// Name or number, an IPv6 one without its brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// As in a `Host` header.
    pub(super) authority: String,
}

/// How the bytes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
}

/// A text that is no such place. It is not shown: what stands before an `@` may be a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}; give a host name, or http:// or https:// with a host and perhaps a port")]
pub struct InvalidAddress(&'static str);

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let text = text.trim().trim_end_matches('/');
        let (scheme, rest) = match text.split_once("://") {
            None => (Scheme::Https, text),
            Some(("https", rest)) => (Scheme::Https, rest),
            Some(("http", rest)) => (Scheme::Http, rest),
            Some(_) => return Err(InvalidAddress("it has another scheme")),
        };
        if rest.contains('@') {
            return Err(InvalidAddress("it has a user name"));
        }
        let uri: Uri = rest
            .parse()
            .map_err(|_| InvalidAddress("it is not a host"))?;
        let only_host = !rest.contains(['/', '?', '#']);
        let Some(authority) = uri.authority().filter(|_| only_host) else {
            return Err(InvalidAddress("it has a path"));
        };
        let port = match (authority.port(), scheme) {
            (Some(port), _) => port.as_u16(),
            (None, Scheme::Https) => 443,
            (None, Scheme::Http) => 80,
        };
        let host = authority.host().trim_matches(['[', ']']);
        if host.is_empty() {
            return Err(InvalidAddress("it has no host"));
        }
        Ok(Self {
            scheme,
            host: host.to_owned(),
            port,
            authority: authority.as_str().to_owned(),
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        write!(f, "{scheme}://{}", self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_https_and_a_url_says_it_itself() {
        for (text, shown, port) in [
            (
                "connection.keboola.com",
                "https://connection.keboola.com",
                443,
            ),
            (
                "https://connection.keboola.com/",
                "https://connection.keboola.com",
                443,
            ),
            ("localhost:8888", "https://localhost:8888", 8888),
            ("http://127.0.0.1:8888", "http://127.0.0.1:8888", 8888),
            ("http://storage", "http://storage", 80),
            ("https://[::1]:444", "https://[::1]:444", 444),
        ] {
            let address: Address = text.parse().expect(text);
            assert_eq!((address.to_string().as_str(), address.port), (shown, port));
        }
        let address: Address = "https://[::1]:444".parse().expect("a URL");
        assert_eq!(address.host, "::1");
    }

    #[test]
    fn what_is_no_host_is_refused_without_being_repeated() {
        for text in [
            "",
            "ftp://host",
            "http://root:hunter2@host",
            "https://host/v2/storage",
            "host?x=1",
            "a b",
            "https://:80",
        ] {
            let error = text.parse::<Address>().expect_err(text).to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
