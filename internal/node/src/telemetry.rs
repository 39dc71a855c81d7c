//! Log output, and the metrics every process has about itself.
//!
//! [`init_logging`] is called once by the binary, before anything else. Logs go to stderr; stdout
//! belongs to what a command was asked to print. Libraries of others are heard from `warn` on,
//! unless the filter names them.

use std::collections::HashMap;
use std::fmt;
use std::io::IsTerminal;
use std::panic::PanicHookInfo;
use std::str::FromStr;

use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, Registry};
use serde::{Deserialize, Serialize};
use tracing::error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::TryInitError;

use crate::tasks::panic_text;

/// Kept at `warn` by default: their lower levels describe every frame and connection.
const QUIET: &str = "hyper=warn,hyper_util=warn,h2=warn,tower=warn,tonic=warn,rustls=warn,reqwest=warn,\
                     object_store=warn,etcd_client=warn";

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for log collectors.
    Json,
}

/// Why logging could not be set up, or a setting of it not be understood.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is not understood.
    #[error("log filter {filter:?} is not like `info` or `info,hyper=debug`: {reason}")]
    Filter {
        /// The refused filter.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The log format is not known.
    #[error("log format {0:?} is neither `text` nor `json`")]
    Format(String),
    /// Logging had been set up before.
    #[error("logging has been set up already")]
    AlreadySetUp(#[source] TryInitError),
}

impl FromStr for LogFormat {
    type Err = TelemetryError;

    fn from_str(text: &str) -> Result<Self, TelemetryError> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(TelemetryError::Format(other.to_owned())),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Sends logs to stderr, and panics to the log.
///
/// `filter` is a level (`info`) or a list of directives as in `RUST_LOG`
/// (`info,stream_storage=debug`).
///
/// # Errors
///
/// When the filter is not understood, or when logging has been set up before.
pub fn init_logging(format: LogFormat, filter: &str) -> Result<(), TelemetryError> {
    use tracing_subscriber::util::SubscriberInitExt;

    let builder = tracing_subscriber::fmt()
        .with_env_filter(parse_filter(filter)?)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let outcome = match format {
        LogFormat::Text => builder.finish().try_init(),
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .finish()
            .try_init(),
    };
    outcome.map_err(TelemetryError::AlreadySetUp)?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

fn parse_filter(filter: &str) -> Result<EnvFilter, TelemetryError> {
    // Of two directives for one target the later one wins.
    let directives = format!("{QUIET},{filter}");
    EnvFilter::builder()
        .parse(directives)
        .map_err(|error| TelemetryError::Filter {
            filter: filter.to_owned(),
            reason: error.to_string(),
        })
}

/// The standard hook writes several lines of plain text, which a collector of JSON lines cannot
/// read.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let location = panic
        .location()
        .map(ToString::to_string)
        .unwrap_or_default();
    let backtrace = std::backtrace::Backtrace::capture();
    error!(
        thread = thread.name().unwrap_or("unnamed"),
        location,
        error = panic_text(panic.payload()),
        backtrace = matches!(
            backtrace.status(),
            std::backtrace::BacktraceStatus::Captured
        )
        .then(|| tracing::field::display(&backtrace)),
        "panicked"
    );
}

/// Registers memory, CPU time, threads and open files of this process, read from `/proc` at every
/// scrape.
///
/// # Errors
///
/// When metrics of these names are registered already.
pub fn register_process_metrics(registry: &Registry) -> prometheus::Result<()> {
    registry.register(Box::new(ProcessCollector::new()?))
}

/// Ticks per second in `/proc/self/stat`. A constant of the Linux user interface, whatever the
/// kernel's timer.
const TICKS_PER_SECOND: f64 = 100.0;

struct ProcessCollector {
    resident: Gauge,
    anonymous: Gauge,
    threads: Gauge,
    open_fds: Gauge,
    max_fds: Gauge,
    counters: Mutex<ProcessCounters>,
    descs: Vec<Desc>,
}

/// Counters can only be increased, so two scrapes at once must not both add the difference.
struct ProcessCounters {
    cpu: Counter,
    pressure: Counter,
}

impl ProcessCollector {
    fn new() -> prometheus::Result<Self> {
        let mut collector = Self {
            resident: Gauge::new(
                "process_resident_memory_bytes",
                "Resident memory, page cache of mapped files included.",
            )?,
            anonymous: Gauge::new(
                "process_anonymous_memory_bytes",
                "Memory the process has allocated. A rise without load means a leak.",
            )?,
            threads: Gauge::new(
                "process_threads",
                "Threads. A lasting rise means blocking work that does not end.",
            )?,
            open_fds: Gauge::new(
                "process_open_fds",
                "Open file descriptors. Near process_max_fds, connections are refused.",
            )?,
            max_fds: Gauge::new("process_max_fds", "Limit of open file descriptors.")?,
            counters: Mutex::new(ProcessCounters {
                cpu: Counter::new("process_cpu_seconds_total", "CPU time, user and system.")?,
                pressure: Counter::new(
                    "node_cpu_waiting_seconds_total",
                    "Time in which some task of the machine waited for a CPU. A steep rise makes disks look slow.",
                )?,
            }),
            descs: Vec::new(),
        };
        collector.descs = collector.families(|metric| metric.desc().into_iter().cloned().collect());
        Ok(collector)
    }

    fn families<T>(&self, of: impl Fn(&dyn Collector) -> Vec<T>) -> Vec<T> {
        let counters = self.counters.lock();
        let all: [&dyn Collector; 7] = [
            &self.resident,
            &self.anonymous,
            &self.threads,
            &self.open_fds,
            &self.max_fds,
            &counters.cpu,
            &counters.pressure,
        ];
        all.into_iter().flat_map(of).collect()
    }

    /// What cannot be read keeps its last value: a scrape never fails for a missing file in
    /// `/proc`.
    fn refresh(&self) {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let text = read("/proc/self/status");
        let status = parse_status(&text);
        let set = |gauge: &Gauge, name: &str, factor: f64| {
            if let Some(value) = status.get(name) {
                gauge.set(value * factor);
            }
        };
        set(&self.resident, "VmRSS", 1024.0);
        set(&self.anonymous, "RssAnon", 1024.0);
        set(&self.threads, "Threads", 1.0);
        if let Ok(directory) = std::fs::read_dir("/proc/self/fd") {
            let count = u32::try_from(directory.count()).unwrap_or(u32::MAX);
            self.open_fds.set(f64::from(count));
        }
        if let Some(limit) = parse_open_files_limit(&read("/proc/self/limits")) {
            self.max_fds.set(limit);
        }
        let counters = self.counters.lock();
        raise(&counters.cpu, parse_cpu_seconds(&read("/proc/self/stat")));
        raise(
            &counters.pressure,
            parse_pressure_seconds(&read("/proc/pressure/cpu")),
        );
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.refresh();
        self.families(|metric| metric.collect())
    }
}

fn raise(counter: &Counter, to: Option<f64>) {
    let gained = to.map_or(0.0, |to| to - counter.get());
    if gained > 0.0 {
        counter.inc_by(gained);
    }
}

/// The numeric fields of `/proc/self/status`, without their unit.
fn parse_status(text: &str) -> HashMap<&str, f64> {
    let field = |line: &'_ str| -> Option<(usize, f64)> {
        let (name, rest) = line.split_once(':')?;
        Some((name.len(), rest.split_whitespace().next()?.parse().ok()?))
    };
    text.lines()
        .filter_map(|line| field(line).map(|(end, value)| (&line[..end], value)))
        .collect()
}

fn parse_open_files_limit(text: &str) -> Option<f64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// User and system time: fields 14 and 15, counted after the command name, which may contain
/// anything.
fn parse_cpu_seconds(text: &str) -> Option<f64> {
    let (_, fields) = text.rsplit_once(')')?;
    let mut ticks = fields.split_whitespace().skip(11).map(str::parse::<f64>);
    let (user, system) = (ticks.next()?.ok()?, ticks.next()?.ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}

fn parse_pressure_seconds(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let micros = line
        .split_whitespace()
        .find_map(|field| field.strip_prefix("total="))?;
    Some(micros.parse::<f64>().ok()? / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_fields_of_proc() {
        let status =
            parse_status("Name:\ta:b\nVmRSS:\t    2048 kB\nRssAnon:\t12 kB\nThreads:\t3\nOdd\n");
        assert_eq!(
            (status["VmRSS"], status["RssAnon"], status["Threads"]),
            (2048.0, 12.0, 3.0)
        );
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 4 0 9 9 9";
        assert_eq!(parse_cpu_seconds(stat), Some(3.0));
        assert_eq!(parse_cpu_seconds("7 (short) S 1"), None);
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files   1024   4096   files\n";
        assert_eq!(parse_open_files_limit(limits), Some(1024.0));
        let pressure =
            "some avg10=0.00 avg60=0.00 avg300=0.00 total=2500000\nfull avg10=0 total=1\n";
        assert_eq!(parse_pressure_seconds(pressure), Some(2.5));
        assert_eq!(parse_pressure_seconds(""), None);
    }

    #[test]
    fn process_metrics_are_there_and_counters_never_fall() {
        let registry = Registry::new();
        register_process_metrics(&registry).expect("a fresh registry");
        let value = |name: &str| {
            let family = registry
                .gather()
                .into_iter()
                .find(|family| family.name() == name);
            let metric = family.expect(name).get_metric()[0].clone();
            metric.get_gauge().get_value() + metric.get_counter().get_value()
        };
        for name in [
            "process_resident_memory_bytes",
            "process_anonymous_memory_bytes",
        ] {
            assert!(value(name) > 100_000.0, "{name}");
        }
        assert!(value("process_threads") >= 1.0);
        assert!(value("process_open_fds") >= 3.0);
        assert!(value("process_max_fds") >= value("process_open_fds"));
        let before = value("process_cpu_seconds_total");
        assert!(value("process_cpu_seconds_total") >= before);
        assert!(
            register_process_metrics(&registry).is_err(),
            "once per registry"
        );
    }

    /// Runs in a process of its own, started by the test below: logging is set up once per process.
    #[test]
    #[ignore = "started by the test of JSON logs"]
    fn logging_process() {
        init_logging(LogFormat::Json, "info").expect("the first time");
        assert!(matches!(
            init_logging(LogFormat::Text, "info"),
            Err(TelemetryError::AlreadySetUp(_))
        ));
        tracing::info!(volume = "default/local", "volume opened");
        tracing::debug!("not shown");
        tracing::info!(target: "hyper::proto", "not shown either");
        let panicked = std::thread::spawn(|| panic!("offset {}", 7)).join();
        assert!(panicked.is_err());
    }

    #[test]
    fn json_logs_are_one_object_a_line_panics_included() {
        let program = std::env::current_exe().expect("the test binary has a path");
        let output = std::process::Command::new(program)
            .args([
                "--exact",
                "telemetry::tests::logging_process",
                "--ignored",
                "--nocapture",
            ])
            .env_remove("RUST_BACKTRACE")
            .output()
            .expect("the test binary runs");
        let text = String::from_utf8(output.stderr).expect("logs are text");
        assert!(output.status.success(), "{text}");
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| {
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
            })
            .collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!(lines[0]["message"], "volume opened");
        assert_eq!(lines[0]["volume"], "default/local");
        assert_eq!(lines[0]["level"], "INFO");
        assert_eq!(lines[1]["message"], "panicked");
        assert_eq!(lines[1]["error"], "offset 7");
        assert_eq!(lines[1]["level"], "ERROR");
        assert!(
            lines[1]["location"]
                .as_str()
                .expect("text")
                .contains("telemetry.rs"),
            "{text}"
        );
    }

    #[test]
    fn filter_takes_levels_and_directives() {
        for filter in ["info", "warn", "debug,hyper=trace", "stream_storage=debug"] {
            assert!(parse_filter(filter).is_ok(), "{filter}");
        }
        let shown = parse_filter("debug,hyper=trace")
            .expect("valid")
            .to_string();
        assert!(
            shown.contains("hyper=trace") && !shown.contains("hyper=warn"),
            "{shown}"
        );
        assert!(shown.contains("h2=warn"), "{shown}");
        let error = parse_filter("info,hyper=loud")
            .expect_err("no such level")
            .to_string();
        assert!(
            error.starts_with("log filter \"info,hyper=loud\" is not like"),
            "{error}"
        );
    }

    #[test]
    fn format_is_read_and_written_by_name() {
        for format in [LogFormat::Text, LogFormat::Json] {
            assert_eq!(
                format.to_string().parse::<LogFormat>().expect("own text"),
                format
            );
        }
        assert!("xml".parse::<LogFormat>().is_err());
    }
}
