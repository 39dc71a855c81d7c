//! Request ids: what an answer, the access log and the log lines about a request have in common.
//!
//! A client's own `X-Request-Id` is taken over when it cannot do harm in a log: 1 to 64 visible ASCII characters, once.
//! Anything else is replaced. Ids of ours are never used twice; those of clients are what clients make of them.

use std::sync::atomic::{AtomicU64, Ordering};

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use stream_model::SessionId;

/// The header, of requests and answers.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest id of a client that is taken over.
const MAX_LEN: usize = 64;

/// Makes request ids: the session and a number.
pub(crate) struct RequestIds {
    session: [u8; 16],
    next: AtomicU64,
}

impl RequestIds {
    /// Ids of this session.
    pub fn new(session: SessionId) -> Self {
        Self {
            session: hex(session.0),
            next: AtomicU64::new(1),
        }
    }

    /// The id of a request with these headers.
    pub fn of(&self, headers: &HeaderMap) -> HeaderValue {
        let mut own = headers.get_all(REQUEST_ID).iter();
        match (own.next(), own.next()) {
            (Some(id), None) if is_well_formed(id.as_bytes()) => id.clone(),
            _ => self.next(),
        }
    }

    fn next(&self) -> HeaderValue {
        let mut id = [b'-'; 33];
        id[..16].copy_from_slice(&self.session);
        id[17..].copy_from_slice(&hex(self.next.fetch_add(1, Ordering::Relaxed)));
        HeaderValue::from_bytes(&id).expect("hexadecimal digits are a valid header value")
    }
}

fn is_well_formed(id: &[u8]) -> bool {
    (1..=MAX_LEN).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

fn hex(number: u64) -> [u8; 16] {
    let mut digits = [0; 16];
    for (position, digit) in digits.iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(number >> (60 - 4 * position) & 15) as usize];
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_are_the_session_and_a_number() {
        let ids = RequestIds::new(SessionId(0xab));
        let headers = HeaderMap::new();
        assert_eq!(ids.of(&headers), "00000000000000ab-0000000000000001");
        assert_eq!(ids.of(&headers), "00000000000000ab-0000000000000002");
    }

    #[test]
    fn only_a_well_formed_id_of_a_client_is_taken_over() {
        let ids = RequestIds::new(SessionId(0xab));
        let of = |sent: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for id in sent {
                headers.append(REQUEST_ID, HeaderValue::from_bytes(id).expect("a value"));
            }
            ids.of(&headers)
        };
        let longest = [b'x'; MAX_LEN];
        for id in [&b"a"[..], b"018f-\"{}\\~!", &longest] {
            assert_eq!(of(&[id]).as_bytes(), id);
        }
        let ours = |id: HeaderValue| id.as_bytes().starts_with(b"00000000000000ab-");
        for bad in [
            &b""[..],
            b"a b",
            b"a\tb",
            b"caf\xc3\xa9",
            &[b'x'; MAX_LEN + 1],
        ] {
            assert!(ours(of(&[bad])), "{bad:?}");
        }
        assert!(ours(of(&[b"a", b"a"])), "two of them");
    }
}
