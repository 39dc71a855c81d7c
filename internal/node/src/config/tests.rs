use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

/// A type that is written as text, as sizes and durations are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Seconds(Duration);

impl TryFrom<String> for Seconds {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let number = text
            .strip_suffix('s')
            .and_then(|number| number.parse().ok());
        number
            .map(|number| Self(Duration::from_secs(number)))
            .ok_or_else(|| format!("{text:?} is not a duration"))
    }
}

impl From<Seconds> for String {
    fn from(seconds: Seconds) -> Self {
        format!("{}s", seconds.0.as_secs())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Disk,
    Cache,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Wrapped(u32);

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    #[serde(rename = "nodeID")]
    node_id: Option<String>,
    #[serde(rename = "debugHTTPClient")]
    debug_http_client: bool,
    api: Api,
    storage: Storage,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Api {
    listen: SocketAddr,
    public_url: String,
    password: Option<String>,
    proxies: Vec<String>,
    ports: Vec<u16>,
    ttl_seconds: u32,
    ratio: f64,
    limit: Option<u64>,
    strict: Option<bool>,
    wrapped: Wrapped,
    labels: BTreeMap<String, u32>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Storage {
    metadata_cleanup: Cleanup,
    mode: Mode,
    #[serde(rename = "cacheL2")]
    cache_l2: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Cleanup {
    enable: bool,
    interval: Seconds,
    pin: i64,
}

impl Default for Api {
    fn default() -> Self {
        Self {
            listen: "0.0.0.0:8000".parse().expect("an address"),
            public_url: String::new(),
            password: None,
            proxies: vec!["10.0.0.1".to_owned()],
            ports: Vec::new(),
            ttl_seconds: 15,
            ratio: 0.5,
            limit: None,
            strict: None,
            wrapped: Wrapped(1),
            labels: BTreeMap::new(),
        }
    }
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            metadata_cleanup: Cleanup::default(),
            mode: Mode::Disk,
            cache_l2: true,
        }
    }
}

impl Default for Cleanup {
    fn default() -> Self {
        Self {
            enable: true,
            interval: Seconds(Duration::from_secs(600)),
            pin: 0,
        }
    }
}

fn parse(args: &[&str]) -> Result<ParsedFlags, ConfigError> {
    let args = std::iter::once("stream-service").chain(args.iter().copied());
    parse_flags::<Config>(args.map(Into::into), &Help::default())
}

fn layers(env: &[(&str, &str)], args: &[&str]) -> Result<Layers, ConfigError> {
    let env = env
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()));
    Layers::collect::<Config>(ENV_PREFIX, env, &parse(args)?)
        .map(|layers| layers.with_secrets(&["api.password"]))
}

fn config(env: &[(&str, &str)], args: &[&str]) -> Result<Config, ConfigError> {
    layers(env, args)?.extract()
}

fn message<T>(outcome: Result<T, ConfigError>) -> String {
    outcome.err().expect("it must be refused").to_string()
}

struct Files {
    directory: TempDir,
}

impl Files {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().expect("a temporary directory"),
        }
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).expect("the directory is ours");
        path.to_str()
            .expect("temporary directories have plain names")
            .to_owned()
    }
}

#[test]
fn nothing_given_is_the_default() {
    let layers = layers(&[], &[]).expect("valid");
    assert_eq!(
        layers.extract::<Config>().expect("valid"),
        Config::default()
    );
    assert!(
        layers
            .entries()
            .iter()
            .all(|entry| entry.origin == Origin::Default)
    );
    assert!(layers.warnings().is_empty());
}

