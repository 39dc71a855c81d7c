//! Everything that is written to the state while something runs, counted by kind of key.

use std::collections::BTreeMap;
use std::pin::pin;

use anyhow::{Context, ensure};
use etcd_client::{Client, EventType, KeyValue, WatchOptions, WatchResponse, WatchStream};
use stream_tests::client::PATIENCE;
use tokio::time::{Instant, timeout};

use super::ground::revision;

/// The longest answer of a watch that is read.
const MAX_ANSWER: usize = 256 << 20;

/// What was written in some time.
#[derive(Debug, Default)]
pub struct Ledger {
    /// By the first words of the key, such as `entity/slice`.
    pub kinds: BTreeMap<String, Written>,
    /// Transactions that changed something.
    pub revisions: u64,
    /// Seconds.
    pub seconds: f64,
    /// The last revision that was counted.
    pub seen: i64,
}

/// What was written to keys of one kind.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Values written.
    pub puts: u64,
    /// Those that were the same as before.
    pub unchanged: u64,
    /// Keys deleted.
    pub deletes: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
}

impl Written {
    /// Adds another.
    pub fn add(&mut self, other: &Self) {
        self.puts += other.puts;
        self.unchanged += other.unchanged;
        self.deletes += other.deletes;
        self.bytes += other.bytes;
    }
}

impl Ledger {
    /// The sum of all kinds.
    pub fn total(&self) -> Written {
        let mut total = Written::default();
        for written in self.kinds.values() {
            total.add(written);
        }
        total
    }

    /// Takes the events of an answer up to a revision.
    fn take(&mut self, answer: &WatchResponse, until: i64) -> anyhow::Result<()> {
        ensure!(
            !answer.canceled(),
            "the watch was cancelled: {}",
            answer.cancel_reason()
        );
        for event in answer.events() {
            let kv = event.kv().context("an event has a key")?;
            if kv.mod_revision() > until {
                continue;
            }
            self.revisions += u64::from(kv.mod_revision() > self.seen);
            self.seen = self.seen.max(kv.mod_revision());
            let is_put = event.event_type() == EventType::Put;
            self.count(is_put.then_some(kv.value()), kv.key(), event.prev_kv());
        }
        Ok(())
    }

    fn count(&mut self, new: Option<&[u8]>, key: &[u8], old: Option<&KeyValue>) {
        let bytes = key.len() + new.map_or(0, <[u8]>::len);
        self.kinds.entry(kind(key)).or_default().add(&Written {
            puts: u64::from(new.is_some()),
            unchanged: u64::from(new.is_some() && new == old.map(KeyValue::value)),
            deletes: u64::from(new.is_none()),
            bytes: bytes as u64,
        });
    }
}

/// The words of a key that say what it is: what stands after the namespace, two of them where the first is a group.
fn kind(key: &[u8]) -> String {
    let key = String::from_utf8_lossy(key);
    let mut words = key.split('/').skip(1);
    match (words.next(), words.next()) {
        (Some(group @ ("entity" | "version" | "volume")), Some(name)) => format!("{group}/{name}"),
        (Some(word), _) => word.to_owned(),
        (None, _) => key.into_owned(),
    }
}

/// Counts everything that is written while `work` runs.
///
/// # Errors
/// When the state goes away.
pub async fn during<T>(
    client: &mut Client,
    work: impl Future<Output = T>,
) -> anyhow::Result<(Ledger, T)> {
    let before = revision(client).await?;
    let mut watch = watch_all(client, before + 1).await?;
    let mut ledger = Ledger {
        seen: before,
        ..Ledger::default()
    };
    let start = Instant::now();
    let mut work = pin!(work);
    let done = loop {
        tokio::select! {
            done = &mut work => break done,
            answer = watch.message() => {
                ledger.take(&answer?.context("the watch ended")?, i64::MAX)?;
            }
        }
    };
    ledger.seconds = start.elapsed().as_secs_f64();
    let end = revision(client).await?;
    while ledger.seen < end {
        let answer = timeout(PATIENCE, watch.message()).await;
        let answer = answer.context("the watch does not reach the end")??;
        ledger.take(&answer.context("the watch ended")?, end)?;
    }
    Ok((ledger, done))
}

async fn watch_all(client: &Client, from: i64) -> anyhow::Result<WatchStream> {
    let options = WatchOptions::new()
        .with_all_keys()
        .with_prev_key()
        .with_start_revision(from);
    let mut watcher = client.watch_client().max_decoding_message_size(MAX_ANSWER);
    Ok(Box::pin(watcher.watch("", Some(options))).await?)
}

#[cfg(test)]
mod tests {
    use etcd_client::{Txn, TxnOp};

    use super::*;
    use crate::state::StoreKind;
    use crate::state::ground::Ground;

    #[test]
    fn keys_are_counted_by_what_they_are() {
        assert_eq!(kind(b"stream/entity/slice/1/1/a/b/0190"), "entity/slice");
        assert_eq!(kind(b"stream/task/api.create.sink/1"), "task");
        assert_eq!(kind(b"other"), "other");
    }

    #[tokio::test]
    async fn each_write_is_counted_once_with_its_bytes() {
        let ground = Ground::new(StoreKind::Embedded).await.expect("a directory");
        let mut opened = ground.open().await.expect("opens");
        let mut other = opened.client.clone();
        opened
            .client
            .put("n/node/x", "before", None)
            .await
            .expect("put");
        let both = Txn::new().and_then([
            TxnOp::put("n/node/b", "1", None),
            TxnOp::put("n/entity/sink/s", "1", None),
        ]);
        let work = async {
            for value in ["12345"; 4] {
                other.put("n/node/a", value, None).await.expect("put");
            }
            other.put("n/node/x", "before!", None).await.expect("put");
            other.delete("n/node/x", None).await.expect("deleted");
            other.txn(both).await.expect("put");
        };
        let (ledger, ()) = during(&mut opened.client, work).await.expect("watched");
        assert_eq!(ledger.revisions, 7);
        let node = Written {
            puts: 6,
            unchanged: 3,
            deletes: 1,
            bytes: 4 * 13 + 15 + 8 + 9,
        };
        assert_eq!(ledger.kinds["node"], node);
        assert_eq!(ledger.kinds["entity/sink"].bytes, 16);
        assert_eq!(ledger.total().puts, 7);
        drop(other);
        opened.close().await.expect("closes");
    }
}
