//! The command line: words, and a flag for every key.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde::Serialize;
use serde_json::Value;

use super::error::ConfigError;
use super::keys::{Key, KeySet, env_name};
use super::{DumpFormat, ENV_PREFIX};

/// What the command line said.
#[derive(Clone, Default)]
pub struct ParsedFlags {
    /// Arguments that are no flags, in their order: components and commands.
    pub words: Vec<String>,
    /// Values of keys, by key (`api.listen`), as written. Lists given by several flags are joined
    /// by commas.
    pub flags: BTreeMap<String, String>,
    /// `--config-file`, in their order.
    pub config_files: Vec<PathBuf>,
    /// `--dump-config`.
    pub dump_config: Option<DumpFormat>,
    /// Whether help was asked for. Nothing else is set then but [`help_text`](Self::help_text).
    pub help: bool,
    /// What to print when [`help`](Self::help) is set: `-h` without the keys, `--help` with all of
    /// them.
    pub help_text: String,
    /// `--version`.
    pub version: bool,
}

impl fmt::Debug for ParsedFlags {
    /// Leaves out the values of keys: some are secrets, and which is not known here.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParsedFlags")
            .field("words", &self.words)
            .field("flags", &self.flags.keys())
            .field("config_files", &self.config_files)
            .field("dump_config", &self.dump_config)
            .field("help", &self.help)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// The texts of the help. Keys and their defaults are added from the struct.
#[derive(Clone, Copy)]
pub struct Help {
    /// Name of the program.
    pub program: &'static str,
    /// First line: what it is.
    pub about: &'static str,
    /// Placeholder of the words in the usage line, for example `COMPONENT|COMMAND`.
    pub words: &'static str,
    /// What the words are.
    pub words_help: &'static str,
    /// Text after the list of flags.
    pub after: &'static str,
    /// What a key means, if there is a sentence about it.
    pub describe: fn(&str) -> Option<&'static str>,
}

impl Default for Help {
    fn default() -> Self {
        Self {
            program: "stream-service",
            about: "",
            words: "WORD",
            words_help: "",
            after: "",
            describe: |_| None,
        }
    }
}

const WORDS: &str = "words...";
const CONFIG_FILE: &str = "config-file";
const DUMP_CONFIG: &str = "dump-config";
const VERSION: &str = "version";

/// Parses the arguments, the first of which is the name of the program. The flags are the keys of
/// `T`.
///
/// # Errors
///
/// An unknown flag, with the nearest known one, or a flag without its value. Values themselves are
/// looked at by [`Layers::extract`](super::Layers::extract).
pub fn parse_flags<T: Serialize + Default>(
    args: impl Iterator<Item = OsString>,
    help: &Help,
) -> Result<ParsedFlags, ConfigError> {
    let keys = KeySet::of::<T>()?;
    match command(&keys, help).try_get_matches_from(args) {
        Ok(matches) => Ok(collect(&keys, &matches)),
        Err(error) if error.kind() == ErrorKind::DisplayHelp => {
            let help_text = error.render().to_string();
            Ok(ParsedFlags {
                help: true,
                help_text,
                ..ParsedFlags::default()
            })
        }
        Err(error) => Err(explain(&keys, &error)),
    }
}

fn command(keys: &KeySet, help: &Help) -> Command {
    let config_file = Arg::new(CONFIG_FILE)
        .long(CONFIG_FILE)
        .value_name("FILE")
        .help("Read keys from this .yml, .yaml or .json file; repeatable, later files win")
        .long_help(format!(
            "Read keys from this .yml, .yaml or .json file; repeatable, later files win \
             [env: {}, by comma]",
            env_name(ENV_PREFIX, CONFIG_FILE)
        ))
        .value_parser(value_parser!(PathBuf))
        .action(ArgAction::Append);
    let dump_config = Arg::new(DUMP_CONFIG)
        .long(DUMP_CONFIG)
        .value_name("FORMAT")
        .value_parser(PossibleValuesParser::new(["json", "yaml"]))
        .help("Print the effective configuration and exit");
    let version = Arg::new(VERSION)
        .long(VERSION)
        .action(ArgAction::SetTrue)
        .help("Print the version and exit");
    let words = Arg::new(WORDS)
        .value_name(help.words)
        .help(help.words_help)
        .num_args(0..);
    Command::new(help.program)
        .about(help.about)
        .after_help(help.after)
        .disable_version_flag(true)
        .args_override_self(true)
        .args([words, config_file, dump_config, version])
        .args(keys.iter().map(|key| key_arg(key, help)))
}

fn key_arg(key: &Key, help: &Help) -> Arg {
    let meaning = (help.describe)(&key.path).unwrap_or_default();
    let default = shown_default(&key.default);
    let mut text = meaning.to_owned();
    if !default.is_empty() {
        text += &format!(" [default: {default}]");
    }
    text += &format!(" [env: {}]", env_name(ENV_PREFIX, &key.path));
    let arg = Arg::new(key.path.clone())
        .long(key.flag.clone())
        .value_name("VALUE")
        .hide_short_help(true)
        .help(text.trim_start().to_owned());
    match key.default {
        Value::Bool(_) => arg
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true"),
        Value::Array(_) => arg.action(ArgAction::Append).allow_negative_numbers(true),
        _ => arg.allow_negative_numbers(true),
    }
}

fn shown_default(default: &Value) -> String {
    match default {
        Value::Null | Value::Object(_) => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items
            .iter()
            .map(shown_default)
            .collect::<Vec<_>>()
            .join(","),
        other => other.to_string(),
    }
}

fn collect(keys: &KeySet, matches: &ArgMatches) -> ParsedFlags {
    let value_of = |key: &Key| {
        let values: Vec<&str> = matches
            .get_many::<String>(&key.path)?
            .map(String::as_str)
            .collect();
        Some((key.path.clone(), values.join(",")))
    };
    let dump_config = matches
        .get_one::<String>(DUMP_CONFIG)
        .map(|format| match format.as_str() {
            "json" => DumpFormat::Json,
            _ => DumpFormat::Yaml,
        });
    ParsedFlags {
        words: matches
            .get_many(WORDS)
            .into_iter()
            .flatten()
            .cloned()
            .collect(),
        flags: keys.iter().filter_map(value_of).collect(),
        config_files: matches
            .get_many(CONFIG_FILE)
            .into_iter()
            .flatten()
            .cloned()
            .collect(),
        dump_config,
        help: false,
        help_text: String::new(),
        version: matches.get_flag(VERSION),
    }
}

fn explain(keys: &KeySet, error: &clap::Error) -> ConfigError {
    let unknown = (error.kind() == ErrorKind::UnknownArgument)
        .then(|| error.get(ContextKind::InvalidArg))
        .flatten();
    if let Some(ContextValue::String(argument)) = unknown {
        // What follows an equals sign may be a secret.
        let flag = argument.split('=').next().unwrap_or_default().to_owned();
        let nearest = keys.nearest_flag(&flag);
        return ConfigError::UnknownFlag { flag, nearest };
    }
    // The first paragraph says it all; the rest repeats the usage.
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    ConfigError::Usage(paragraph.split_whitespace().collect::<Vec<_>>().join(" "))
}
