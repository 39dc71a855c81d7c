//! The whole benchmark in one run: the disk alone, a bare server, and the service, one after the other, several times.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;
use stream_tests::client::{Connection, PATIENCE, PAUSE, Source};
use stream_tests::scratch::Scratch;
use stream_tests::service::Service;
use stream_tests::setup::Setup;
use stream_tests_etcd::free_port::free_port;
use tokio::time::{Instant, sleep};

use crate::args::Args;
use crate::body;
use crate::load::{self, Load};
use crate::machine::{self, Disk};
use crate::report::millis;
use crate::series::{self, Series};
use crate::target::Target;

/// How long the disk is measured.
pub const DISK: Duration = Duration::from_secs(2);
/// How long each server is warmed up, once.
const WARM_UP: Duration = Duration::from_secs(2);

/// What to measure.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    repeats: u64,
    duration: Duration,
    connections: u64,
    bytes: usize,
    rate: u64,
    import: Import,
    mapping: Mapping,
}

/// How the records become rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapping {
    /// By paths.
    Paths,
    /// Also by templates that need the interpreter.
    Templates,
}

impl Mapping {
    /// Takes it from the command line.
    pub fn read(args: &mut Args) -> Self {
        match args.switch("--jsonnet") {
            true => Self::Templates,
            false => Self::Paths,
        }
    }

    /// In a heading.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Paths => "columns by paths",
            Self::Templates => "columns by paths and two templates",
        }
    }
}

/// What happens behind the journal meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Import {
    /// Triggers that no run reaches.
    Paused,
    /// The defaults.
    Default,
}

impl Import {
    /// Takes it from the command line.
    pub fn read(args: &mut Args) -> Self {
        match args.switch("--with-import") {
            true => Self::Default,
            false => Self::Paused,
        }
    }

    /// A service that does so.
    pub fn apply(self, setup: Setup) -> Setup {
        match self {
            Self::Default => setup,
            Self::Paused => without_import(setup),
        }
    }

    /// In a heading.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::Default => "at its defaults",
        }
    }
}

impl Options {
    /// Takes them from the command line.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn read(mut args: Args) -> anyhow::Result<Self> {
        let options = Self {
            repeats: args.number("--repeats", 3, 1)?,
            duration: args.duration("--duration", Duration::from_secs(8))?,
            connections: args.number("--connections", 256, 1)?,
            bytes: usize::try_from(args.number("--body-bytes", 1_024, 1)?)?,
            rate: args.number("--rate", 10_000, 1)?,
            import: Import::read(&mut args),
            mapping: Mapping::read(&mut args),
        };
        args.finish()?;
        Ok(options)
    }
}

/// Measures everything and prints a table.
///
/// # Errors
/// When something cannot be started.
pub fn run(options: Options) -> anyhow::Result<()> {
    let scratch = Scratch::new()?;
    let disk = machine::measure_disk(scratch.path(), machine::PAGE, DISK)?;
    let runtime = crate::runtime()?;
    let series = runtime.block_on(measure(options, scratch.path()))?;
    println!("{}", table(options, &disk, &series));
    Ok(())
}

async fn measure(options: Options, dir: &Path) -> anyhow::Result<Vec<Series>> {
    let bare = Bare::start().await?;
    let mut service = Service::start(setup(options, dir)?).await?;
    let url = create_sink(&service, options.mapping).await?;
    let target = Target::parse(&format!("http://{}{url}", service.setup().source_address()))?;
    let (closed, fixed) = ("as fast as answered", format!("{}/s", options.rate));
    let mut series = [
        (
            format!("bare hyper, {closed}"),
            &bare.target,
            bare.child.id(),
            0,
        ),
        (format!("service, {closed}"), &target, service.pid(), 0),
        (
            format!("service, {fixed}"),
            &target,
            service.pid(),
            options.rate,
        ),
    ]
    .map(|(name, target, pid, rate)| (Series::new(name), target, pid, rate));
    for (_, target, _, rate) in &series[..2] {
        load::run(options.load(target, *rate, WARM_UP)).await?;
    }
    for repeat in 1..=options.repeats {
        for (series, target, pid, rate) in &mut series {
            eprintln!("{} ({repeat}/{})", series.name(), options.repeats);
            let load = options.load(target, *rate, options.duration);
            series.measure(load, *pid).await?;
        }
    }
    let result = series.map(|(series, ..)| series).into();
    service.stop().await?;
    Ok(result)
}

impl Options {
    fn load(&self, target: &Target, rate: u64, duration: Duration) -> Load {
        Load {
            requests: body::requests(target, self.bytes, 1),
            target: target.clone(),
            rate,
            connections: self.connections,
            duration,
            batch: 1,
        }
    }
}

