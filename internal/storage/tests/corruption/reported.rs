//! What the volumes of this process have logged as errors, with the file that each is about.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// An error in the log.
#[derive(Debug, Clone, Default)]
pub struct Logged {
    pub file: PathBuf,
    pub lost: Option<u64>,
}

static LOGGED: Mutex<Vec<Logged>> = Mutex::new(Vec::new());
static LISTENING: OnceLock<()> = OnceLock::new();

/// Begins to listen; once per process.
pub fn listen() {
    LISTENING.get_or_init(|| {
        tracing::subscriber::set_global_default(Listener).expect("there is no other");
    });
}

/// Takes what was logged about files in a directory.
pub fn take(dir: &Path) -> Vec<Logged> {
    let mut logged = LOGGED.lock().expect("no holder panics");
    let (taken, rest) = logged
        .drain(..)
        .partition(|logged| logged.file.starts_with(dir));
    *logged = rest;
    taken
}

struct Listener;

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut logged = Logged::default();
        event.record(&mut logged);
        LOGGED.lock().expect("no holder panics").push(logged);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

impl Visit for Logged {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "lost" {
            self.lost = Some(value);
        }
    }
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "file" {
            self.file = PathBuf::from(format!("{value:?}"));
        }
    }
}
