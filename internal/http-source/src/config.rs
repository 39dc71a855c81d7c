//! Settings of the component, `source.http.*`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use stream_model::rate::RateLimit;
use stream_model::unit::{ByteSize, Interval};

use stream_node::TrustedProxies;

/// Certificate and key of the listener, `source.http.tls.*`: both or none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TlsFiles {
    /// The file with the certificate in PEM, followed by those that signed it. A change is taken up within 10 s. Default: none,
    /// nothing is encrypted.
    pub cert: Option<PathBuf>,
    /// The file with its private key in PEM.
    pub key: Option<PathBuf>,
}

/// What each source may send, unless its own settings say otherwise, `source.http.rateLimit.*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RateLimits {
    /// Records of one source in a second, for this process; more are refused. 0 to 10000000, default 0: no limit.
    pub records_per_second: u64,
    /// Bytes of bodies of one source in a second, after decoding. 1KB to 10GB, default 0B: no limit.
    pub bytes_per_second: ByteSize,
}

impl Default for RateLimits {
    fn default() -> Self {
        Self {
            records_per_second: 0,
            bytes_per_second: ByteSize(0),
        }
    }
}

/// Evaluation of templates that are more than a single call, `source.http.jsonnet.*`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Jsonnet {
    /// The most evaluator processes at the same time, 0 to 64. Default 0: as many as there are cores. They are started when
    /// there is work. Raising it lets more records be evaluated at once and costs memory.
    pub workers: u32,
    /// CPU time of an evaluator for one record, 10ms to 10s, default 100ms. A record that takes longer is refused. Raising it
    /// lets templates do more, and lets one hold up others longer.
    pub timeout: Interval,
    /// Memory of an evaluator, 32MB to 4GB, default 128MB. A record that needs more is refused. Raising it lets templates
    /// build larger values.
    pub memory: ByteSize,
}

impl Default for Jsonnet {
    fn default() -> Self {
        Self {
            workers: 0,
            timeout: Interval(Duration::from_millis(100)),
            memory: ByteSize(128 << 20),
        }
    }
}

impl Jsonnet {
    fn validate(&self) -> Result<(), String> {
        if self.workers > 64 {
            let value = self.workers;
            return Err(format!(
                "source.http.jsonnet.workers is {value}; set 0 to 64"
            ));
        }
        let (min, max) = (Interval(Duration::from_millis(10)), Interval::from_secs(10));
        if !(min..=max).contains(&self.timeout) {
            let value = self.timeout;
            return Err(format!(
                "source.http.jsonnet.timeout is {value}; set {min} to {max}"
            ));
        }
        size("jsonnet.memory", self.memory, 32 << 20, 4 << 30)
    }
}

/// One line in the log for requests, `source.http.accessLog.*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AccessLog {
    /// Whether there is one. Default false.
    pub enabled: bool,
    /// Of so many requests one is logged, and answers of 500 and above up to 100 a second. 1 to 1000000, default 1: all.
    pub sample: u32,
}

impl Default for AccessLog {
    fn default() -> Self {
        Self {
            enabled: false,
            sample: 1,
        }
    }
}

/// Figures of each source, `source.http.metrics.*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SourceMetrics {
    /// Sources with metrics of their own, 0 to 10000, default 100; all others are counted together. Each costs about 20 time
    /// series.
    pub max_sources: u32,
}

impl Default for SourceMetrics {
    fn default() -> Self {
        Self { max_sources: 100 }
    }
}

