//! What was measured, in Markdown.

use std::collections::BTreeSet;

use super::definitions::{Measured, Start};
use super::ledger::{Ledger, Written};
use super::traffic::{Active, Writes};
use super::{Options, StoreKind, seed};
use crate::machine::Disk;
use crate::report::{millis, percent};

/// The machine, without which no figure means anything.
pub fn head(options: Options, disk: &Disk, pressure: Option<f64>) -> String {
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let store = match options.store {
        StoreKind::Embedded => "the embedded store",
        StoreKind::Etcd => "one member of etcd on the same machine",
    };
    format!(
        "{cpus} CPUs, all processes on the same machine, state in {store}, default triggers, tables in SQLite; CPU pressure \
         {}.\n\nfdatasync of 4 KiB, disk alone: {:.0}/s, p50 {}, p99 {}\n",
        percent(pressure),
        disk.syncs_per_second,
        millis(disk.latency.per_mille(500)),
        millis(disk.latency.per_mille(990)),
    )
}

/// A column of the table of writes: what it is called, and what was written.
type Column<'a> = (String, &'a Ledger);

/// Writes per minute by kind of key.
pub fn writes(writes: &Writes) -> String {
    let idle = &writes.idle;
    let mut columns = vec![(format!("idle, {:.0} s", idle.seconds), idle)];
    if let Some(active) = &writes.active {
        let (sinks, ledger) = (active.sinks, &active.ledger);
        columns.push((
            format!("{sinks} active sinks, {:.0} s", ledger.seconds),
            ledger,
        ));
    }
    let mut lines = vec![
        row("per minute", &columns, |(name, _)| {
            format!("{name}: puts | of them unchanged | deletes | bytes")
        }),
        format!("|---|{}", "---|".repeat(columns.len() * 4)),
    ];
    let kinds: BTreeSet<&str> = columns
        .iter()
        .flat_map(|(_, ledger)| ledger.kinds.keys().map(String::as_str))
        .collect();
    for kind in kinds {
        lines.push(row(kind, &columns, |(_, ledger)| {
            cells(
                &ledger.kinds.get(kind).copied().unwrap_or_default(),
                ledger.seconds,
            )
        }));
    }
    lines.push(row("all", &columns, |(_, ledger)| {
        cells(&ledger.total(), ledger.seconds)
    }));
    lines.push(row("transactions", &columns, |(_, ledger)| {
        let rate = ledger.revisions as f64 * 60.0 / ledger.seconds;
        format!("{rate:.0} | | |")
    }));
    lines.extend(writes.active.as_ref().map(busy));
    lines.push(String::new());
    lines.join("\n")
}

fn row(name: &str, columns: &[Column<'_>], cells: impl Fn(&Column<'_>) -> String) -> String {
    let cells: Vec<String> = columns.iter().map(cells).collect();
    format!("| {name} | {} |", cells.join(" | "))
}

fn cells(written: &Written, seconds: f64) -> String {
    let per_minute = |count: u64| format!("{:.0}", count as f64 * 60.0 / seconds);
    [
        per_minute(written.puts),
        per_minute(written.unchanged),
        per_minute(written.deletes),
        per_minute(written.bytes),
    ]
    .join(" | ")
}

fn busy(active: &Active) -> String {
    let mut lines = vec![
        String::new(),
        "| busy service | |".to_owned(),
        "|---|---|".to_owned(),
    ];
    lines.extend(
        figures(active)
            .iter()
            .map(|(name, value)| format!("| {name} | {value} |")),
    );
    lines.extend(before_and_after(active));
    lines.join("\n")
}

