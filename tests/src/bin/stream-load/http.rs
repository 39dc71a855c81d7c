//! The intake: what it reaches with records and requests of different sizes.
//!
//! A new process for each case, so that its memory is of that case alone. Upload and import rest: what is measured is the
//! way from the request to the disk.

pub mod overload;
pub mod tenant;

use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};
use stream_tests::client::{Api, Source};
use stream_tests::scratch::Scratch;
use stream_tests::service::Service;
use stream_tests::setup::Setup;

use crate::args::Args;
use crate::bench::{self, Mapping};
use crate::body;
use crate::load::{self, Load, Measured};
use crate::machine;
use crate::report::{millis, percent};
use crate::target::Target;

/// How long a case is warmed up.
const WARM_UP: Duration = Duration::from_secs(1);
/// Bodies, records and rows of the largest requests must find room.
const IN_FLIGHT: &str = "1GB";

/// What to measure.
#[derive(Debug)]
pub struct Options {
    bytes: Vec<u64>,
    batches: Vec<u64>,
    sinks: Vec<u64>,
    duration: Duration,
    mapping: Mapping,
}

impl Options {
    /// Takes them from the command line.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn read(mut args: Args) -> anyhow::Result<Self> {
        let options = Self {
            bytes: args.numbers("--body-bytes", &[100, 1_024, 10_000])?,
            batches: args.numbers("--batch", &[1, 100, 1_000])?,
            sinks: args.numbers("--sinks", &[1, 3])?,
            duration: args.duration("--duration", Duration::from_secs(20))?,
            mapping: Mapping::read(&mut args),
        };
        args.finish()?;
        Ok(options)
    }

    fn cases(&self) -> Vec<Case> {
        let mut cases = Vec::new();
        for &sinks in &self.sinks {
            for &batch in &self.batches {
                cases.extend(self.bytes.iter().map(|&bytes| Case {
                    bytes,
                    batch,
                    sinks,
                }));
            }
        }
        cases
    }
}

/// One size of everything.
#[derive(Debug, Clone, Copy)]
struct Case {
    bytes: u64,
    batch: u64,
    sinks: u64,
}

impl Case {
    /// Fewer connections for larger requests: what is under way is about the same.
    const fn connections(self) -> u64 {
        match self.batch {
            1..10 => 256,
            10..500 => 32,
            _ => 8,
        }
    }
}

/// Measures all cases and prints a table.
///
/// # Errors
/// When the service cannot be started, or accepts nothing.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let runtime = crate::runtime()?;
    println!("{}", header(options));
    for case in options.cases() {
        let scratch = Scratch::new()?;
        let row = runtime.block_on(measure(case, options, scratch.path()))?;
        println!("{row}");
    }
    Ok(())
}

async fn measure(case: Case, options: &Options, dir: &Path) -> anyhow::Result<String> {
    let setup =
        bench::without_import(Setup::new(dir)?).env("SOURCE_HTTP_IN_FLIGHT_BYTES", IN_FLIGHT);
    let mut service = Service::start(setup).await?;
    let source = bench::create_source(&service, "bench", case.sinks, options.mapping).await?;
    let target = target(&service, &source)?;
    let bytes = usize::try_from(case.bytes)?;
    let requests = body::requests(&target, bytes, usize::try_from(case.batch)?);
    let load = |duration| Load {
        target: target.clone(),
        requests: requests.clone(),
        rate: 0,
        connections: case.connections(),
        duration,
        batch: case.batch,
    };
    load::run(load(WARM_UP)).await?;
    let before = machine::cpu_seconds(service.pid())?;
    let measured = load::run(load(options.duration)).await?;
    let cpu = machine::cpu_seconds(service.pid())? - before;
    let memory = machine::anonymous_memory(service.pid())?;
    let statuses = &measured.statuses;
    ensure!(measured.ok() > 0, "nothing was accepted: {statuses:?}");
    service.stop().await?;
    Ok(row(case, &measured, cpu, memory))
}

/// Where records of a source are sent.
fn target(service: &Service, source: &Source) -> anyhow::Result<Target> {
    let address = service.setup().source_address();
    Target::parse(&format!("http://{address}{}", source.path))
}

/// Sets the rate limit of a source.
async fn limit(api: &Api, source: &Source, records: u64) -> anyhow::Result<()> {
    let key = "source.http.rateLimit.recordsPerSecond";
    let body: Value = json!({"settings": [{"key": key, "value": records}]});
    let path = format!("/v1/branches/default/sources/{}/settings", source.id);
    api.done("PATCH".parse()?, &path, &body).await.map(|_| ())
}

fn header(options: &Options) -> String {
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!(
        "{cpus} CPUs, generator on the same machine, durability disk, zstd 1, upload and import paused; {} s a case.\n\n\
         | record | records a request | sinks | connections | requests/s | records/s | MB/s | p50 | p99 | p99.9 | not 2xx \
         | CPU s a million records | CPU of generator | CPU pressure | memory |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
        options.duration.as_secs_f64()
    )
}

fn row(case: Case, measured: &Measured, cpu: f64, memory: u64) -> String {
    let seconds = measured.elapsed.as_secs_f64();
    let records = measured.records as f64;
    let latency = |per_mille| millis(measured.latency.per_mille(per_mille));
    let cells = [
        format!("{} B", case.bytes),
        case.batch.to_string(),
        case.sinks.to_string(),
        case.connections().to_string(),
        format!("{:.0}", measured.rate()),
        format!("{:.0}", records / seconds),
        format!("{:.1}", records * case.bytes as f64 / 1e6 / seconds),
        latency(500),
        latency(990),
        latency(999),
        (measured.sent - measured.ok()).to_string(),
        format!("{:.1}", cpu * 1e6 / records),
        percent(Some(measured.own_cpu / seconds)),
        percent(measured.cpu_pressure),
        format!("{:.0} MiB", memory as f64 / f64::from(1 << 20)),
    ];
    format!("| {} |", cells.join(" | "))
}
