//! The intake: what it reaches with records and requests of different sizes, beside a bare server and the disk.
//!
//! A new process for each run, so that its memory is of that case alone. By default upload and import rest: what is measured
//! is the way from the request to the disk. The bare server gets the same requests over as many connections, before each case.

pub mod overload;
pub mod tenant;

use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};
use stream_tests::client::{Api, PATIENCE, Source};
use stream_tests::scratch::Scratch;
use stream_tests::service::Service;
use stream_tests::setup::Setup;
use stream_tests::table::Tables;
use tokio::time::{Instant, sleep};

use crate::args::Args;
use crate::bench::{self, Bare, Import, Mapping, middle};
use crate::body;
use crate::load::{self, Load, Measured};
use crate::machine;
use crate::report::{millis, percent};
use crate::target::Target;

/// How long a server is warmed up.
const WARM_UP: Duration = Duration::from_secs(1);
/// Bodies, records and rows of the largest requests must find room.
const IN_FLIGHT: &str = "1GB";
/// The bare server is measured no longer than that: nothing in it changes with time.
const BARE: Duration = Duration::from_secs(5);
/// How often the table is asked whether it has all rows.
const LOOK: Duration = Duration::from_millis(200);

/// What to measure.
#[derive(Debug)]
pub struct Options {
    bytes: Vec<u64>,
    batches: Vec<u64>,
    sinks: Vec<u64>,
    repeats: u64,
    duration: Duration,
    mapping: Mapping,
    import: Import,
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
            repeats: args.number("--repeats", 1, 1)?,
            duration: args.duration("--duration", Duration::from_secs(20))?,
            mapping: Mapping::read(&mut args),
            import: Import::read(&mut args),
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

    fn load(self, target: &Target, duration: Duration) -> anyhow::Result<Load> {
        let (bytes, batch) = (usize::try_from(self.bytes)?, usize::try_from(self.batch)?);
        Ok(Load {
            target: target.clone(),
            requests: body::requests(target, bytes, batch),
            rate: 0,
            connections: self.connections(),
            duration,
            batch: self.batch,
        })
    }
}

/// One measurement of the service, and of the bare server before it.
struct Run {
    measured: Measured,
    /// CPU seconds of the service.
    cpu: f64,
    /// Its anonymous memory at the end, in bytes.
    memory: u64,
    /// Requests a second of the bare server.
    bare: f64,
    /// Rows a second that were in the table in the end, until the last one was; none when imports rest.
    imported: Option<f64>,
}

/// Measures all cases and prints a table.
///
/// # Errors
/// When the service cannot be started, or accepts nothing.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let runtime = crate::runtime()?;
    let scratch = Scratch::new()?;
    let disk = machine::measure_disk(scratch.path(), machine::PAGE, bench::DISK)?;
    println!("{}", header(options, &bench::disk_line(&disk)));
    for case in options.cases() {
        let mut runs = Vec::new();
        for _ in 0..options.repeats {
            let scratch = Scratch::new()?;
            runs.push(runtime.block_on(measure(case, options, scratch.path()))?);
        }
        println!("{}", row(case, options, &runs));
    }
    Ok(())
}

async fn measure(case: Case, options: &Options, dir: &Path) -> anyhow::Result<Run> {
    let bare = measure_bare(case, options).await?;
    let setup = Setup::new(dir)?.env("SOURCE_HTTP_IN_FLIGHT_BYTES", IN_FLIGHT);
    let mut service = Service::start(options.import.apply(setup)).await?;
    let source = bench::create_source(&service, "bench", case.sinks, options.mapping).await?;
    let target = target(&service, &source)?;
    let warm_up = load::run(case.load(&target, WARM_UP)?).await?;
    let (before, started) = (machine::cpu_seconds(service.pid())?, Instant::now());
    let measured = load::run(case.load(&target, options.duration)?).await?;
    let cpu = machine::cpu_seconds(service.pid())? - before;
    let memory = machine::anonymous_memory(service.pid())?;
    let statuses = &measured.statuses;
    ensure!(measured.ok() > 0, "nothing was accepted: {statuses:?}");
    let imported = match options.import {
        Import::Paused => None,
        Import::Default => {
            let tables = service.setup().tables();
            await_rows(&tables, case.sinks, warm_up.records + measured.records).await?;
            Some(measured.records as f64 / started.elapsed().as_secs_f64())
        }
    };
    service.stop().await?;
    Ok(Run {
        measured,
        cpu,
        memory,
        bare,
        imported,
    })
}

