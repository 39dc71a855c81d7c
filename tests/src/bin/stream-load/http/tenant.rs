//! A source beside one that sends far more than it may: what the neighbour feels of it.
//!
//! Alone and disturbed in turn, several times, on one process: what else happens on the machine hits both.

use std::time::Duration;

use anyhow::ensure;
use stream_tests::scratch::Scratch;
use stream_tests::service::Service;
use stream_tests::setup::Setup;

use super::{limit, target};
use crate::args::Args;
use crate::bench::{self, Mapping, middle};
use crate::body;
use crate::load::{self, Load, Measured};
use crate::report::{millis, percent};
use crate::target::Target;

/// How long the process is warmed up.
const WARM_UP: Duration = Duration::from_secs(1);
const NEIGHBOUR_CONNECTIONS: u64 = 16;
const TENANT_CONNECTIONS: u64 = 128;

/// What to send.
#[derive(Debug)]
pub struct Options {
    rate: u64,
    limit: u64,
    times: u64,
    bytes: usize,
    repeats: u64,
    duration: Duration,
}

impl Options {
    /// Takes them from the command line.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn read(mut args: Args) -> anyhow::Result<Self> {
        let options = Self {
            rate: args.number("--rate", 500, 1)?,
            limit: args.number("--limit", 200, 1)?,
            times: args.number("--times", 50, 1)?,
            bytes: usize::try_from(args.number("--body-bytes", 1_024, 1)?)?,
            repeats: args.number("--repeats", 5, 1)?,
            duration: args.duration("--duration", Duration::from_secs(20))?,
        };
        args.finish()?;
        Ok(options)
    }

    fn load(&self, target: &Target, rate: u64, connections: u64, duration: Duration) -> Load {
        Load {
            requests: body::requests(target, self.bytes, 1),
            target: target.clone(),
            rate,
            connections,
            duration,
            batch: 1,
        }
    }
}

/// The neighbour's measurements, and those of the tenant that disturbs it.
#[derive(Default)]
struct Runs {
    alone: Vec<Measured>,
    disturbed: Vec<Measured>,
    tenant: Vec<Measured>,
}

/// Measures it and prints a table.
///
/// # Errors
/// When a request of the neighbour is refused.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let scratch = Scratch::new()?;
    let runs = crate::runtime()?.block_on(async {
        let setup = bench::without_import(Setup::new(scratch.path())?);
        let mut service = Service::start(setup).await?;
        let neighbour = bench::create_source(&service, "neighbour", 1, Mapping::Paths).await?;
        let tenant = bench::create_source(&service, "tenant", 1, Mapping::Paths).await?;
        limit(&service.api()?, &tenant, options.limit).await?;
        let targets = [target(&service, &neighbour)?, target(&service, &tenant)?];
        let runs = measure(options, &targets).await?;
        service.stop().await?;
        anyhow::Ok(runs)
    })?;
    println!("{}", table(options, &runs));
    let refused: u64 = runs.disturbed.iter().map(|run| run.sent - run.ok()).sum();
    ensure!(refused == 0, "{refused} requests of the neighbour failed");
    Ok(())
}

async fn measure(options: &Options, [neighbour, tenant]: &[Target; 2]) -> anyhow::Result<Runs> {
    let quiet = |duration| options.load(neighbour, options.rate, NEIGHBOUR_CONNECTIONS, duration);
    load::run(quiet(WARM_UP)).await?;
    let mut runs = Runs::default();
    for repeat in 1..=options.repeats {
        eprintln!("tenant ({repeat}/{})", options.repeats);
        runs.alone.push(load::run(quiet(options.duration)).await?);
        let flood = options.limit * options.times;
        let flood = options.load(tenant, flood, TENANT_CONNECTIONS, options.duration);
        let (disturbed, tenant) =
            tokio::try_join!(load::run(quiet(options.duration)), load::run(flood))?;
        runs.disturbed.push(disturbed);
        runs.tenant.push(tenant);
    }
    Ok(runs)
}

fn table(options: &Options, runs: &Runs) -> String {
    let row = |name: &str, runs: &[Measured]| {
        let of = |value: &dyn Fn(&Measured) -> f64| middle(runs.iter().map(value).collect());
        let latency = |per_mille| {
            let seconds = of(&|run| run.latency.per_mille(per_mille).as_secs_f64());
            millis(Duration::from_secs_f64(seconds))
        };
        let refused = of(&|run| run.refused() as f64 / run.elapsed.as_secs_f64());
        format!(
            "| {name} | {:.0} | {refused:.0} | {} | {} | {} | {} |",
            of(&Measured::rate),
            latency(500),
            latency(990),
            latency(999),
            percent(Some(of(&|run| run.cpu_pressure.unwrap_or_default()))),
        )
    };
    let p99 = |runs: &[Measured]| {
        middle(
            runs.iter()
                .map(|run| run.latency.per_mille(990).as_secs_f64())
                .collect(),
        )
    };
    format!(
        "The neighbour sends {} requests/s; the tenant has a limit of {} records/s and sends {} times as many. {} B, medians of \
         {} runs of {} s.\n\n\
         | | accepted/s | refused/s | p50 | p99 | p99.9 | CPU pressure |\n|---|---|---|---|---|---|---|\n{}\n{}\n{}\n\n\
         The p99 of the neighbour beside the tenant is {:.2} times that of the neighbour alone.",
        options.rate,
        options.limit,
        options.times,
        options.bytes,
        options.repeats,
        options.duration.as_secs_f64(),
        row("neighbour alone", &runs.alone),
        row("neighbour beside the tenant", &runs.disturbed),
        row("tenant", &runs.tenant),
        p99(&runs.disturbed) / p99(&runs.alone).max(f64::EPSILON),
    )
}