#[test]
fn keys_have_one_spelling_per_layer() {
    for (key, flag, variable) in [
        ("nodeID", "node-id", "STREAM_NODE_ID"),
        (
            "debugHTTPClient",
            "debug-http-client",
            "STREAM_DEBUG_HTTP_CLIENT",
        ),
        ("api.publicUrl", "api-public-url", "STREAM_API_PUBLIC_URL"),
        (
            "api.task.ttlSeconds",
            "api-task-ttl-seconds",
            "STREAM_API_TASK_TTL_SECONDS",
        ),
        ("gcp.kmsKeyId", "gcp-kms-key-id", "STREAM_GCP_KMS_KEY_ID"),
        (
            "staging.s3.accessKeyId",
            "staging-s3-access-key-id",
            "STREAM_STAGING_S3_ACCESS_KEY_ID",
        ),
        (
            "cache.L2.enabled",
            "cache-l2-enabled",
            "STREAM_CACHE_L2_ENABLED",
        ),
        ("a.http2Max", "a-http2-max", "STREAM_A_HTTP2_MAX"),
        ("config-file", "config-file", "STREAM_CONFIG_FILE"),
        (
            "storage.metadataCleanup.enable",
            "storage-metadata-cleanup-enable",
            "STREAM_STORAGE_METADATA_CLEANUP_ENABLE",
        ),
    ] {
        assert_eq!(flag_name(key), flag);
        assert_eq!(env_name(ENV_PREFIX, key), variable);
    }
}

#[test]
fn flag_beats_environment_beats_file_beats_default() {
    let files = Files::new();
    let first = files.write(
        "a.yaml",
        "api: { ttlSeconds: 20, publicUrl: first, ratio: 0.1 }\n",
    );
    let second = files.write(
        "b.json",
        r#"{"api": {"publicUrl": "second", "ratio": 0.2}}"#,
    );
    let env = [("STREAM_API_RATIO", "0.3"), ("STREAM_NODE_ID", "from-env")];
    let args = [
        "--config-file",
        &first,
        "--config-file",
        &second,
        "--node-id",
        "from-flag",
    ];
    let layers = layers(&env, &args).expect("valid");
    let config: Config = layers.extract().expect("valid");
    assert_eq!(config.api.ttl_seconds, 20);
    assert_eq!(config.api.public_url, "second");
    assert!((config.api.ratio - 0.3).abs() < f64::EPSILON);
    assert_eq!(config.node_id.as_deref(), Some("from-flag"));
    assert_eq!(config.storage, Storage::default());
    assert_eq!(
        layers.origin("api.ttlSeconds"),
        Origin::File(PathBuf::from(&first))
    );
    assert_eq!(
        layers.origin("api.publicUrl"),
        Origin::File(PathBuf::from(&second))
    );
    assert_eq!(
        layers.origin("api.ratio").to_string(),
        "environment STREAM_API_RATIO"
    );
    assert_eq!(layers.origin("nodeID").to_string(), "flag --node-id");
    assert_eq!(layers.origin("api.listen"), Origin::Default);
}

#[test]
fn files_of_the_environment_count_unless_a_flag_names_others() {
    let files = Files::new();
    let one = files.write("one.yml", "nodeID: one\napi:\n  ttlSeconds: 1\n");
    let two = files.write("two.yml", "nodeID: two\n");
    let three = files.write("three.yml", "nodeID: three\n");
    let env = [("STREAM_CONFIG_FILE", format!("{one}, {two}"))];
    let env = [(env[0].0, env[0].1.as_str())];
    let both = config(&env, &[]).expect("valid");
    assert_eq!(
        (both.node_id.as_deref(), both.api.ttl_seconds),
        (Some("two"), 1)
    );
    let flag = config(&env, &["--config-file", &three]).expect("valid");
    assert_eq!(
        (flag.node_id.as_deref(), flag.api.ttl_seconds),
        (Some("three"), 15)
    );
}