async fn measure_bare(case: Case, options: &Options) -> anyhow::Result<f64> {
    let bare = Bare::start().await?;
    load::run(case.load(&bare.target, WARM_UP)?).await?;
    let duration = options.duration.min(BARE);
    let measured = load::run(case.load(&bare.target, duration)?).await?;
    Ok(measured.rate())
}

/// Waits until each table has so many rows.
async fn await_rows(tables: &Path, sinks: u64, rows: u64) -> anyhow::Result<()> {
    let rows = i64::try_from(rows)?;
    for sink in 1..=sinks {
        let table = format!("bench-{sink}");
        let (mut seen, mut moved) = (0, Instant::now());
        while seen < rows {
            sleep(LOOK).await;
            let now = Tables::open(tables)?.last_row(&table)?;
            if now > seen {
                (seen, moved) = (now, Instant::now());
            }
            ensure!(
                moved.elapsed() < PATIENCE,
                "{table} stays at {seen} of {rows} rows"
            );
        }
    }
    Ok(())
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

fn header(options: &Options, disk: &str) -> String {
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let (mapping, import) = (options.mapping.name(), options.import.name());
    let (seconds, repeats) = (options.duration.as_secs_f64(), options.repeats);
    let imported = match options.import {
        Import::Paused => "",
        Import::Default => " records/s until all are in the table |",
    };
    let columns = 15 + usize::from(options.import == Import::Default);
    format!(
        "{cpus} CPUs, generator on the same machine, durability disk, {mapping}, zstd 1, upload and import {import}; medians of \
         {repeats} runs of {seconds} s for each case.\n\n{disk}\n\n\
         | record | records a request | sinks | connections | requests/s | of bare hyper | records/s | MB/s | p50 | p99 | p99.9 \
         | not 2xx | CPU s a million records | CPU pressure | memory |{imported}\n{}|",
        "|---".repeat(columns)
    )
}

fn row(case: Case, options: &Options, runs: &[Run]) -> String {
    let of = |value: &dyn Fn(&Run) -> f64| middle(runs.iter().map(value).collect());
    let latency = |per_mille| {
        let seconds = of(&|run| run.measured.latency.per_mille(per_mille).as_secs_f64());
        millis(Duration::from_secs_f64(seconds))
    };
    let records = of(&|run| run.measured.records as f64 / run.measured.elapsed.as_secs_f64());
    let refused = runs.iter().map(|run| run.measured.sent - run.measured.ok());
    let mut cells = vec![
        format!("{} B", case.bytes),
        case.batch.to_string(),
        case.sinks.to_string(),
        case.connections().to_string(),
        format!("{:.0}", of(&|run| run.measured.rate())),
        percent(Some(of(&|run| run.measured.rate() / run.bare.max(1.0)))),
        format!("{records:.0}"),
        format!("{:.1}", records * case.bytes as f64 / 1e6),
        latency(500),
        latency(990),
        latency(999),
        refused.sum::<u64>().to_string(),
        format!(
            "{:.1}",
            of(&|run| run.cpu * 1e6 / run.measured.records as f64)
        ),
        percent(
            runs.iter()
                .all(|run| run.measured.cpu_pressure.is_some())
                .then(|| of(&|run| run.measured.cpu_pressure.unwrap_or_default())),
        ),
        format!(
            "{:.0} MiB",
            of(&|run| run.memory as f64) / f64::from(1 << 20)
        ),
    ];
    if options.import == Import::Default {
        cells.push(format!(
            "{:.0}",
            of(&|run| run.imported.unwrap_or_default())
        ));
    }
    format!("| {} |", cells.join(" | "))
}
