//! The command line, read by hand: a handful of flags does not need a parser of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail};

/// What `--help` prints.
pub const HELP: &str = "Load generator and benchmark of stream-service.

stream-load --url URL [flags]      sends records and reports rates and latencies
  --rate N          requests in a second, latencies from the intended time; 0 = as fast as answered (default 0)
  --connections N   keep-alive connections (default 256)
  --duration TIME   20s, 500ms, 2m (default 20s)
  --body-bytes N    size of a record (default 1024)
  --batch N         records in a request, as lines (default 1)
  --json            report as JSON
stream-load bare --port N          the server that the benchmark compares with
stream-load bench [flags]          starts the service beside this program and measures it
  --repeats N       times that each measurement is made; the table has the medians (default 3)
  --duration TIME   of each measurement (default 8s)
  --connections N   (default 256)
  --body-bytes N    (default 1024)
  --rate N          of the measurement at a fixed rate (default 10000)
  --with-import     leaves the triggers of upload and import at their defaults; else they rest
  --jsonnet         two of the columns are templates for the interpreter
stream-load http [flags]           starts the service beside this program for each size of records and requests
  --body-bytes LIST sizes of a record, a case for each (default 100,1024,10000)
  --batch LIST      records in a request, a case for each (default 1,100,1000)
  --sinks LIST      sinks of the source, a case for each (default 1,3)
  --jsonnet         two of the columns are templates for the interpreter
  --duration TIME   of each case (default 20s)
stream-load overload [flags]       offers a source more than its rate limit
  --limit N         the limit, records in a second (default 2000)
  --rate N          requests in a second (default 10000)
  --connections N   (default 256)
  --body-bytes N    (default 1024)
  --duration TIME   (default 20s)
stream-load tenant [flags]         measures a source alone and beside one that sends far more than its limit
  --rate N          requests of the neighbour in a second (default 500)
  --limit N         the limit of the other source, records in a second (default 200)
  --times N         so many times its limit it sends (default 50)
  --body-bytes N    (default 1024)
  --repeats N       of each measurement; the table has the medians (default 5)
  --duration TIME   of each measurement (default 20s)
stream-load state [flags]          starts the service beside this program and measures what its state costs
  --store KIND      embedded, or etcd for one member of a real one (default embedded)
  --idle TIME       that an idle service is watched (default 60s)
  --active N        sinks that take a record a second; 0 leaves them out (default 1000)
  --warm-up TIME    that records are sent before anything is counted (default 30s)
  --duration TIME   that the busy service is watched (default 2m)
  --sinks N         definitions at the start of a service; 0 leaves them out (default 10000)
  --repeats N       starts of all components; the table has the medians (default 3)
stream-load api [flags]            starts the service beside this program and measures the configuration API with many sinks
  --sources N       sources of the branch (default 100)
  --sinks N         sinks of each source (default 100)
  --clients N       that create sinks at the same time, each in a source of its own (default 8)
  --reads N         requests of each kind (default 1000)
stream-load volume [flags]         appends to a volume in this process, without a service
  --slices LIST     slices that take rows, a case for each (default 1,100,1000,10000)
  --rows LIST       rows of an append, a case for each (default 1,100)
  --clients N       appends that are outstanding (default 256)
  --body-bytes N    size of a record (default 1024)
  --repeats N       runs of a case; the tables have the medians (default 5)
  --duration TIME   of a run (default 10s)
  --dir DIR         where the volumes are made, some gigabytes for a case (default: the directory for temporary files)
stream-load keys [flags]           measures idempotency keys: of a volume in this process, and of the service beside this program
  --keys N          that a volume remembers, and is filled with (default 10000000)
  --body-bytes N    size of a record (default 1024)
  --repeats N       of each measurement; the tables have the medians (default 3)
  --duration TIME   of each measurement (default 4s)
  --dir DIR         where the volumes are made, some gigabytes (default: the directory for temporary files)
stream-load recovery [flags]       opens volumes that were left without a stop
  --journal LIST    mebibytes of journal that no checkpoint covers, a case for each (default 64,256,1024)
  --stored N        gibibytes of sealed slices beside the largest journal, one more case; 0 leaves it out (default 20)
  --slices N        slices with rows in the journal (default 1000)
  --rows N          rows of an append (default 1)
  --repeats N       openings of which the median is shown (default 5)
  --dir DIR         where the volumes are made (default: the directory for temporary files)
";

/// The value of a flag that needs none.
const GIVEN: &str = "true";
/// Flags without a value.
const SWITCHES: [&str; 4] = ["--json", "--help", "--with-import", "--jsonnet"];

/// Words and flags.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Args {
    /// What is no flag.
    pub words: Vec<String>,
    flags: BTreeMap<String, String>,
}

