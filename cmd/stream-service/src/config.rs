//! The configuration of the process: every key, its default and its limits.
//!
//! Layers: defaults < files < `STREAM_*` environment < flags. The same key is `storage.volumesPath` in a file,
//! `STREAM_STORAGE_VOLUMES_PATH` in the environment and `--storage-volumes-path` as a flag. `docs/configuration.md` is the
//! reference.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use stream_model::level::{
    Assignment, Compression, ConfiguredImport, ConfiguredUpload, Defaults, Durability, Local,
};
use stream_model::unit::{ByteSize, Interval};
use stream_model::{NodeId, Secret};
use stream_node::LogFormat;
use stream_target::keboola::{Address, Custody, InvalidAddress};

/// The most that `storage.level.local.encoding.encoder.rowSizeLimit` may be.
const MAX_ROW_BYTES: u64 = 2 << 20;

/// Keys whose values are never shown.
pub const SECRETS: &[&str] = &["etcd.password", "encryption.aes.secretKey"];

macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty = $default:expr,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields, default)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }
    };
}

section! {
    /// All keys.
    Config {
        /// Name of this machine or pod within the cluster. Default: the host name.
        #[serde(rename = "nodeID")]
        node_id: String = String::new(),
        /// Host name under which other nodes reach this one; processes with the same one are on one machine and may share local
        /// files. Default: the host name of the machine.
        hostname: String = String::new(),
        /// Host or URL of the Storage API that verifies tokens and holds tables of type `keboola`. Default: none, tokens are local.
        storage_api_host: Option<String> = None,
        /// Directory of everything that a standalone process keeps. Default `.stream-data`.
        data_dir: PathBuf = PathBuf::from(".stream-data"),
        /// Logs.
        log: Log = Log::default(),
        /// State.
        etcd: Etcd = Etcd::default(),
        /// The port for health and metrics.
        metrics: Metrics = Metrics::default(),
        /// Configuration API.
        api: stream_api::Config = stream_api::Config::default(),
        /// Sources.
        source: Source = Source::default(),
        /// Local disk, staging and target.
        storage: Storage = Storage::default(),
        /// Object storage.
        staging: Staging = Staging::default(),
        /// Sinks.
        sink: SinkSection = SinkSection::default(),
        /// Targets.
        target: Target = Target::default(),
        /// How credentials are kept in the state.
        encryption: Encryption = Encryption::default(),
    }
}

section! {
    /// `log.*`
    Log {
        /// `text` or `json`. Default `text`.
        format: LogFormat = LogFormat::Text,
        /// What is logged: `error`, `warn`, `info`, `debug`, or a list such as `info,stream_storage=debug`. Default `info`.
        level: String = "info".to_owned(),
    }
}

section! {
    /// `etcd.*`
    Etcd {
        /// URLs of the members, separated by commas. Default: none, the state is kept in the data directory.
        endpoint: Vec<String> = Vec::new(),
        /// Prefix of all keys. Default `stream`.
        namespace: String = "stream".to_owned(),
        /// User name. Default: none.
        username: Option<String> = None,
        /// Password of the user. Default: none.
        password: Option<Secret<String>> = None,
        /// Certificates.
        tls: EtcdTls = EtcdTls::default(),
        /// How long the first connection may take, 1s to 5m. Default 30s.
        connect_timeout: Interval = Interval::from_secs(30),
        /// How often a connection is probed, 1s to 5m. Default 10s.
        keep_alive_interval: Interval = Interval::from_secs(10),
        /// How long the answer to a probe may take, 1s to 5m. Default 5s.
        keep_alive_timeout: Interval = Interval::from_secs(5),
        /// The embedded state store.
        embedded: EmbeddedEtcd = EmbeddedEtcd::default(),
    }
}

section! {
    /// `etcd.tls.*`
    EtcdTls {
        /// PEM file with the authorities that sign the certificates of the members. Default: none, no encryption.
        ca: Option<PathBuf> = None,
        /// PEM file with the certificate of this process, where etcd asks for one. Default: none.
        cert: Option<PathBuf> = None,
        /// PEM file with the key of that certificate. Default: none.
        key: Option<PathBuf> = None,
    }
}

