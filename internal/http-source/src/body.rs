//! Reading request bodies: within the size limit, the time limit and the memory budget, decoded.

use std::error::Error as _;
use std::io;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::HeaderMap;
use hyper::body::{Body, Incoming};
use hyper::header::CONTENT_ENCODING;
use stream_encoding::{ContentEncoding, ContentError};
use tokio::time::Instant;

use crate::admission::Reservation;
use crate::answer::{OVERLOADED, Refusal};

/// Bodies up to this size are copied out of the connection's buffer, so that one small record does not keep all of it.
const COPIED_BYTES: usize = 16 << 10;

/// What was at the end of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Nothing.
    Clear,
    /// Trailers. hyper is generous about where the lines of HTTP/1 trailers end.
    Trailers,
}

/// Reads a body. What it takes is added to `reserved` as it arrives.
///
/// # Errors
/// What to answer when the body is too large, too slow, cut off, or does not fit into memory.
pub(crate) async fn read(
    mut body: Incoming,
    limit: usize,
    deadline: Instant,
    reserved: &mut Reservation,
) -> Result<(Bytes, End), Refusal> {
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large(limit));
    }
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
