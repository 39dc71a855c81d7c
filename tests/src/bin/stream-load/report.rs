//! A measurement as text and as JSON.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};

use crate::load::Measured;

/// For people.
pub fn text(measured: &Measured) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        writeln!(text, "{name:<16}{value}").expect("writing to a String cannot fail");
    };
    line("sent", measured.sent.to_string());
    line("ok", measured.ok().to_string());
    for (status, count) in &measured.statuses {
        line(&format!("  status {status}"), count.to_string());
    }
    line("failed", measured.failed.to_string());
    line("requests/s", format!("{:.0}", measured.rate()));
    line("records/s", format!("{:.0}", records_per_second(measured)));
    for (name, value) in percentiles(measured) {
        line(name, millis(value));
    }
    line("send lag p99", millis(measured.lag.per_mille(990)));
    line(
        "own CPU",
        format!(
            "{:.2} s in {:.2} s",
            measured.own_cpu,
            measured.elapsed.as_secs_f64()
        ),
    );
    line("CPU pressure", percent(measured.cpu_pressure));
    text
}

/// For programs. Latencies are in milliseconds.
pub fn json(measured: &Measured) -> Value {
    let millis = |value: Duration| value.as_secs_f64() * 1_000.0;
    let latencies: serde_json::Map<_, _> = percentiles(measured)
        .into_iter()
        .map(|(name, value)| (name.to_owned(), millis(value).into()))
        .collect();
    let statuses: serde_json::Map<_, _> = measured
        .statuses
        .iter()
        .map(|(status, count)| (status.to_string(), (*count).into()))
        .collect();
    json!({
        "sent": measured.sent,
        "ok": measured.ok(),
        "statuses": statuses,
        "failed": measured.failed,
        "elapsedSeconds": measured.elapsed.as_secs_f64(),
        "requestsPerSecond": measured.rate(),
        "recordsPerSecond": records_per_second(measured),
        "latencyMs": latencies,
        "sendLagP99Ms": millis(measured.lag.per_mille(990)),
        "ownCpuSeconds": measured.own_cpu,
        "cpuPressure": measured.cpu_pressure,
        "cpuPressureAvg10": [measured.avg10.0, measured.avg10.1],
    })
}

fn records_per_second(measured: &Measured) -> f64 {
    measured.records as f64 / measured.elapsed.as_secs_f64().max(f64::EPSILON)
}

fn percentiles(measured: &Measured) -> [(&'static str, Duration); 5] {
    [
        ("p50", measured.latency.per_mille(500)),
        ("p90", measured.latency.per_mille(900)),
        ("p99", measured.latency.per_mille(990)),
        ("p99.9", measured.latency.per_mille(999)),
        ("max", measured.latency.max()),
    ]
}

/// Three digits are all that the histogram has.
pub fn millis(value: Duration) -> String {
    format!("{:.2} ms", value.as_secs_f64() * 1_000.0)
}

/// A share as percent.
pub fn percent(share: Option<f64>) -> String {
    share.map_or_else(
        || "not told by the kernel".to_owned(),
        |share| format!("{:.0} %", share * 100.0),
    )
}
