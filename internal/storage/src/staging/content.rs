//! What the bytes of an object should be, and the check that they are.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{StagingError, Subject};

/// The exact content of a slice, as its seal states it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256, 64 hexadecimal digits.
    pub checksum: String,
}

impl Content {
    /// The content that consists of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.len() as u64,
            checksum: hex(&Sha256::digest(bytes)),
        }
    }
}

/// How bytes differ from what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// There are fewer.
    #[error("it ends after {found} of {expected} bytes")]
    Short {
        /// The length it should have.
        expected: u64,
        /// The length it has.
        found: u64,
    },
    /// There are more.
    #[error("it is longer than {expected} bytes")]
    Long {
        /// The length it should have.
        expected: u64,
    },
    /// The length is right, the bytes are not.
    #[error("its SHA-256 is not the expected one")]
    Checksum,
}

/// Watches bytes pass by.
pub(super) struct Verifier {
    subject: Subject,
    expected: Content,
    found: u64,
    hash: Sha256,
}

impl Verifier {
    pub(super) fn new(subject: Subject, expected: Content) -> Self {
        Self {
            subject,
            expected,
            found: 0,
            hash: Sha256::new(),
        }
    }

    /// Takes the next bytes into account.
    pub(super) fn update(&mut self, bytes: &[u8]) -> Result<(), StagingError> {
        self.found += bytes.len() as u64;
        if self.found > self.expected.bytes {
            return Err(self.mismatch(Mismatch::Long {
                expected: self.expected.bytes,
            }));
        }
        self.hash.update(bytes);
        Ok(())
    }

    /// Judges, after the last byte.
    pub(super) fn finish(&self) -> Result<(), StagingError> {
        let expected = self.expected.bytes;
        if self.found != expected {
            return Err(self.mismatch(Mismatch::Short {
                expected,
                found: self.found,
            }));
        }
        let found = hex(&self.hash.clone().finalize());
        if found.eq_ignore_ascii_case(&self.expected.checksum) {
            Ok(())
        } else {
            Err(self.mismatch(Mismatch::Checksum))
        }
    }

    fn mismatch(&self, mismatch: Mismatch) -> StagingError {
        StagingError::Corrupt {
            subject: self.subject.clone(),
            mismatch,
        }
    }
}

/// A reader whose end is an error if the bytes were not the expected ones.
pub(super) struct Verified<R> {
    inner: R,
    verifier: Verifier,
}

impl<R: Read> Verified<R> {
    pub(super) fn new(inner: R, subject: Subject, expected: Content) -> Self {
        Self {
            inner,
            verifier: Verifier::new(subject, expected),
        }
    }

    /// Reads at most `limit` bytes, and none only at the end.
    pub(super) fn read_chunk(&mut self, limit: usize) -> Result<Bytes, StagingError> {
        let mut chunk = vec![0; limit];
        let mut filled = 0;
        while filled < limit {
            match self
                .read(&mut chunk[filled..])
                .map_err(|error| self.classified(error))?
            {
                0 => break,
                read => filled += read,
            }
        }
        chunk.truncate(filled);
        Ok(chunk.into())
    }

    /// Reads what is left, only to check it.
    pub(super) fn check(mut self) -> Result<(), StagingError> {
        while !self.read_chunk(super::CHUNK_BYTES)?.is_empty() {}
        Ok(())
    }

    fn classified(&self, error: io::Error) -> StagingError {
        match error.downcast::<StagingError>() {
            Ok(error) => error,
            Err(source) => match &self.verifier.subject {
                Subject::SliceFile(path) => StagingError::Io {
                    operation: "read",
                    path: path.clone(),
                    source,
                },
                Subject::Object(name) => StagingError::Object {
                    operation: "read",
                    name: name.clone(),
                    source: source.into(),
                },
            },
        }
    }
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let read = loop {
            match self.inner.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        let verified = match read {
            0 => self.verifier.finish(),
            read => self.verifier.update(&buffer[..read]),
        };
        verified
            .map(|()| read)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

/// Opens the file of a slice.
pub(super) fn open_slice(path: &Path, expected: &Content) -> Result<Verified<File>, StagingError> {
    let subject = Subject::SliceFile(path.to_owned());
    match File::open(path) {
        Ok(file) => Ok(Verified::new(file, subject, expected.clone())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(StagingError::NotFound { subject })
        }
        Err(source) => Err(StagingError::Io {
            operation: "open",
            path: path.to_owned(),
            source,
        }),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a string cannot fail");
            text
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8], expected: &Content) -> Result<Vec<u8>, StagingError> {
        let mut reader = Verified::new(bytes, Subject::Object("a".to_owned()), expected.clone());
        let mut all = Vec::new();
        loop {
            let chunk = reader.read_chunk(7)?;
            if chunk.is_empty() {
                return Ok(all);
            }
            all.extend_from_slice(&chunk);
        }
    }

    #[test]
    fn knows_the_checksum_of_nothing() {
        let empty = Content::of(b"");
        assert_eq!(
            empty.checksum,
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_eq!(read(b"", &empty).expect("as expected"), b"");
        let upper = Content {
            checksum: empty.checksum.to_uppercase(),
            ..empty
        };
        assert_eq!(read(b"", &upper).expect("as expected"), b"");
    }

    #[test]
    fn the_end_is_an_error_every_time_it_is_asked_for() {
        let mut reader = Verified::new(
            &b"ab"[..],
            Subject::Object("a".to_owned()),
            Content::of(b"abc"),
        );
        let mut buffer = [0; 8];
        assert_eq!(reader.read(&mut buffer).expect("two bytes"), 2);
        for _ in 0..2 {
            let error = reader.read(&mut buffer).expect_err("one byte is missing");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert!(
                error
                    .to_string()
                    .contains("object a is damaged: it ends after 2 of 3 bytes")
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn accepts_the_content_and_nothing_else(
            bytes in proptest::collection::vec(any::<u8>(), 0..64),
            other in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let content = Content::of(&bytes);
            prop_assert_eq!(read(&bytes, &content).expect("as expected"), bytes.clone());
            let result = read(&other, &content);
            prop_assert_eq!(result.is_ok(), bytes == other);
            if let Err(StagingError::Corrupt { mismatch, .. }) = result {
                let expected = bytes.len() as u64;
                let found = other.len() as u64;
                prop_assert_eq!(mismatch, match found.cmp(&expected) {
                    std::cmp::Ordering::Less => Mismatch::Short { expected, found },
                    std::cmp::Ordering::Equal => Mismatch::Checksum,
                    std::cmp::Ordering::Greater => Mismatch::Long { expected },
                });
            }
        }
    }
}