section! {
    /// `etcd.embedded.*`
    EmbeddedEtcd {
        /// Address on which the embedded state store also listens, without encryption or authentication. Default: none, it
        /// is reached through a socket in the data directory.
        listen: Option<SocketAddr> = None,
    }
}

section! {
    /// `metrics.*`
    Metrics {
        /// Address of `/health`, `/ready` and `/metrics`. Default `0.0.0.0:9000`.
        listen: SocketAddr = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 9000)),
    }
}

section! {
    /// `source.*`
    Source {
        /// HTTP source.
        http: stream_http_source::Config = stream_http_source::Config::default(),
    }
}

section! {
    /// `staging.*`
    Staging {
        /// `file://` and an absolute path. Default: `staging` in the data directory.
        url: String = String::new(),
    }
}

section! {
    /// `target.*`
    Target {
        /// SQLite.
        sqlite: SqliteTarget = SqliteTarget::default(),
    }
}

section! {
    /// `target.sqlite.*`
    SqliteTarget {
        /// The database file. Default: `tables.sqlite` in the data directory.
        path: Option<PathBuf> = None,
    }
}

section! {
    /// `sink.*`
    SinkSection {
        /// Sinks with a table.
        table: SinkTable = SinkTable::default(),
    }
}

section! {
    /// `sink.table.*`
    SinkTable {
        /// Tables of projects.
        keboola: KeboolaTable = KeboolaTable::default(),
    }
}

section! {
    /// `sink.table.keboola.*`
    KeboolaTable {
        /// How long the sending of an event may take, 1s to 5m. Default 30s.
        event_send_timeout: Interval = Interval::from_secs(30),
        /// Jobs that this process has at the Storage API at the same time, 1 to 100. Default 2.
        job_limit: usize = 2,
    }
}

section! {
    /// `encryption.*`
    Encryption {
        /// `none` or `aes`. Default `none`: there is nothing to encrypt without `storageApiHost`.
        provider: EncryptionProvider = EncryptionProvider::None,
        /// AES.
        aes: Aes = Aes::default(),
    }
}

section! {
    /// `encryption.aes.*`
    Aes {
        /// The key: base64 of 32 bytes. Default: none.
        secret_key: Option<Secret<String>> = None,
    }
}

section! {
    /// `storage.*`
    Storage {
        /// Directory of the volumes, `<type>/<label>` below it. Default: `volumes` in the data directory.
        volumes_path: Option<PathBuf> = None,
        /// Records that a sink refuses.
        rejects: Rejects = Rejects::default(),
        /// Removal of what is not needed any more.
        metadata_cleanup: MetadataCleanup = MetadataCleanup::default(),
        /// The three levels.
        level: Level = Level::default(),
    }
}

section! {
    /// `storage.rejects.*`
    Rejects {
        /// Age since its first record at which a slice of rejected records is uploaded, 1s to 24h. Default 1h.
        interval: Interval = stream_model::rejects::default_trigger().interval,
        /// Compressed bytes at which it is, 100B to 50MB. Default 5MB.
        size: ByteSize = stream_model::rejects::default_trigger().size,
        /// Least time between two, 1s to 24h. Default 1m.
        min_interval: Interval = stream_model::rejects::default_trigger().min_interval,
        /// How long rejected records stay in staging, 1s to 8760h. Default 720h.
        retention: Interval = Interval::from_secs(720 * 3600),
        /// The most objects of a sink, 1 to 100000: the oldest go before their time. Default 1000.
        max_objects_per_sink: usize = 1000,
    }
}

section! {
    /// `storage.metadataCleanup.*`
    MetadataCleanup {
        /// Whether anything is removed. Default true.
        enable: bool = true,
        /// Time between two rounds, 1s to 24h. Default 1m.
        interval: Interval = Interval::from_secs(60),
        /// Imported files of a sink that are kept, 0 to 100: older ones go after 2 min, with their staged objects. Default 30.
        archived_file_retention_per_sink: usize = 30,
        /// How long the staged objects of imported files are kept, 1s to 720h. Default 1h.
        archived_file_expiration: Interval = Interval::from_secs(3600),
    }
}

