//! Content encodings: limits hold, and what was encoded is decoded.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use stream_encoding::{ContentEncoding, ContentError};

/// How much may be decoded at once.
const CHUNK_BYTES: usize = 64 << 10;

/// The first byte is the encoding (`g`, `z`, `d`, anything else: zstd), the next two a limit, the rest a body: once as
/// something that is encoded already, once as something to encode.
pub fn check(input: &[u8]) {
    let [kind, high, low, body @ ..] = input else {
        return;
    };
    let encoding = match kind {
        b'g' => ContentEncoding::Gzip,
        b'z' | b'd' => ContentEncoding::Deflate,
        _ => ContentEncoding::Zstd,
    };
    let limit = usize::from(u16::from_be_bytes([*high, *low]));
    let first = decode(encoding, body, limit);
    compare(
        &first,
        &decode(encoding, body, limit + 1 + limit / 2),
        limit,
    );
    let encoded = encode(*kind, body);
    let decoded = decode(encoding, &encoded, body.len()).expect("it is encoded well");
    assert_eq!(decoded, body);
    if !body.is_empty() {
        let short = decode(encoding, &encoded, body.len() - 1);
        assert!(
            matches!(short, Err(ContentError::TooLarge { .. })),
            "{short:?}"
        );
        let cut = 1 + limit % encoded.len();
        if cut < encoded.len() {
            let cut = decode(encoding, &encoded[..cut], body.len());
            assert!(cut.is_err(), "a cut is noticed: {cut:?}");
        }
    }
}

/// Decodes, and never takes more memory than it asked for and may have.
fn decode(encoding: ContentEncoding, body: &[u8], limit: usize) -> Result<Vec<u8>, ContentError> {
    let mut asked = 0;
    let result = encoding.decode(body, limit, |bytes| {
        asked += bytes;
        true
    });
    assert!(
        asked <= 2 * limit + 2 * CHUNK_BYTES,
        "{asked} bytes for a limit of {limit}"
    );
    if let Ok(decoded) = &result {
        assert!(decoded.len() <= limit && decoded.len() <= asked);
    }
    let refused = encoding.decode(body, limit, |_| false);
    let ended = matches!(refused, Err(ContentError::NoMemory)) || body.is_empty();
    assert!(ended || refused.is_err(), "{refused:?}");
    result
}

/// The same under two limits, the second of which is higher.
fn compare(
    low: &Result<Vec<u8>, ContentError>,
    high: &Result<Vec<u8>, ContentError>,
    limit: usize,
) {
    match (low, high) {
        (Ok(low), Ok(high)) => assert_eq!(low, high),
        (Err(ContentError::TooLarge { .. }), Ok(high)) => assert!(high.len() > limit),
        // Beyond the first limit it may be too large again, or damaged.
        (Err(ContentError::TooLarge { .. } | ContentError::Damaged(_)), Err(_)) => {}
        (low, high) => panic!("{low:?} but {high:?}"),
    }
}

fn encode(kind: u8, body: &[u8]) -> Vec<u8> {
    let level = Compression::fast();
    let encoded = match kind {
        b'g' => {
            let mut encoder = GzEncoder::new(Vec::new(), level);
            encoder.write_all(body).and_then(|()| encoder.finish())
        }
        b'z' => {
            let mut encoder = ZlibEncoder::new(Vec::new(), level);
            encoder.write_all(body).and_then(|()| encoder.finish())
        }
        b'd' => {
            let mut encoder = DeflateEncoder::new(Vec::new(), level);
            encoder.write_all(body).and_then(|()| encoder.finish())
        }
        _ => zstd::encode_all(body, 1),
    };
    encoded.expect("memory takes it")
}
