//! HTTP/1.1 byte by byte against the real listener: what real clients, broken ones and smugglers send.
//!
//! What must hold whatever comes: the answers are the documented ones or the connection closes; each record that was
//! answered 200 is in the table once and nothing else is there; the next connection is served; nothing panics and nothing
//! is worth a warning.

mod cases;
mod exchange;

use std::collections::BTreeMap;

use stream_tests::client::{Api, PATIENCE, PAUSE};
use stream_tests::scratch::Scratch;
use stream_tests::service::Service;
use stream_tests::table::Tables;
use tokio::time::{Instant, sleep};

use self::cases::{Case, End};
use self::exchange::Wire;
use crate::new_setup;

/// The table of all records.
const TABLE: &str = "canary";
/// What a record is called in the text of a case: two characters that become eight.
const PLACEHOLDERS: [&str; 3] = ["@1", "@2", "@3"];

/// A service with one source, and the records that it has to hold.
struct World {
    _scratch: Scratch,
    service: Service,
    path: String,
    expected: BTreeMap<String, i64>,
    cases: usize,
}

impl World {
    async fn start() -> Self {
        let (scratch, setup) = new_setup();
        let service = Service::start(setup.importing_each_second()).await;
        let service = service.expect("it starts");
        let api: Api = service.api().expect("a token");
        let source = api.create_source("wire").await.expect("created");
        let body = serde_json::json!({"type": "body", "name": "body"});
        api.create_sink(&source, TABLE, &[body])
            .await
            .expect("created");
        Self {
            _scratch: scratch,
            service,
            path: source.path,
            expected: BTreeMap::new(),
            cases: 0,
        }
    }

    async fn connect(&self) -> Wire {
        Wire::connect(self.service.setup().source_address()).await
    }

    /// Puts path and records of their own into the text of a new case.
    fn fill(&mut self) -> impl Fn(&str) -> String + use<> {
        self.cases += 1;
        let (case, path) = (self.cases, self.path.clone());
        move |text| {
            let text = text.replace("@P", &path).replace("@K", &"k".repeat(1000));
            let records = PLACEHOLDERS.iter().enumerate();
            records.fold(text, |text, (number, placeholder)| {
                text.replace(placeholder, &format!("c{case:04}-{number:02}"))
            })
        }
    }

    fn expect(&mut self, record: String) {
        *self.expected.entry(record).or_default() += 1;
    }

    /// Plays a case. Returns what is wrong with the answers.
    async fn play(&mut self, case: &Case) -> Option<String> {
        let fill = self.fill();
        let mut wire = self.connect().await.trying(case.name);
        wire.write(&cases::bytes(&fill(case.text))).await;
        let records = case.records.iter().map(|record| fill(record));
        records.for_each(|record| self.expect(record));
        let statuses = match case.end {
            End::Open => wire.statuses(case.statuses.len()).await,
            End::Closed => wire.rest_after(case.statuses.len()).await,
            End::Foreign => {
                wire.closed().await;
                return None;
            }
        };
        if statuses != case.statuses {
            return Some(format!("{}: answered {statuses:?}", case.name));
        }
        if case.end == End::Open {
            let after = fill(
                "POST @P HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 8\r\n\r\n@3",
            );
            wire.write(after.as_bytes()).await;
            self.expect(fill("@3"));
            let statuses = wire.rest().await;
            if statuses != [200] {
                return Some(format!("{}: then answered {statuses:?}", case.name));
            }
        }
        None
    }

    /// Every record is in the table once, and nothing else is.
    async fn check_table(&self) {
        let tables = self.service.setup().tables();
        let deadline = Instant::now() + PATIENCE;
        let all: i64 = self.expected.values().sum();
        loop {
            let tables = Tables::open(&tables).expect("a database");
            let found = tables.counts(TABLE, "body").expect("a table");
            if found.values().sum::<i64>() >= all {
                assert!(
                    found == self.expected,
                    "{}",
                    difference(&found, &self.expected)
                );
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{}",
                difference(&found, &self.expected)
            );
            sleep(PAUSE).await;
        }
    }

