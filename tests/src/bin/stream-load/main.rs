//! Load generator and benchmark of the service.
//!
//! Without a word it sends records to a URL. `bench` starts the service that was built with it and measures it beside a
//! bare server and the disk, all in one run, because no figure of a shared machine means anything alone. `state` measures
//! what the state costs, `api` the configuration API with many definitions. `http`, `overload` and `tenant` measure the
//! intake in all its sizes and beyond its limits. `keys` measures what idempotency keys cost, in a volume and in the service.
//! `volume` and `recovery` need no service: they measure a volume in this process.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a tool that prints, and joins what it spawns"
)]
#![allow(
    clippy::cast_precision_loss,
    reason = "figures for people have three digits"
)]

mod api;
mod args;
mod bare;
mod bench;
mod body;
mod frames;
mod histogram;
mod http;
mod keys;
mod load;
mod machine;
mod recovery;
mod report;
mod series;
mod state;
mod target;
mod volume;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::args::Args;
use crate::load::Load;
use crate::target::Target;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let mut args = Args::parse(std::env::args().skip(1))?;
    if args.switch("--help") {
        print!("{}", args::HELP);
        return Ok(());
    }
    let words: Vec<&str> = args.words.iter().map(String::as_str).collect();
    match words[..] {
        [] => send(args),
        ["bare"] => {
            let port = args.number("--port", 0, 1)?;
            args.finish()?;
            let port = u16::try_from(port).ok().filter(|port| *port > 0);
            let port = port.context("bare needs --port, from 1 to 65535")?;
            tokio::runtime::Runtime::new()?.block_on(bare::serve(port))
        }
        ["http"] => http::run(&http::Options::read(args)?),
        ["overload"] => http::overload::run(&http::overload::Options::read(args)?),
        ["tenant"] => http::tenant::run(&http::tenant::Options::read(args)?),
        ["bench"] => bench::run(bench::Options::read(args)?),
        ["api"] => api::run(api::Options::read(args)?),
        ["state"] => state::run(state::Options::read(args)?),
        ["volume"] => volume::run(&volume::Options::read(args)?),
        ["volume-case"] => volume::run_case(args),
        ["keys"] => keys::run(&keys::Options::read(args)?),
        ["keys-measure"] => keys::run_measure(args),
        ["keys-fill"] => keys::run_fill(args),
        ["recovery"] => recovery::run(&recovery::Options::read(args)?),
        ["recovery-fill"] => recovery::run_fill(args),
        ["recovery-open"] => recovery::run_open(args),
        _ => bail!(
            "unknown command {:?}; see stream-load --help",
            args.words.join(" ")
        ),
    }
}

fn send(mut args: Args) -> anyhow::Result<()> {
    let url = args
        .text("--url")
        .context("--url is missing; see stream-load --help")?;
    let target = Target::parse(&url)?;
    let bytes = usize::try_from(args.number("--body-bytes", 1_024, 1)?)?;
    let batch = args.number("--batch", 1, 1)?;
    let load = Load {
        requests: body::requests(&target, bytes, usize::try_from(batch)?),
        target,
        rate: args.number("--rate", 0, 0)?,
        connections: args.number("--connections", 256, 1)?,
        duration: args.duration("--duration", Duration::from_secs(20))?,
        batch,
    };
    let as_json = args.switch("--json");
    args.finish()?;
    let measured = runtime()?.block_on(load::run(load))?;
    if as_json {
        println!("{:#}", report::json(&measured));
    } else {
        print!("{}", report::text(&measured));
    }
    Ok(())
}

/// One thread: the generator must not take more of the machine than it needs.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.context("cannot start the runtime")
}
