//! Failed authentication, limited by client: whoever tries tokens is slowed down, whoever has one is not.
//!
//! A client is an IPv4 address or an IPv6 network of 64 bits, which is what one subscriber has. Each may fail [`BURST`] times
//! at once and then once every [`ONE_PER`]; beyond that it is refused before its token is looked at, so that a guess that
//! happens to be right is not answered either.
//!
//! Invariants:
//!
//! - A success costs nothing, and a token that was good within [`REMEMBERED_FOR`] is looked at whoever sends it: clients behind
//!   the same address do not lock each other out.
//! - The memory is bounded. When more clients fail than can be told apart, the others are counted as one.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::{IntCounterVec, IntGauge};
use tokio::time::Instant;

use crate::error::{ApiError, Code};

/// How often a client may fail at once.
const BURST: u32 = 10;
/// The time after which it may fail once more.
const ONE_PER: Duration = Duration::from_secs(6);
/// How many failing clients are told apart.
const MAX_CLIENTS: usize = 10_000;
/// How many good tokens are remembered, and for how long.
const MAX_GOOD: usize = 1_000;
const REMEMBERED_FOR: Duration = Duration::from_secs(3_600);
/// The pause between two looks for clients that can be forgotten.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Counts failures by client.
pub(crate) struct Failures {
    state: Mutex<State>,
    /// By outcome.
    failures: IntCounterVec,
    clients: IntGauge,
}

struct State {
    clients: HashMap<Client, Allowance>,
    /// All that `clients` has no room for.
    others: Allowance,
    /// Hashes of tokens and when they were last good.
    good: HashMap<String, Instant>,
    /// Hashes of tokens that are being looked at: many requests at once with the same one are one try. As many as requests.
    tried: HashSet<String>,
    swept: Instant,
}

/// Whom a failure is counted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Client(IpAddr);

impl Client {
    pub(crate) fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
            }
        })
    }
}

/// When a client that goes on failing at its rate would have failed so often. Never before now when it has all its allowance.
#[derive(Debug, Clone, Copy)]
struct Allowance {
    owed_until: Instant,
}

impl Allowance {
    const fn new(now: Instant) -> Self {
        Self { owed_until: now }
    }

    /// Uses one up, or says how long it takes until there is one.
    fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let owed_until = self.owed_until.max(now) + ONE_PER;
        let excess = owed_until
            .saturating_duration_since(now)
            .saturating_sub(ONE_PER * BURST);
        if !excess.is_zero() {
            return Err(excess);
        }
        self.owed_until = owed_until;
        Ok(())
    }

    fn give_back(&mut self) {
        // None only just after the start of the machine, when there is nothing to give back yet.
        self.owed_until = self
            .owed_until
            .checked_sub(ONE_PER)
            .unwrap_or(self.owed_until);
    }

    fn is_whole(&self, now: Instant) -> bool {
        self.owed_until <= now
    }
}

/// A try to authenticate. It counts as a failure until it is known how it ended; one that is given up does not count.
#[must_use = "say how it ended"]
pub(crate) struct Attempt<'a> {
    failures: &'a Failures,
    client: Client,
    hash: String,
    holds: Holds,
}

/// What a try holds until its end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holds {
    /// A part of the client's allowance.
    Allowance,
    /// That part is used up.
    UsedUp,
    /// Nothing: its token was good a while ago, or is being looked at for another request.
    Nothing,
}

impl Failures {
    pub(crate) fn new(failures: IntCounterVec, clients: IntGauge) -> Self {
        let now = Instant::now();
        Self {
            state: Mutex::new(State {
                clients: HashMap::new(),
                others: Allowance::new(now),
                good: HashMap::new(),
                tried: HashSet::new(),
                swept: now,
            }),
            failures,
            clients,
        }
    }

