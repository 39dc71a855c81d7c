//! The access log: one line for a request that was answered, off unless it is asked for.
//!
//! Of so many requests one is logged. Answers of 500 and above are logged beside that, up to a number in a second: when
//! everything fails, the log must not be what fails next. Independent of it, an answer of 500 leaves a warning with the id
//! of the request, and one that could not say whether a record was written a line at level info.
//!
//! The secret in a URL is never logged, wherever it stands: a path is shown as far as it names a source whose secret was
//! right, and without the secret; of any other path only those segments are shown that are words of this interface. Queries
//! are not shown at all.

use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::Method;
use stream_model::SourceKey;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::bucket::Bucket;
use crate::config;

/// Failures that are logged in a second beside the sample.
const FAILURES_PER_SECOND: NonZeroU64 = NonZeroU64::new(100).expect("not zero");
/// Faults and unknown outcomes that are told in a second.
const TOLD_PER_SECOND: NonZeroU64 = NonZeroU64::new(10).expect("not zero");
/// What stands for a secret, and for whatever may be one.
const MASK: &str = "*****";
/// The segments of paths that are words of ours.
const WORDS: [&str; 3] = ["", "stream", "health-check"];

/// The log.
pub(crate) struct AccessLog {
    /// Of so many requests one is logged; none when the log is off.
    sample: Option<NonZeroU64>,
    requests: AtomicU64,
    failures: Bucket,
    told: Bucket,
}

/// What is said about a request.
pub(crate) struct Line<'a> {
    /// Its method.
    pub method: &'a Method,
    /// The path as it came.
    pub path: &'a str,
    /// The source, when path and secret are those of one.
    pub source: Option<&'a SourceKey>,
    /// The status of the answer.
    pub status: u16,
    /// The name of the error, without prefix; none when everything was accepted.
    pub error: Option<&'a str>,
    /// Bytes of the body after decoding, as far as it was read.
    pub bytes: u64,
    /// From the head of the request to its answer.
    pub elapsed: Duration,
    /// The id of the request.
    pub request_id: &'a str,
    /// The address of the client.
    pub client: IpAddr,
}

impl AccessLog {
    /// The log that is configured.
    pub fn new(config: &config::AccessLog) -> Self {
        let sample = NonZeroU64::new(u64::from(config.sample));
        Self {
            sample: sample.filter(|_| config.enabled),
            requests: AtomicU64::new(0),
            failures: Bucket::new(),
            told: Bucket::new(),
        }
    }

    /// Whether a request with such an answer is logged. Asked once per request.
    pub fn wants(&self, status: u16) -> bool {
        let Some(sample) = self.sample else {
            return false;
        };
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        if number.is_multiple_of(sample.get()) {
            return true;
        }
        let is_within = || self.failures.take(FAILURES_PER_SECOND, 1, Instant::now());
        status >= 500 && is_within().is_ok()
    }

    /// Whether an answer is told whatever is configured.
    pub fn tells(&self, status: u16, error: Option<&str>) -> bool {
        let is_odd = status == 500 || error == Some("outcomeUnknown");
        is_odd && self.told.take(TOLD_PER_SECOND, 1, Instant::now()).is_ok()
    }
}

impl Line<'_> {
    /// Writes the line of the access log.
    pub fn log(&self) {
        let elapsed_ms = self.elapsed.as_secs_f64() * 1_000.0;
        let (path, source) = (self.shown_path(), self.source.map(ToString::to_string));
        info!(
            method = %self.method, path, status = self.status, error = self.error, bytes = self.bytes, elapsed_ms,
            request_id = self.request_id, client = %self.client, source, "request answered"
        );
    }

    /// Says that something is odd about the answer.
    pub fn tell(&self) {
        let (request_id, source) = (self.request_id, self.source.map(ToString::to_string));
        if self.status == 500 {
            warn!(request_id, source, "a request met a fault of the service");
        } else {
            info!(
                request_id,
                source, "a request was answered without its outcome"
            );
        }
    }

    fn shown_path(&self) -> String {
        if let Some(source) = self.source {
            let project = source.branch.project;
            return format!("/stream/{project}/{}/{MASK}", source.source);
        }
        let shown = |segment| {
            if WORDS.contains(&segment) {
                segment
            } else {
                MASK
            }
        };
        let segments: Vec<&str> = self.path.split('/').map(shown).collect();
        segments.join("/")
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::testing::source;

    fn line<'a>(path: &'a str, source: Option<&'a SourceKey>) -> Line<'a> {
        Line {
            method: &Method::POST,
            path,
            source,
            status: 200,
            error: None,
            bytes: 2,
            elapsed: Duration::from_millis(1),
            request_id: "id",
            client: Ipv4Addr::LOCALHOST.into(),
        }
    }

    fn log(enabled: bool, sample: u32) -> AccessLog {
        AccessLog::new(&config::AccessLog { enabled, sample })
    }

    #[tokio::test(start_paused = true)]
    async fn one_of_so_many_is_logged_and_failures_within_bounds() {
        let off = log(false, 1);
        assert!(!off.wants(200) && !off.wants(503));
        let all = log(true, 1);
        assert!((0..10).all(|_| all.wants(429)));
        let some = log(true, 1000);
        let wanted = |status| (0..1000).filter(|_| some.wants(status)).count();
        assert_eq!(wanted(200), 1);
        assert_eq!(wanted(429), 1);
        assert_eq!(wanted(503), 101);
        assert_eq!(wanted(503), 1, "no more within the same second");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(wanted(503), 101);
    }

    #[tokio::test(start_paused = true)]
    async fn faults_and_unknown_outcomes_are_told_within_bounds() {
        let log = log(false, 1);
        assert!(!log.tells(503, Some("overloaded")) && !log.tells(200, None));
        let told = (0..50).filter(|_| log.tells(500, Some("genericError")));
        assert_eq!(told.count(), 10);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(log.tells(503, Some("outcomeUnknown")));
    }

    #[test]
    fn paths_are_shown_without_what_may_be_a_secret() {
        let source = source();
        let known = line("/stream/1/orders/s3cret", Some(&source));
        assert_eq!(known.shown_path(), "/stream/1/orders/*****");
        for (path, expected) in [
            ("/health-check", "/health-check"),
            ("/stream/1/orders/s3cret", "/stream/*****/*****/*****"),
            ("/stream/s3cret", "/stream/*****"),
            ("//s3cret/", "//*****/"),
            ("s3cret", "*****"),
        ] {
            assert_eq!(line(path, None).shown_path(), expected);
        }
    }

    proptest! {
        #[test]
        fn a_secret_is_nowhere_in_the_path(before in "(/[a-z0-9%]{0,9}){0,5}", after in "(/[a-z0-9]{0,9}){0,3}") {
            let path = format!("{before}/S3CRET{after}");
            let source = source();
            for source in [None, Some(&source)] {
                prop_assert!(!line(&path, source).shown_path().contains("S3CRET"));
            }
        }
    }
}