section! {
    /// `storage.level.*`
    Level {
        /// Local disk.
        local: LocalLevel = LocalLevel::default(),
        /// Staging.
        staging: StagingLevel = StagingLevel::default(),
        /// Target.
        target: TargetLevel = TargetLevel::default(),
    }
}

section! {
    /// `storage.level.local.*`
    LocalLevel {
        /// Volumes.
        volume: VolumeLevel = VolumeLevel::default(),
        /// Encoding.
        encoding: Encoding = Encoding::default(),
        /// Journal.
        journal: Journal = Journal::default(),
        /// Idempotency keys.
        idempotency: Idempotency = Idempotency::default(),
        /// Sinks.
        sink: SinkLevel = SinkLevel::default(),
        /// Writers and those who send to them.
        writer: crate::network::WriterLevel = crate::network::WriterLevel::default(),
        /// Batches are refused while the file system has less free space. 1MB and more. Default 256MB.
        reserve: ByteSize = ByteSize(256 << 20),
    }
}

section! {
    /// `storage.level.local.volume.*`
    VolumeLevel {
        /// Where the rows of a source go.
        assignment: VolumeAssignment = VolumeAssignment::default(),
        /// How a volume is announced.
        registration: VolumeRegistration = VolumeRegistration::default(),
        /// What journal and slices of a volume may occupy together; beyond it records for the volume are refused. From eight
        /// times the length of a segment. Default: none, only the reserve limits it.
        max_size: Option<ByteSize> = None,
    }
}

section! {
    /// `storage.level.local.sink.*`
    SinkLevel {
        /// What the slices of one sink may occupy on one volume; beyond it records for the sink are refused. From 1MB. Default:
        /// none.
        max_size: Option<ByteSize> = None,
    }
}

section! {
    /// `storage.level.local.volume.assignment.*`
    VolumeAssignment {
        /// Volumes of a source, 1 to 100. Default 1.
        count: u32 = 1,
        /// Volume types, the most preferred first. Default `default`.
        preferred_types: Vec<String> = vec!["default".to_owned()],
    }
}

section! {
    /// `storage.level.local.volume.registration.*`
    VolumeRegistration {
        /// Seconds until a node that is gone is noticed, 1 to 60. Default 10.
        ttl_seconds: u64 = 10,
    }
}

section! {
    /// `storage.level.local.encoding.*`
    Encoding {
        /// CSV.
        encoder: Encoder = Encoder::default(),
        /// Compression of slices.
        compression: EncodingCompression = EncodingCompression::default(),
        /// What an acknowledgement promises.
        sync: EncodingSync = EncodingSync::default(),
    }
}

section! {
    /// `storage.level.local.encoding.encoder.*`
    Encoder {
        /// The most bytes of a CSV row, 1KB to 2MB; a record with a longer one is rejected. Default 1536KB.
        row_size_limit: ByteSize = ByteSize(1536 << 10),
    }
}

section! {
    /// `storage.level.local.encoding.compression.*`
    EncodingCompression {
        /// `zstd`, `gzip` or `none`. Default `zstd`.
        #[serde(rename = "type")]
        kind: CompressionKind = CompressionKind::Zstd,
        /// zstd.
        zstd: ZstdOptions = ZstdOptions::default(),
        /// gzip.
        gzip: GzipOptions = GzipOptions::default(),
    }
}

section! {
    /// `storage.level.local.encoding.compression.zstd.*`
    ZstdOptions {
        /// 1 (fast) to 19 (small). Default 1.
        level: u8 = 1,
    }
}

section! {
    /// `storage.level.local.encoding.compression.gzip.*`
    GzipOptions {
        /// 1 (fast) to 9 (small). Default 1.
        level: u8 = 1,
    }
}

section! {
    /// `storage.level.local.encoding.sync.*`
    EncodingSync {
        /// `disk` (survives power loss, answered 200) or `cache` (survives a crash of the process, answered 202). Default `disk`.
        mode: SyncMode = SyncMode::Disk,
        /// Whether the answer waits for it; without waiting requests are answered 202. Default true.
        wait: bool = true,
    }
}

