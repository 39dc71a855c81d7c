//! The state as a tree, for people.

use std::time::Duration;

use stream_model::Timestamp;
use stream_model::definition::sink::Switch;
use stream_model::definition::token::Role;
use stream_model::definition::{Sink, Source, Token};
use stream_model::file::{self, File};
use stream_model::retry::Retry;
use stream_model::slice::{self, Closing, Slice};
use stream_model::statistics::{Crossed, Figures};
use stream_model::trigger::Reason;
use stream_model::unit::Interval;

use super::picture::{OfSink, OfSource, OfVolume, Picture};
use super::surroundings::status;
use super::{Snapshot, escaped};
use crate::repository::node::NodeRegistration;
use crate::repository::task::Task;

/// The whole state, one thing per line, indented under what it belongs to. Secrets and hashes of tokens are not in it.
#[must_use]
pub fn tree(snapshot: &Snapshot, now: Timestamp) -> String {
    let (picture, findings) = Picture::read(&snapshot.entries);
    let (keys, revision) = (snapshot.entries.len(), snapshot.revision);
    let mut tree = Tree {
        text: String::new(),
        now,
    };
    tree.line(
        0,
        &format!("{keys} keys at revision {revision}, read at {now}"),
    );
    tree.add_sources(&picture);
    tree.add_surroundings(&picture);
    let unreadable = findings
        .iter()
        .filter(|finding| finding.is_about_reading(&finding.key));
    let lines = unreadable.map(|finding| format!("{}: {}", finding.key, finding.detail));
    tree.section("not readable by this version", lines);
    tree.text
}

/// The text being made.
struct Tree {
    text: String,
    now: Timestamp,
}

impl Tree {
    fn line(&mut self, depth: usize, text: &str) {
        self.text.push_str(&"  ".repeat(depth));
        self.text.push_str(&escaped(text));
        self.text.push('\n');
    }

    /// A title with a line for each item; nothing without items.
    fn section(&mut self, title: &str, items: impl Iterator<Item = String>) {
        let mut items = items.peekable();
        if items.peek().is_some() {
            self.line(0, title);
        }
        for item in items {
            self.line(1, &item);
        }
    }

    fn ago(&self, at: Timestamp) -> String {
        let age = Duration::from_secs(self.now.since(at).as_secs());
        format!("{} ago", Interval(age))
    }

    fn add_sources(&mut self, picture: &Picture) {
        let mut branch = None;
        for (key, of_source) in &picture.sources {
            if branch != Some(key.branch) {
                let (project, number) = (key.branch.project, key.branch.branch);
                self.line(0, &format!("project {project}, branch {number}"));
                branch = Some(key.branch);
            }
            self.line(
                1,
                &format!("source {}: {}", key.source, self.source(of_source)),
            );
            if let Some(volumes) = &of_source.assignment {
                self.line(2, &format!("volumes: {}", joined(volumes)));
            }
            for (id, of_sink) in &of_source.sinks {
                self.line(2, &format!("sink {id}: {}", self.sink(of_sink)));
                self.add_files(of_sink);
            }
        }
    }

    fn source(&self, of_source: &OfSource) -> String {
        let Some(source) = &of_source.source else {
            return "no definition".to_owned();
        };
        let Source {
            name,
            version,
            disabled,
            deleted,
            ..
        } = source;
        let switches = self.switches(disabled.as_ref(), deleted.as_ref());
        let (number, made) = (version.number, self.ago(version.at));
        format!("{name:?}, version {number} made {made}, {switches}")
    }

    fn sink(&self, of_sink: &OfSink) -> String {
        let Some(sink) = &of_sink.sink else {
            return "no definition".to_owned();
        };
        let Sink {
            name,
            table,
            version,
            disabled,
            deleted,
            ..
        } = sink;
        let switches = self.switches(disabled.as_ref(), deleted.as_ref());
        let (number, made) = (version.number, self.ago(version.at));
        let (kind, id, columns) = (
            table.kind.as_str(),
            &table.table_id,
            table.mapping.columns.len(),
        );
        let key: Vec<&str> = table.mapping.primary_key().collect();
        let key = match key.is_empty() {
            true => "no primary key".to_owned(),
            false => format!("primary key {}", key.join(", ")),
        };
        format!(
            "{name:?}, version {number} made {made}, {switches}, {kind} table {id} with {columns} columns, {key}"
        )
    }

    fn switches(&self, disabled: Option<&Switch>, deleted: Option<&Switch>) -> String {
        match (disabled, deleted) {
            (_, Some(deleted)) => format!("deleted {}", self.ago(deleted.stamp.at)),
            (Some(disabled), None) => format!("disabled {}", self.ago(disabled.stamp.at)),
            (None, None) => "enabled".to_owned(),
        }
    }

