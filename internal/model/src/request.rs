//! Request ids: which run of an HTTP source took a request, and when.
//!
//! ```text
//! 6347f276d910ce82-019a9f3c5a1e0003
//! session          milliseconds (48 bits), number (16 bits)
//! ```
//!
//! The time in the id is the arrival of the request's records, the very same that is in their rows and in the figures of their
//! slices. So the id leads to the slices that can have the records, and nothing has to be written to find them: a sealed
//! slice says which sessions wrote to it, and between which arrivals.
//!
//! Invariants:
//!
//! - Ids of a session grow, whatever the clock does: no two requests have the same one.
//! - A time in an id is never earlier than that of an id before it.
//!
//! It refuses to tell what became of a request: an id is made when a request arrives, and not when it is accepted.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::id::SessionId;
use crate::slice::Slice;
use crate::time::Timestamp;

/// The bits below the time: as many requests have a millisecond to themselves.
const NUMBER_BITS: u32 = 16;
/// The latest time that an id can tell, in the year 10889.
const LATEST_MILLIS: u64 = (1 << (u64::BITS - NUMBER_BITS)) - 1;
/// The length of an id as text.
pub const TEXT_LEN: usize = 33;

/// The id of a request that came without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId {
    /// The run of the HTTP source that took it.
    pub session: SessionId,
    /// Its arrival, and its number among those that arrived at the same time.
    pub number: u64,
}

/// A text that is no request id of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a request id of the service is 16 and 16 hexadecimal digits with a hyphen in between")]
pub struct InvalidRequestId;

/// Whether a slice can have the records of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chance {
    /// It has none of them.
    None,
    /// It may have them: it takes rows still, or its times are not known any more.
    Open,
    /// It is sealed and has rows of that session, none later and none earlier than it would have to.
    Sealed,
}

/// The number of a request that arrives `now`, after one with the number `last`.
#[must_use]
pub fn number_after(last: u64, now: Timestamp) -> u64 {
    let millis = u64::try_from(now.as_millis()).unwrap_or(0);
    let first = millis.min(LATEST_MILLIS) << NUMBER_BITS;
    first.max(last.saturating_add(1))
}

impl RequestId {
    /// When the request arrived.
    #[must_use]
    pub fn arrived_at(self) -> Timestamp {
        let millis = self.number >> NUMBER_BITS;
        Timestamp::from_millis(i64::try_from(millis).unwrap_or(i64::MAX))
    }

    /// The id as text.
    #[must_use]
    pub fn text(self) -> [u8; TEXT_LEN] {
        let mut text = [b'-'; TEXT_LEN];
        write_hex(&mut text[..16], self.session.0);
        write_hex(&mut text[17..], self.number);
        text
    }

    /// Whether a slice can have the records of the request. At most `late` pass from the arrival of a record until it is in its
    /// slice; that much a slice may be younger than a record that is in it, and the clocks of two machines may differ.
    #[must_use]
    pub fn chance_in(self, slice: &Slice, late: Duration) -> Chance {
        let at = self.arrived_at();
        let may_be = |is_possible: bool| match is_possible {
            true => Chance::Open,
            false => Chance::None,
        };
        let is_early_enough = slice.opened_at <= at + late;
        let Some(seal) = slice.seal() else {
            return may_be(is_early_enough);
        };
        let is_late_enough = at <= seal.at + late;
        if slice.forgotten.as_ref().is_some_and(|it| it.rows.is_none()) {
            // Given up before it was sealed: nobody knows who wrote to it.
            return may_be(is_early_enough && is_late_enough);
        }
        if !seal.sessions.contains_key(&self.session) {
            return Chance::None;
        }
        match (seal.figures.first_at, seal.figures.last_at) {
            (Some(first), Some(last)) if first <= at && at <= last => Chance::Sealed,
            (Some(_), Some(_)) => Chance::None,
            // Its rows are lost, and their times with them.
            _ => may_be(is_early_enough && is_late_enough),
        }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}", self.session, self.number)
    }
}

impl FromStr for RequestId {
    type Err = InvalidRequestId;

    fn from_str(text: &str) -> Result<Self, InvalidRequestId> {
        let (session, number) = text.split_once('-').ok_or(InvalidRequestId)?;
        Ok(Self {
            session: SessionId(read_hex(session)?),
            number: read_hex(number)?,
        })
    }
}

/// Reads 16 hexadecimal digits as they are written here.
fn read_hex(text: &str) -> Result<u64, InvalidRequestId> {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if text.len() != 16 || !text.bytes().all(is_digit) {
        return Err(InvalidRequestId);
    }
    u64::from_str_radix(text, 16).map_err(|_| InvalidRequestId)
}