    /// Lets a client try the token with this hash.
    ///
    /// # Errors
    /// When it has failed too often and the token is none that was good.
    pub(crate) fn attempt(&self, client: Client, hash: String) -> Result<Attempt<'_>, ApiError> {
        let now = Instant::now();
        let holds = {
            let mut state = self.state.lock();
            state.sweep(now);
            let holds = if state.good.contains_key(&hash) || state.tried.contains(&hash) {
                Ok(Holds::Nothing)
            } else {
                let taken = state.allowance(client, now).take(now);
                taken.map(|()| {
                    state.tried.insert(hash.clone());
                    Holds::Allowance
                })
            };
            let clients = i64::try_from(state.clients.len());
            self.clients.set(clients.unwrap_or(i64::MAX));
            holds
        };
        Ok(Attempt {
            failures: self,
            client,
            hash,
            holds: holds.map_err(|wait| self.refuse(wait))?,
        })
    }

    fn refuse(&self, wait: Duration) -> ApiError {
        self.failures.with_label_values(&["limited"]).inc();
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        let message = format!(
            "Too many requests with unknown tokens came from this address; wait {seconds} s, then use a valid token."
        );
        ApiError::new(Code::RateLimited, message).after(seconds)
    }
}

impl State {
    fn allowance(&mut self, client: Client, now: Instant) -> &mut Allowance {
        let has_room = self.clients.len() < MAX_CLIENTS;
        if has_room || self.clients.contains_key(&client) {
            let new = || Allowance::new(now);
            return self.clients.entry(client).or_insert_with(new);
        }
        &mut self.others
    }

    /// Forgets what makes no difference any more.
    fn sweep(&mut self, now: Instant) {
        if now.saturating_duration_since(self.swept) < SWEEP_EVERY {
            return;
        }
        self.swept = now;
        self.clients.retain(|_, allowance| !allowance.is_whole(now));
        self.good
            .retain(|_, at| now.saturating_duration_since(*at) < REMEMBERED_FOR);
    }
}