section! {
    /// `storage.level.local.journal.*`
    Journal {
        /// Length of a segment, 1MB to 1GB. Default 32MB.
        segment_size: ByteSize = ByteSize(32 << 20),
        /// Segments in use beyond which a checkpoint is made, from 1MB. Default 256MB.
        checkpoint_size: ByteSize = ByteSize(256 << 20),
        /// Segments in use beyond which batches are refused, from twice the checkpoint size. Default 1GB.
        max_size: ByteSize = ByteSize(1 << 30),
    }
}

section! {
    /// `storage.level.local.idempotency.*`
    Idempotency {
        /// Idempotency keys that a volume remembers at most, 1000 to 100000000; at least so many, as long as none is older than the
        /// window. Default 10000000.
        max_keys: u64 = 10_000_000,
        /// For how long keys are remembered, 1m to 168h. Default 24h.
        window: Interval = Interval(std::time::Duration::from_secs(24 * 60 * 60)),
        /// How long another volume must be away before its keys of sources in the mode available are taken over, 1s to 1h. Default 30s.
        away_after: Interval = Interval(std::time::Duration::from_secs(30)),
    }
}

section! {
    /// `storage.level.staging.*`
    StagingLevel {
        /// Uploads.
        upload: Upload = Upload::default(),
    }
}

section! {
    /// `storage.level.staging.upload.*`
    Upload {
        /// Least time between two rotations of a slice, 1s to 30m. Default: 1s for SQL tables, 10s for Keboola tables.
        min_interval: Option<Interval> = None,
        /// When a slice is uploaded.
        trigger: UploadTrigger = UploadTrigger::default(),
    }
}

section! {
    /// `storage.level.staging.upload.trigger.*`
    UploadTrigger {
        /// Rows in the slice, 1 to 10000000. Default 10000.
        count: Option<u64> = None,
        /// Compressed bytes in the slice, 100B to 50MB. Default 5MB.
        size: Option<ByteSize> = None,
        /// Age since the first record, 1s to 30m. Default: 5s for SQL tables, 30s for Keboola tables.
        interval: Option<Interval> = None,
    }
}

section! {
    /// `storage.level.target.*`
    TargetLevel {
        /// Imports.
        import: Import = Import::default(),
    }
}

section! {
    /// `storage.level.target.import.*`
    Import {
        /// Least time between two rotations of a file, 1s to 24h. Default: 1s for SQL tables, 1m for Keboola tables.
        min_interval: Option<Interval> = None,
        /// When a file is imported.
        trigger: ImportTrigger = ImportTrigger::default(),
    }
}

section! {
    /// `storage.level.target.import.trigger.*`
    ImportTrigger {
        /// Rows in the file, 1 to 10000000. Default 50000.
        count: Option<u64> = None,
        /// Compressed bytes in the file, 100B to 500MB. Default 50MB.
        size: Option<ByteSize> = None,
        /// Age since the first record, 1s to 24h. Default: 10s for SQL tables, 1m for Keboola tables.
        interval: Option<Interval> = None,
        /// Slices in the file, 1 to 200. Default 100.
        slices_count: Option<u64> = None,
    }
}

/// Compression of slices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CompressionKind {
    /// Plain CSV.
    None,
    /// gzip members.
    Gzip,
    /// zstd frames.
    Zstd,
}

/// Where a record must be before it is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyncMode {
    /// On the disk.
    Disk,
    /// In the operating system.
    Cache,
}

/// How credentials are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EncryptionProvider {
    /// Not at all.
    None,
    /// With AES-256-GCM and a key in the configuration.
    Aes,
}

impl Config {
    /// Fills in the defaults that depend on the machine or on other keys.
    #[must_use]
    pub fn resolved(mut self) -> Self {
        let machine = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        if self.node_id.is_empty() {
            self.node_id.clone_from(&machine);
        }
        if self.hostname.is_empty() {
            self.hostname = machine;
        }
        let in_data_dir = |name: &str| Some(self.data_dir.join(name));
        self.storage.volumes_path = self.storage.volumes_path.or_else(|| in_data_dir("volumes"));
        self.target.sqlite.path = self
            .target
            .sqlite
            .path
            .or_else(|| in_data_dir("tables.sqlite"));
        if self.staging.url.is_empty() {
            let absolute =
                std::path::absolute(&self.data_dir).unwrap_or_else(|_| self.data_dir.clone());
            self.staging.url = format!("file://{}", absolute.join("staging").display());
        }
        let http = &mut self.source.http;
        http.row_size_limit = self.storage.level.local.encoding.encoder.row_size_limit;
        http.public_url = Some(http.public_url_or_default());
        self
    }