/// Writes 16 hexadecimal digits. Written for each request, so without the formatting of the library.
fn write_hex(digits: &mut [u8], number: u64) {
    for (position, digit) in digits.iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(number >> (60 - 4 * position) & 15) as usize];
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::slice::tests::{closing, seal, slice};
    use crate::slice::{Event, Seal};
    use crate::statistics::Figures;

    const LATE: Duration = Duration::from_millis(10);

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    /// A request of the session that writes to the slices of these tests.
    fn arrived(millis: i64) -> RequestId {
        RequestId {
            session: SessionId(1),
            number: number_after(0, at(millis)),
        }
    }

    fn opened(millis: i64) -> Slice {
        Slice {
            opened_at: at(millis),
            ..slice(1)
        }
    }

    /// Sealed at 1 000 with records that arrived between 300 and 600.
    fn sealed() -> Slice {
        let figures = Figures {
            first_at: Some(at(300)),
            last_at: Some(at(600)),
            ..seal(3).figures
        };
        let seal = Seal {
            at: at(1_000),
            figures,
            ..seal(3)
        };
        let closed = opened(250)
            .apply(Event::Close(closing()))
            .expect("it writes");
        closed.apply(Event::Seal(seal)).expect("it is closing")
    }

    fn given_up(slice: Slice) -> Slice {
        let forget = Event::Forget {
            incarnation: 2,
            at: at(2_000),
        };
        slice.apply(forget).expect("it is not uploaded")
    }

    #[test]
    fn numbers_begin_with_the_time_and_go_on_when_the_clock_goes_back() {
        let first = number_after(0, at(5));
        assert_eq!(first, 5 << 16);
        assert_eq!(number_after(first, at(5)), first + 1);
        assert_eq!(number_after(first, at(6)), 6 << 16);
        assert_eq!(number_after(first, at(4)), first + 1);
        // More requests than a millisecond has numbers.
        let last = first + 0xffff;
        assert_eq!(number_after(last, at(5)), 6 << 16);
        for strange in [i64::MIN, -1, 0] {
            assert_eq!(number_after(0, at(strange)), 1, "{strange}");
        }
        assert_eq!(number_after(0, at(i64::MAX)) >> 16, LATEST_MILLIS);
    }

    #[test]
    fn what_is_no_id_of_the_service_is_refused() {
        for text in [
            "",
            "-",
            "00000000000000ab",
            "00000000000000ab-000000000000001",
            "00000000000000ab-00000000000000010",
            "00000000000000AB-0000000000000001",
            "+0000000000000ab-0000000000000001",
            "00000000000000ab-+000000000000001",
            "00000000000000ab_0000000000000001",
            "00000000000000ab-000000000000000g",
            "00000000000000ab-0000000000000001-",
            "0000000000000äb-0000000000000001",
        ] {
            assert_eq!(text.parse::<RequestId>(), Err(InvalidRequestId), "{text:?}");
        }
    }

    #[test]
    fn an_open_slice_may_have_what_arrived_until_it_was_opened_and_was_late() {
        let closed = |slice: Slice| slice.apply(Event::Close(closing())).expect("it writes");
        for (arrival, expected) in [
            (0, Chance::None),
            (89, Chance::None),
            (90, Chance::Open),
            (100, Chance::Open),
            (1_000_000, Chance::Open),
        ] {
            let id = arrived(arrival);
            assert_eq!(id.chance_in(&opened(100), LATE), expected, "{arrival}");
            let closing = closed(opened(100));
            assert_eq!(id.chance_in(&closing, LATE), expected, "{arrival}");
        }
    }

    #[test]
    fn a_sealed_slice_has_what_its_sessions_wrote_between_its_times() {
        for (arrival, expected) in [
            (299, Chance::None),
            (300, Chance::Sealed),
            (450, Chance::Sealed),
            (600, Chance::Sealed),
            (601, Chance::None),
        ] {
            let id = arrived(arrival);
            assert_eq!(id.chance_in(&sealed(), LATE), expected, "{arrival}");
            let other = RequestId {
                session: SessionId(2),
                ..id
            };
            assert_eq!(other.chance_in(&sealed(), LATE), Chance::None);
        }
    }

    #[test]
    fn a_slice_that_was_given_up_may_have_what_it_could_have_had() {
        let unsealed = given_up(opened(250));
        for (arrival, expected) in [
            (239, Chance::None),
            (240, Chance::Open),
            (2_010, Chance::Open),
            (2_011, Chance::None),
        ] {
            assert_eq!(arrived(arrival).chance_in(&unsealed, LATE), expected);
            // Who wrote to it was in the seal.
            let sealed = given_up(sealed());
            assert_eq!(arrived(arrival).chance_in(&sealed, LATE), expected);
            let other = RequestId {
                session: SessionId(2),
                ..arrived(arrival)
            };
            assert_eq!(other.chance_in(&unsealed, LATE), expected);
            assert_eq!(other.chance_in(&sealed, LATE), Chance::None);
        }
    }

    proptest! {
        #[test]
        fn ids_are_read_as_they_are_written(session: u64, number: u64) {
            let id = RequestId { session: SessionId(session), number };
            let text = id.to_string();
            prop_assert_eq!(text.as_bytes(), &id.text()[..]);
            prop_assert_eq!(text.parse(), Ok(id));
        }

        /// Whatever the clock does, numbers grow and their times never go back; as long as it goes forward and requests are
        /// fewer than a millisecond has numbers, the time is that of the clock.
        #[test]
        fn numbers_grow(times in prop::collection::vec(0_i64..1_000, 1..200)) {
            let mut last = 0;
            let mut latest = 0;
            for millis in times {
                let number = number_after(last, at(millis));
                prop_assert!(number > last);
                latest = latest.max(millis);
                let id = RequestId { session: SessionId(1), number };
                prop_assert_eq!(id.arrived_at(), at(latest));
                last = number;
            }
        }
    }
}
