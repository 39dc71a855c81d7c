//! The openings as text.

use super::{Measured, Opening, Options};
use crate::state::median;
use crate::volume::mebibytes;

/// What was measured, and a table.
pub fn text(options: &Options, measured: &[Measured]) -> String {
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let cache = if measured.iter().all(|measured| measured.cold) {
        "cold: emptied before each opening"
    } else {
        "warm: only root may empty it"
    };
    let mut lines = vec![
        format!(
            "{cpus} CPUs, appends of {} rows of 1 KB records to {} slices, sealed slices of 50 MiB; page cache {cache}. \
             Open: medians of {} openings; what follows: of one more.",
            options.rows, options.slices, options.repeats
        ),
        String::new(),
        "| journal | sealed slices | slices, rows | open | for each GiB of journal | CPU of it | memory | first append | threads done | CPU of flush thread | memory until then |".to_owned(),
        format!("|{}", "---|".repeat(11)),
    ];
    lines.extend(measured.iter().map(row));
    lines.join("\n")
}

fn row(measured: &Measured) -> String {
    let of = |value: fn(&Opening) -> f64| median(measured.openings.iter().map(value));
    let (case, whole, filled) = (&measured.case, &measured.whole, &measured.filled);
    let open = of(|opening| opening.open);
    let cells = [
        mebibytes(filled.journal_bytes as f64),
        format!("{} GiB", case.stored),
        format!("{}, {}", filled.slices, filled.rows),
        seconds(open),
        seconds(open * f64::from(1 << 30) / filled.journal_bytes as f64),
        seconds(of(|opening| opening.cpu)),
        mebibytes(of(|opening| opening.open_memory)),
        seconds(whole.first_append),
        seconds(whole.done),
        seconds(whole.flush_cpu),
        mebibytes(whole.memory),
    ];
    format!("| {} |", cells.join(" | "))
}

fn seconds(seconds: f64) -> String {
    format!("{seconds:.2} s")
}