    fn add_files(&mut self, of_sink: &OfSink) {
        if let Some(removed) = &of_sink.removed {
            self.line(3, &format!("cleaned up: {}", figures(removed)));
        }
        self.add_rejects(of_sink);
        for (id, file) in &of_sink.files {
            let current = match of_sink.current == Some(*id) {
                true => ", current",
                false => "",
            };
            self.line(
                3,
                &format!("file {id}{current}: {}", self.file(&file.value)),
            );
            for slice in of_sink.slices_of(*id) {
                let crossed = of_sink.crossed.get(&slice.id);
                self.line(
                    4,
                    &format!("slice {}: {}", slice.id, self.slice(slice, crossed)),
                );
            }
        }
        let lost = of_sink.slices.values();
        let lost =
            lost.filter(|slice| slice.kind.is_rows() && !of_sink.files.contains_key(&slice.file));
        for slice in lost {
            let (id, file) = (slice.id, slice.file);
            let text = self.slice(slice, of_sink.crossed.get(&id));
            self.line(3, &format!("slice {id} of missing file {file}: {text}"));
        }
    }

    fn add_rejects(&mut self, of_sink: &OfSink) {
        if let Some(removed) = &of_sink.rejects_removed {
            let text = format!("rejected records not kept any more: {}", figures(removed));
            self.line(3, &text);
        }
        let slices = of_sink.slices.values();
        for slice in slices.filter(|slice| !slice.kind.is_rows()) {
            let crossed = of_sink.rejects_crossed.get(&slice.id);
            let text = self.slice(slice, crossed);
            self.line(3, &format!("rejected records, slice {}: {text}", slice.id));
        }
    }

    fn file(&self, file: &File) -> String {
        let since = match &file.state {
            file::State::Writing => String::new(),
            file::State::Closing { at, reason } => {
                format!(", closed by {} {}", reason_name(*reason), self.ago(*at))
            }
            file::State::Importing { at, .. } => format!(", began {}", self.ago(*at)),
            file::State::Imported { at, rows, .. } => {
                format!(", {rows} rows, committed {}", self.ago(*at))
            }
        };
        format!(
            "{}{since}, opened {}, mapping version {}, volumes {}{}",
            file.state.name(),
            self.ago(file.opened_at),
            file.mapping_version,
            joined(&file.volumes),
            self.retry(file.retry.as_ref())
        )
    }

    fn slice(&self, slice: &Slice, crossed: Option<&Crossed>) -> String {
        let state = match &slice.state {
            slice::State::Writing => String::new(),
            slice::State::Closing(closing) => self.closing(closing),
            slice::State::Uploading { closing, seal } => {
                let content = figures(&seal.figures);
                format!(
                    "{}, sealed {}: {content}",
                    self.closing(closing),
                    self.ago(seal.at)
                )
            }
            slice::State::Uploaded {
                closing,
                seal,
                object,
                at,
            } => {
                let object = object.as_deref().unwrap_or("no object");
                let content = figures(&seal.figures);
                format!(
                    "{}, {content}, {object} {}",
                    self.closing(closing),
                    self.ago(*at)
                )
            }
        };
        let crossed = crossed.map_or_else(String::new, |crossed| self.crossed(crossed));
        format!(
            "{}{state}{crossed}, volume {}, opened {}, mapping version {}{}",
            slice.state.name(),
            slice.volume,
            self.ago(slice.opened_at),
            slice.mapping_version,
            self.retry(slice.retry.as_ref())
        )
    }

    fn crossed(&self, crossed: &Crossed) -> String {
        let (reason, age) = (reason_name(crossed.reason), self.ago(crossed.at));
        format!(
            ", reached {reason} {age} with {}",
            figures(&crossed.figures)
        )
    }

    fn closing(&self, closing: &Closing) -> String {
        let reason = reason_name(closing.reason);
        let successor = closing.successor.map_or_else(
            || "no successor".to_owned(),
            |successor| format!("successor {successor}"),
        );
        format!(", closed by {reason} {}, {successor}", self.ago(closing.at))
    }

    fn retry(&self, retry: Option<&Retry>) -> String {
        retry.map_or_else(String::new, |retry| {
            let (attempt, last) = (retry.attempt, self.ago(retry.last_failed_at));
            format!(", failed {attempt} times, last {last}: {}", retry.reason)
        })
    }