#[test]
fn texts_become_what_the_field_asks_for() {
    let env = [
        ("STREAM_NODE_ID", "0123"),
        ("STREAM_DEBUG_HTTP_CLIENT", "TRUE"),
        ("STREAM_API_LISTEN", "[::1]:80"),
        ("STREAM_API_PUBLIC_URL", "true"),
        ("STREAM_API_PASSWORD", "1e3"),
        ("STREAM_API_PROXIES", "10.0.0.0/8, ::1 ,"),
        ("STREAM_API_PORTS", "80,443"),
        ("STREAM_API_TTL_SECONDS", " 7 "),
        ("STREAM_API_RATIO", "2"),
        ("STREAM_API_LIMIT", "18446744073709551615"),
        ("STREAM_API_STRICT", "no"),
        ("STREAM_API_WRAPPED", "9"),
        ("STREAM_API_LABELS", r#"{"a": 1}"#),
        ("STREAM_STORAGE_METADATA_CLEANUP_ENABLE", "0"),
        ("STREAM_STORAGE_METADATA_CLEANUP_INTERVAL", "5s"),
        ("STREAM_STORAGE_METADATA_CLEANUP_PIN", "-4"),
        ("STREAM_STORAGE_MODE", "cache"),
        ("STREAM_STORAGE_CACHE_L2", "off"),
    ];
    let expected = Config {
        node_id: Some("0123".to_owned()),
        debug_http_client: true,
        api: Api {
            listen: "[::1]:80".parse().expect("an address"),
            public_url: "true".to_owned(),
            password: Some("1e3".to_owned()),
            proxies: vec!["10.0.0.0/8".to_owned(), "::1".to_owned()],
            ports: vec![80, 443],
            ttl_seconds: 7,
            ratio: 2.0,
            limit: Some(u64::MAX),
            strict: Some(false),
            wrapped: Wrapped(9),
            labels: BTreeMap::from([("a".to_owned(), 1)]),
        },
        storage: Storage {
            metadata_cleanup: Cleanup {
                enable: false,
                interval: Seconds(Duration::from_secs(5)),
                pin: -4,
            },
            mode: Mode::Cache,
            cache_l2: false,
        },
    };
    assert_eq!(config(&env, &[]).expect("valid"), expected);
    let args: Vec<String> = env
        .iter()
        .map(|(name, value)| {
            let flag = name
                .trim_start_matches("STREAM_")
                .to_lowercase()
                .replace('_', "-");
            format!("--{flag}={value}")
        })
        .collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    assert_eq!(
        config(&[], &args).expect("valid"),
        expected,
        "flags and variables are alike"
    );
}

#[test]
fn empty_text_unsets_an_option_and_empties_a_list() {
    let files = Files::new();
    let file = files.write("a.yml", "nodeID: a\napi: { limit: 5 }\n");
    let env = [
        ("STREAM_NODE_ID", ""),
        ("STREAM_API_LIMIT", ""),
        ("STREAM_API_PROXIES", ""),
    ];
    let config = config(&env, &["--config-file", &file]).expect("valid");
    assert_eq!(
        (config.node_id, config.api.limit, config.api.proxies),
        (None, None, vec![])
    );
}

#[test]
fn flags_take_their_value_in_several_ways() {
    for args in [
        &["--debug-http-client", "api"][..],
        &["--debug-http-client=true", "api"],
        &["api", "--debug-http-client=false", "--debug-http-client"],
    ] {
        let flags = parse(args).expect("valid");
        assert_eq!(flags.words, ["api"], "{args:?}");
        assert_eq!(flags.flags["debugHTTPClient"], "true", "{args:?}");
    }
    let args = [
        "--api-ports",
        "1,2",
        "--api-ports=3",
        "--storage-metadata-cleanup-pin",
        "-5",
        "a",
        "b",
    ];
    let flags = parse(&args).expect("valid");
    assert_eq!(flags.words, ["a", "b"]);
    assert_eq!(flags.flags["api.ports"], "1,2,3");
    assert_eq!(flags.flags["storage.metadataCleanup.pin"], "-5");
    let flags = parse(&["--node-id", "a", "--node-id", "b"]).expect("valid");
    assert_eq!(flags.flags["nodeID"], "b", "the last one counts");
}

#[test]
fn special_flags_are_returned() {
    let flags = parse(&["config", "print", "--dump-config", "yaml"]).expect("valid");
    assert_eq!(flags.dump_config, Some(DumpFormat::Yaml));
    assert_eq!(flags.words, ["config", "print"]);
    assert_eq!(
        parse(&["--dump-config=json"]).expect("valid").dump_config,
        Some(DumpFormat::Json)
    );
    assert!(parse(&["--version"]).expect("valid").version);
    assert!(message(parse(&["--dump-config", "xml"])).contains("[possible values: json, yaml]"));
}

#[test]
fn long_help_lists_every_key_with_default_and_variable() {
    let long = parse(&["--help"]).expect("help is no error");
    assert!(long.help);
    for text in [
        "--api-listen <VALUE>",
        "[default: 0.0.0.0:8000] [env: STREAM_API_LISTEN]",
        "[default: 600s]",
        "[default: 10.0.0.1]",
        "--config-file <FILE>",
        "STREAM_CONFIG_FILE",
    ] {
        assert!(
            long.help_text.contains(text),
            "{text} not in:\n{}",
            long.help_text
        );
    }
    let short = parse(&["-h"]).expect("help is no error");
    assert!(short.help_text.contains("--config-file"));
    assert!(
        !short.help_text.contains("--api-listen"),
        "{}",
        short.help_text
    );
}

#[test]
fn unknown_flag_names_the_nearest() {
    for (flag, nearest) in [
        ("--api-listne=secret", "--api-listen"),
        ("--ttl-seconds", "--api-ttl-seconds"),
        ("--config-fiel", "--config-file"),
        ("--nodeID", "--node-id"),
    ] {
        let shown = flag.split('=').next().expect("never empty");
        let expected = format!("unknown flag {shown}; did you mean {nearest}?");
        assert_eq!(message(parse(&[flag, "x"])), expected);
    }
    assert!(
        message(parse(&["--node-id"])).contains("--node-id"),
        "a value is missing"
    );
}

#[test]
fn flags_of_another_struct_are_refused() {
    let flags = BTreeMap::from([("api.listne".to_owned(), "x".to_owned())]);
    let flags = ParsedFlags {
        flags,
        ..ParsedFlags::default()
    };
    let outcome = Layers::collect::<Config>(ENV_PREFIX, std::iter::empty(), &flags);
    assert_eq!(
        message(outcome),
        "unknown flag --api-listne; did you mean --api-listen?"
    );
}

#[test]
fn unknown_key_of_a_file_names_the_nearest() {
    let files = Files::new();
    for (text, key, nearest) in [
        ("api: { lisen: x }", "api.lisen", "api.listen"),
        ("ttlSeconds: 5", "ttlSeconds", "api.ttlSeconds"),
        (
            "storage: { metadataCleanup: { enabled: true } }",
            "storage.metadataCleanup.enabled",
            "storage.metadataCleanup.enable",
        ),
        ("node_id: x", "node_id", "nodeID"),
    ] {
        let file = files.write("a.yaml", text);
        let expected = format!("unknown key {key} in {file}; did you mean {nearest}?");
        assert_eq!(message(config(&[], &["--config-file", &file])), expected);
    }
}

#[test]
fn unknown_variable_is_a_warning() {
    let env = [
        ("STREAM_API_LISTN", "x"),
        ("OTHER_API_LISTN", "x"),
        ("STREAM_API_SERVICE_HOST", "10.0.0.1"),
        ("STREAM_API_PORT_8000_TCP", "tcp://10.0.0.1:8000"),
        ("STREAM_API_PORT_8000_TCP_PROTO", "tcp"),
    ];
    let layers = layers(&env, &[]).expect("no error");
    assert_eq!(
        layers.warnings(),
        ["environment variable STREAM_API_LISTN is not a setting; did you mean STREAM_API_LISTEN?"]
    );
}

#[test]
fn refused_value_is_told_with_key_and_origin() {
    let files = Files::new();
    let file = files.write("a.json", r#"{"api": {"ports": [1, 70000]}}"#);
    for (env, args, expected) in [
        (
            ("STREAM_API_TTL_SECONDS", "soon"),
            [].as_slice(),
            "api.ttlSeconds (environment STREAM_API_TTL_SECONDS): \"soon\" is not a whole number from 0",
        ),
        (
            ("X", ""),
            &["--api-strict=maybe"],
            "api.strict (flag --api-strict): \"maybe\" is not true or false",
        ),
        (
            ("X", ""),
            &["--storage-metadata-cleanup-interval", "5 apples"],
            "storage.metadataCleanup.interval (flag --storage-metadata-cleanup-interval): \"5 apples\" is not a duration",
        ),
        (
            ("STREAM_STORAGE_MODE", "tape"),
            &[],
            "storage.mode (environment STREAM_STORAGE_MODE): unknown variant `tape`, expected `disk` or `cache`",
        ),
        (
            ("X", ""),
            &["--config-file", &file],
            &format!("api.ports (file {file}): invalid value: integer `70000`, expected u16"),
        ),
    ] {
        assert_eq!(message(config(&[env], args)), expected);
    }
}

#[test]
fn files_are_checked() {
    let files = Files::new();
    let refusal = |name: &str, text: &str| {
        let file = files.write(name, text);
        message(config(&[], &["--config-file", &file])).replace(&file, "FILE")
    };
    assert_eq!(
        refusal("a.toml", ""),
        "configuration file FILE must end with .yml, .yaml or .json"
    );
    assert!(refusal("a.json", "{").starts_with("configuration file FILE is not valid: EOF"));
    assert!(refusal("a.yml", "a: [").starts_with("configuration file FILE is not valid: "));
    assert_eq!(
        refusal("a.yml", "api: 5"),
        "api in FILE is a group of keys, such as api.listen, and cannot have a value of its own"
    );
    assert!(refusal("a.yml", "just words").starts_with("the file in FILE is a group of keys"));
    assert_eq!(
        message(config(&[], &["--config-file", "/no/such.yml"])),
        "cannot read configuration file /no/such.yml"
    );
    let empty = files.write("empty.yml", "# nothing\napi:\n");
    assert_eq!(
        config(&[], &["--config-file", &empty]).expect("valid"),
        Config::default()
    );
}

#[test]
fn variable_of_ours_must_be_text() {
    use std::os::unix::ffi::OsStringExt;

    let value = std::ffi::OsString::from_vec(vec![0xff]);
    let env = [("STREAM_NODE_ID".into(), value)].into_iter();
    let outcome = Layers::collect::<Config>(ENV_PREFIX, env, &ParsedFlags::default());
    assert_eq!(
        message(outcome),
        "the value of STREAM_NODE_ID is not valid UTF-8"
    );
}

#[test]
fn secrets_are_never_shown() {
    let files = Files::new();
    let file = files.write("a.yml", "api: { password: [hunter2] }");
    let refused = message(config(&[], &["--config-file", &file]));
    assert_eq!(
        refused,
        format!(
            "api.password (file {file}): the value is not accepted (it is a secret and not shown)"
        )
    );
    let layers = layers(&[("STREAM_API_PASSWORD", "hunter2")], &[]).expect("valid");
    let shown = [
        dump(&layers.entries(), DumpFormat::Json),
        dump(&layers.entries(), DumpFormat::Yaml),
        dump(
            &layers
                .entries_of(&layers.extract::<Config>().expect("valid"))
                .expect("valid"),
            DumpFormat::Json,
        ),
        format!("{layers:?} {:?}", parse(&["--api-password=hunter2"])),
    ];
    for text in shown {
        assert!(!text.contains("hunter2"), "{text}");
        assert!(text.contains("password"), "{text}");
    }
    assert_eq!(
        layers
            .extract::<Config>()
            .expect("valid")
            .api
            .password
            .as_deref(),
        Some("hunter2")
    );
}

#[test]
#[should_panic(expected = "secret api.pasword is not a key")]
fn misspelled_secret_is_refused() {
    let layers = Layers::collect::<Config>(ENV_PREFIX, std::iter::empty(), &ParsedFlags::default());
    let _ = layers.expect("valid").with_secrets(&["api.pasword"]);
}

#[test]
fn entries_keep_the_order_of_the_struct_and_show_typed_values() {
    let env = [
        ("STREAM_API_PORTS", "1,2"),
        ("STREAM_API_TTL_SECONDS", "9"),
        ("STREAM_NODE_ID", "7"),
    ];
    let entries = layers(&env, &[]).expect("valid").entries();
    let keys: Vec<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(
        keys[..4],
        ["nodeID", "debugHTTPClient", "api.listen", "api.publicUrl"]
    );
    assert_eq!(keys.len(), 18);
    let value = |key: &str| {
        entries
            .iter()
            .find(|entry| entry.key == key)
            .expect(key)
            .value
            .clone()
    };
    assert_eq!(value("api.ttlSeconds"), json!(9));
    assert_eq!(value("api.ports"), json!(["1", "2"]));
    assert_eq!(value("nodeID"), json!("7"));
    assert_eq!(
        value("api.password"),
        Value::Null,
        "a secret that is not set is no secret"
    );
}

#[test]
fn effective_entries_show_what_was_filled_in() {
    let layers = layers(&[("STREAM_API_PORTS", "1")], &[]).expect("valid");
    let mut config: Config = layers.extract().expect("valid");
    config.node_id = Some("the-host".to_owned());
    let entries = layers.entries_of(&config).expect("it serialises");
    assert_eq!(entries[0].value, json!("the-host"));
    assert_eq!(entries[0].origin, Origin::Default);
    let ports = entries
        .iter()
        .find(|entry| entry.key == "api.ports")
        .expect("a key");
    assert_eq!(ports.value, json!([1]));
}

#[test]
fn dump_can_be_read_back() {
    let files = Files::new();
    let given = layers(&[("STREAM_API_PORTS", "1"), ("STREAM_NODE_ID", "on")], &[]).expect("valid");
    let config: Config = given.extract().expect("valid");
    let entries = given.entries_of(&config).expect("it serialises");
    for (name, format) in [("a.json", DumpFormat::Json), ("a.yaml", DumpFormat::Yaml)] {
        let file = files.write(name, &dump(&entries, format));
        let again = layers(&[], &["--config-file", &file]).expect("valid");
        assert_eq!(again.extract::<Config>().expect("valid"), config, "{name}");
    }
}

#[test]
#[should_panic(expected = "key a.b is spelled --a-b like aB")]
fn two_keys_with_one_spelling_are_a_mistake() {
    #[derive(Serialize, Default)]
    #[serde(rename_all = "camelCase")]
    struct Clash {
        a_b: u8,
        a: Inner,
    }
    #[derive(Serialize, Default)]
    struct Inner {
        b: u8,
    }
    let _ = parse_flags::<Clash>(std::iter::empty(), &Help::default());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn strings_pass_through_variables_unchanged(text in "[^\\x00]+") {
        let config = config(&[("STREAM_API_PUBLIC_URL", &text), ("STREAM_NODE_ID", &text)], &[]);
        let config = config.expect("any text is a string");
        prop_assert_eq!(&config.api.public_url, &text);
        prop_assert_eq!(config.node_id, Some(text));
    }

    #[test]
    fn any_text_for_any_key_is_taken_or_refused_without_panic(key in 0_usize..18, text in "[^\\x00]*") {
        let entries = layers(&[], &[]).expect("valid").entries();
        let variable = env_name(ENV_PREFIX, &entries[key].key);
        if let Err(error) = config(&[(&variable, &text)], &[]) {
            prop_assert!(error.to_string().starts_with(&entries[key].key), "{}", error);
        }
    }

    #[test]
    fn any_yaml_document_is_taken_or_refused_without_panic(text in "[a-zA-Z0-9:{}\\[\\],\"'#& *!|>\n-]{0,60}") {
        let files = Files::new();
        let file = files.write("a.yml", &text);
        let _ = config(&[], &["--config-file", &file]);
    }
}
