//! What can be seen of the network from outside.

use prometheus::{IntGauge, Registry};

/// What an http-source shows of its streams.
#[derive(Debug, Clone)]
pub struct ClientMetrics {
    pub(super) streams: IntGauge,
    pub(super) outstanding_bytes: IntGauge,
}

/// What a storage-writer shows of its streams.
#[derive(Debug, Clone)]
pub struct ServerMetrics {
    pub(super) streams: IntGauge,
}

impl ClientMetrics {
    /// Registers the metrics. Once per registry.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            streams: gauge(
                registry,
                "stream_wire_client_streams",
                "Streams to volumes of other processes. As many as volumes in use; a rise beyond that means streams that break.",
            )?,
            outstanding_bytes: gauge(
                registry,
                "stream_wire_client_outstanding_bytes",
                "Bytes of batches sent to other processes and not answered. A rise means slow disks or a slow network.",
            )?,
        })
    }
}

impl ServerMetrics {
    /// Registers the metrics. Once per registry.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            streams: gauge(
                registry,
                "stream_wire_server_streams",
                "Streams of other processes to volumes of this one: about HTTP sources times volumes.",
            )?,
        })
    }
}

fn gauge(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntGauge> {
    let gauge = IntGauge::new(name, help)?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

/// Counts in a gauge while it lives.
#[derive(Debug)]
pub(super) struct Counted(IntGauge);

impl Counted {
    pub fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