    /// Whether the state is kept in this process.
    #[must_use]
    pub fn is_standalone(&self) -> bool {
        self.etcd.endpoint.is_empty()
    }

    /// Checks what single values cannot say.
    ///
    /// # Errors
    /// A sentence that names the key, the value and what it may be.
    pub fn validate(&self) -> Result<(), String> {
        self.node_id
            .parse::<NodeId>()
            .map_err(|error| format!("nodeID: {error}"))?;
        self.api.validate().map_err(|error| error.to_string())?;
        self.source.http.validate()?;
        if self.etcd.endpoint.iter().any(|url| url.contains('@')) {
            // Not shown: whatever stands before the @ may be a password.
            let rule = "etcd.endpoint must hold no user name or password; set etcd.username and etcd.password";
            return Err(rule.to_owned());
        }
        self.etcd.tls.validate()?;
        self.validate_storage_api()?;
        let minutes = |n: u64| Interval::from_secs(n * 60);
        let second = Interval::from_secs(1);
        between(
            "etcd.connectTimeout",
            self.etcd.connect_timeout,
            second,
            minutes(5),
        )?;
        between(
            "etcd.keepAliveInterval",
            self.etcd.keep_alive_interval,
            second,
            minutes(5),
        )?;
        between(
            "etcd.keepAliveTimeout",
            self.etcd.keep_alive_timeout,
            second,
            minutes(5),
        )?;
        let cleanup = &self.storage.metadata_cleanup;
        between(
            "storage.metadataCleanup.interval",
            cleanup.interval,
            second,
            minutes(24 * 60),
        )?;
        let expiration = cleanup.archived_file_expiration;
        let key = "storage.metadataCleanup.archivedFileExpiration";
        between(key, expiration, second, minutes(720 * 60))?;
        let key = "storage.metadataCleanup.archivedFileRetentionPerSink";
        between(key, cleanup.archived_file_retention_per_sink, 0, 100)?;
        self.validate_rejects()?;
        self.validate_triggers()?;
        self.validate_local()
    }

    fn validate_storage_api(&self) -> Result<(), String> {
        self.storage_api_address()?;
        let keboola = &self.sink.table.keboola;
        let key = |name: &str| format!("sink.table.keboola.{name}");
        between(
            &key("eventSendTimeout"),
            keboola.event_send_timeout,
            Interval::from_secs(1),
            Interval::from_secs(300),
        )?;
        between(&key("jobLimit"), keboola.job_limit, 1, 100)?;
        let key = self.encryption.aes.secret_key.as_ref();
        match (self.encryption.provider, key) {
            (EncryptionProvider::None, None) => Ok(()),
            (EncryptionProvider::None, Some(_)) => Err(
                "encryption.aes.secretKey needs encryption.provider: set it to \"aes\"".to_owned(),
            ),
            (EncryptionProvider::Aes, None) => Err(
                "encryption.provider is \"aes\"; set encryption.aes.secretKey to the base64 of 32 bytes, for example from: \
                 openssl rand -base64 32"
                    .to_owned(),
            ),
            (EncryptionProvider::Aes, Some(key)) => Custody::new(key)
                .map(drop)
                .map_err(|error| format!("encryption.aes.secretKey is not valid: {error}")),
        }
    }

    /// Where the Storage API is, if there is one.
    ///
    /// # Errors
    /// A sentence when it is not a host or URL.
    pub fn storage_api_address(&self) -> Result<Option<Address>, String> {
        let host = self.storage_api_host.as_deref();
        let host = host.filter(|host| !host.trim().is_empty());
        let address = host.map(str::parse).transpose();
        address.map_err(|error: InvalidAddress| format!("storageApiHost is not valid: {error}"))
    }

    /// Limits of what is asked of the Storage API.
    #[must_use]
    pub const fn storage_api_options(&self) -> stream_target::keboola::Options {
        let keboola = &self.sink.table.keboola;
        stream_target::keboola::Options {
            event_send_timeout: keboola.event_send_timeout.0,
            job_limit: keboola.job_limit,
        }
    }

