//! One case: a damaged volume is verified, opened, read, written to and opened again.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use stream_model::SliceId;
use stream_model::level::Compression;
use stream_storage::local::inspect::{self, Verification};
use stream_storage::local::{Content, Recovery, Volume};
use stream_storage::wire::{Answer, Batch, Connection};

use crate::damage::Damage;
use crate::generated::{
    Generated, SESSIONS, SMALL, by_hour, options, part, sealed_by_hour, slice, spec,
};
use crate::image::Image;
use crate::layout::{Kind, Place};
use crate::reported;

/// Longer than any opening may take.
const LONGEST_OPENING: Duration = Duration::from_secs(5);
/// The slice that a volume takes rows for after it was damaged.
const LATER: u8 = 200;

/// What came of a case.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Rows that the damage cost.
    pub lost: usize,
    /// The longest opening.
    pub opening: Duration,
    /// What should not have happened.
    pub wrong: Vec<String>,
    /// What the first opening reported.
    pub reported: Vec<String>,
}

/// Runs one case in an empty directory.
pub fn run(generated: &Generated, damage: &Damage, dir: &Path) -> Outcome {
    let mut image = generated.image.clone();
    damage.apply(&mut image);
    image.write(dir);
    let mut trial = Trial::new(generated, damage, dir);
    trial.verify(&image);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(trial.open_twice());
    if let Damage::Unknown { file, content } = damage {
        let left = std::fs::read(dir.join(file)).ok();
        let expected = (!is_leftover(file)).then_some(content);
        trial.check(left.as_ref() == expected, "the unknown file is left alone");
    }
    trial.outcome
}

struct Trial<'a> {
    generated: &'a Generated,
    damage: &'a Damage,
    dir: &'a Path,
    /// What is hit, by file.
    hits: BTreeMap<&'a Path, Vec<Range<usize>>>,
    /// Rows that may be lost.
    excused: BTreeSet<String>,
    outcome: Outcome,
}

impl<'a> Trial<'a> {
    fn new(generated: &'a Generated, damage: &'a Damage, dir: &'a Path) -> Self {
        let mut hits: BTreeMap<&Path, Vec<Range<usize>>> = BTreeMap::new();
        for (file, range) in damage.hits(&generated.image) {
            hits.entry(file).or_default().push(range);
        }
        let places = &generated.layout.places;
        let excused = hits
            .iter()
            .flat_map(|(file, ranges)| places[*file].rows_in(ranges))
            .collect();
        Self {
            generated,
            damage,
            dir,
            hits,
            excused,
            outcome: Outcome::default(),
        }
    }

    fn check(&mut self, holds: bool, what: &str) {
        if !holds {
            self.outcome.wrong.push(what.to_owned());
        }
    }

    fn compression(&self, file: &Path) -> Option<Compression> {
        compression_of(self.generated, self.place(file))
    }