impl Args {
    /// Reads `--flag value`, `--flag=value` and words.
    ///
    /// # Errors
    /// When a flag lacks its value or is given twice.
    pub fn parse(args: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut parsed = Self::default();
        let mut args = args;
        while let Some(arg) = args.next() {
            if !arg.starts_with("--") {
                parsed.words.push(arg);
                continue;
            }
            let (name, value) = match arg.split_once('=') {
                Some((name, value)) => (name.to_owned(), value.to_owned()),
                None if SWITCHES.contains(&arg.as_str()) => (arg, GIVEN.to_owned()),
                None => {
                    let value = args
                        .next()
                        .with_context(|| format!("{arg} needs a value"))?;
                    (arg, value)
                }
            };
            if parsed.flags.insert(name.clone(), value).is_some() {
                bail!("{name} is given twice");
            }
        }
        Ok(parsed)
    }

    /// Whether a switch is given.
    pub fn switch(&mut self, name: &str) -> bool {
        self.flags.remove(name).is_some()
    }

    /// The value of a flag.
    pub fn text(&mut self, name: &str) -> Option<String> {
        self.flags.remove(name)
    }

    /// A number from `least` on.
    ///
    /// # Errors
    /// When it is none.
    pub fn number(&mut self, name: &str, default: u64, least: u64) -> anyhow::Result<u64> {
        let Some(text) = self.text(name) else {
            return Ok(default);
        };
        match text.parse() {
            Ok(number) if number >= least => Ok(number),
            _ => bail!("{name} is {text:?}; give a number from {least} on"),
        }
    }

    /// Numbers from 1 on, with commas between them.
    ///
    /// # Errors
    /// When they are none.
    pub fn numbers(&mut self, name: &str, default: &[u64]) -> anyhow::Result<Vec<u64>> {
        let Some(text) = self.text(name) else {
            return Ok(default.to_vec());
        };
        let numbers = text
            .split(',')
            .map(|number| number.parse().ok().filter(|number| *number > 0));
        match numbers.collect() {
            Some(numbers) => Ok(numbers),
            None => bail!("{name} is {text:?}; give numbers from 1 on such as 1,100"),
        }
    }

    /// A duration.
    ///
    /// # Errors
    /// When it is none.
    pub fn duration(&mut self, name: &str, default: Duration) -> anyhow::Result<Duration> {
        let Some(text) = self.text(name) else {
            return Ok(default);
        };
        let units = [("ms", 1), ("s", 1_000), ("m", 60_000)];
        let millis = units.into_iter().find_map(|(unit, millis)| {
            text.strip_suffix(unit)?
                .parse::<u64>()
                .ok()?
                .checked_mul(millis)
        });
        match millis {
            Some(1..) => Ok(Duration::from_millis(millis.unwrap_or_default())),
            _ => bail!("{name} is {text:?}; give a time such as 20s, 500ms or 2m"),
        }
    }

    /// Checks that nothing is left that nobody asked for.
    ///
    /// # Errors
    /// When there is.
    pub fn finish(self) -> anyhow::Result<()> {
        match self.flags.into_keys().next() {
            Some(name) => bail!("unknown flag {name}; see stream-load --help"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> anyhow::Result<Args> {
        Args::parse(text.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn flags_and_words_in_any_order() {
        let mut args = parse("--json bench --rate=5 --duration 2m").expect("valid");
        assert_eq!(args.words, ["bench"]);
        assert!(args.switch("--json"));
        assert_eq!(args.number("--rate", 0, 0).expect("valid"), 5);
        assert_eq!(args.number("--connections", 256, 1).expect("valid"), 256);
        let duration = args.duration("--duration", Duration::ZERO).expect("valid");
        assert_eq!(duration, Duration::from_secs(120));
        args.finish().expect("nothing is left");
    }

    #[test]
    fn mistakes_are_named() {
        let message = |result: anyhow::Result<()>| result.expect_err("a mistake").to_string();
        assert!(message(parse("--rate").map(|_| ())).contains("--rate needs a value"));
        assert!(message(parse("--rate 1 --rate 2").map(|_| ())).contains("twice"));
        let wrong = |text: &str| parse(text).expect("valid");
        assert!(message(wrong("--rate x").number("--rate", 0, 0).map(|_| ())).contains("\"x\""));
        assert!(
            message(
                wrong("--connections 0")
                    .number("--connections", 1, 1)
                    .map(|_| ())
            )
            .contains("from 1")
        );
        assert!(
            message(
                wrong("--duration 5")
                    .duration("--duration", Duration::ZERO)
                    .map(|_| ())
            )
            .contains("20s")
        );
        let list = |text: &str| wrong(text).numbers("--slices", &[7]);
        assert_eq!(list("--slices 1,20").expect("valid"), [1, 20]);
        assert_eq!(list("").expect("valid"), [7]);
        assert!(message(list("--slices 1,,2").map(|_| ())).contains("such as 1,100"));
        assert!(message(list("--slices 0").map(|_| ())).contains("from 1 on"));
        assert!(message(wrong("--rat 1").finish()).contains("--rat"));
    }
}
