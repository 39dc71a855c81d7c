//! Stream service: takes records over HTTP, keeps each one durably, and imports them into tables exactly once.
//!
//! This binary holds every component; its arguments choose which of them run. See `docs/architecture.md`.

mod banner;
mod component;
mod config;
mod evaluator;
mod forget;
mod network;
mod state;
mod token;
mod volume;
mod wiring;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use stream_node::{DumpFormat, Help, Layers, ParsedFlags};

use crate::config::Config;

/// The version, as shown everywhere.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

const HELP: Help = Help {
    program: "stream-service",
    about: "Takes records over HTTP, keeps each one durably, and imports them into tables exactly once.",
    words: "COMPONENT|COMMAND",
    words_help: "Components, any number of them:
  all                  every component in this process
  api                  configuration API
  http-source          receives records
  storage-writer       keeps records on local volumes
  storage-reader       uploads them to staging
  storage-coordinator  decides when to upload and import
Commands, instead of components:
  config print         every key with its value and origin
  check                checks the configuration
  state dump [json]    prints the state, as a tree or as JSON Lines
  state check          checks every rule of the state, exits with 1 when one is broken
  volume inspect PATH  prints what is on a volume, or on all below a directory, without the service
  volume verify PATH   checks every checksum on them, exits with 1 when something is damaged
  volume forget ID     says what is lost with a volume whose disk is gone; with \"confirm\" gives it up
  token create ROLE    makes an API token, role admin or read-only; words behind it are its description
  token list           shows all API tokens, not their secrets
  token revoke ID      makes one worthless
  version              prints the version",
    after: "",
    describe: |_| None,
};

fn main() -> ExitCode {
    if let Some(memory) = evaluator::requested(std::env::args_os()) {
        return evaluator::run(memory);
    }
    match run() {
        Ok(code) => code,
        Err(error) => {
            // The logger may not exist yet, and this must be the last thing that is seen.
            let _ = writeln!(std::io::stderr(), "Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What the process is asked to do.
enum Command {
    Print(String),
    State(Box<Config>, state::Look),
    Volume(volume::Look),
    Forget(Box<Config>, forget::Forget),
    Token(Box<Config>, token::Order),
    Serve(
        Box<Config>,
        std::collections::BTreeSet<component::Component>,
        Vec<String>,
        String,
    ),
}

fn run() -> anyhow::Result<ExitCode> {
    match command()? {
        Command::Print(text) => {
            std::io::stdout()
                .write_all(text.as_bytes())
                .context("cannot write to standard output")?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Volume(look) => volume::run(&look),
        Command::Forget(config, order) => runtime()?.block_on(forget::run(&config, order)),
        Command::Token(config, order) => runtime()?.block_on(token::run(&config, order)),
        Command::State(config, look) => runtime()?.block_on(state::run(&config, look)),
        Command::Serve(config, components, warnings, shown) => {
            stream_node::init_logging(config.log.format, &config.log.level)?;
            stream_storage::crash::arm(stream_state::crash::NAMES).map_err(anyhow::Error::msg)?;
            for warning in warnings {
                tracing::warn!(detail = %warning, "environment variable ignored");
            }
            let names: Vec<_> = components
                .iter()
                .map(|component| component.name())
                .collect();
            tracing::info!("enabled components: {}", names.join(", "));
            tracing::info!("configuration: {shown}");
            wiring::raise_file_limit();
            let runtime = runtime()?;
            let result = runtime.block_on(wiring::serve(*config, components));
            // What is still running belongs to clients that were cut off; nothing of ours is left.
            runtime.shutdown_background();
            result
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

fn command() -> anyhow::Result<Command> {
    let flags = stream_node::parse_flags::<Config>(std::env::args_os(), &HELP)?;
    if flags.help {
        return Ok(Command::Print(flags.help_text));
    }
    let words: Vec<&str> = flags.words.iter().map(String::as_str).collect();
    if flags.version || words == ["version"] {
        return Ok(Command::Print(format!("stream-service {VERSION}\n")));
    }
    if let ["volume", words @ ..] = &words[..]
        && words.first() != Some(&"forget")
    {
        return Ok(Command::Volume(volume::parse(words)?));
    }
    let (layers, config) = load(&flags)?;
    if let Some(format) = flags.dump_config {
        let _ = writeln!(std::io::stderr(), "Writing configuration dump.");
        return Ok(Command::Print(stream_node::dump(
            &layers.entries_of(&config)?,
            format,
        )));
    }
    match words[..] {
        ["config", "print"] => {
            let mut text = String::new();
            for entry in layers.entries_of(&config)? {
                text.push_str(&format!(
                    "{} = {}  ({})\n",
                    entry.key, entry.value, entry.origin
                ));
            }
            Ok(Command::Print(text))
        }
        ["volume", "forget", ref words @ ..] => {
            Ok(Command::Forget(Box::new(config), forget::parse(words)?))
        }
        ["token", ref words @ ..] => Ok(Command::Token(Box::new(config), token::parse(words)?)),
        ["state", ref words @ ..] => Ok(Command::State(Box::new(config), state::parse(words)?)),
        ["check"] => Ok(Command::Print("The configuration is valid.\n".to_owned())),
        _ => {
            let components = component::parse(&flags.words)?;
            if config.is_standalone() {
                component::check_standalone(&components)?;
            }
            let shown = stream_node::dump(&layers.entries_of(&config)?, DumpFormat::Json);
            let shown = shown.split_whitespace().collect::<Vec<_>>().join(" ");
            let warnings = layers.warnings().to_vec();
            Ok(Command::Serve(
                Box::new(config),
                components,
                warnings,
                shown,
            ))
        }
    }
}

fn load(flags: &ParsedFlags) -> anyhow::Result<(Layers, Config)> {
    let layers = Layers::collect::<Config>("STREAM_", std::env::vars_os(), flags)?
        .with_secrets(config::SECRETS);
    let config: Config = layers.extract::<Config>()?.resolved();
    config.validate().map_err(anyhow::Error::msg)?;
    Ok((layers, config))
}
