//! Requests that look like webhooks and have an exact size.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::target::Target;

/// Different bodies that are sent in turn, so that compression sees what it would see in real life.
const VARIETY: usize = 512;
const WORDS: [&str; 16] = [
    "order", "invoice", "merged", "please", "review", "customer", "total", "shipped", "retry",
    "ready", "branch", "failed", "again", "thanks", "number", "update",
];

/// All of them together take at most about this much memory, and there are at least [`FEWEST`].
const MEMORY: usize = 64 << 20;
const FEWEST: usize = 4;
/// Records below this size have an id and a text only.
const SMALL: usize = 250;

/// Whole requests, head and body.
#[derive(Debug)]
pub struct Requests {
    whole: Vec<Vec<u8>>,
    keys: Option<Keys>,
}

/// Where in each request its idempotency key is, and what all keys begin with.
#[derive(Debug, Clone, Copy)]
struct Keys {
    at: usize,
    series: u64,
}

/// Digits of a key: sixteen of the series, sixteen of the turn.
const KEY_DIGITS: usize = 32;

/// Requests without keys. `batch` records are one request, a line each.
pub fn requests(target: &Target, bytes: usize, batch: usize) -> Requests {
    let whole = make(target, bytes, batch, "");
    Requests { whole, keys: None }
}

/// Requests each of which has an idempotency key that no other has, also not one of another series.
pub fn requests_with_keys(target: &Target, bytes: usize, batch: usize, series: u64) -> Requests {
    const NAME: &str = "Idempotency-Key: ";
    let header = format!("{NAME}{:0KEY_DIGITS$}\r\n", 0);
    let whole = make(target, bytes, batch, &header);
    let first = String::from_utf8_lossy(&whole[0]);
    let at = first.find(NAME).expect("it is in the head") + NAME.len();
    let keys = Some(Keys { at, series });
    Requests { whole, keys }
}

impl Requests {
    /// The request of a turn. `keyed` is for one that is made for this turn.
    pub fn of_turn<'a>(&'a self, turn: u64, keyed: &'a mut Vec<u8>) -> &'a [u8] {
        let position = usize::try_from(turn).unwrap_or(usize::MAX) % self.whole.len();
        let request = &self.whole[position];
        let Some(Keys { at, series }) = self.keys else {
            return request;
        };
        keyed.clone_from(request);
        let key = format!("{series:016x}{turn:016x}");
        keyed[at..at + KEY_DIGITS].copy_from_slice(key.as_bytes());
        keyed
    }
}

fn make(target: &Target, bytes: usize, batch: usize, header: &str) -> Vec<Vec<u8>> {
    let mut rng = StdRng::seed_from_u64(1);
    let number = MEMORY / bytes.saturating_mul(batch).max(1);
    (0..number.clamp(FEWEST, VARIETY))
        .map(|_| request(&mut rng, target, bytes, batch, header))
        .collect()
}

fn request(rng: &mut StdRng, target: &Target, bytes: usize, batch: usize, header: &str) -> Vec<u8> {
    let lines: Vec<String> = (0..batch).map(|_| record(rng, bytes)).collect();
    let body = lines.join("\n");
    let content_type = if batch == 1 {
        "application/json"
    } else {
        "application/x-ndjson"
    };
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: {}\r\n{header}Content-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
        target.path,
        target.host,
        body.len()
    );
    [head, body].concat().into_bytes()
}

/// A record of `bytes` bytes, or as few as the shape allows.
pub fn record(rng: &mut StdRng, bytes: usize) -> String {
    let id = format!("evt_{:016x}", rng.random::<u64>());
    if bytes < SMALL {
        return filled(rng, json!({"id": id, "text": ""}), bytes);
    }
    let value = json!({
        "id": id,
        "type": "order.updated",
        "created": 1_767_225_600 + rng.random_range(0..10_000_000),
        "actor": {"id": rng.random_range(1..100_000), "name": WORDS[rng.random_range(0..WORDS.len())]},
        "data": {"amount": rng.random_range(1..1_000_000), "currency": "eur", "paid": rng.random_bool(0.5)},
        "text": "",
    });
    filled(rng, value, bytes)
}

fn filled(rng: &mut StdRng, mut value: Value, bytes: usize) -> String {
    let without_text = value.to_string().len();
    let mut text = String::new();
    while text.len() + without_text < bytes {
        text.push_str(WORDS[rng.random_range(0..WORDS.len())]);
        text.push(' ');
    }
    text.truncate(bytes.saturating_sub(without_text));
    value["text"] = text.into();
    value.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_json_of_the_size_that_was_asked_for() {
        let mut rng = StdRng::seed_from_u64(5);
        for bytes in [100, 249, 300, 1_024, 10_000] {
            let record = record(&mut rng, bytes);
            assert_eq!(record.len(), bytes);
            assert!(serde_json::from_str::<serde_json::Value>(&record).is_ok());
        }
        assert!(
            record(&mut rng, 1).len() < 50,
            "as small as the shape allows"
        );
    }

    #[test]
    fn every_turn_of_every_series_has_a_key_of_its_own() {
        let target = Target::parse("http://127.0.0.1:1/stream").expect("valid");
        let mut keys = std::collections::BTreeSet::new();
        for series in [1, 2] {
            let requests = requests_with_keys(&target, 300, 1, series);
            for turn in 0..600 {
                let mut keyed = Vec::new();
                let request = requests.of_turn(turn, &mut keyed);
                let text = std::str::from_utf8(request).expect("text");
                let mut lines = text.lines();
                let key = lines.find_map(|line| line.strip_prefix("Idempotency-Key: "));
                assert!(keys.insert(key.expect("it has one").to_owned()));
                assert!(text.contains("\r\nContent-Length: 300\r\n\r\n{"));
            }
        }
        assert!(keys.iter().all(|key| key.len() == KEY_DIGITS));
        let plain = requests(&target, 300, 1);
        let mut keyed = Vec::new();
        let request = String::from_utf8_lossy(plain.of_turn(1, &mut keyed)).into_owned();
        assert!(!request.contains("Idempotency-Key"));
    }
}
