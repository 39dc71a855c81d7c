//! Many cases, by kind of damage.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::damage::{self, Damage};
use crate::generated::{self, Generated, SMALL};
use crate::trial;

/// Cases without `STREAM_TEST_CASES`.
const CASES: usize = 2100;
/// Cases on one volume.
const CASES_PER_VOLUME: usize = 700;
/// Failures that are shown in full.
const SHOWN: usize = 40;

fn from_env(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("a number"))
}

fn cases() -> usize {
    from_env("STREAM_TEST_CASES").map_or(CASES, |cases| usize::try_from(cases).expect("it fits"))
}

/// Seeds of the volumes that the cases are spread over.
fn seeds() -> std::ops::Range<u64> {
    let first = first_seed();
    first..first + cases().div_ceil(CASES_PER_VOLUME) as u64
}

fn first_seed() -> u64 {
    from_env("STREAM_TEST_SEED").unwrap_or(1)
}

#[derive(Default)]
struct Sum {
    cases: usize,
    lost: usize,
    costly: usize,
    opening: Duration,
    failures: Vec<String>,
    by_kind: BTreeMap<String, usize>,
}

impl Sum {
    fn add(&mut self, seed: u64, generated: &Generated, damage: &Damage) {
        let base = std::path::Path::new("/dev/shm");
        let dir = if base.is_dir() {
            tempfile::tempdir_in(base)
        } else {
            tempfile::tempdir()
        }
        .expect("a directory");
        let outcome = trial::run(generated, damage, dir.path());
        self.cases += 1;
        self.lost += outcome.lost;
        self.costly += usize::from(outcome.lost > 0);
        self.opening = self.opening.max(outcome.opening);
        for wrong in outcome.wrong {
            let kind = wrong.replace(|c: char| c.is_ascii_digit(), "");
            *self.by_kind.entry(kind).or_default() += 1;
            let damage = match damage {
                Damage::Unknown { file, .. } => format!("unknown file {}", file.display()),
                other => format!("{other:?}"),
            };
            let reported = outcome.reported.join("; ");
            self.failures.push(format!(
                "seed {seed}, {damage}: {wrong} (reported: {reported})"
            ));
        }
    }

    fn finish(self, name: &str, started: Instant) {
        eprintln!(
            "{name}: {} cases, {} cost rows, {} rows in all, longest opening {:?}, {:?} in all",
            self.cases,
            self.costly,
            self.lost,
            self.opening,
            started.elapsed()
        );
        let shown = self
            .failures
            .iter()
            .take(SHOWN)
            .cloned()
            .collect::<Vec<_>>();
        assert!(
            self.failures.is_empty(),
            "{} failures {:#?}:\n{}",
            self.failures.len(),
            self.by_kind,
            shown.join("\n")
        );
    }
}

#[test]
fn a_file_cut_at_any_byte_costs_what_was_cut_off() {
    let started = Instant::now();
    let mut sum = Sum::default();
    let count = cases() * 2 / 5;
    let volumes = seeds().count();
    for seed in seeds() {
        let generated = generated::generate(seed, SMALL);
        for damage in damage::truncations(&generated.layout, count / volumes) {
            sum.add(seed, &generated, &damage);
        }
    }
    sum.finish("truncation", started);
}

#[test]
fn damage_anywhere_costs_what_was_hit() {
    let started = Instant::now();
    let mut sum = Sum::default();
    let count = cases() * 3 / 5 / seeds().count();
    for seed in seeds() {
        let generated = generated::generate(seed, SMALL);
        let mut rng = StdRng::seed_from_u64(seed);
        for _ in 0..count {
            let damage = damage::random(&mut rng, &generated.layout);
            sum.add(seed, &generated, &damage);
        }
    }
    sum.finish("damage", started);
}

#[test]
fn the_same_seed_gives_the_same_volume() {
    let [one, two] = [(); 2].map(|()| generated::generate(7, SMALL));
    assert_eq!(one.content.slices, two.content.slices);
    for (file, content) in &one.image.0 {
        // The slices in a checkpoint have no order.
        let same = file.starts_with("checkpoint") || two.image.0[file] == *content;
        assert!(same, "{}", file.display());
    }
}