    fn add_surroundings(&mut self, picture: &Picture) {
        let volumes = picture.volumes.iter();
        let volumes = volumes.map(|(id, volume)| format!("{id}: {}", self::volume(volume)));
        self.section("volumes", volumes);
        let nodes = picture.nodes.iter();
        let nodes = nodes.map(|((component, node), registration)| {
            format!("{component} on {node}: {}", self.node(registration))
        });
        let nodes: Vec<String> = nodes.collect();
        self.section("nodes", nodes.into_iter());
        let tasks = picture.tasks.values().map(|task| self.task(task));
        let tasks: Vec<String> = tasks.collect();
        self.section("tasks", tasks.into_iter());
        let tokens = picture.tokens.values().map(|token| self.token(token));
        let tokens: Vec<String> = tokens.collect();
        self.section("tokens", tokens.into_iter());
        let projects = picture.projects.iter();
        let projects = projects.map(|(id, project)| {
            let (branch, age) = (project.default_branch, self.ago(project.first_used_at));
            format!("{id}: default branch {branch}, first used {age}")
        });
        let projects: Vec<String> = projects.collect();
        self.section("projects", projects.into_iter());
        let destinations = picture.destinations.iter();
        let destinations = destinations.map(|(sink, destination)| {
            let (table, token, file) = (
                &destination.table_id,
                &destination.token.id,
                destination.file.id,
            );
            format!("{sink}: table {table}, token {token}, staging file {file}")
        });
        self.section("destinations", destinations);
        let changes = picture.provisionings.iter();
        let changes = changes.map(|(sink, change)| {
            let table = change.table_id.as_deref().unwrap_or("none");
            format!(
                "{sink}: to table {table}, began {}",
                self.ago(change.began_at)
            )
        });
        let changes: Vec<String> = changes.collect();
        self.section("changes of destinations", changes.into_iter());
        let locks = picture.locks.iter();
        let locks = locks.map(|(name, holder)| format!("{name}: held by {}", holder.by));
        self.section("locks", locks);
    }

    fn node(&self, node: &NodeRegistration) -> String {
        let addresses = node.addresses.iter();
        let addresses: String = addresses
            .map(|(name, address)| format!(", {name} {address}"))
            .collect();
        let (version, since) = (&node.version, self.ago(node.started_at));
        format!("version {version}, started {since}{addresses}")
    }

    fn task(&self, task: &Task) -> String {
        let outcome = task.error.as_ref().or(task.result.as_ref());
        let outcome = outcome.map_or_else(String::new, |outcome| format!(": {outcome}"));
        let (status, age) = (status(task), self.ago(task.created_at));
        format!("{}: {status}, created {age}{outcome}", task.id)
    }

    fn token(&self, token: &Token) -> String {
        let role = match token.role {
            Role::Admin => "admin",
            Role::ReadOnly => "read only",
        };
        let (id, description) = (&token.id, &token.description);
        let age = self.ago(token.created_at);
        format!("{id}: {role}, {description:?}, created {age}")
    }
}

fn volume(volume: &OfVolume) -> String {
    let mut text = match &volume.incarnation {
        Some(incarnation) => {
            let recovered = match incarnation.recovered {
                true => "recovered",
                false => "not recovered yet",
            };
            let (number, node) = (incarnation.number, &incarnation.node);
            format!("incarnation {number} by {node}, {recovered}")
        }
        None => "no incarnation".to_owned(),
    };
    match &volume.registration {
        Some(open) => {
            let (node, kind, label) = (&open.node, &open.kind, &open.label);
            text.push_str(&format!(", open on {node} as {kind}/{label}"));
        }
        None => text.push_str(", not open"),
    }
    if let Some(held) = &volume.figures {
        let (slices, content, free) = (held.slices, figures(&held.figures), bytes(held.free_bytes));
        text.push_str(&format!(", {slices} slices, {content}, {free} free"));
    }
    text
}

fn figures(figures: &Figures) -> String {
    let (rows, raw, compressed) = (figures.rows, bytes(figures.raw_bytes), bytes(figures.bytes));
    format!("{rows} rows, {compressed} ({raw} uncompressed)")
}

/// `17 B`, `1.5 KiB`, `12.0 GiB`
fn bytes(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let Some((unit, shift)) = units.into_iter().find(|(_, shift)| bytes >> shift > 0) else {
        return format!("{bytes} B");
    };
    let whole = bytes >> shift;
    let tenth = ((bytes - (whole << shift)) * 10) >> shift;
    format!("{whole}.{tenth} {unit}")
}

const fn reason_name(reason: Reason) -> &'static str {
    match reason {
        Reason::Count => "count",
        Reason::Size => "size",
        Reason::Interval => "interval",
        Reason::SlicesCount => "slicesCount",
        Reason::Sessions => "sessions",
        Reason::Definition => "definition",
        Reason::Drain => "drain",
    }
}

fn joined<T: ToString>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(T::to_string).collect();
    match items.is_empty() {
        true => "none".to_owned(),
        false => items.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes_are_written_in_the_largest_unit_with_one_digit() {
        for (size, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1023.9 KiB"),
            (5 << 20, "5.0 MiB"),
            (u64::MAX, "17179869183.9 GiB"),
        ] {
            assert_eq!(bytes(size), text);
        }
    }
}
