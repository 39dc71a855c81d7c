//! Files whose bytes are used once: written now, read once by an upload, removed.
//!
//! In the page cache they would only take memory, and memory that a virtual machine has not used for a while is dear: its
//! host has to find each page first. Measured, 512 MiB that were written to such pages took 1.8 s of CPU, and 0.15 s with
//! `RWF_DONTCACHE`, by which the kernel gives the pages back as soon as they are on the disk (`pwritev2(2)`; Linux 6.14,
//! on ext4, xfs and others). Where the kernel or the file system does not know it, the ordinary way is taken; nothing but
//! speed depends on it.
//!
//! Only for long pieces: the next piece begins in the page where this one ended, and has to read that first.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::os::unix::fs::FileExt;

use rustix::io::{Errno, ReadWriteFlags, preadv2, pwritev2};

/// The shortest piece for which it is worth it.
pub(crate) const LEAST_BYTES: usize = 128 << 10;

/// `RWF_DONTCACHE` of `linux/fs.h`.
const DONT_CACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);
/// The offset that stands for the position of the file.
const POSITION: u64 = u64::MAX;

/// Writes all bytes at `offset`.
///
/// # Errors
/// What the disk says; any part of the bytes may then have been written.
pub(crate) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut written = 0;
    while written < bytes.len() {
        let rest = &bytes[written..];
        let at = offset + written as u64;
        if rest.len() < LEAST_BYTES {
            return file.write_all_at(rest, at);
        }
        match pwritev2(file, &[IoSlice::new(rest)], at, DONT_CACHE) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => written += count,
            Err(Errno::INTR) => {}
            Err(error) if is_unknown(error) => return file.write_all_at(rest, at),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Reads a file from its beginning to its end.
#[derive(Debug)]
pub(crate) struct Reader(pub File);

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.len() < LEAST_BYTES {
            return self.0.read(buffer);
        }
        match preadv2(
            &self.0,
            &mut [IoSliceMut::new(buffer)],
            POSITION,
            DONT_CACHE,
        ) {
            Err(error) if is_unknown(error) => self.0.read(buffer),
            read => Ok(read?),
        }
    }
}

/// Whether the kernel or the file system does not know the flag, or the call.
fn is_unknown(error: Errno) -> bool {
    matches!(error, Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS)
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    /// Pieces of these lengths, written one after the other into `path`, are what is read from it.
    fn round_trip(path: &Path, lengths: &[usize], buffer: usize) {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true);
        let file = file.open(path).expect("opens");
        let mut expected = Vec::new();
        for (number, length) in lengths.iter().enumerate() {
            let bytes = (0..*length).map(|at| (at * 31 + number) as u8);
            let bytes: Vec<u8> = bytes.collect();
            write_all_at(&file, &bytes, expected.len() as u64).expect("written");
            expected.extend(bytes);
        }
        let mut found = Vec::new();
        let mut reader = Reader(File::open(path).expect("opens"));
        let mut chunk = vec![0; buffer];
        loop {
            match reader.read(&mut chunk).expect("read") {
                0 => break,
                count => found.extend_from_slice(&chunk[..count]),
            }
        }
        assert!(found == expected, "{} of {}", found.len(), expected.len());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn what_is_written_in_pieces_is_read(
            lengths in prop::collection::vec(0..3 * LEAST_BYTES, 0..8),
            buffer in 1_usize..2 * LEAST_BYTES,
        ) {
            let dir = tempfile::tempdir().expect("a directory");
            round_trip(&dir.path().join("slice"), &lengths, buffer);
        }
    }

    #[test]
    fn a_file_system_that_does_not_know_the_flag_is_written_and_read_as_well() {
        // Shared memory is on tmpfs, which has nothing but the cache.
        let Ok(dir) = tempfile::tempdir_in("/dev/shm") else {
            return;
        };
        let lengths = [LEAST_BYTES, 5, 2 * LEAST_BYTES + 3];
        round_trip(&dir.path().join("slice"), &lengths, LEAST_BYTES);
    }

    #[test]
    fn a_failure_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("slice");
        std::fs::write(&path, "").expect("written");
        let read_only = File::open(&path).expect("opens");
        let bytes = vec![0; LEAST_BYTES];
        let error = write_all_at(&read_only, &bytes, 0).expect_err("not open for writing");
        assert_eq!(error.raw_os_error(), Some(Errno::BADF.raw_os_error()));
    }
}
