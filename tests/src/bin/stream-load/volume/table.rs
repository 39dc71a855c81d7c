//! The runs of all cases as text.

use super::{Case, Options, Run};
use crate::frames::Codec;
use crate::report::percent;
use crate::state::median;

/// What was measured, and three tables: rates and latencies, what they cost, and the disk beside them.
pub fn text(options: &Options, codec: &Codec, cases: &[(Case, Vec<Run>)]) -> String {
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let head = format!(
        "{cpus} CPUs, {} clients on one of them with one append outstanding each, {} B records, zstd 1, durability disk; \
         medians of {} runs of {} s.\n\n\
         zstd 1 of 256 KiB of these rows on one CPU: {:.0} MB/s in, {:.0} MB/s out, ratio {:.1}.",
        options.clients,
        options.bytes,
        options.repeats,
        options.duration.as_secs_f64(),
        codec.compress / 1e6,
        codec.decompress / 1e6,
        codec.ratio
    );
    let rates = table(
        "| rows per append | slices | appends/s | of the first | rows/s | MB/s before, after compression | p50 | p99 | p99.9 | max | refused |",
        cases,
        |case, runs| rates(case, runs, cases),
    );
    let disk = table(
        "| rows per append | slices | appends per sync | bytes per sync | write and sync, mean | disk alone, as many bytes: p50 | p99 | syncs/s |",
        cases,
        disk,
    );
    let costs = table(
        "| rows per append | slices | written per compressed byte: by the volume | to the device | pages made dirty | checkpoints | CPU of commit thread | of flush thread | of process | CPU pressure | memory | without volume | behind |",
        cases,
        costs,
    );
    [head, rates, disk, costs].join("\n\n")
}

fn table(
    head: &str,
    cases: &[(Case, Vec<Run>)],
    row: impl Fn(&Case, &[Run]) -> Vec<String>,
) -> String {
    let mut lines = vec![
        head.to_owned(),
        format!("|{}", "---|".repeat(head.matches('|').count() - 1)),
    ];
    for (case, runs) in cases {
        let own = [case.rows.to_string(), case.slices.to_string()];
        let cells: Vec<_> = own.into_iter().chain(row(case, runs)).collect();
        lines.push(format!("| {} |", cells.join(" | ")));
    }
    lines.join("\n")
}

fn rates(case: &Case, runs: &[Run], cases: &[(Case, Vec<Run>)]) -> Vec<String> {
    let rate = |runs: &[Run]| of(runs, |run| run.appends / run.elapsed);
    let first = cases.iter().find(|(other, _)| other.rows == case.rows);
    let share = rate(runs) / first.map_or(f64::NAN, |(_, runs)| rate(runs));
    let refused: f64 = runs.iter().map(|run| run.refused).sum();
    let bytes = |bytes: fn(&Run) -> f64| of(runs, |run| bytes(run) / run.elapsed / 1e6);
    let latency = |position: usize| millis(of(runs, |run| run.latency[position]));
    vec![
        format!("{:.0}", rate(runs)),
        percent(Some(share)),
        format!("{:.0}", of(runs, |run| run.rows / run.elapsed)),
        format!(
            "{:.1}, {:.1}",
            bytes(|run| run.raw_bytes),
            bytes(|run| run.frame_bytes)
        ),
        latency(0),
        latency(1),
        latency(2),
        latency(3),
        format!("{refused:.0}"),
    ]
}

fn disk(_: &Case, runs: &[Run]) -> Vec<String> {
    vec![
        format!("{:.0}", of(runs, |run| run.group)),
        format!("{:.0} KiB", of(runs, |run| run.group_bytes) / 1024.0),
        millis(of(runs, |run| run.sync)),
        millis(of(runs, |run| run.disk[0])),
        millis(of(runs, |run| run.disk[1])),
        format!("{:.0}", of(runs, |run| run.disk[2])),
    ]
}

fn costs(_: &Case, runs: &[Run]) -> Vec<String> {
    let cpu = |position: usize| percent(Some(of(runs, |run| run.cpu[position])));
    let memory = |position: usize| mebibytes(of(runs, |run| run.memory[position]));
    let pressure = of(runs, |run| run.pressure);
    vec![
        format!("{:.2}", of(runs, |run| run.volume_written)),
        format!("{:.2}", of(runs, |run| run.device_written)),
        format!("{:.2}", of(runs, |run| run.process_written)),
        format!("{:.0}", of(runs, |run| run.checkpoints)),
        cpu(0),
        cpu(1),
        cpu(2),
        percent((pressure >= 0.0).then_some(pressure)),
        memory(0),
        memory(1),
        format!("{:.1} s", of(runs, |run| run.behind)),
    ]
}

fn of(runs: &[Run], value: impl Fn(&Run) -> f64) -> f64 {
    median(runs.iter().map(value))
}

/// Seconds as milliseconds.
pub fn millis(seconds: f64) -> String {
    format!("{:.2} ms", seconds * 1e3)
}

/// Bytes as mebibytes.
pub fn mebibytes(bytes: f64) -> String {
    format!("{:.0} MiB", bytes / f64::from(1 << 20))
}
