//! More than the limit of a source allows: what gets through, what the refused are told and when, and whether everything
//! that was accepted is in the table.

use std::time::Duration;

use anyhow::ensure;
use stream_tests::client::PAUSE;
use stream_tests::scratch::Scratch;
use stream_tests::service::Service;
use stream_tests::setup::Setup;
use stream_tests::table::Tables;
use tokio::time::{Instant, sleep};

use super::{limit, target};
use crate::args::Args;
use crate::bench::{self, Mapping};
use crate::body;
use crate::load::{self, Load, Measured};
use crate::machine;
use crate::report::{millis, percent};

/// How long the import of the last record may take.
const IMPORTED_WITHIN: Duration = Duration::from_secs(120);
const TABLE: &str = "overload-1";

/// What to offer.
#[derive(Debug)]
pub struct Options {
    limit: u64,
    rate: u64,
    connections: u64,
    bytes: usize,
    duration: Duration,
}

impl Options {
    /// Takes them from the command line.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn read(mut args: Args) -> anyhow::Result<Self> {
        let options = Self {
            limit: args.number("--limit", 2_000, 1)?,
            rate: args.number("--rate", 10_000, 1)?,
            connections: args.number("--connections", 256, 1)?,
            bytes: usize::try_from(args.number("--body-bytes", 1_024, 1)?)?,
            duration: args.duration("--duration", Duration::from_secs(20))?,
        };
        args.finish()?;
        Ok(options)
    }
}

/// Offers it, waits for the table, and prints what came of it.
///
/// # Errors
/// When something was accepted and is not in the table.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let scratch = Scratch::new()?;
    crate::runtime()?.block_on(async {
        let setup = Setup::new(scratch.path())?.importing_each_second();
        let mut service = Service::start(setup).await?;
        let source = bench::create_source(&service, "overload", 1, Mapping::Paths).await?;
        limit(&service.api()?, &source, options.limit).await?;
        let target = target(&service, &source)?;
        let before = machine::cpu_seconds(service.pid())?;
        let measured = load::run(Load {
            requests: body::requests(&target, options.bytes, 1),
            target,
            rate: options.rate,
            connections: options.connections,
            duration: options.duration,
            batch: 1,
        })
        .await?;
        let cpu = machine::cpu_seconds(service.pid())? - before;
        let rows = rows(&service, measured.ok()).await?;
        service.stop().await?;
        println!("{}", table(options, &measured, cpu, rows));
        judge(&measured, rows)
    })
}

/// Rows of the table once all that was accepted is there, or the time is over.
async fn rows(service: &Service, accepted: u64) -> anyhow::Result<u64> {
    let deadline = Instant::now() + IMPORTED_WITHIN;
    loop {
        let tables = Tables::open(&service.setup().tables());
        let rows = tables.and_then(|tables| tables.rows(TABLE)).unwrap_or(0);
        let rows = u64::try_from(rows)?;
        if rows >= accepted || Instant::now() > deadline {
            return Ok(rows);
        }
        sleep(PAUSE).await;
    }
}

/// Without an answer it is open whether a record was accepted; all others must be right.
fn judge(measured: &Measured, rows: u64) -> anyhow::Result<()> {
    let accepted = measured.ok();
    ensure!(
        rows >= accepted,
        "{} accepted records are lost",
        accepted - rows
    );
    let most = accepted + measured.failed;
    ensure!(rows <= most, "{} rows are nobody's", rows - most);
    Ok(())
}

fn table(options: &Options, measured: &Measured, cpu: f64, rows: u64) -> String {
    let seconds = measured.elapsed.as_secs_f64();
    let both = |histogram: &crate::histogram::Histogram| {
        let at = |per_mille| millis(histogram.per_mille(per_mille));
        format!("{} | {}", at(500), at(990))
    };
    let lost = measured.ok().saturating_sub(rows);
    format!(
        "A source with a limit of {} records/s is offered {} requests/s, open loop, for {} s, {} B, {} connections.\n\n\
         | offered/s | accepted/s | accepted p50 | p99 | refused/s | refused p50 | p99 | other | without answer \
         | accepted and lost | CPU of server | CPU pressure |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|\n\
         | {:.0} | {:.0} | {} | {:.0} | {} | {} | {} | {lost} | {} | {} |\n\n\
         The first second's worth passes at once: {} records more than the limit over the whole time.",
        options.limit,
        options.rate,
        options.duration.as_secs_f64(),
        options.bytes,
        options.connections,
        measured.sent as f64 / seconds,
        measured.rate(),
        both(&measured.latency),
        measured.refused() as f64 / seconds,
        both(&measured.refusal),
        measured.sent - measured.ok() - measured.refused() - measured.failed,
        measured.failed,
        percent(Some(cpu / seconds)),
        percent(measured.cpu_pressure),
        options.limit,
    )
}