    fn validate_rejects(&self) -> Result<(), String> {
        let hours = |n: u64| Interval::from_secs(n * 3600);
        let (second, rejects) = (Interval::from_secs(1), &self.storage.rejects);
        let key = |name: &str| format!("storage.rejects.{name}");
        between(&key("interval"), rejects.interval, second, hours(24))?;
        between(&key("minInterval"), rejects.min_interval, second, hours(24))?;
        between(&key("retention"), rejects.retention, second, hours(8760))?;
        between(
            &key("size"),
            rejects.size,
            ByteSize(100),
            ByteSize(50 << 20),
        )?;
        let most = rejects.max_objects_per_sink;
        between(&key("maxObjectsPerSink"), most, 1, 100_000)
    }

    fn validate_triggers(&self) -> Result<(), String> {
        let second = Interval::from_secs(1);
        let half_hour = Some(Interval::from_secs(30 * 60));
        let day = Some(Interval::from_secs(24 * 3600));
        let upload = &self.storage.level.staging.upload;
        let key = |name: &str| format!("storage.level.staging.upload.{name}");
        optional(&key("minInterval"), upload.min_interval, second, half_hour)?;
        optional(
            &key("trigger.count"),
            upload.trigger.count,
            1,
            Some(10_000_000),
        )?;
        optional(
            &key("trigger.size"),
            upload.trigger.size,
            ByteSize(100),
            Some(ByteSize(50 << 20)),
        )?;
        optional(
            &key("trigger.interval"),
            upload.trigger.interval,
            second,
            half_hour,
        )?;
        let import = &self.storage.level.target.import;
        let key = |name: &str| format!("storage.level.target.import.{name}");
        optional(&key("minInterval"), import.min_interval, second, day)?;
        optional(
            &key("trigger.count"),
            import.trigger.count,
            1,
            Some(10_000_000),
        )?;
        optional(
            &key("trigger.size"),
            import.trigger.size,
            ByteSize(100),
            Some(ByteSize(500 << 20)),
        )?;
        optional(
            &key("trigger.interval"),
            import.trigger.interval,
            second,
            day,
        )?;
        optional(
            &key("trigger.slicesCount"),
            import.trigger.slices_count,
            1,
            Some(200),
        )
    }

    fn validate_local(&self) -> Result<(), String> {
        let local = &self.storage.level.local;
        let key = |name: &str| format!("storage.level.local.{name}");
        let size = |megabytes: u64| ByteSize(megabytes << 20);
        between(
            &key("volume.assignment.count"),
            local.volume.assignment.count,
            1,
            100,
        )?;
        between(
            &key("volume.registration.ttlSeconds"),
            local.volume.registration.ttl_seconds,
            1,
            60,
        )?;
        between(
            &key("encoding.encoder.rowSizeLimit"),
            local.encoding.encoder.row_size_limit,
            ByteSize(1 << 10),
            ByteSize(MAX_ROW_BYTES),
        )?;
        let compression = &local.encoding.compression;
        between(
            &key("encoding.compression.zstd.level"),
            compression.zstd.level,
            1,
            19,
        )?;
        between(
            &key("encoding.compression.gzip.level"),
            compression.gzip.level,
            1,
            9,
        )?;
        let journal = &local.journal;
        between(
            &key("journal.segmentSize"),
            journal.segment_size,
            size(1),
            size(1024),
        )?;
        optional(
            &key("journal.checkpointSize"),
            Some(journal.checkpoint_size),
            size(1),
            None,
        )?;
        let keys = &local.idempotency;
        between(
            &key("idempotency.maxKeys"),
            keys.max_keys,
            1_000,
            100_000_000,
        )?;
        between(
            &key("idempotency.window"),
            keys.window,
            Interval(std::time::Duration::from_secs(60)),
            Interval(std::time::Duration::from_secs(7 * 24 * 60 * 60)),
        )?;
        between(
            &key("idempotency.awayAfter"),
            keys.away_after,
            Interval(std::time::Duration::from_secs(1)),
            Interval(std::time::Duration::from_secs(60 * 60)),
        )?;
        let least = ByteSize(journal.checkpoint_size.0.saturating_mul(2));
        optional(&key("journal.maxSize"), Some(journal.max_size), least, None)?;
        let least = ByteSize(journal.segment_size.0.saturating_mul(8));
        optional(&key("volume.maxSize"), local.volume.max_size, least, None)?;
        optional(&key("sink.maxSize"), local.sink.max_size, size(1), None)?;
        local.writer.network.validate()?;
        optional(&key("reserve"), Some(local.reserve), size(1), None)
    }

