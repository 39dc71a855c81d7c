//! The same watch on both servers, compared event by event.

use etcd_client::{Client, EventType, WatchFilterType, WatchOptions, WatchStream};

use super::draw::Watched;
use crate::conformance::revision;
use crate::harness::next;

/// A watch on both servers.
pub(super) struct Watching {
    pub(super) watched: Watched,
    real: Seen,
    embedded: Seen,
}

/// What one server said so far.
struct Seen {
    stream: WatchStream,
    said: Vec<String>,
    /// The revision of the last event, 0 before it; the stream says no more when it is `i64::MAX`.
    until: i64,
}

impl Watching {
    pub(super) async fn open(real: &mut Client, embedded: &mut Client, watched: Watched) -> Self {
        let (real, embedded) = tokio::join!(
            Seen::open(real, watched.clone()),
            Seen::open(embedded, watched.clone())
        );
        Self {
            watched,
            real,
            embedded,
        }
    }

    /// Makes both servers say all they have to say: changes what is watched, and reads until it is told.
    ///
    /// A watch whose start is compacted while it still catches up is cancelled or not, as time has it. So this is done
    /// before each compaction.
    pub(super) async fn catch_up(&mut self, real: &mut Client, embedded: &mut Client) {
        if self.real.until == i64::MAX && self.embedded.until == i64::MAX {
            return;
        }
        let key = match self.watched.key.as_slice() {
            [] => vec![0],
            key => key.to_vec(),
        };
        // Twice: the watch may start as late as three revisions from now.
        let mut until = 0;
        for _ in 0..2 {
            let put = both_put(real, embedded, &key).await;
            let deleted = both_delete(real, embedded, &key).await;
            until = match self.watched.filter {
                Some(WatchFilterType::NoDelete) => put,
                _ => deleted,
            };
        }
        tokio::join!(self.real.read(until), self.embedded.read(until));
    }

    /// Compares what was said, which then is forgotten.
    pub(super) fn compare(&mut self, when: &str) {
        let expected = std::mem::take(&mut self.real.said);
        let found = std::mem::take(&mut self.embedded.said);
        assert_eq!(found, expected, "{when}: {:?}", self.watched);
    }

    /// Compares how the watch ends.
    pub(super) async fn close(mut self, when: &str) {
        tokio::join!(self.real.close(), self.embedded.close());
        self.compare(when);
    }
}

async fn both_put(real: &mut Client, embedded: &mut Client, key: &[u8]) -> i64 {
    let (expected, found) = tokio::join!(
        real.put(key, "caught up", None),
        embedded.put(key, "caught up", None)
    );
    let at = revision!(expected.expect("put"));
    assert_eq!(revision!(found.expect("put")), at);
    at
}

async fn both_delete(real: &mut Client, embedded: &mut Client, key: &[u8]) -> i64 {
    let (expected, found) = tokio::join!(real.delete(key, None), embedded.delete(key, None));
    let at = revision!(expected.expect("delete"));
    assert_eq!(revision!(found.expect("delete")), at);
    at
}

impl Seen {
    async fn open(client: &mut Client, watched: Watched) -> Self {
        let mut options = WatchOptions::new()
            .with_range(watched.end)
            .with_start_revision(watched.start);
        if let Some(filter) = watched.filter {
            options = options.with_filters([filter]);
        }
        if watched.previous {
            options = options.with_prev_key();
        }
        if watched.fragment {
            options = options.with_fragment();
        }
        let stream = client.watch(watched.key, Some(options)).await;
        let mut seen = Self {
            stream: stream.expect("watch"),
            said: Vec::new(),
            until: 0,
        };
        seen.hear().await;
        seen
    }

    async fn read(&mut self, until: i64) {
        while self.until < until {
            self.hear().await;
        }
    }

    async fn close(&mut self) {
        if self.until < i64::MAX {
            self.stream.cancel(0).await.expect("cancel");
            self.read(i64::MAX).await;
        }
    }

    /// Takes note of one response. How events are spread over responses is up to the server.
    async fn hear(&mut self) {
        let response = next(&mut self.stream).await;
        for event in response.events() {
            let kind = match event.event_type() {
                EventType::Put => "put",
                EventType::Delete => "delete",
            };
            let pair = event.kv().expect("an event names its key");
            let said = format!("{kind} {:?} before {:?}", pair, event.prev_kv());
            self.until = self.until.max(pair.mod_revision());
            self.said.push(said);
        }
        if response.created() || response.canceled() {
            self.said.push(format!(
                "watch {} created {} cancelled {} {:?} compacted {}",
                response.watch_id(),
                response.created(),
                response.canceled(),
                response.cancel_reason(),
                response.compact_revision()
            ));
        }
        if response.canceled() {
            self.until = i64::MAX;
        }
    }
}
