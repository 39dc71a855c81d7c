//! Fail points: places where a test lets the process die between two changes of the state.
//!
//! ```text
//! FAILPOINTS="state-writing=return(orders:2)"  dies before the second transaction on keys with that in them is sent
//! FAILPOINTS="state-written=return(orders:2)"  dies when it is applied, and nobody knows
//! ```
//!
//! Whatever a task changes it changes by transactions, so dying before and after each of them is dying at every step. All this is
//! there only with the cargo feature `failpoints`. Whoever reads `FAILPOINTS` has to know the [`NAMES`].

/// A moment of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// It is about to be sent.
    Writing,
    /// It is applied.
    Written,
}

impl Point {
    /// The name in `FAILPOINTS`.
    #[cfg(feature = "failpoints")]
    const fn name(self) -> &'static str {
        match self {
            Self::Writing => NAMES[0],
            Self::Written => NAMES[1],
        }
    }
}

/// All names.
pub const NAMES: &[&str] = &["state-writing", "state-written"];

/// Dies here, when armed for one of these keys and for as many transactions as there were.
#[cfg(feature = "failpoints")]
pub(crate) fn point<'a>(point: Point, mut keys: impl Iterator<Item = &'a str>) {
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Transactions that were meant, of the one point that is armed.
    static MEANT: AtomicU64 = AtomicU64::new(0);

    fail::fail_point!(point.name(), |argument| {
        let argument = argument.unwrap_or_default();
        let (fragment, count) = argument.split_once(':').unwrap_or((&argument, "1"));
        if keys.any(|key| key.contains(fragment)) {
            let number = MEANT.fetch_add(1, Ordering::SeqCst) + 1;
            if count.parse() == Ok(number) {
                tracing::info!(name = point.name(), number, "dying at a fail point");
                std::process::abort();
            }
        }
    });
}

/// Dies here, when armed.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub(crate) fn point<'a>(_: Point, _: impl Iterator<Item = &'a str>) {}