    async fn end(mut self) {
        let mut wire = self.connect().await;
        wire.write(b"GET /health-check HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .await;
        assert_eq!(wire.rest().await, [200], "it serves the next connection");
        // A last record: when it is in the table, all before it are.
        let fill = self.fill();
        let mut wire = self.connect().await;
        let last = fill("POST @P HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n@1");
        wire.write(last.as_bytes()).await;
        assert_eq!(wire.statuses(1).await, [200]);
        self.expect(fill("@1"));
        self.check_table().await;
        self.service.stop().await.expect("it stops");
        self.service.assert_quiet(&[]);
    }
}

fn difference(found: &BTreeMap<String, i64>, expected: &BTreeMap<String, i64>) -> String {
    let missing = expected
        .iter()
        .filter(|(name, count)| found.get(*name) != Some(*count));
    let foreign = found
        .iter()
        .filter(|(name, _)| !expected.contains_key(*name));
    format!(
        "missing or of another number: {:?}; not expected: {:?}",
        missing.collect::<Vec<_>>(),
        foreign.collect::<Vec<_>>()
    )
}

#[tokio::test]
async fn every_request_is_answered_as_documented_and_none_is_smuggled() {
    let mut world = World::start().await;
    let mut wrong = Vec::new();
    for case in cases::ALL {
        wrong.extend(world.play(case).await);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    world.end().await;
}

#[tokio::test]
async fn requests_in_one_write_are_answered_in_their_order() {
    let mut world = World::start().await;
    let (mut text, mut statuses) = (String::new(), Vec::new());
    for number in 0..60 {
        let fill = world.fill();
        let (request, status) = match number % 6 {
            1 => ("GET /health-check HTTP/1.1\r\nHost: x\r\n\r\n", 200),
            2 => ("GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n", 404),
            3 => ("OPTIONS @P HTTP/1.1\r\nHost: x\r\n\r\n", 200),
            4 => (
                "PUT @P HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n@1",
                405,
            ),
            5 => (
                "POST @P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbig-\r\n8\r\n@1\r\n0\r\n\r\n",
                200,
            ),
            _ => (
                "POST @P HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n@1",
                200,
            ),
        };
        text += &fill(request);
        statuses.push(status);
        match number % 6 {
            5 => world.expect(fill("big-@1")),
            0 => world.expect(fill("@1")),
            _ => {}
        }
    }
    let mut wire = world.connect().await;
    wire.write(text.as_bytes()).await;
    let answers = wire.answers(statuses.len()).await;
    let found: Vec<_> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(found, statuses);
    let ids: Vec<_> = answers
        .iter()
        .map(|answer| answer.header("x-request-id"))
        .collect();
    assert!(
        ids.iter().all(Option::is_some) && ids.is_sorted(),
        "{ids:?}"
    );
    // Many at once and then no more: all of them are answered.
    let mut wire = world.connect().await;
    wire.write(
        b"GET /health-check HTTP/1.1\r\nHost: x\r\n\r\n"
            .repeat(500)
            .as_slice(),
    )
    .await;
    wire.say_no_more().await;
    assert_eq!(wire.rest().await, [200; 500]);
    world.end().await;
}

/// A request with a length and one in chunks, on one connection.
const TWO: &str = "POST @P HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n@1\
    POST @P?verbose=true HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nfirst\r\n8\r\n@2\r\n0\r\nT: 1\r\n\r\n";

#[tokio::test]
async fn it_does_not_matter_where_requests_are_cut_into_packets() {
    let mut world = World::start().await;
    let length = world.fill()(TWO).len();
    for cut in 0..=length {
        let fill = world.fill();
        let text = fill(TWO).into_bytes();
        let (first, second) = text.split_at(cut);
        let mut wire = world.connect().await;
        wire.write(first).await;
        wire.let_it_read().await;
        wire.write(second).await;
        assert_eq!(wire.statuses(2).await, [200, 200], "cut at {cut}");
        world.expect(fill("@1"));
        world.expect(fill("first@2"));
    }
    let fill = world.fill();
    let mut wire = world.connect().await;
    for byte in fill(TWO).as_bytes() {
        wire.write(&[*byte]).await;
        wire.let_it_read().await;
    }
    assert_eq!(wire.statuses(2).await, [200, 200], "byte by byte");
    world.expect(fill("@1"));
    world.expect(fill("first@2"));
    world.end().await;
}

#[tokio::test]
async fn whoever_leaves_early_leaves_nothing_behind() {
    let mut world = World::start().await;
    for text in [
        "POST @P HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n@1",
        "POST @P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n@1\r\n0\r\n\r\n",
        "POST @P HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\nContent-Length: 17\r\n\r\n@1\n@2",
    ] {
        let length = world.fill()(text).len();
        for cut in 0..length {
            let text = world.fill()(text);
            let mut wire = world.connect().await;
            wire.write(&text.as_bytes()[..cut]).await;
            wire.say_no_more().await;
            let statuses = wire.rest().await;
            // Of a cut head nothing can be said; of a cut body it is said who still listens.
            let is_in_body = text[..cut].contains("\r\n\r\n");
            let expected: &[u16] = if is_in_body { &[499] } else { &[] };
            assert_eq!(statuses, expected, "said {:?} and no more", &text[..cut]);
            // And without listening.
            let mut wire = world.connect().await;
            wire.write(&text.as_bytes()[..cut]).await;
        }
    }
    // Whoever has said everything may close his half, and is answered.
    let fill = world.fill();
    let mut wire = world.connect().await;
    let whole = fill("POST @P HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n@1");
    wire.write(whole.as_bytes()).await;
    wire.say_no_more().await;
    assert_eq!(wire.rest().await, [200]);
    world.expect(fill("@1"));
    world.end().await;
}

#[tokio::test]
async fn clients_that_ask_before_they_send_are_told() {
    let mut world = World::start().await;
    let fill = world.fill();
    let mut wire = world.connect().await;
    let head =
        fill("POST @P HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 8\r\n\r\n");
    wire.write(head.as_bytes()).await;
    assert_eq!(wire.statuses(1).await, [100]);
    wire.write(fill("@1").as_bytes()).await;
    assert_eq!(wire.statuses(1).await, [200]);
    world.expect(fill("@1"));
    // It goes on, and this time the client does not wait.
    let fill = world.fill();
    wire.write(
        fill("POST @P HTTP/1.1\r\nHost: x\r\nExpect: 100-CONTINUE\r\nContent-Length: 8\r\n\r\n@1")
            .as_bytes(),
    )
    .await;
    let statuses = wire.statuses(1).await;
    assert!(matches!(statuses[..], [100 | 200]), "{statuses:?}");
    if statuses == [100] {
        assert_eq!(wire.statuses(1).await, [200]);
    }
    world.expect(fill("@1"));
    // What cannot be taken is refused before it is sent.
    for (path, length, status) in [
        ("@P", 5_000_000, 413),
        ("@Px", 8, 404),
        ("/nothing", 8, 404),
    ] {
        let fill = world.fill();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
        );
        let mut wire = world.connect().await;
        wire.write(fill(&head).as_bytes()).await;
        assert_eq!(wire.rest().await, [status], "{path}");
    }
    world.end().await;
}

#[tokio::test]
async fn a_refusal_can_be_read_by_whoever_sends_on() {
    let mut world = World::start().await;
    let body = vec![b'x'; 8 << 20];
    for (path, status) in [("@P", 413), ("@Px", 404), ("/nothing", 404)] {
        let fill = world.fill();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let mut wire = world.connect().await;
        wire.write(fill(&head).as_bytes()).await;
        wire.write_as_far_as_possible(&body).await;
        assert_eq!(wire.rest().await, [status], "{path}");
    }
    world.end().await;
}