    fn place(&self, file: &Path) -> &'a Place {
        &self.generated.layout.places[file]
    }

    /// The rows of a file that are lost without a word: where they stood looks as if it was being written.
    fn torn_rows(&self, file: &Path) -> BTreeSet<String> {
        self.place(file).torn_rows(&self.hits[file])
    }

    /// A verification names what is damaged and changes nothing.
    fn verify(&mut self, image: &Image) {
        let verification = match inspect::verify(self.dir) {
            Ok(verification) => verification,
            Err(error) => {
                let wrong = format!("cannot be verified: {error:?}");
                return self.outcome.wrong.push(wrong);
            }
        };
        self.check(
            Image::read(self.dir) == *image,
            "a verification changes something",
        );
        match self.damage {
            Damage::Unknown { file, .. } => {
                let unknown = &verification.inspection.unknown_files;
                let named = unknown.contains(&self.dir.join(file));
                self.check(
                    named != is_leftover(file),
                    "the unknown file is named by a verification",
                );
                self.check(
                    verification.findings.is_empty(),
                    "an unknown file is a finding",
                );
            }
            Damage::Flip { file, at, .. } => self.verified_flip(&verification, file, *at),
            _ => {
                for file in self.hits.keys().copied().collect::<Vec<_>>() {
                    self.verified_loss(&verification, file);
                }
            }
        }
    }

    fn verified_flip(&mut self, verification: &Verification, file: &Path, at: usize) {
        let place = self.place(file);
        let found = verification
            .findings
            .iter()
            .chain(&verification.notes)
            .any(|damage| {
                damage.file == self.dir.join(file)
                    && damage.from <= at as u64
                    && (at as u64) < damage.to
            });
        let expected = place.is_live(at) && !self.is_harmless(file);
        // Plain text has no checksum of its own.
        if self.compression(file) == Some(Compression::None) {
            return;
        }
        self.check(
            found == expected,
            "a verification finds exactly the bytes that mean something",
        );
        if expected {
            self.verified_loss(verification, file);
        }
    }

    fn verified_loss(&mut self, verification: &Verification, file: &Path) {
        let lost = self.place(file).rows_in(&self.hits[file]);
        let torn = self.torn_rows(file);
        let told = lost.difference(&torn).count() as u64;
        if told == 0 || matches!(self.damage, Damage::Swap { .. }) {
            return;
        }
        let of_file: Vec<_> = verification
            .findings
            .iter()
            .filter(|damage| damage.file == self.dir.join(file))
            .collect();
        let compression = self.compression(file);
        if compression == Some(Compression::None) && self.damage.is_in_place() {
            return;
        }
        let missing = matches!(self.damage, Damage::Missing { .. });
        if missing && matches!(self.place(file).kind, Kind::Segment { .. }) {
            // Numbers that do not follow each other tell, wherever they do.
            let found = !verification.findings.is_empty();
            return self.check(found, "a verification misses a segment");
        }
        self.check(
            !of_file.is_empty(),
            "a verification names the file that lost rows",
        );
        let rows: Option<u64> = of_file.iter().map(|damage| damage.rows).sum();
        if let Some(rows) = rows {
            let wrong = format!(
                "a verification counts {rows} lost rows instead of {}",
                lost.len()
            );
            self.check((told..=lost.len() as u64).contains(&rows), &wrong);
        }
    }

    /// Whether the flipped bit is one in the header of a frame that changes nothing.
    fn is_harmless(&self, file: &Path) -> bool {
        let Some(compression) = self.compression(file) else {
            return false;
        };
        let end = self
            .place(file)
            .regions
            .last()
            .map_or(0, |region| region.range.end);
        let mut image = self.generated.image.clone();
        let before = strict_rows(&image.0[file][..end], compression);
        self.damage.apply(&mut image);
        before.is_some() && strict_rows(&image.0[file][..end], compression) == before
    }

    async fn open_twice(&mut self) {
        let Some((volume, recovery)) = self.open() else {
            return;
        };
        self.outcome.reported = recovery.damage.iter().map(ToString::to_string).collect();
        self.check_unknown(&recovery);
        let sealed = self.sealed(&volume).await;
        let kept = self.check_rows(&volume, &sealed);
        self.check_reports(&recovery, &kept);
        self.write_more(&volume).await;
        volume.stop().await;
        let Some((volume, second)) = self.open() else {
            return;
        };
        let new = second.damage.iter().find(|damage| {
            !recovery.damage.iter().any(|first| {
                first.file == damage.file && first.from <= damage.from && damage.to <= first.to
            })
        });
        let wrong = format!("the second opening reports new damage: {new:?}");
        self.check(new.is_none(), &wrong);
        let again = self.sealed(&volume).await;
        self.check(again == sealed, "the second opening has the same content");
        let later = volume
            .seal(slice(LATER), None)
            .await
            .map(|content| content.figures.rows);
        self.check(later == Ok(1), "what was written after the damage is kept");
        volume.stop().await;
    }

    fn open(&mut self) -> Option<(Volume, Recovery)> {
        reported::listen();
        let started = Instant::now();
        let opened = Volume::open(options(self.dir, SMALL));
        self.outcome.opening = self.outcome.opening.max(started.elapsed());
        self.check(started.elapsed() < LONGEST_OPENING, "an opening takes 5 s");
        opened
            .map_err(|error| {
                self.outcome
                    .wrong
                    .push(format!("it does not open: {error}"))
            })
            .ok()
    }

    fn check_unknown(&mut self, recovery: &Recovery) {
        let mut expected = Vec::new();
        if let Damage::Unknown { file, .. } = self.damage {
            if !is_leftover(file) {
                expected.push(self.dir.join(file));
            }
            self.check(recovery.damage.is_empty(), "an unknown file is damage");
        }
        // The content of a slice that nothing tells of any more is such a file.
        let unknown: Vec<&PathBuf> = recovery
            .unknown_files
            .iter()
            .filter(|file| {
                !matches!(self.damage, Damage::Missing { .. } | Damage::Swap { .. })
                    || !file.exists()
            })
            .collect();
        let wrong = format!("unknown files are named: {unknown:?} instead of {expected:?}");
        self.check(unknown == expected.iter().collect::<Vec<_>>(), &wrong);
    }

    async fn sealed(&mut self, volume: &Volume) -> BTreeMap<SliceId, Content> {
        let mut sealed = BTreeMap::new();
        for id in self.generated.content.slices.keys() {
            match volume.seal(*id, None).await {
                Ok(content) => drop(sealed.insert(*id, content)),
                Err(error) => self.outcome.wrong.push(format!("slice {id}: {error}")),
            }
        }
        sealed
    }

    /// Compares what each slice has with what it had. Returns the rows that are there.
    fn check_rows(
        &mut self,
        volume: &Volume,
        sealed: &BTreeMap<SliceId, Content>,
    ) -> BTreeSet<String> {
        let mut kept = BTreeSet::new();
        for (id, content) in sealed {
            let expected = &self.generated.content.slices[id];
            let compression = self.generated.content.compressions[id];
            let path = volume.slice_path(*id);
            let bytes = match content.figures.rows {
                0 => Vec::new(),
                _ => std::fs::read(&path).unwrap_or_default(),
            };
            let file = path.strip_prefix(self.dir).expect("inside").to_owned();
            let is_hit = self.hits.contains_key(file.as_path());
            if compression == Compression::None && is_hit && self.damage.is_in_place() {
                // Nothing tells that a byte of plain text is another one. The others must be what they were.
                let text: String = expected.iter().map(|row| format!("{row}\n")).collect();
                let vouched = self
                    .place(&file)
                    .regions
                    .last()
                    .map_or(0, |last| last.range.end);
                let same = bytes.len() == text.len()
                    && (0..bytes.len()).all(|at| {
                        bytes[at] == text.as_bytes()[at]
                            || at < vouched
                                && self.hits[file.as_path()]
                                    .iter()
                                    .any(|hit| hit.contains(&at))
                    });
                self.check(same, "plain text keeps all bytes that were not hit");
                kept.extend(expected.iter().cloned());
                continue;
            }
            if is_hit && matches!(self.damage, Damage::Swap { .. }) {
                // Nothing in a slice file tells whose it is.
                kept.extend(expected.iter().cloned());
                continue;
            }
            let Some(rows) = strict_rows(&bytes, compression) else {
                let wrong = format!("slice {id}: the sealed file cannot be unpacked");
                self.outcome.wrong.push(wrong);
                continue;
            };
            self.check(
                rows.len() as u64 == content.figures.rows,
                "the seal counts the rows of the file",
            );
            let mut behind = expected.iter();
            let in_order = rows
                .iter()
                .all(|row| behind.any(|expected| expected == row));
            self.check(in_order, "rows are those that were sent, once and in order");
            let (sent, hours) = (by_hour(expected), sealed_by_hour(content));
            // Of rows that are lost nothing tells when they came.
            let possible = hours
                .iter()
                .all(|(hour, rows)| sent.get(hour) >= Some(rows));
            let exact = rows.len() < expected.len() || hours == sent;
            self.check(
                possible && exact,
                "rows are in the hours in which they came",
            );
            kept.extend(rows);
        }
        kept
    }

    /// Only rows whose bytes were hit are lost, and that is reported with their number.
    fn check_reports(&mut self, recovery: &Recovery, kept: &BTreeSet<String>) {
        let all = self.generated.content.slices.values().flatten();
        let lost: BTreeSet<&String> = all.filter(|row| !kept.contains(*row)).collect();
        self.outcome.lost = lost.len();
        let beyond = lost
            .iter()
            .filter(|row| !self.excused.contains(**row))
            .count();
        let which: Vec<_> = lost
            .iter()
            .filter(|row| !self.excused.contains(**row))
            .take(3)
            .collect();
        let wrong = format!("{beyond} rows are lost that were not hit: {which:?}");
        self.check(beyond == 0, &wrong);
        let logged = reported::take(self.dir);
        let swapped = matches!(self.damage, Damage::Swap { .. });
        let torn: BTreeSet<String> = self
            .hits
            .keys()
            .flat_map(|file| self.torn_rows(file))
            .collect();
        let told = lost.iter().filter(|row| !torn.contains(**row)).count() as u64;
        if told == 0 || beyond > 0 || swapped {
            return;
        }
        let mut counted = Some(0);
        let mut named = false;
        for (file, hits) in &self.hits {
            let path = self.dir.join(file);
            for damage in recovery.damage.iter().filter(|damage| damage.file == path) {
                let near = hits.iter().any(|hit| {
                    damage.from < hit.end as u64
                        && (hit.start as u64) < damage.to.max(damage.from + 1)
                });
                named |= near;
                counted = counted.zip(damage.rows).map(|(sum, rows)| sum + rows);
            }
            for logged in logged.iter().filter(|logged| logged.file == path) {
                named = true;
                counted = counted.zip(logged.lost).map(|(sum, rows)| sum + rows);
            }
        }
        self.check(named, "rows are lost without a report");
        if let Some(counted) = counted.filter(|_| named) {
            let wrong = format!(
                "{counted} rows are reported as lost instead of {}",
                lost.len()
            );
            self.check((told..=lost.len() as u64).contains(&counted), &wrong);
        }
        let uncounted = self
            .hits
            .keys()
            .any(|file| !self.place(file).tells_rows(self.damage));
        self.check(
            counted.is_some() || uncounted,
            "a report does not say how many rows are lost",
        );
    }

    async fn write_more(&mut self, volume: &Volume) {
        volume.open_slice(spec(slice(LATER), Compression::Zstd { level: 1 }));
        let connection = volume.connect(SESSIONS[0]).expect("open");
        let rows = ["\"later\"".to_owned()];
        let parts = vec![part(slice(LATER), 1, Compression::Zstd { level: 1 }, &rows)];
        let answer = connection
            .append(Batch {
                parts,
                keys: Vec::new(),
            })
            .await;
        self.check(answer == Ok(Answer::Committed), "the volume takes rows");
        let content = volume.seal(slice(LATER), None).await;
        let rows = content.map(|content| content.figures.rows);
        self.check(rows == Ok(1), "the volume seals");
    }
}