/// Settings of the HTTP source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// Address of the listener. Default 0.0.0.0:7000.
    pub listen: SocketAddr,
    /// Certificate and key.
    pub tls: TlsFiles,
    /// The URL under which clients reach the listener; shown in source definitions. Default http://localhost:7000, or
    /// https://localhost:7000 with `tls`.
    pub public_url: Option<String>,
    /// How long a request may take to send its body, and from then on to get its answer. 1s to 5m, default 30s. Raising it
    /// lets requests wait longer for a volume that is away, and holds their memory as long.
    pub request_timeout: Interval,
    /// How long a connection may be idle. 1s to 60s, default 30s. Raising it saves reconnects and costs memory.
    pub idle_timeout: Interval,
    /// The most connections, 100 to 1000000, default 200000. Those beyond are refused.
    pub max_connections: u32,
    /// The most bytes of request line and headers, 1KB to 1MB, default 16KB.
    pub read_buffer_size: ByteSize,
    /// Accepted for the sake of existing configurations; the size of answers does not depend on it. 1KB to 1MB, default 4KB.
    pub write_buffer_size: ByteSize,
    /// The most bytes of a body, before and after decoding. 100B to 4MB, default 1MB.
    pub max_request_body_size: ByteSize,
    /// The most bytes of a body with many records, before and after decoding. 1KB to 100MB, default 10MB. Never more than a
    /// quarter of `inFlightBytes`, whatever it says: records and rows must find room beside the body.
    pub max_batch_size: ByteSize,
    /// The most bytes of a CSV row, up to 2MB, default 1536KB. No key of its own: it belongs to the encoder.
    #[serde(skip)]
    pub row_size_limit: ByteSize,
    /// Proxies that are believed about their clients: networks (`10.0.0.0/8`) and addresses. The address of a record is then
    /// taken from `X-Forwarded-For`, else from `Forwarded`. Default: none, it is the address of the connection.
    pub trusted_proxies: Vec<String>,
    /// The most bytes of requests that are not answered yet, 8MB to 64GB, default 64MB. Requests beyond get 503 at once.
    /// A source, and the sources of a volume together, get at most four times what is free. Raising it rides out longer pauses
    /// of a volume and costs that much memory.
    pub in_flight_bytes: ByteSize,
    /// The most requests that are not answered yet, 100 to 1000000, default 20000. Requests beyond get 503 at once. A source
    /// gets at most four times what is free. Raising it takes memory for the buffers of as many connections.
    pub max_in_flight_requests: u32,
    /// The most of them that may be of one source, 1 to 1000000. Default: none, its share is the limit.
    pub max_in_flight_requests_per_source: Option<u32>,
    /// What each source may send, unless its own settings say otherwise.
    pub rate_limit: RateLimits,
    /// One line in the log for requests.
    pub access_log: AccessLog,
    /// Figures of each source.
    pub metrics: SourceMetrics,
    /// Evaluation of templates.
    pub jsonnet: Jsonnet,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 7000)),
            tls: TlsFiles::default(),
            public_url: None,
            request_timeout: Interval::from_secs(30),
            idle_timeout: Interval::from_secs(30),
            max_connections: 200_000,
            read_buffer_size: ByteSize(16 << 10),
            write_buffer_size: ByteSize(4 << 10),
            max_request_body_size: ByteSize(1 << 20),
            max_batch_size: ByteSize(10 << 20),
            row_size_limit: ByteSize(1536 << 10),
            trusted_proxies: Vec::new(),
            in_flight_bytes: ByteSize(64 << 20),
            max_in_flight_requests: 20_000,
            max_in_flight_requests_per_source: None,
            rate_limit: RateLimits::default(),
            access_log: AccessLog::default(),
            metrics: SourceMetrics::default(),
            jsonnet: Jsonnet::default(),
        }
    }
}

impl Config {
    /// The most bytes of a body with many records.
    #[must_use]
    pub fn batch_limit(&self) -> ByteSize {
        ByteSize(self.max_batch_size.0.min(self.in_flight_bytes.0 / 4))
    }

    /// What each source may send, unless its own settings say otherwise.
    #[must_use]
    pub fn rate(&self) -> RateLimit {
        let limits = self.rate_limit;
        RateLimit::new(limits.records_per_second, limits.bytes_per_second.0)
    }

    /// The URL under which clients reach the listener.
    #[must_use]
    pub fn public_url_or_default(&self) -> String {
        let scheme = if self.tls.cert.is_some() {
            "https"
        } else {
            "http"
        };
        let default = || format!("{scheme}://localhost:7000");
        self.public_url.clone().unwrap_or_else(default)
    }

    /// Checks the limits of all values.
    ///
    /// # Errors
    /// A sentence that names the key, the value and what it may be.
    pub fn validate(&self) -> Result<(), String> {
        let kilo = 1 << 10;
        let mega = 1 << 20;
        size("readBufferSize", self.read_buffer_size, kilo, mega)?;
        size("writeBufferSize", self.write_buffer_size, kilo, mega)?;
        size(
            "maxRequestBodySize",
            self.max_request_body_size,
            100,
            4 * mega,
        )?;
        size("maxBatchSize", self.max_batch_size, kilo, 100 * mega)?;
        size("inFlightBytes", self.in_flight_bytes, 8 * mega, 64 << 30)?;
        interval("requestTimeout", self.request_timeout, 300)?;
        interval("idleTimeout", self.idle_timeout, 60)?;
        self.jsonnet.validate()?;
        if self.tls.cert.is_some() != self.tls.key.is_some() {
            return Err(
                "source.http.tls.cert and source.http.tls.key belong together; set both or none"
                    .to_owned(),
            );
        }
        if let Err(text) = TrustedProxies::parse(&self.trusted_proxies) {
            return Err(format!(
                "source.http.trustedProxies has {text:?}; set networks such as 10.0.0.0/8 or addresses, separated by commas"
            ));
        }
        self.validate_numbers()?;
        let value = self.public_url_or_default();
        if !["http://", "https://"]
            .iter()
            .any(|scheme| value.starts_with(scheme))
        {
            return Err(format!(
                "source.http.publicUrl is {value:?}; set a URL with http:// or https://"
            ));
        }
        Ok(())
    }