fn setup(options: Options, dir: &Path) -> anyhow::Result<Setup> {
    Ok(options.import.apply(Setup::new(dir)?))
}

/// With triggers that no run reaches.
pub fn without_import(setup: Setup) -> Setup {
    let triggers = [
        ("STAGING_UPLOAD_TRIGGER_COUNT", "10000000"),
        ("STAGING_UPLOAD_TRIGGER_SIZE", "50MB"),
        ("STAGING_UPLOAD_TRIGGER_INTERVAL", "30m"),
        ("TARGET_IMPORT_TRIGGER_COUNT", "10000000"),
        ("TARGET_IMPORT_TRIGGER_SIZE", "500MB"),
        ("TARGET_IMPORT_TRIGGER_INTERVAL", "24h"),
    ];
    let set = |setup: Setup, (name, value): (&str, &str)| {
        setup.env(&format!("STORAGE_LEVEL_{name}"), value)
    };
    triggers.into_iter().fold(setup, set)
}

/// Creates a source with one sink of path columns and gives the path of its URL.
async fn create_sink(service: &Service, mapping: Mapping) -> anyhow::Result<String> {
    let source = create_source(service, "bench", 1, mapping).await?;
    Ok(source.path)
}

/// Creates a source with so many sinks, in tables named `<id>-1` and so on.
pub async fn create_source(
    service: &Service,
    id: &str,
    sinks: u64,
    mapping: Mapping,
) -> anyhow::Result<Source> {
    let api = service.api()?;
    let source = api.create_source(id).await?;
    let path = |name: &str, path: &str| json!({"type": "path", "name": name, "path": path, "rawString": true, "defaultValue": ""});
    let template = |name: &str, content: &str| {
        let template = json!({"language": "jsonnet", "content": content});
        json!({"type": "template", "name": name, "template": template, "rawString": true})
    };
    let mut columns = vec![
        json!({"type": "uuid", "name": "uuid"}),
        json!({"type": "datetime", "name": "received"}),
        path("id", "id"),
        path("type", "type"),
        path("actor", "actor.name"),
        path("amount", "data.amount"),
        path("currency", "data.currency"),
        path("text", "text"),
    ];
    if mapping == Mapping::Templates {
        columns.extend([
            template("label", "Body('type', 'event') + ' of ' + Body('actor.name', 'nobody')"),
            template(
                "summary",
                "local d = Body('data', {amount: 0, paid: false}); {total: d.amount / 100, paid: d.paid, text: std.length(Body('text'))}",
            ),
        ]);
    }
    for number in 1..=sinks {
        let table = format!("{id}-{number}");
        api.create_sink(&source, &table, &columns).await?;
    }
    Ok(source)
}

/// The bare server, in a process of its own.
pub struct Bare {
    child: Child,
    /// Where it listens.
    pub target: Target,
}

impl Bare {
    /// Starts it.
    ///
    /// # Errors
    /// When it does not listen in time.
    pub async fn start() -> anyhow::Result<Self> {
        let port = free_port()?;
        let child = Command::new(std::env::current_exe()?)
            .args(["bare", "--port", &port.to_string()])
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start the bare server")?;
        let bare = Self {
            child,
            target: Target::parse(&format!("http://127.0.0.1:{port}/"))?,
        };
        let deadline = Instant::now() + PATIENCE;
        while Connection::open(bare.target.address).await.is_err() {
            ensure!(Instant::now() < deadline, "the bare server does not listen");
            sleep(PAUSE).await;
        }
        Ok(bare)
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the disk does by itself.
pub fn disk_line(disk: &Disk) -> String {
    format!(
        "fdatasync of 4 KiB, disk alone: {:.0}/s, p50 {}, p99 {}",
        disk.syncs_per_second,
        millis(disk.latency.per_mille(500)),
        millis(disk.latency.per_mille(990))
    )
}

fn table(options: Options, disk: &Disk, series: &[Series]) -> String {
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let import = options.import.name();
    let mapping = options.mapping.name();
    let mut lines = vec![
        format!(
            "{cpus} CPUs, generator on the same machine, {} B records, one per request, {} connections, \
             durability disk, one sink, {mapping}, zstd 1, upload and import {import}; medians of {} runs of {} s.",
            options.bytes,
            options.connections,
            options.repeats,
            options.duration.as_secs_f64()
        ),
        String::new(),
        disk_line(disk),
        String::new(),
        series::HEAD.to_owned(),
    ];
    lines.extend(series.iter().map(Series::row));
    if let [bare, service, ..] = series {
        let share = service.rate() / bare.rate().max(f64::EPSILON);
        lines.push(String::new());
        lines.push(format!(
            "The service reaches {:.0} % of the bare server.",
            share * 100.0
        ));
    }
    lines.join("\n")
}

/// The middle one, or the mean of the two in the middle.
pub fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        len if len % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}
