//! A connection on which anything can be said, and answers are read as they are.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A server that has all that it needs answers within milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);
/// A request behind which the server closes the connection.
const LAST: &[u8] = b"GET /health-check HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

/// A connection.
pub struct Wire {
    /// What is tried on it: named when nothing comes.
    what: &'static str,
    stream: TcpStream,
    /// What was read and is not yet an answer.
    read: Vec<u8>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    head: String,
}

impl Answer {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .find(|(own, _)| own.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }
}

impl Wire {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("it listens");
        stream.set_nodelay(true).expect("a socket");
        Self {
            what: "a connection",
            stream,
            read: Vec::new(),
        }
    }

    /// The same, for a case of that name.
    pub fn trying(mut self, what: &'static str) -> Self {
        self.what = what;
        self
    }

    /// Says something. A server that no longer listens is an end like any other.
    pub async fn write(&mut self, bytes: &[u8]) {
        let written = timeout(PATIENCE, self.stream.write_all(bytes)).await;
        assert!(written.is_ok(), "{}: nobody listens", self.what);
    }

    /// Says something for as long as the server listens and does not answer.
    pub async fn write_as_far_as_possible(&mut self, bytes: &[u8]) {
        self.write(bytes).await;
    }

    /// Lets the server see what was said up to now before more comes.
    pub async fn let_it_read(&self) {
        for _ in 0..5 {
            tokio::task::yield_now().await;
        }
    }

    /// Closes the half in which the client speaks.
    pub async fn say_no_more(&mut self) {
        // It may be closed already.
        let _ = self.stream.shutdown().await;
    }

    /// The next answers; fewer when the server closes before.
    pub async fn answers(&mut self, count: usize) -> Vec<Answer> {
        let mut answers = Vec::new();
        let all = async {
            while answers.len() < count {
                match take(&mut self.read) {
                    Some(answer) => answers.push(answer),
                    None if self.more().await => {}
                    None => return,
                }
            }
        };
        let ended = timeout(PATIENCE, all).await;
        assert!(ended.is_ok(), "{}: no answer after {answers:?}", self.what);
        answers
    }

    /// The statuses of the next answers.
    pub async fn statuses(&mut self, count: usize) -> Vec<u16> {
        let answers = self.answers(count).await;
        answers.iter().map(|answer| answer.status).collect()
    }

    /// The statuses of all answers up to the end of the connection, which is the server's to close.
    pub async fn rest(&mut self) -> Vec<u16> {
        let mut statuses = Vec::new();
        let all = async {
            loop {
                while let Some(answer) = take(&mut self.read) {
                    statuses.push(answer.status);
                }
                if !self.more().await {
                    return;
                }
            }
        };
        let closed = timeout(PATIENCE, all).await;
        let what = self.what;
        assert!(closed.is_ok(), "{what}: still open after {statuses:?}");
        assert_eq!(self.text(), "", "{what}: half an answer after {statuses:?}");
        statuses
    }

    /// The same where so many answers and the end are expected. A server that does not close is asked for one more answer: so what it
    /// should not have said, and that it goes on, is known without waiting for an end that does not come.
    pub async fn rest_after(&mut self, expected: usize) -> Vec<u16> {
        let mut statuses = self.statuses(expected).await;
        self.write(LAST).await;
        statuses.extend(self.rest().await);
        statuses
    }

    /// Waits for the end of the connection, whatever is said until then.
    pub async fn closed(&mut self) {
        let all = async { while self.more().await {} };
        let closed = timeout(PATIENCE, all).await;
        assert!(closed.is_ok(), "{}: still open", self.what);
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.read).into_owned()
    }

    /// Reads more. A reset is an end like any other.
    async fn more(&mut self) -> bool {
        matches!(self.stream.read_buf(&mut self.read).await, Ok(1..))
    }
}

/// Takes a whole answer from the front.
fn take(read: &mut Vec<u8>) -> Option<Answer> {
    let end = read.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8(read[..end].to_vec()).expect("heads are text");
    let status = head
        .strip_prefix("HTTP/1.1 ")
        .or(head.strip_prefix("HTTP/1.0 "));
    let status = status.and_then(|rest| rest.get(..3)?.parse().ok());
    let answer = Answer {
        status: status.unwrap_or_else(|| panic!("no answer: {head:?}")),
        head,
    };
    let length = answer
        .header("content-length")
        .map_or(Some(0), |length| length.parse().ok());
    let whole = end + length.unwrap_or_else(|| panic!("a length is a number: {answer:?}"));
    if read.len() < whole {
        return None;
    }
    read.drain(..whole);
    Some(answer)
}
