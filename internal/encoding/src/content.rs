//! Undoing the content encoding of a request, within limits of length and memory.

use std::io::{self, Read};

/// A content encoding (RFC 9110, section 8.4.1; zstd: RFC 9659).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentEncoding {
    /// `gzip` or `x-gzip`.
    Gzip,
    /// `deflate`: the zlib format, or a bare deflate stream, which some clients send under that name.
    Deflate,
    /// `zstd`, with a window of at most 8 MiB.
    Zstd,
}

/// A body that cannot be decoded. The texts go back to the sender.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContentError {
    /// It is not in its encoding, or cut off.
    #[error("the body is not in the content encoding that its header names")]
    Damaged(#[source] io::Error),
    /// It holds more than it may.
    #[error("the body holds more than {limit} bytes when decoded")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// There is no memory for it at present.
    #[error("there is no memory for the decoded body")]
    NoMemory,
}

/// How much is decoded at a time.
const CHUNK_BYTES: usize = 64 << 10;
/// log2 of the largest window of zstd. RFC 8878 asks decoders for 8 MiB; a frame may ask for up to 2 GiB.
const WINDOW_LOG: u32 = 23;

impl ContentEncoding {
    /// Reads the header `Content-Encoding`. `Ok(None)`: there is nothing to undo.
    ///
    /// # Errors
    /// When the encoding is unknown, or there are several.
    pub fn parse(header: &str) -> Result<Option<Self>, UnknownEncoding> {
        let is = |name: &str| header.trim().eq_ignore_ascii_case(name);
        if is("") || is("identity") {
            Ok(None)
        } else if is("gzip") || is("x-gzip") {
            Ok(Some(Self::Gzip))
        } else if is("deflate") {
            Ok(Some(Self::Deflate))
        } else if is("zstd") {
            Ok(Some(Self::Zstd))
        } else {
            Err(UnknownEncoding)
        }
    }

    /// Decodes a body of at most `limit` bytes. `admit` is asked for each piece of memory before it is filled; when it says
    /// no, decoding ends.
    ///
    /// # Errors
    /// When the body is damaged or too large, or `admit` says no.
    pub fn decode(
        self,
        body: &[u8],
        limit: usize,
        admit: impl FnMut(usize) -> bool,
    ) -> Result<Vec<u8>, ContentError> {
        if body.is_empty() {
            return Ok(Vec::new());
        }
        match self {
            Self::Gzip => read(flate2::bufread::MultiGzDecoder::new(body), limit, admit),
            Self::Deflate if is_zlib(body) => {
                let mut decoder = flate2::bufread::ZlibDecoder::new(body);
                let decoded = read(&mut decoder, limit, admit)?;
                nothing_behind(decoder.into_inner()).map(|()| decoded)
            }
            Self::Deflate => {
                let mut decoder = flate2::bufread::DeflateDecoder::new(body);
                let decoded = read(&mut decoder, limit, admit)?;
                nothing_behind(decoder.into_inner()).map(|()| decoded)
            }
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(body)
                    .map_err(ContentError::Damaged)?;
                decoder
                    .window_log_max(WINDOW_LOG)
                    .map_err(ContentError::Damaged)?;
                read(decoder, limit, admit)
            }
        }
    }
}

/// A content encoding that is not supported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the content encoding is none of gzip, deflate, zstd and identity")]
pub struct UnknownEncoding;

/// Whether the two bytes of a zlib header are there (RFC 1950, section 2.2).
fn is_zlib(body: &[u8]) -> bool {
    let [method, flags, ..] = *body else {
        return false;
    };
    method & 0x0F == 8
        && method >> 4 <= 7
        && (u16::from(method) << 8 | u16::from(flags)).is_multiple_of(31)
}

/// zlib and deflate end by themselves: what follows is not a part of the body.
fn nothing_behind(rest: &[u8]) -> Result<(), ContentError> {
    if rest.is_empty() {
        return Ok(());
    }
    let kind = io::ErrorKind::InvalidData;
    Err(ContentError::Damaged(io::Error::new(
        kind,
        "bytes behind the end",
    )))
}

