//! Reading request bodies: within the size limit, the time limit and the memory budget, decoded.
//!
//! A body that is refused is not kept. A short one is read to its end all the same, so that the connection can be used
//! again: that costs the client and this process less than another connection. A long one is left where it is, and the
//! connection is closed behind the answer.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::HeaderMap;
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_ENCODING, EXPECT, TRANSFER_ENCODING};
use stream_encoding::{ContentEncoding, ContentError};
use tokio::time::Instant;

use crate::admission::Reservation;
use crate::answer::{OVERLOADED, Refusal};

/// Bodies up to this size are copied out of the connection's buffer, so that one small record does not keep all of it.
const COPIED_BYTES: usize = 16 << 10;

/// Refused bodies up to this size are read and thrown away.
const DRAINED_BYTES: u64 = 64 << 10;
/// As long as this they may take.
const DRAIN_TIME: Duration = Duration::from_secs(1);

/// What was at the end of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Nothing.
    Clear,
    /// Trailers. hyper is generous about where the lines of HTTP/1 trailers end.
    Trailers,
}

/// Looks at how the end of a body is told.
///
/// A connection of HTTP/1 goes on only when the end of each request is beyond doubt: where a proxy in front sees another end
/// than we do, one client could speak for the next.
///
/// # Errors
/// When the body is in more than plain chunks. It would be taken with its further transfer encoding.
pub(crate) fn check_chunks(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
    match (encodings.next(), encodings.next()) {
        (None, _) => Ok(()),
        (Some(only), None) if only.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => {
            let message =
                "The transfer encoding is not supported. Use chunked alone, or Content-Length.";
            Err(Refusal::new(400, "badRequest", message))
        }
    }
}

/// The size of a body after decoding, where its headers say it.
pub(crate) fn known_len(headers: &HeaderMap, body: &Incoming) -> Option<u64> {
    let is_plain = !headers.contains_key(CONTENT_ENCODING);
    body.size_hint().exact().filter(|_| is_plain)
}

/// Looks at a body before any of it is read.
///
/// # Errors
/// What to answer when it says that it is too large, or does not fit into memory now.
pub(crate) fn check(body: &Incoming, limit: usize, reserved: &Reservation) -> Result<(), Refusal> {
    let expected = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if expected > limit {
        return Err(too_large(limit));
    }
    if !reserved.could_grow(expected) {
        return Err(Refusal::later(503, "overloaded", OVERLOADED));
    }
    Ok(())
}

/// Reads the rest of a refused body if it is short and on its way. False: there is still some of it.
///
/// # Cancel safety
/// Cancelling leaves the rest where it is.
pub(crate) async fn drain(headers: &HeaderMap, body: &mut Incoming) -> bool {
    if body.is_end_stream() {
        return true;
    }
    // Whoever asks before he sends has not sent anything yet.
    if headers.contains_key(EXPECT) || body.size_hint().lower() > DRAINED_BYTES {
        return false;
    }
    let read = async {
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            // After an error, and after trailers, it is not certain where the request ends.
            let Some(data) = frame.ok().and_then(|frame| frame.into_data().ok()) else {
                return false;
            };
            bytes += data.len() as u64;
            if bytes > DRAINED_BYTES {
                return false;
            }
        }
        true
    };
    tokio::time::timeout(DRAIN_TIME, read)
        .await
        .unwrap_or(false)
}

/// Reads a body. What it takes is added to `reserved` as it arrives.
///
/// # Errors
/// What to answer when the body is too large, too slow, cut off, or does not fit into memory.
pub(crate) async fn read(
    body: &mut Incoming,
    limit: usize,
    deadline: Instant,
    reserved: &mut Reservation,
) -> Result<(Bytes, End), Refusal> {
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    let mut end = End::Clear;
    loop {
        let frame = match tokio::time::timeout_at(deadline, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => break,
            Ok(Some(Err(error))) => return Err(broken(&error)),
            Err(_) => {
                let message = "The body did not arrive in time. Send it faster.";
                return Err(Refusal::new(408, "requestTimeout", message));
            }
        };
        let Ok(data) = frame.into_data() else {
            end = End::Trailers;
            continue;
        };
        if first.len() + rest.len() + data.len() > limit {
            return Err(too_large(limit));
        }
        if !reserved.grow(data.len()) {
            return Err(Refusal::later(503, "overloaded", OVERLOADED));
        }
        if first.is_empty() && rest.is_empty() {
            first = data;
        } else {
            rest.extend_from_slice(&std::mem::take(&mut first));
            rest.extend_from_slice(&data);
        }
    }
    let whole = if !rest.is_empty() {
        rest.freeze()
    } else if first.len() <= COPIED_BYTES {
        Bytes::copy_from_slice(&first)
    } else {
        first
    };
    Ok((whole, end))
}

/// Undoes the content encoding. The limits of length and memory apply to what is decoded, while decoding.
///
/// # Errors
/// What to answer when the encoding is unknown, the body is not in it, or it is too large.
pub(crate) async fn decode(
    headers: &HeaderMap,
    body: Bytes,
    limit: usize,
    mut reserved: Reservation,
) -> Result<(Bytes, Reservation), Refusal> {
    let mut encodings = headers.get_all(CONTENT_ENCODING).iter();
    let Some(header) = encodings.next() else {
        return Ok((body, reserved));
    };
    let encoding = match (
        header.to_str().map(ContentEncoding::parse),
        encodings.next(),
    ) {
        (Ok(Ok(None)), None) => return Ok((body, reserved)),
        (Ok(Ok(Some(encoding))), None) => encoding,
        _ => {
            let message = "The content encoding is not supported. Use one of gzip, deflate and zstd, or none.";
            return Err(Refusal::new(415, "unsupportedMediaType", message));
        }
    };
    let work = move || {
        let decoded = encoding.decode(&body, limit, |bytes| reserved.grow(bytes));
        decoded.map(|decoded| (Bytes::from(decoded), reserved))
    };
    let internal = || Refusal::new(500, "genericError", "The body could not be decoded.");
    let decoded = tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| internal())?;
    decoded.map_err(|error| match error {
        ContentError::TooLarge { .. } => too_large(limit),
        ContentError::NoMemory => Refusal::later(503, "overloaded", OVERLOADED),
        _ => {
            let message = "The body is not in the content encoding that its header names.";
            Refusal::new(400, "badRequest", message)
        }
    })
}

/// Tells a body whose chunks make no sense from one that ends early.
fn broken(error: &hyper::Error) -> Refusal {
    let cause = error.source().and_then(|cause| cause.downcast_ref());
    match cause.map(io::Error::kind) {
        Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) => {
            let message = "The chunks of the body are malformed.";
            Refusal::new(400, "badRequest", message)
        }
        // The status that nginx has for it. Whoever closed only his half of the connection can read it.
        _ => Refusal::new(499, "eof", "The body ended before it was complete."),
    }
}

fn too_large(limit: usize) -> Refusal {
    Refusal::new(
        413,
        "bodyTooLarge",
        format!("The body has more than {limit} bytes. Send less."),
    )
}