/// What a busy service did.
fn figures(active: &Active) -> [(&'static str, String); 7] {
    let seconds = active.creating.as_secs_f64();
    let each =
        millis(active.creating / u32::try_from(active.sinks).unwrap_or(u32::MAX) * active.sources);
    let sink_minutes = active.sinks as f64 * active.ledger.seconds / 60.0;
    let transactions = active.ledger.revisions as f64 / sink_minutes;
    let bytes = active.ledger.total().bytes as f64 / sink_minutes;
    let (accepted, refused) = (active.sent.accepted, active.sent.refused);
    let latency = &active.sent.latency;
    let latency = [
        latency.per_mille(500),
        latency.per_mille(990),
        latency.max(),
    ];
    [
        (
            "sources, sinks",
            format!("{}, {}", active.sources, active.sinks),
        ),
        (
            "created through the API in",
            format!("{seconds:.1} s, {each} each"),
        ),
        (
            "transactions, bytes of a sink in a minute",
            format!("{transactions:.1}, {bytes:.0}"),
        ),
        (
            "records accepted, refused",
            format!("{accepted}, {refused}"),
        ),
        ("latency p50, p99, max", latency.map(millis).join(", ")),
        ("CPU of the service", percent(Some(active.cpus))),
        ("anonymous memory at the end", mebibytes(active.anonymous)),
    ]
}

/// What grows or shrinks while a service is busy. What grows without end says that it does not keep up.
fn before_and_after(active: &Active) -> impl Iterator<Item = String> {
    let [before, after] = active.backlog;
    let [database_before, database_after] = active.database.map(mebibytes);
    let database = format!("| database before, after | {database_before}, {database_after} |");
    let counts = [
        ("files and slices", before.entities, after.entities),
        ("slices to seal", before.closing, after.closing),
        ("slices to upload", before.uploading, after.uploading),
        ("files to import", before.importing, after.importing),
    ];
    let counts =
        counts.map(|(name, before, after)| format!("| {name} before, after | {before}, {after} |"));
    std::iter::once(database).chain(counts)
}

/// Starts with many definitions.
pub fn definitions(measured: &Measured) -> String {
    let [without, with] = measured.database;
    let mut lines = vec![
        format!(
            "| {} sinks × {} versions, an open file each | |",
            measured.sinks,
            seed::VERSIONS
        ),
        "|---|---|".to_owned(),
        format!("| written in | {:.1} s |", measured.seeding.as_secs_f64()),
        format!(
            "| database without, with them | {}, {} |",
            mebibytes(without),
            mebibytes(with)
        ),
    ];
    if let Some(opening) = measured.opening {
        lines.push(format!("| opening the database | {} |", millis(opening)));
    }
    lines.extend([
        format!("| list and build a mirror | {} |", millis(measured.mirroring)),
        format!("| memory of a mirror | {} |", mebibytes(measured.mirror)),
        format!(
            "| page of sinks of a source, {} KiB, {} calls: p50, p99 | {}, {} |",
            measured.page.bytes / 1_024,
            measured.page.calls,
            millis(measured.page.latency.per_mille(500)),
            millis(measured.page.latency.per_mille(990))
        ),
        String::new(),
        "| start of | ready, empty | ready, full | CPU s until rest, empty | full | anonymous, empty | full | difference | resident, full \
         | transactions of a restart, full |"
            .to_owned(),
        "|---|---|---|---|---|---|---|---|---|---|".to_owned(),
    ]);
    lines.extend(measured.starts.iter().map(start));
    lines.push(String::new());
    lines.join("\n")
}

fn start(start: &Start) -> String {
    let (empty, full) = (&start.empty, &start.full);
    let grown = full
        .footprint
        .anonymous
        .saturating_sub(empty.footprint.anonymous);
    let cells = [
        start.components.clone(),
        millis(empty.ready),
        millis(full.ready),
        format!("{:.2}", empty.footprint.cpu_seconds),
        format!("{:.2}", full.footprint.cpu_seconds),
        mebibytes(empty.footprint.anonymous),
        mebibytes(full.footprint.anonymous),
        mebibytes(grown),
        mebibytes(full.footprint.resident),
        full.revisions.to_string(),
    ];
    format!("| {} |", cells.join(" | "))
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_shown_per_minute() {
        let mut ledger = Ledger {
            revisions: 6,
            seconds: 120.0,
            ..Ledger::default()
        };
        let written = Written {
            puts: 8,
            unchanged: 2,
            deletes: 4,
            bytes: 1_000,
        };
        ledger.kinds.insert("entity/slice".to_owned(), written);
        let shown = writes(&Writes {
            idle: ledger,
            active: None,
        });
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[2], "| entity/slice | 4 | 1 | 2 | 500 |");
        assert_eq!(lines[3], "| all | 4 | 1 | 2 | 500 |");
        assert_eq!(lines[4], "| transactions | 3 | | | |");
    }
}
