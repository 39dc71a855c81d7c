//! Who sent a request that came through proxies.
//!
//! Each proxy appends the address of its own client to `X-Forwarded-For`, or to `Forwarded` (RFC 7239). Only what trusted
//! proxies have appended can be believed, so the list is read from its end: the first address that is not one of a trusted
//! proxy is the client, and whatever is before it was written by the client. Without a trusted peer both headers mean nothing.
//!
//! When a request has both headers, `X-Forwarded-For` counts. A proxy that speaks only `Forwarded` must remove the other one.

use std::net::{IpAddr, SocketAddr};

use hyper::HeaderMap;
use hyper::header::{FORWARDED, HeaderName, HeaderValue};
use ipnet::IpNet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The proxies that are believed.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// Reads networks such as `10.0.0.0/8`, or single addresses.
    ///
    /// # Errors
    /// The first text that is neither.
    pub fn parse(networks: &[String]) -> Result<Self, &str> {
        let parse = |text: &String| -> Option<IpNet> {
            let network = text.trim();
            let network = network.parse::<IpNet>();
            network
                .ok()
                .or_else(|| Some(text.trim().parse::<IpAddr>().ok()?.into()))
        };
        let networks = networks.iter().map(|text| parse(text).ok_or(text.as_str()));
        networks.collect::<Result<_, _>>().map(Self)
    }

    fn has(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The address of the client, IPv4 addresses that are mapped into IPv6 as such.
    #[must_use]
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let peer = peer.to_canonical();
        if self.0.is_empty() || !self.has(peer) {
            return peer;
        }
        let hops = if headers.contains_key(X_FORWARDED_FOR) {
            hops(headers, &X_FORWARDED_FOR, |element| element.trim())
        } else {
            hops(headers, &FORWARDED, forwarded_for)
        };
        let mut client = peer;
        for hop in hops.into_iter().rev() {
            // An address that cannot be read hides who is behind it: the proxy that wrote it is the last one known.
            let Some(address) = hop else {
                break;
            };
            client = address;
            if !self.has(client) {
                break;
            }
        }
        client
    }
}

/// The addresses in the elements of a list header, in the order in which they were appended.
fn hops(
    headers: &HeaderMap,
    name: &HeaderName,
    address: impl Fn(&str) -> &str,
) -> Vec<Option<IpAddr>> {
    let text = |value: &HeaderValue| value.to_str().map(str::to_owned).unwrap_or_default();
    let values = headers.get_all(name).iter().map(text);
    let values: Vec<String> = values.collect();
    let elements = values.iter().flat_map(|value| value.split(','));
    elements.map(|element| parse(address(element))).collect()
}

/// The value of `for` in an element of `Forwarded`; empty when it has none.
fn forwarded_for(element: &str) -> &str {
    let pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let mut for_values = pairs.filter(|(name, _)| name.trim().eq_ignore_ascii_case("for"));
    for_values
        .next()
        .map_or("", |(_, value)| value.trim().trim_matches('"'))
}

/// An address, perhaps with a port: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`.
fn parse(text: &str) -> Option<IpAddr> {
    let address = text.parse::<IpAddr>().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let in_brackets = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let address = address.or_else(with_port).or_else(in_brackets)?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn proxies(networks: &[&str]) -> TrustedProxies {
        let networks: Vec<String> = networks.iter().map(ToString::to_string).collect();
        TrustedProxies::parse(&networks).expect("valid")
    }

    fn client(peer: &str, sent: &[(HeaderName, &str)]) -> String {
        let headers = sent.iter().map(|(name, value)| {
            let value = HeaderValue::from_bytes(value.as_bytes()).expect("a valid value");
            (name.clone(), value)
        });
        let headers: HeaderMap = headers.collect();
        let trusted = proxies(&["10.0.0.0/8", "192.0.2.7", "fd00::/8"]);
        trusted
            .client(peer.parse().expect("an address"), &headers)
            .to_string()
    }

    #[test]
    fn networks_and_single_addresses_are_read() {
        let trusted = proxies(&["10.0.0.0/8", " 2001:db8::1 "]);
        for (address, expected) in [
            ("10.255.0.1", true),
            ("11.0.0.1", false),
            ("2001:db8::1", true),
            ("2001:db8::2", false),
        ] {
            assert_eq!(
                trusted.has(address.parse().expect("valid")),
                expected,
                "{address}"
            );
        }
        for bad in ["", "10.0.0.0/33", "proxy.local", "10.0.0"] {
            let networks = ["10.0.0.1".to_owned(), bad.to_owned()];
            assert_eq!(TrustedProxies::parse(&networks).err(), Some(bad));
        }
    }

    #[test]
    fn the_first_address_from_the_end_that_is_no_proxy_is_the_client() {
        let xff = |value| [(X_FORWARDED_FOR, value)];
        for (peer, header, expected) in [
            ("10.0.0.1", "203.0.113.9", "203.0.113.9"),
            ("10.0.0.1", "6.6.6.6, 203.0.113.9, 10.0.0.2", "203.0.113.9"),
            ("192.0.2.7", "203.0.113.9:4711", "203.0.113.9"),
            ("fd00::1", "[2001:db8::9]:80,10.1.1.1", "2001:db8::9"),
            ("::ffff:10.0.0.1", "::ffff:203.0.113.9", "203.0.113.9"),
            // All of them proxies: the first is as far as can be seen.
            ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
            // What cannot be read ends what is known.
            ("10.0.0.1", "6.6.6.6, unknown, 10.0.0.2", "10.0.0.2"),
            ("10.0.0.1", "", "10.0.0.1"),
            // Not a proxy: it may say what it likes.
            ("203.0.113.1", "6.6.6.6", "203.0.113.1"),
            ("::ffff:203.0.113.1", "6.6.6.6", "203.0.113.1"),
        ] {
            assert_eq!(client(peer, &xff(header)), expected, "{peer} {header}");
        }
    }

    #[test]
    fn repeated_headers_are_one_list() {
        let sent = [
            (X_FORWARDED_FOR, "6.6.6.6"),
            (X_FORWARDED_FOR, "203.0.113.9, 10.0.0.2"),
        ];
        assert_eq!(client("10.0.0.1", &sent), "203.0.113.9");
    }

    #[test]
    fn forwarded_counts_when_it_is_alone() {
        let header =
            r#"for=6.6.6.6;proto=http, by=10.0.0.9 ; For="[2001:db8::9]:4711", for=10.0.0.2"#;
        assert_eq!(client("10.0.0.1", &[(FORWARDED, header)]), "2001:db8::9");
        assert_eq!(
            client("10.0.0.1", &[(FORWARDED, "proto=https")]),
            "10.0.0.1"
        );
        assert_eq!(
            client("10.0.0.1", &[(FORWARDED, "for=_hidden")]),
            "10.0.0.1"
        );
        let both = [(FORWARDED, "for=6.6.6.6"), (X_FORWARDED_FOR, "203.0.113.9")];
        assert_eq!(client("10.0.0.1", &both), "203.0.113.9");
    }

    proptest! {
        #[test]
        fn what_a_client_writes_does_not_matter(forged in "[ -~]{0,60}") {
            let header = format!("{forged}, 203.0.113.9, 10.0.0.2");
            prop_assert_eq!(client("10.0.0.1", &[(X_FORWARDED_FOR, &header)]), "203.0.113.9");
            prop_assert_eq!(client("203.0.113.1", &[(X_FORWARDED_FOR, &forged)]), "203.0.113.1");
        }
    }
}