fn read(
    mut decoder: impl Read,
    limit: usize,
    mut admit: impl FnMut(usize) -> bool,
) -> Result<Vec<u8>, ContentError> {
    let mut decoded = Vec::new();
    loop {
        let before = decoded.len();
        // One byte more than allowed is enough to know.
        let piece = CHUNK_BYTES.min(limit - before + 1);
        if !admit(piece) {
            return Err(ContentError::NoMemory);
        }
        decoded.reserve(piece);
        let piece = u64::try_from(piece).expect("a chunk is small");
        let read = (&mut decoder).take(piece).read_to_end(&mut decoded);
        if read.map_err(ContentError::Damaged)? == 0 {
            return Ok(decoded);
        }
        if decoded.len() > limit {
            return Err(ContentError::TooLarge { limit });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use proptest::prelude::*;

    use super::*;

    fn encode(encoding: ContentEncoding, bare: bool, text: &[u8]) -> Vec<u8> {
        let level = Compression::fast();
        match encoding {
            ContentEncoding::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), level);
                encoder.write_all(text).and_then(|()| encoder.finish())
            }
            ContentEncoding::Deflate if bare => {
                let mut encoder = DeflateEncoder::new(Vec::new(), level);
                encoder.write_all(text).and_then(|()| encoder.finish())
            }
            ContentEncoding::Deflate => {
                let mut encoder = ZlibEncoder::new(Vec::new(), level);
                encoder.write_all(text).and_then(|()| encoder.finish())
            }
            ContentEncoding::Zstd => zstd::encode_all(text, 1),
        }
        .expect("memory takes it")
    }

    const ALL: [(ContentEncoding, bool); 4] = [
        (ContentEncoding::Gzip, false),
        (ContentEncoding::Deflate, false),
        (ContentEncoding::Deflate, true),
        (ContentEncoding::Zstd, false),
    ];

    #[test]
    fn the_header_names_one_encoding() {
        for (header, encoding) in [
            ("", Ok(None)),
            ("Identity", Ok(None)),
            (" GZIP ", Ok(Some(ContentEncoding::Gzip))),
            ("x-gzip", Ok(Some(ContentEncoding::Gzip))),
            ("deflate", Ok(Some(ContentEncoding::Deflate))),
            ("zstd", Ok(Some(ContentEncoding::Zstd))),
            ("br", Err(UnknownEncoding)),
            ("gzip, zstd", Err(UnknownEncoding)),
        ] {
            assert_eq!(ContentEncoding::parse(header), encoding, "{header}");
        }
    }

    #[test]
    fn a_bomb_ends_at_the_limit_and_takes_no_more_memory_than_it_asked_for() {
        let text = vec![b'0'; 100 << 20];
        for (encoding, bare) in ALL {
            let bomb = encode(encoding, bare, &text);
            let mut asked = 0;
            let result = encoding.decode(&bomb, 1 << 20, |bytes| {
                asked += bytes;
                true
            });
            assert!(
                matches!(result, Err(ContentError::TooLarge { .. })),
                "{encoding:?}"
            );
            assert!(asked <= (1 << 20) + CHUNK_BYTES, "{encoding:?} {asked}");
        }
    }

    #[test]
    fn without_memory_it_ends_at_once() {
        let text = vec![b'0'; 1 << 20];
        for (encoding, bare) in ALL {
            let body = encode(encoding, bare, &text);
            let mut left = 3;
            let result = encoding.decode(&body, text.len(), |_| {
                left -= 1;
                left > 0
            });
            assert!(
                matches!(result, Err(ContentError::NoMemory)),
                "{encoding:?}"
            );
        }
    }

    #[test]
    fn a_window_of_more_than_8_mib_is_refused() {
        let text = vec![b'0'; 1 << 20];
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).expect("a valid level");
        encoder.window_log(24).expect("a valid window");
        encoder.write_all(&text).expect("memory takes it");
        let body = encoder.finish().expect("memory takes it");
        let result = ContentEncoding::Zstd.decode(&body, text.len(), |_| true);
        assert!(matches!(result, Err(ContentError::Damaged(_))));
    }

    #[test]
    fn every_cut_and_every_extra_byte_is_noticed() {
        for (encoding, bare) in ALL {
            let body = encode(encoding, bare, b"a text that is a little longer, longer");
            for len in 1..body.len() {
                let result = encoding.decode(&body[..len], 1000, |_| true);
                assert!(result.is_err(), "{encoding:?} {bare} cut to {len}");
            }
            let more = [&body[..], b"x"].concat();
            let result = encoding.decode(&more, 1000, |_| true);
            assert!(result.is_err(), "{encoding:?} {bare}");
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(text in prop::collection::vec(any::<u8>(), 0..300), repeat in 1..400_usize) {
            let text = text.repeat(repeat);
            for (encoding, bare) in ALL {
                let body = encode(encoding, bare, &text);
                let decoded = encoding.decode(&body, text.len(), |_| true);
                prop_assert_eq!(&decoded.expect("within the limit"), &text);
                if !text.is_empty() {
                    let short = encoding.decode(&body, text.len() - 1, |_| true);
                    let too_large = matches!(short, Err(ContentError::TooLarge { .. }));
                    prop_assert!(too_large);
                }
            }
        }

        #[test]
        fn no_bytes_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            for (encoding, _) in ALL {
                let _ = encoding.decode(&body, 1000, |_| true);
            }
        }
    }
}
