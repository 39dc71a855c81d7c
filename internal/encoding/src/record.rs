//! One received record.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use stream_model::Timestamp;

/// One received record. Cheap to clone and to take out of a batch: body and headers are shared.
#[derive(Debug, Clone)]
pub struct Record {
    /// When it arrived.
    pub received_at: Timestamp,
    /// The address of the client.
    pub client_ip: IpAddr,
    /// The headers of its request.
    pub headers: Headers,
    /// How the body is to be read.
    pub content_type: ContentType,
    /// The body, decoded (no content encoding).
    pub body: Bytes,
}

/// How a body is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ContentType {
    /// JSON.
    Json,
    /// `a=1&b[c]=2`.
    Form,
    /// Anything else: the body is opaque bytes.
    Other,
}

impl ContentType {
    /// Reads the header `Content-Type`. Parameters such as `charset` and the case of letters do not matter.
    #[must_use]
    pub fn parse(header: Option<&str>) -> Self {
        let media_type = header.unwrap_or("").split(';').next().unwrap_or("").trim();
        if media_type.eq_ignore_ascii_case("application/json") {
            return Self::Json;
        }
        if media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return Self::Form;
        }
        // Bytes, because a header may hold a character that a fixed position would cut in two.
        let bytes = media_type.as_bytes();
        let prefix = bytes.get(..APPLICATION.len());
        let suffix = bytes
            .len()
            .checked_sub(JSON_SUFFIX.len())
            .and_then(|start| bytes.get(start..));
        let is_json = bytes.len() > APPLICATION.len() + JSON_SUFFIX.len()
            && prefix.is_some_and(|prefix| prefix.eq_ignore_ascii_case(APPLICATION))
            && suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case(JSON_SUFFIX));
        if is_json { Self::Json } else { Self::Other }
    }
}

const APPLICATION: &[u8] = b"application/";
const JSON_SUFFIX: &[u8] = b"+json";

/// The headers of a request: canonical names (`Content-Type`), sorted, the first value of each.
///
/// Values that are not UTF-8 have their invalid bytes replaced by U+FFFD. Debug output has the names only, because
/// values may be credentials. Cloning shares the headers.
#[derive(Clone)]
pub struct Headers(Arc<[(Box<str>, Box<str>)]>);

impl Default for Headers {
    /// No headers.
    fn default() -> Self {
        Self(Arc::new([]))
    }
}

impl std::fmt::Debug for Headers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.iter().map(|(name, _)| name))
            .finish()
    }
}

impl Headers {
    /// Takes the headers in the order in which they were sent.
    #[must_use]
    pub fn new<'a>(headers: impl Iterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut pairs: Vec<(Box<str>, Box<str>)> = headers
            .map(|(name, value)| (canonical_name(name), String::from_utf8_lossy(value).into()))
            .collect();
        // The sort is stable, so the first of equal names stays first.
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        pairs.dedup_by(|later, first| later.0 == first.0);
        Self(pairs.into())
    }

    /// The first value of a header, whatever the case of its name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(own, _)| own.eq_ignore_ascii_case(name))
            .map(|(_, value)| &**value)
    }

    /// Canonical names and first values, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }
}

/// `content-type` → `Content-Type`. A name with characters that no header name may have stays as it is.
pub(crate) fn canonical_name(name: &str) -> Box<str> {
    if !name.bytes().all(is_token_byte) {
        return name.into();
    }
    let mut canonical = String::with_capacity(name.len());
    let mut starts_word = true;
    for c in name.chars() {
        canonical.push(if starts_word {
            c.to_ascii_uppercase()
        } else {
            c.to_ascii_lowercase()
        });
        starts_word = c == '-';
    }
    canonical.into()
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognises_content_types() {
        use ContentType::{Form, Json, Other};
        for (header, content_type) in [
            ("application/json", Json),
            ("Application/JSON; charset=utf-8", Json),
            ("application/vnd.api+json", Json),
            ("application/vnd.api+JSON;v=1", Json),
            (" application/json ", Json),
            ("application/x-www-form-urlencoded; charset=UTF-8", Form),
            ("application/+json", Other),
            ("application/jsonp", Other),
            ("text/json", Other),
            ("text/x+json", Other),
            ("éé+json", Other),
            ("", Other),
        ] {
            assert_eq!(ContentType::parse(Some(header)), content_type, "{header}");
        }
        assert_eq!(ContentType::parse(None), Other);
    }

    #[test]
    fn headers_are_canonical_sorted_and_single() {
        let sent: [(&str, &[u8]); 6] = [
            ("x-b", b"1"),
            ("USER-AGENT", b"caf\xe9"),
            ("X-B", b"2"),
            ("accept", b""),
            ("bad name", b"3"),
            ("x--y", b"4"),
        ];
        let headers = Headers::new(sent.into_iter());
        let pairs: Vec<_> = headers.iter().collect();
        assert_eq!(
            pairs,
            [
                ("Accept", ""),
                ("User-Agent", "caf\u{fffd}"),
                ("X--Y", "4"),
                ("X-B", "1"),
                ("bad name", "3"),
            ]
        );
        assert_eq!(headers.get("x-B"), Some("1"));
        assert_eq!(headers.get("X-C"), None);
        assert_eq!(Headers::default().iter().count(), 0);
    }

    #[test]
    fn debug_output_hides_header_values() {
        let headers = Headers::new([("authorization", b"secret".as_slice())].into_iter());
        assert_eq!(format!("{headers:?}"), "[\"Authorization\"]");
    }
}
