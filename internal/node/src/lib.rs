//! Running a process: tasks, orderly stop, control loops, configuration, logs, metrics and the HTTP
//! listener.
//!
//! Used by every component and by the binary. This crate knows nothing of streams and depends on
//! none of our other crates, so that it can be understood, tested and replaced on its own.
//!
//! | module | is about |
//! |---|---|
//! | [`tasks`] | background tasks that have a name, a policy and somebody who joins them |
//! | [`lifecycle`] | why the process stops, and the phases of an orderly stop |
//! | [`reconcile`] | control loops: idempotent rounds, periodic and activated |
//! | [`jobs`] | long work of control loops: bounded, one job per key |
//! | [`helper`] | processes beside this one, for work that may run away |
//! | [`config`] | defaults < files < environment < flags, over any serde struct |
//! | [`telemetry`] | log output and the metrics of the process itself |
//! | [`http`] | an HTTP/1 listener that sheds, times out and drains |
//! | [`admin`] | the port with `/health`, `/ready` and `/metrics` |

pub mod admin;
pub mod config;
pub mod helper;
pub mod http;
pub mod jobs;
pub mod lifecycle;
pub mod reconcile;
pub mod tasks;
pub mod telemetry;

pub use admin::{Readiness, ReadyFlag, serve_admin};
pub use config::{
    ConfigError, DumpFormat, Entry, Help, Layers, Origin, ParsedFlags, dump, parse_flags,
};
pub use helper::{Budget, Helper, HelperError, Helpers};
pub use http::{
    BindError, ClientTls, Drained, Listener, Peer, ServeOptions, ServerMetrics, Socket, Tls,
    TlsError, TrustedProxies,
};
pub use jobs::Jobs;
pub use lifecycle::{Phases, Reason, Shutdown, wait_for_signal};
pub use reconcile::{
    Activator, LastRound, Outcome, Reconciler, ReconcilerMetrics, ReconcilerSnapshot,
    ReconcilerStatus, Schedule, run_reconciler,
};
pub use tasks::{OnError, StillRunning, TaskError, Tasks, error_chain};
pub use telemetry::{LogFormat, TelemetryError, init_logging, register_process_metrics};
pub use tokio_util::sync::CancellationToken;
