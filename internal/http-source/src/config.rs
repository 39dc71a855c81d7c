//! Settings of the component, `source.http.*`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use stream_encoding::MAX_ROW_LEN;
use stream_model::unit::{ByteSize, Interval};

use crate::forwarded::TrustedProxies;

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

/// Settings of the HTTP source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// Address of the listener. Default 0.0.0.0:7000.
    pub listen: SocketAddr,
    /// Certificate and key.
    pub tls: TlsFiles,
    /// The URL under which clients reach the listener; shown in source definitions. Default http://localhost:7000.
    pub public_url: String,
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
    /// third of `inFlightBytes`, whatever it says: records and rows must find room beside the body.
    pub max_batch_size: ByteSize,
    /// The most bytes of a CSV row, 1KB to 2MB, default 1536KB.
    pub row_size_limit: ByteSize,
    /// Proxies that are believed about their clients: networks (`10.0.0.0/8`) and addresses. The address of a record is then
    /// taken from `X-Forwarded-For`, else from `Forwarded`. Default: none, it is the address of the connection.
    pub trusted_proxies: Vec<String>,
    /// The most bytes of requests that are not answered yet, 8MB to 64GB, default 64MB. Requests beyond get 503 at once.
    /// Raising it rides out longer pauses of a volume and costs that much memory.
    pub in_flight_bytes: ByteSize,
    /// Evaluation of templates.
    pub jsonnet: Jsonnet,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 7000)),
            tls: TlsFiles::default(),
            public_url: "http://localhost:7000".to_owned(),
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
            jsonnet: Jsonnet::default(),
        }
    }
}

impl Config {
    /// The most bytes of a body with many records.
    #[must_use]
    pub fn batch_limit(&self) -> ByteSize {
        ByteSize(self.max_batch_size.0.min(self.in_flight_bytes.0 / 3))
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
        size(
            "rowSizeLimit",
            self.row_size_limit,
            kilo,
            MAX_ROW_LEN as u64,
        )?;
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
        if !(100..=1_000_000).contains(&self.max_connections) {
            let value = self.max_connections;
            return Err(format!(
                "source.http.maxConnections is {value}; set 100 to 1000000"
            ));
        }
        if !["http://", "https://"]
            .iter()
            .any(|scheme| self.public_url.starts_with(scheme))
        {
            let value = &self.public_url;
            return Err(format!(
                "source.http.publicUrl is {value:?}; set a URL with http:// or https://"
            ));
        }
        Ok(())
    }
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