    /// The levels of sinks before source and sink settings.
    #[must_use]
    pub fn defaults(&self) -> Defaults {
        let level = &self.storage.level;
        let encoding = &level.local.encoding;
        let compression = match encoding.compression.kind {
            CompressionKind::None => Compression::None,
            CompressionKind::Gzip => Compression::Gzip {
                level: encoding.compression.gzip.level,
            },
            CompressionKind::Zstd => Compression::Zstd {
                level: encoding.compression.zstd.level,
            },
        };
        let durability = match (encoding.sync.mode, encoding.sync.wait) {
            (_, false) => Durability::Memory,
            (SyncMode::Disk, true) => Durability::Disk,
            (SyncMode::Cache, true) => Durability::Cache,
        };
        let assignment = &level.local.volume.assignment;
        let (upload, import) = (&level.staging.upload, &level.target.import);
        Defaults {
            local: Local {
                compression,
                durability,
                assignment: Assignment {
                    count: assignment.count,
                    preferred_types: assignment.preferred_types.clone(),
                },
            },
            upload: ConfiguredUpload {
                count: upload.trigger.count,
                size: upload.trigger.size,
                interval: upload.trigger.interval,
                min_interval: upload.min_interval,
            },
            import: ConfiguredImport {
                count: import.trigger.count,
                size: import.trigger.size,
                interval: import.trigger.interval,
                min_interval: import.min_interval,
                slices_count: import.trigger.slices_count,
            },
            rejects: stream_model::trigger::UploadTrigger {
                size: self.storage.rejects.size,
                interval: self.storage.rejects.interval,
                min_interval: self.storage.rejects.min_interval,
                ..stream_model::rejects::default_trigger()
            },
            rate: self.source.http.rate(),
        }
    }

    /// How etcd is reached.
    #[must_use]
    pub fn etcd_options(&self) -> stream_state::ConnectOptions {
        stream_state::ConnectOptions {
            endpoints: self.etcd.endpoint.clone(),
            username: self.etcd.username.clone(),
            password: self.etcd.password.clone(),
            tls: self.etcd.tls.resolved(),
            connect_timeout: self.etcd.connect_timeout.0,
            keep_alive_interval: self.etcd.keep_alive_interval.0,
            keep_alive_timeout: self.etcd.keep_alive_timeout.0,
        }
    }

    /// How long a registration outlives its process.
    #[must_use]
    pub const fn registration_ttl(&self) -> Duration {
        Duration::from_secs(self.storage.level.local.volume.registration.ttl_seconds)
    }
}

impl EtcdTls {
    fn validate(&self) -> Result<(), String> {
        match (&self.ca, &self.cert, &self.key) {
            (None, Some(_), _) | (None, _, Some(_)) => {
                Err("etcd.tls.cert and etcd.tls.key need etcd.tls.ca; set all three".to_owned())
            }
            (Some(_), Some(_), None) | (Some(_), None, Some(_)) => Err(
                "etcd.tls.cert and etcd.tls.key belong together; set both or neither".to_owned(),
            ),
            _ => Ok(()),
        }
    }

    fn resolved(&self) -> Option<stream_state::Tls> {
        Some(stream_state::Tls {
            ca: self.ca.clone()?,
            identity: self.cert.clone().zip(self.key.clone()),
        })
    }
}

pub fn between<T: PartialOrd + std::fmt::Display>(
    key: &str,
    value: T,
    min: T,
    max: T,
) -> Result<(), String> {
    optional(key, Some(value), min, Some(max))
}

