//! Settings of the API.

use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};
use stream_model::ErrorKind;
use stream_node::TrustedProxies;

/// Settings of the API, below the key `api`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Config {
    /// Address and port on which the API listens. Default `0.0.0.0:8000`. Port 0 lets the system choose.
    pub listen: SocketAddr,
    /// URL under which clients reach the API; it begins the links in answers. Default `http://localhost:8000`.
    pub public_url: String,
    /// Proxies that are believed about their clients: networks (`10.0.0.0/8`) and addresses. The address that failed
    /// authentication is counted for is then taken from `X-Forwarded-For`, else from `Forwarded`. Default: none, it is the
    /// address of the connection.
    pub trusted_proxies: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8000)),
            public_url: "http://localhost:8000".to_owned(),
            trusted_proxies: Vec::new(),
        }
    }
}

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} is {value:?}, but must be {expected}")]
pub struct InvalidConfig {
    /// The setting.
    pub key: &'static str,
    /// Its value.
    pub value: String,
    /// What would do.
    pub expected: &'static str,
}

impl InvalidConfig {
    /// What the caller can do about it: correct the setting.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

impl Config {
    /// Checks the settings.
    ///
    /// # Errors
    /// Names the first setting that cannot be used.
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        self.base_url()?;
        self.proxies().map(drop)
    }

    /// The URL, checked, without the slash at its end.
    pub(crate) fn base_url(&self) -> Result<String, InvalidConfig> {
        let expected = "a URL such as http://localhost:8000";
        base_url("api.publicUrl", &self.public_url, expected)
    }

    /// The proxies, checked.
    pub(crate) fn proxies(&self) -> Result<TrustedProxies, InvalidConfig> {
        TrustedProxies::parse(&self.trusted_proxies).map_err(|text| InvalidConfig {
            key: "api.trustedProxies",
            value: text.to_owned(),
            expected: "networks such as 10.0.0.0/8 or addresses, separated by commas",
        })
    }
}

/// A URL to which paths can be appended: checked, and without the slash at its end.
pub(crate) fn base_url(
    key: &'static str,
    url: &str,
    expected: &'static str,
) -> Result<String, InvalidConfig> {
    let host = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"));
    let valid = host.is_some_and(|host| {
        let has_name = !host.starts_with(['/', ':']) && !host.is_empty();
        has_name && !host.contains(['?', '#', '@']) && !host.contains(char::is_whitespace)
    });
    if !valid {
        return Err(InvalidConfig {
            key,
            value: url.to_owned(),
            expected,
        });
    }
    Ok(url.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_url(url: &str) -> Config {
        Config {
            public_url: url.to_owned(),
            ..Config::default()
        }
    }

    #[test]
    fn accepts_urls_to_which_a_path_can_be_appended() {
        for url in [
            "http://localhost:8000",
            "https://stream.example.com/",
            "https://a.b/stream",
        ] {
            assert_eq!(with_url(url).validate(), Ok(()), "{url}");
        }
        assert_eq!(
            base_url("k", "https://a.b/", "x").as_deref(),
            Ok("https://a.b")
        );
    }

    #[test]
    fn names_the_setting_that_is_not_a_url() {
        for url in [
            "",
            "localhost:8000",
            "http://",
            "http:///x",
            "https://a.b?x=1",
            "http://a b",
        ] {
            let error = with_url(url).validate().expect_err(url);
            assert!(
                error.to_string().starts_with("api.publicUrl is "),
                "{error}"
            );
        }
    }

    #[test]
    fn names_the_proxy_that_is_no_address() {
        let trusted_proxies = vec!["10.0.0.0/8".to_owned(), "proxy.local".to_owned()];
        let config = Config {
            trusted_proxies,
            ..Config::default()
        };
        let error = config.validate().expect_err("a name").to_string();
        assert!(
            error.starts_with("api.trustedProxies is \"proxy.local\""),
            "{error}"
        );
    }

    #[test]
    fn unknown_keys_are_refused() {
        let parsed = serde_json::from_str::<Config>(r#"{"listne":"0.0.0.0:1"}"#);
        assert!(
            parsed
                .expect_err("a typing error")
                .to_string()
                .contains("listne")
        );
    }
}