/// Whether the file is what a process leaves that ends while it replaces another one. It is removed.
fn is_leftover(file: &Path) -> bool {
    file == Path::new("checkpoint/0000000000000003.checkpoint.tmp")
}

/// How a slice file is compressed; none for another file.
fn compression_of(generated: &Generated, place: &Place) -> Option<Compression> {
    match place.kind {
        Kind::Slice(id) => Some(generated.content.compressions[&id]),
        _ => None,
    }
}

/// The rows in a file that begins as its compression does.
pub fn rows_by_content(bytes: &[u8]) -> Option<Vec<String>> {
    let compression = match bytes {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd { level: 1 },
        [0x1f, 0x8b, ..] => Compression::Gzip { level: 1 },
        _ => Compression::None,
    };
    strict_rows(bytes, compression)
}

/// The rows in a file; none when not all of it can be unpacked.
fn strict_rows(bytes: &[u8], compression: Compression) -> Option<Vec<String>> {
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    let raw = match compression {
        Compression::Zstd { .. } => zstd::decode_all(bytes).ok()?,
        Compression::Gzip { .. } => {
            let mut raw = Vec::new();
            let mut members = flate2::bufread::MultiGzDecoder::new(bytes);
            members.read_to_end(&mut raw).ok()?;
            raw
        }
        Compression::None => bytes.to_vec(),
    };
    let text = String::from_utf8(raw).ok()?;
    Some(text.lines().map(str::to_owned).collect())
}
