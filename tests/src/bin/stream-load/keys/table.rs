//! What was found as text.

use std::time::Duration;

use super::served::Served;
use super::{Filled, Kind, Measured, Opened, Options, Run};
use crate::bench;
use crate::machine::Disk;
use crate::recovery::Opening;
use crate::report::{millis, percent};
use crate::series::{self, Series};
use crate::state::median;
use crate::volume::mebibytes;

/// How it is measured.
pub fn head(options: &Options, disk: &Disk) -> String {
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!(
        "{cpus} CPUs, {} keys, {} B records, zstd 1, durability disk; medians of {} runs of {} s.\n\n{}\n",
        options.keys,
        options.bytes,
        options.repeats,
        options.duration.as_secs_f64(),
        bench::disk_line(disk)
    )
}

/// The volume.
pub fn volume(options: &Options, measured: &Measured, opened: &Opened) -> String {
    let mut lines = vec![
        "| rows per append | keys | appends/s with few keys | with all | keys/s | p50 | p99 | p99.9 | max | refused, sent again | CPU of commit thread | of flush thread | CPU pressure | memory |".to_owned(),
        format!("|{}", "---|".repeat(14)),
    ];
    for few in &measured.few {
        let same = |run: &&Run| run.kind == few.kind && run.rows == few.rows;
        let full: Vec<&Run> = measured.full.iter().filter(same).collect();
        lines.push(row(few, &full));
    }
    lines.push(String::new());
    lines.push(filled(&measured.filled));
    let [journal, files] = measured.left;
    lines.push(format!(
        "In the end {:.0} keys are remembered, in {} on the disk, {:.1} B a key.",
        measured.remembered,
        mebibytes(files),
        files / measured.remembered
    ));
    let cache = match opened.is_cold {
        true => "the page cache emptied before",
        false => "the page cache warm: only root may empty it",
    };
    let of = |value: fn(&Opening) -> f64| median(opened.openings.iter().map(value));
    lines.push(format!(
        "Opened after a crash with a journal of {}, {cache}, median of {}: {:.2} s, CPU {:.2} s, memory {}; first append after {:.2} s, \
         threads done after {:.2} s.",
        mebibytes(journal),
        options.repeats,
        of(|opening| opening.open),
        of(|opening| opening.cpu),
        mebibytes(of(|opening| opening.open_memory)),
        opened.whole.first_append,
        opened.whole.done,
    ));
    lines.join("\n")
}

fn row(few: &Run, full: &[&Run]) -> String {
    let of = |value: fn(&Run) -> f64| median(full.iter().map(|run| value(run)));
    let rate = |run: &Run| run.appends / run.elapsed;
    let keys = match few.kind {
        Kind::Without => "none",
        Kind::New => "new",
        Kind::Known => "known",
    };
    let has_keys = few.kind != Kind::Without;
    let latency = |seconds| millis(Duration::from_secs_f64(seconds));
    let pressure = of(|run| run.pressure);
    let refused: f64 = full.iter().map(|run| run.refused).sum();
    let cells = [
        few.rows.to_string(),
        keys.to_owned(),
        format!("{:.0}", rate(few)),
        format!("{:.0}", of(rate)),
        match has_keys {
            true => format!("{:.0}", of(rate) * few.rows as f64),
            false => "–".to_owned(),
        },
        latency(of(|run| run.latency[0])),
        latency(of(|run| run.latency[1])),
        latency(of(|run| run.latency[2])),
        latency(of(|run| run.latency[3])),
        format!("{refused:.0}"),
        percent(Some(of(|run| run.cpu[0]))),
        percent(Some(of(|run| run.cpu[1]))),
        percent((pressure >= 0.0).then_some(pressure)),
        mebibytes(of(|run| run.memory)),
    ];
    format!("| {} |", cells.join(" | "))
}

/// How a volume was filled.
fn filled(filled: &Filled) -> String {
    let latency = |position: usize| millis(Duration::from_secs_f64(filled.latency[position]));
    let [before, most, after] = filled.memory.map(mebibytes);
    let [bytes, files] = filled.files;
    format!(
        "Filled by appends of one row and 1 000 keys: {:.0} keys/s, p50 {}, p99 {}, max {}, refused and sent again {:.0}, CPU pressure {}. \
         Memory {before} before the volume was opened, {most} at most, {after} at rest. {files:.0} files with keys, {}.",
        filled.keys / filled.elapsed,
        latency(0),
        latency(1),
        latency(3),
        filled.refused,
        percent((filled.pressure >= 0.0).then_some(filled.pressure)),
        mebibytes(bytes),
    )
}

/// The service.
pub fn service(served: &Served) -> String {
    let [without, with] = &served.series;
    let mut lines = vec![
        format!(
            "\nThe service on a volume with as many keys, ready {:.2} s after its start. Its volume: {}\n",
            served.ready.as_secs_f64(),
            filled(&served.filled)
        ),
        series::HEAD.to_owned(),
    ];
    lines.extend(served.series.iter().map(Series::row));
    let share = with.rate() / without.rate().max(f64::EPSILON);
    lines.push(format!(
        "\nWith keys it takes {:.0} % of the requests that it takes without.",
        share * 100.0
    ));
    lines.join("\n")
}
