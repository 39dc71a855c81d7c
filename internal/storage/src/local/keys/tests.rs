//! The keys of a volume against a model: whatever is written, merged, forgotten, lost and opened again.

use std::collections::BTreeMap;

use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::super::disk::OsDisk;
use super::*;

const WINDOW_MS: i64 = 10_000;

fn volume() -> VolumeId {
    VolumeId::from_bytes([9; 16])
}

fn key(number: u32) -> KeyHash {
    let digest = Sha256::digest(number.to_le_bytes());
    KeyHash::from_bytes(digest[..16].try_into().expect("16 bytes"))
}

fn claim(number: u32) -> Claim {
    Claim {
        key: key(number),
        body: u64::from(number) * 3,
    }
}

/// What is done to the keys of a volume.
#[derive(Debug, Clone)]
enum Act {
    Commit {
        count: u32,
        synced: bool,
    },
    Spill,
    Tidy,
    Wait(i64),
    /// The process ends, and another one opens the volume.
    Reopen,
    /// The process ends, something happens to a file, and another one opens the volume.
    Damage {
        file: usize,
        byte: usize,
        how: How,
    },
}

#[derive(Debug, Clone, Copy)]
enum How {
    Flip,
    Cut,
    Remove,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => (1..60_u32, any::<bool>()).prop_map(|(count, synced)| Act::Commit { count, synced }),
        4 => Just(Act::Spill),
        4 => Just(Act::Tidy),
        2 => (1..4000_i64).prop_map(Act::Wait),
        2 => Just(Act::Reopen),
    ]
}

fn act_with_damage() -> impl Strategy<Value = Act> {
    let how = prop_oneof![Just(How::Flip), Just(How::Cut), Just(How::Remove)];
    let damage = (any::<usize>(), any::<usize>(), how).prop_map(|(file, byte, how)| Act::Damage {
        file,
        byte,
        how,
    });
    prop_oneof![9 => act(), 1 => damage]
}

struct World {
    dir: tempfile::TempDir,
    keys: Keys,
    limits: Limits,
    now: i64,
    entry: u64,
    /// What the journal still has.
    journal: BTreeMap<u64, KeySection>,
    /// When each key was committed.
    model: BTreeMap<u32, i64>,
    damaged: bool,
}