impl Attempt<'_> {
    /// The token is good.
    pub(crate) fn succeeded(self) {
        let mut state = self.failures.state.lock();
        if state.good.len() < MAX_GOOD || state.good.contains_key(&self.hash) {
            state.good.insert(self.hash.clone(), Instant::now());
        }
    }

    /// The token is not good.
    pub(crate) fn failed(mut self) {
        if self.holds == Holds::Allowance {
            self.holds = Holds::UsedUp;
        }
        self.failures.state.lock().good.remove(&self.hash);
        let refused = self.failures.failures.with_label_values(&["refused"]);
        refused.inc();
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.holds == Holds::Nothing {
            return;
        }
        let now = Instant::now();
        let mut state = self.failures.state.lock();
        state.tried.remove(&self.hash);
        if self.holds == Holds::Allowance {
            state.allowance(self.client, now).give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Opts;

    use super::*;

    fn failures() -> Failures {
        let counter = IntCounterVec::new(Opts::new("failures", "of a test"), &["outcome"]);
        let gauge = IntGauge::new("clients", "of a test");
        Failures::new(counter.expect("a counter"), gauge.expect("a gauge"))
    }

    fn client(address: &str) -> Client {
        Client::of(address.parse().expect("an address"))
    }

    /// Tries a token that is not good; the seconds to wait when it is not looked at.
    fn fail(failures: &Failures, address: &str) -> Option<u64> {
        match failures.attempt(client(address), format!("made up by {address}")) {
            Ok(attempt) => {
                attempt.failed();
                None
            }
            Err(error) => {
                assert_eq!(error.code, Code::RateLimited);
                Some(error.retry_after.expect("says when to try again"))
            }
        }
    }

    fn fail_out(failures: &Failures, address: &str) {
        for _ in 0..BURST {
            assert_eq!(fail(failures, address), None);
        }
        assert!(fail(failures, address).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_fails_so_often_and_then_at_its_rate() {
        let failures = failures();
        fail_out(&failures, "203.0.113.9");
        assert_eq!(fail(&failures, "203.0.113.9"), Some(6));
        assert_eq!(fail(&failures, "203.0.113.8"), None, "another client");
        tokio::time::advance(Duration::from_millis(5_999)).await;
        assert_eq!(fail(&failures, "203.0.113.9"), Some(1));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(fail(&failures, "203.0.113.9"), None);
        assert_eq!(fail(&failures, "203.0.113.9"), Some(6));
        tokio::time::advance(ONE_PER * BURST).await;
        fail_out(&failures, "203.0.113.9");
        assert_eq!(failures.failures.with_label_values(&["limited"]).get(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_of_64_bits_is_one_client_and_mapped_addresses_are_ipv4() {
        let failures = failures();
        fail_out(&failures, "2001:db8:0:1::1");
        assert!(fail(&failures, "2001:db8:0:1:ffff::2").is_some());
        assert_eq!(fail(&failures, "2001:db8:0:2::1"), None);
        fail_out(&failures, "::ffff:203.0.113.9");
        assert!(fail(&failures, "203.0.113.9").is_some());
        assert_eq!(fail(&failures, "203.0.113.8"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn successes_and_tries_without_outcome_cost_nothing() {
        let failures = failures();
        let address = client("203.0.113.9");
        for round in 0..BURST * 3 {
            let attempt = failures.attempt(address, format!("good {round}"));
            attempt.expect("not limited").succeeded();
            drop(failures.attempt(address, "state is away".to_owned()));
        }
        fail_out(&failures, "203.0.113.9");
    }

    #[tokio::test(start_paused = true)]
    async fn many_requests_at_once_with_one_token_are_one_try() {
        let failures = failures();
        let address = client("203.0.113.9");
        let attempts = (0..50).map(|_| failures.attempt(address, "the same".to_owned()));
        let attempts: Vec<_> = attempts.collect::<Result<_, _>>().expect("not limited");
        for attempt in attempts {
            attempt.failed();
        }
        let several = (1..BURST).map(|number| failures.attempt(address, number.to_string()));
        let several: Vec<_> = several.collect::<Result<_, _>>().expect("not limited");
        let one_more = failures.attempt(address, "one more".to_owned());
        assert!(one_more.is_err(), "guesses at once count each");
        drop(several);
        assert_eq!(fail(&failures, "203.0.113.9"), None);
        assert!(failures.state.lock().tried.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_good_token_is_looked_at_until_it_is_none_any_more() {
        let failures = failures();
        let address = client("203.0.113.9");
        let attempt = |hash: &str| failures.attempt(address, hash.to_owned());
        attempt("good").expect("not limited").succeeded();
        fail_out(&failures, "203.0.113.9");
        attempt("good").expect("not limited").succeeded();
        assert!(attempt("unknown").is_err(), "even if it were good");
        attempt("good").expect("not limited").failed();
        assert!(attempt("good").is_err(), "it was revoked");
    }

    #[tokio::test(start_paused = true)]
    async fn more_clients_than_can_be_told_apart_are_counted_as_one() {
        let failures = failures();
        let address = |index: usize| format!("2001:db8:{:x}:{:x}::1", index >> 16, index & 0xffff);
        for index in 0..MAX_CLIENTS {
            assert_eq!(fail(&failures, &address(index)), None);
        }
        for index in 0..BURST as usize {
            assert_eq!(fail(&failures, &address(MAX_CLIENTS + index)), None);
        }
        assert!(fail(&failures, "203.0.113.9").is_some());
        assert_eq!(fail(&failures, &address(0)), None, "still has its own");
        assert_eq!(failures.state.lock().clients.len(), MAX_CLIENTS);
        tokio::time::advance(ONE_PER * BURST).await;
        assert_eq!(fail(&failures, "203.0.113.9"), None);
        assert_eq!(failures.state.lock().clients.len(), 1, "forgotten");
    }
}