    fn validate_numbers(&self) -> Result<(), String> {
        let million = 1_000_000;
        number("maxConnections", self.max_connections, 100, million)?;
        let requests = self.max_in_flight_requests;
        number("maxInFlightRequests", requests, 100, million)?;
        if let Some(requests) = self.max_in_flight_requests_per_source {
            number("maxInFlightRequestsPerSource", requests, 1, million)?;
        }
        number("accessLog.sample", self.access_log.sample, 1, million)?;
        number("metrics.maxSources", self.metrics.max_sources, 0, 10_000)?;
        let RateLimits {
            records_per_second,
            bytes_per_second,
        } = self.rate_limit;
        let key = "rateLimit.recordsPerSecond";
        number(key, records_per_second, 0, RateLimit::MAX_RECORDS)?;
        if bytes_per_second == ByteSize(0) {
            return Ok(());
        }
        let (min, max) = (RateLimit::MIN_BYTES, RateLimit::MAX_BYTES);
        size("rateLimit.bytesPerSecond", bytes_per_second, min, max)
    }
}

fn number(key: &str, value: impl Into<u64>, min: u64, max: u64) -> Result<(), String> {
    let value = value.into();
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(format!("source.http.{key} is {value}; set {min} to {max}"))
}

fn size(key: &str, value: ByteSize, min: u64, max: u64) -> Result<(), String> {
    if (min..=max).contains(&value.0) {
        return Ok(());
    }
    let (min, max) = (ByteSize(min), ByteSize(max));
    Err(format!("source.http.{key} is {value}; set {min} to {max}"))
}

fn interval(key: &str, value: Interval, max_seconds: u64) -> Result<(), String> {
    let (min, max) = (Interval::from_secs(1), Interval::from_secs(max_seconds));
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(format!("source.http.{key} is {value}; set {min} to {max}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_survive_json() {
        let config = Config::default();
        assert_eq!(config.validate(), Ok(()));
        let json = serde_json::to_string(&config).expect("serialises");
        assert!(json.contains(r#""inFlightBytes":"64MB""#), "{json}");
        assert_eq!(
            serde_json::from_str::<Config>(&json).expect("parses"),
            config
        );
        assert!(serde_json::from_str::<Config>(r#"{"listne":"x"}"#).is_err());
    }

    #[test]
    fn the_url_follows_the_certificate_unless_it_is_set() {
        let mut config = Config::default();
        assert_eq!(config.public_url_or_default(), "http://localhost:7000");
        config.tls.cert = Some("cert.pem".into());
        assert_eq!(config.public_url_or_default(), "https://localhost:7000");
        config.public_url = Some("http://in.example.com".to_owned());
        assert_eq!(config.public_url_or_default(), "http://in.example.com");
        config.tls = TlsFiles::default();
        config.public_url = Some("in.example.com".to_owned());
        assert!(
            config
                .validate()
                .is_err_and(|text| text.contains("publicUrl"))
        );
    }

    #[test]
    fn rates_sample_and_limits_of_requests_have_ranges() {
        let invalid = |change: &dyn Fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            config.validate().expect_err("out of range")
        };
        for (key, change) in [
            (
                "maxInFlightRequests",
                &(|config: &mut Config| config.max_in_flight_requests = 99) as &dyn Fn(&mut Config),
            ),
            ("maxInFlightRequestsPerSource", &|config| {
                config.max_in_flight_requests_per_source = Some(0);
            }),
            ("accessLog.sample", &|config| config.access_log.sample = 0),
            ("metrics.maxSources", &|config| {
                config.metrics.max_sources = 10_001;
            }),
            ("rateLimit.recordsPerSecond", &|config| {
                config.rate_limit.records_per_second = 10_000_001;
            }),
            ("rateLimit.bytesPerSecond", &|config| {
                config.rate_limit.bytes_per_second = ByteSize(5);
            }),
        ] {
            let message = invalid(change);
            assert!(
                message.contains(&format!("source.http.{key} is")),
                "{message}"
            );
        }
    }

    #[test]
    fn a_value_out_of_range_is_named() {
        let config = Config {
            max_request_body_size: ByteSize(5 << 20),
            ..Config::default()
        };
        let expected = "source.http.maxRequestBodySize is 5MB; set 100B to 4MB";
        assert_eq!(config.validate(), Err(expected.to_owned()));
        let mut config = Config::default();
        config.jsonnet.timeout = Interval::from_secs(11);
        let expected = "source.http.jsonnet.timeout is 11s; set 10ms to 10s";
        assert_eq!(config.validate(), Err(expected.to_owned()));
        let config = Config {
            idle_timeout: Interval::from_secs(61),
            ..Config::default()
        };
        assert!(
            config
                .validate()
                .is_err_and(|message| message.contains("idleTimeout"))
        );
    }
}
