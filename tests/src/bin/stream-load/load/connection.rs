//! A connection of HTTP/1.1, as little of it as the answers of the service need.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::target::Target;

/// A connection that asks one thing at a time.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// It is of no more use.
    pub is_broken: bool,
}

impl Connection {
    /// Connects.
    pub async fn open(target: &Target) -> io::Result<Self> {
        let stream = TcpStream::connect(target.address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::with_capacity(4096),
            is_broken: false,
        })
    }

    /// Sends a request and gives the status of its answer. After an error, or when the future is dropped, the connection is
    /// of no more use.
    pub async fn exchange(&mut self, request: &[u8]) -> io::Result<u16> {
        self.is_broken = true;
        self.stream.write_all(request).await?;
        self.buffer.clear();
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match parse(&self.buffer) {
                Parsed::Partial => {}
                Parsed::Invalid => return Err(io::ErrorKind::InvalidData.into()),
                Parsed::Whole { status, keep_alive } => {
                    self.is_broken = !keep_alive;
                    return Ok(status);
                }
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    Partial,
    Invalid,
    Whole { status: u16, keep_alive: bool },
}

/// Looks at an answer as far as it has come. Only answers with a length are understood; the service sends no others.
fn parse(answer: &[u8]) -> Parsed {
    let Some(head_len) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Parsed::Partial;
    };
    let Ok(head) = std::str::from_utf8(&answer[..head_len]) else {
        return Parsed::Invalid;
    };
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
    let (mut length, mut keep_alive) = (None, true);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse::<usize>().ok();
        } else if name.eq_ignore_ascii_case("connection") {
            keep_alive = !value.trim().eq_ignore_ascii_case("close");
        }
    }
    match (status, length) {
        (Some(status), Some(length)) if answer.len() == head_len + 4 + length => {
            Parsed::Whole { status, keep_alive }
        }
        (Some(_), Some(length)) if answer.len() < head_len + 4 + length => Parsed::Partial,
        _ => Parsed::Invalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_to_their_end() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nx: y\r\n\r\nOK";
        for len in 0..answer.len() {
            assert_eq!(parse(&answer[..len]), Parsed::Partial, "{len}");
        }
        assert_eq!(
            parse(answer),
            Parsed::Whole {
                status: 200,
                keep_alive: true
            }
        );
        let closing = b"HTTP/1.1 503 x\r\nconnection: Close\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(
            parse(closing),
            Parsed::Whole {
                status: 503,
                keep_alive: false
            }
        );
        for invalid in [
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nabc",
            "x\r\n\r\n",
        ] {
            assert_eq!(parse(invalid.as_bytes()), Parsed::Invalid);
        }
    }
}