impl World {
    fn new(max_keys: u64) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let limits = Limits {
            max_keys,
            window: Duration::from_millis(WINDOW_MS.unsigned_abs()),
        };
        let keys = Keys::new(
            volume(),
            "test".to_owned(),
            dir.path().to_owned(),
            limits,
            Opened::default(),
        );
        keys.write_down(&OsDisk).expect("written");
        Self {
            dir,
            keys,
            limits,
            now: 1_000_000,
            entry: 0,
            journal: BTreeMap::new(),
            model: BTreeMap::new(),
            damaged: false,
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.now)
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Commit { count, synced } => self.commit(*count, *synced),
            Act::Spill => self.spill(),
            Act::Tidy => self.keys.tidy(&OsDisk, self.now()).expect("tidied"),
            Act::Wait(millis) => self.now += millis,
            Act::Reopen => self.reopen(),
            Act::Damage { file, byte, how } => {
                self.damage(*file, *byte, *how);
                self.reopen();
            }
        }
    }

    fn commit(&mut self, count: u32, synced: bool) {
        let first = u32::try_from(self.model.len()).expect("few");
        let section = KeySection {
            at: self.now(),
            claims: (first..first + count).map(claim).collect(),
        };
        self.model
            .extend((first..first + count).map(|number| (number, self.now)));
        self.entry += 1;
        self.keys.commit(self.entry, self.entry, &section);
        if synced {
            self.keys.synced();
        }
        self.journal.insert(self.entry, section);
        if self.keys.wants_spill(true) {
            self.spill();
        }
    }

    /// What a run has the journal may forget.
    fn spill(&mut self) {
        if let Some(covered) = self.keys.spill(&OsDisk).expect("written") {
            self.journal = self.journal.split_off(&(covered + 1));
        }
    }

    fn reopen(&mut self) {
        let dir = self.dir.path();
        let mut found = Opened::read(&OsDisk, dir, volume(), self.now()).expect("it opens");
        assert!(
            self.damaged || found.damage.is_empty(),
            "{:?}",
            found.damage
        );
        for (entry, section) in &self.journal {
            found.replay(*entry, *entry, section);
        }
        assert!(found.position().0 <= self.entry);
        self.keys = Keys::new(
            volume(),
            "test".to_owned(),
            dir.to_owned(),
            self.limits,
            found,
        );
    }

    fn damage(&mut self, file: usize, byte: usize, how: How) {
        let files = OsDisk.list(self.dir.path()).expect("readable");
        if files.is_empty() {
            return;
        }
        let path = &files[file % files.len()];
        let mut content = std::fs::read(path).expect("readable");
        if content.is_empty() {
            return;
        }
        let byte = byte % content.len();
        self.damaged = true;
        match how {
            How::Flip => content[byte] ^= 1,
            How::Cut => content.truncate(byte),
            How::Remove => return std::fs::remove_file(path).expect("removed"),
        }
        std::fs::write(path, content).expect("written");
    }

    fn check(&self) {
        let all = u32::try_from(self.model.len()).expect("few");
        let claims: Vec<Claim> = (0..all + 50).map(claim).collect();
        let known = self.keys.look_up(&claims).expect("readable");
        let known: BTreeMap<u32, u64> = known
            .iter()
            .map(|known| (known.position, known.body))
            .collect();
        // Damage may be found by the look-up itself: the window is asked afterwards.
        let window = i64::try_from(self.keys.window(self.now()).as_millis()).expect("short");
        for number in 0..all + 50 {
            let found = known.get(&number);
            let at = self.model.get(&number);
            assert!(
                found.is_none_or(|body| *body == u64::from(number) * 3),
                "key {number}"
            );
            assert!(
                at.is_some() || found.is_none(),
                "key {number} was never committed"
            );
            if at.is_some_and(|at| self.now - at < window) {
                assert!(
                    found.is_some(),
                    "key {number} is forgotten within {window} ms"
                );
            }
        }
        if !self.damaged {
            let newest: Vec<u32> = self
                .model
                .keys()
                .rev()
                .take(self.limits.max_keys as usize)
                .copied()
                .collect();
            for number in newest {
                let is_new = self.now - self.model[&number] <= WINDOW_MS;
                assert!(
                    !is_new || known.contains_key(&number),
                    "key {number} is among the newest"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn every_key_within_the_window_is_known_and_no_other_ever(
        acts in prop::collection::vec(act(), 1..120), max_keys in 100..3000_u64,
    ) {
        let mut world = World::new(max_keys);
        for act in &acts {
            world.act(act);
        }
        world.check();
        world.act(&Act::Reopen);
        world.check();
        // Whole runs are forgotten, and they are merged up to a fifth of all.
        world.act(&Act::Spill);
        world.act(&Act::Tidy);
        let longest = world.keys.state.lock().runs.iter().map(|run| run.count).max();
        let most = max_keys + longest.unwrap_or(0) + 64;
        prop_assert!(world.keys.count() <= most, "{} of {}", world.keys.count(), max_keys);
        prop_assert!(world.keys.state.lock().runs.len() < 40);
    }

    #[test]
    fn what_is_damaged_shortens_the_window_and_nothing_else(
        acts in prop::collection::vec(act_with_damage(), 1..120), max_keys in 100..3000_u64,
    ) {
        let mut world = World::new(max_keys);
        for act in &acts {
            world.act(act);
        }
        world.check();
        world.act(&Act::Reopen);
        world.check();
    }
}

#[test]
fn a_run_takes_less_than_two_bytes_of_memory_per_key() {
    let mut world = World::new(10_000_000);
    world.commit(200_000, true);
    let state = world.keys.state.lock();
    let [run] = &state.runs[..] else {
        panic!("one run")
    };
    assert_eq!(run.count, 200_000);
    assert!(run.memory() < 200_000 * 16 / 10, "{}", run.memory());
}

#[test]
fn keys_that_a_loss_of_power_may_undo_are_known_and_in_no_run() {
    let mut world = World::new(1000);
    world.commit(5, false);
    world.spill();
    assert!(world.keys.state.lock().runs.is_empty());
    world.check();
    world.keys.synced();
    world.spill();
    assert_eq!(world.keys.state.lock().runs.len(), 1);
    world.check();
}

#[test]
fn keys_of_a_volume_whose_list_is_gone_are_promised_from_the_opening_on() {
    let mut world = World::new(1000);
    world.commit(50, true);
    world.spill();
    world.now += 5;
    std::fs::remove_file(world.dir.path().join(manifest::FILE)).expect("removed");
    world.reopen();
    assert_eq!(world.keys.window(world.now()), Duration::ZERO);
    world.check();
    world.now += 100;
    world.keys.write_down(&OsDisk).expect("written");
    world.reopen();
    assert_eq!(world.keys.window(world.now()), Duration::from_millis(100));
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden-keys")
}

/// Three runs, as version 1 wrote them: keys 0 to 399, of which the last 100 were in two runs.
#[test]
fn files_of_every_version_are_read() {
    assert!(golden().join("v1").is_dir());
    for version in std::fs::read_dir(golden()).expect("it is there") {
        let files = version.expect("listed").path();
        let dir = tempfile::tempdir().expect("a directory");
        for file in OsDisk.list(&files).expect("readable") {
            let name = file.file_name().expect("a file");
            std::fs::copy(&file, dir.path().join(name)).expect("copied");
        }
        let found = Opened::read(&OsDisk, dir.path(), volume(), Timestamp::from_millis(9));
        let found = found.expect("it opens");
        assert!(
            found.damage.is_empty() && !found.is_unwritten,
            "{:?}",
            found.damage
        );
        assert_eq!(found.position(), (3, 3));
        let limits = Limits {
            max_keys: 1000,
            window: Duration::from_secs(1),
        };
        let path = dir.path().to_owned();
        let keys = Keys::new(volume(), "test".to_owned(), path, limits, found);
        let claims: Vec<Claim> = (0..500).map(claim).collect();
        let known = keys.look_up(&claims).expect("readable");
        let expected = (0..400).map(|position| KnownKey {
            position,
            body: u64::from(position) * 3,
        });
        assert!(known.into_iter().eq(expected));
    }
}

/// Writes the files of a version that is about to be released: `STREAM_TEST_GOLDEN=v2 cargo test … -- --ignored`.
#[test]
#[ignore = "writes into the source tree"]
fn write_golden_keys() {
    let version =
        std::env::var("STREAM_TEST_GOLDEN").expect("STREAM_TEST_GOLDEN names the version");
    let dir = golden().join(version);
    std::fs::create_dir_all(&dir).expect("a released version never changes");
    let limits = Limits {
        max_keys: 1_000_000,
        window: Duration::from_secs(1),
    };
    let keys = Keys::new(volume(), "test".to_owned(), dir, limits, Opened::default());
    for (entry, numbers) in (1..).zip([0..100_u32, 100..400, 300..400]) {
        let section = KeySection {
            at: Timestamp::from_millis(1000),
            claims: numbers.map(claim).collect(),
        };
        keys.commit(entry, entry, &section);
        keys.synced();
        keys.spill(&OsDisk).expect("written");
    }
}
