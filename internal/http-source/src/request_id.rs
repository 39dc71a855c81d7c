//! Request ids: what an answer, the access log and the log lines about a request have in common.
//!
//! A client's own `X-Request-Id` is taken over when it cannot do harm in a log: 1 to 64 visible ASCII characters, once.
//! Anything else is replaced. Ids of ours are never used twice; those of clients are what clients make of them.
//!
//! An id of ours tells when the request arrived ([`stream_model::request`]), and that is the arrival of its records: there is one
//! instant for both, so that the id leads to the slice. When the clock of the machine is put back, both stay at the latest time
//! until it has caught up.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use stream_model::request::{RequestId, number_after};
use stream_model::{SessionId, Timestamp};
use tracing::{info, warn};

/// The header, of requests and answers.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest id of a client that is taken over.
const MAX_LEN: usize = 64;
/// Clocks that go back further than this are reported. Less is what the synchronisation of clocks does.
const WORTH_MENTIONING: Duration = Duration::from_secs(1);

/// A request has arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// Its id: the client's, or one of ours.
    pub id: HeaderValue,
    /// When, as one of ours says.
    pub at: Timestamp,
}

/// Makes request ids: the session, and a number that begins with the time.
pub(crate) struct RequestIds {
    session: SessionId,
    /// The number of the latest request.
    last: AtomicU64,
    /// The clock was put back, and that was reported.
    is_behind: AtomicBool,
}

impl RequestIds {
    /// Ids of this session.
    pub const fn new(session: SessionId) -> Self {
        Self {
            session,
            last: AtomicU64::new(0),
            is_behind: AtomicBool::new(false),
        }
    }

    /// A request with these headers has arrived.
    pub fn arrival(&self, headers: &HeaderMap, now: Timestamp) -> Arrival {
        let id = RequestId {
            session: self.session,
            number: self.next(now),
        };
        let at = id.arrived_at();
        self.notice(at.since(now));
        let mut own = headers.get_all(REQUEST_ID).iter();
        let id = match (own.next(), own.next()) {
            (Some(own), None) if is_well_formed(own.as_bytes()) => own.clone(),
            _ => HeaderValue::from_bytes(&id.text())
                .expect("hexadecimal digits are a valid header value"),
        };
        Arrival { id, at }
    }

    fn next(&self, now: Timestamp) -> u64 {
        let next = |last| Some(number_after(last, now));
        // Nothing is published with the number: that it is used once is all that matters.
        let (Ok(last) | Err(last)) =
            self.last
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        number_after(last, now)
    }

    /// Reports once that the clock is behind by so much, and once that it has caught up.
    fn notice(&self, behind: Duration) {
        let was_behind = self.is_behind.load(Ordering::Relaxed);
        if behind > WORTH_MENTIONING && !was_behind {
            if !self.is_behind.swap(true, Ordering::Relaxed) {
                warn!(
                    behind_ms = behind.as_millis(),
                    "the clock was put back, records get the time before until it has caught up"
                );
            }
        } else if behind.is_zero() && was_behind && self.is_behind.swap(false, Ordering::Relaxed) {
            info!("the clock has caught up");
        }
    }
}

fn is_well_formed(id: &[u8]) -> bool {
    (1..=MAX_LEN).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::thread;

    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn none() -> HeaderMap {
        HeaderMap::new()
    }

    #[test]
    fn request_ids_are_the_session_and_a_number_that_begins_with_the_time() {
        let ids = RequestIds::new(SessionId(0xab));
        let first = ids.arrival(&none(), at(0x0199_0000_0001));
        assert_eq!(first.id, "00000000000000ab-0199000000010000");
        assert_eq!(first.at, at(0x0199_0000_0001));
        let second = ids.arrival(&none(), at(0x0199_0000_0001));
        assert_eq!(second.id, "00000000000000ab-0199000000010001");
    }

    #[test]
    fn neither_ids_nor_times_go_back_with_the_clock_and_it_is_said_once() {
        let ids = RequestIds::new(SessionId(0xab));
        let mut last = ids.arrival(&none(), at(10_000));
        for now in [10_000, 8_999, 5_000, 9_999] {
            let arrival = ids.arrival(&none(), at(now));
            assert!(arrival.id > last.id, "{now}");
            assert_eq!(arrival.at, at(10_000), "{now}");
            last = arrival;
        }
        assert!(ids.is_behind.load(Ordering::Relaxed));
        assert_eq!(ids.arrival(&none(), at(10_001)).at, at(10_001));
        assert!(!ids.is_behind.load(Ordering::Relaxed));
        // A little is not worth mentioning.
        ids.arrival(&none(), at(9_500));
        assert!(!ids.is_behind.load(Ordering::Relaxed));
    }

    #[test]
    fn threads_never_get_the_same_id() {
        const THREADS: i64 = 4;
        const EACH: i64 = 5_000;
        let ids = RequestIds::new(SessionId(0xab));
        let mut all = BTreeSet::new();
        thread::scope(|scope| {
            let take = |thread: i64| {
                // Clocks that are apart, and go back now and then.
                let times = (0..EACH).map(move |round| at(1_000 + thread + round % 7));
                let texts = times.map(|now| ids.arrival(&none(), now).id);
                texts.map(|id| id.as_bytes().to_vec()).collect::<Vec<_>>()
            };
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| scope.spawn(move || take(thread)))
                .collect();
            for thread in threads {
                let of_thread = thread.join().expect("it does not panic");
                assert!(of_thread.is_sorted(), "they grow");
                all.extend(of_thread);
            }
        });
        assert_eq!(all.len(), usize::try_from(THREADS * EACH).expect("small"));
    }

    #[test]
    fn only_a_well_formed_id_of_a_client_is_taken_over() {
        let ids = RequestIds::new(SessionId(0xab));
        let of = |sent: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for id in sent {
                headers.append(REQUEST_ID, HeaderValue::from_bytes(id).expect("a value"));
            }
            ids.arrival(&headers, at(7)).id
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