fn optional<T: PartialOrd + std::fmt::Display>(
    key: &str,
    value: Option<T>,
    min: T,
    max: Option<T>,
) -> Result<(), String> {
    match (value, max) {
        (Some(value), Some(max)) if value < min || value > max => {
            Err(format!("{key} is {value}; set {min} to {max}"))
        }
        (Some(value), None) if value < min => Err(format!("{key} is {value}; set {min} or more")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_once_resolved() {
        let config = Config::default().resolved();
        assert_eq!(config.validate(), Ok(()));
        assert!(config.is_standalone());
        assert!(config.staging.url.starts_with("file:///"));
        assert_eq!(config.defaults(), Defaults::default());
    }

    #[test]
    fn a_value_out_of_range_is_named_with_its_limits() {
        let mut config = Config::default().resolved();
        config.storage.level.staging.upload.trigger.interval = Some(Interval::from_secs(3600));
        let expected = "storage.level.staging.upload.trigger.interval is 1h0m0s; set 1s to 30m0s";
        assert_eq!(config.validate(), Err(expected.to_owned()));
        let mut config = Config::default().resolved();
        config.storage.level.local.journal.max_size = ByteSize(1 << 20);
        let message = config.validate().expect_err("too small");
        assert!(message.ends_with("set 512MB or more"), "{message}");
    }

    #[test]
    fn a_volume_must_have_room_for_its_journal() {
        let mut config = Config::default().resolved();
        config.storage.level.local.volume.max_size = Some(ByteSize(100 << 20));
        let message = config.validate().expect_err("too small");
        assert!(
            message.contains("storage.level.local.volume.maxSize"),
            "{message}"
        );
        assert!(message.ends_with("set 256MB or more"), "{message}");
        config.storage.level.local.volume.max_size = Some(ByteSize(256 << 20));
        config.storage.level.local.sink.max_size = Some(ByteSize(1 << 20));
        config.validate().expect("both are large enough");
    }

    #[test]
    fn the_url_of_sources_is_encrypted_when_the_listener_is() {
        let url = |config: &Config| config.clone().resolved().source.http.public_url;
        let mut config = Config::default();
        assert_eq!(url(&config).as_deref(), Some("http://localhost:7000"));
        config.source.http.tls.cert = Some("cert.pem".into());
        config.source.http.tls.key = Some("key.pem".into());
        assert_eq!(url(&config).as_deref(), Some("https://localhost:7000"));
        config.source.http.public_url = Some("http://in.example.com".to_owned());
        assert_eq!(url(&config).as_deref(), Some("http://in.example.com"));
    }

    #[test]
    fn the_source_gets_the_row_limit_of_the_encoder() {
        let mut config = Config::default();
        config.storage.level.local.encoding.encoder.row_size_limit = ByteSize(2000);
        let config = config.resolved();
        assert_eq!(config.source.http.row_size_limit, ByteSize(2000));
        assert_eq!(config.validate(), Ok(()));
        let mut config = Config::default();
        config.storage.level.local.encoding.encoder.row_size_limit = ByteSize(3 << 20);
        let message = config.resolved().validate().expect_err("too large");
        let expected = "storage.level.local.encoding.encoder.rowSizeLimit is 3MB; set 1KB to 2MB";
        assert_eq!(message, expected);
    }

    #[test]
    fn a_password_in_an_endpoint_is_refused_without_a_word_of_it() {
        let mut config = Config::default().resolved();
        config.etcd.endpoint = vec!["http://root:hunter2@a:2379".to_owned()];
        let message = config.validate().expect_err("a password");
        assert!(message.contains("etcd.username"), "{message}");
        assert!(!message.contains("hunter2"), "{message}");
    }

    #[test]
    fn a_certificate_needs_its_key_and_an_authority() {
        let file = || Some(PathBuf::from("x.pem"));
        let valid = |ca, cert, key| {
            let mut config = Config::default().resolved();
            config.etcd.tls = EtcdTls { ca, cert, key };
            config.validate().is_ok()
        };
        assert!(valid(None, None, None) && valid(file(), None, None));
        assert!(valid(file(), file(), file()));
        assert!(!valid(file(), file(), None) && !valid(file(), None, file()));
        assert!(!valid(None, file(), file()));
    }

    #[test]
    fn a_password_is_not_printed() {
        let mut config = Config::default();
        config.etcd.password = Some(Secret::new("hunter2".to_owned()));
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
