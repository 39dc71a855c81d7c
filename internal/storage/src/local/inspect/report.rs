//! The text that people read.

use std::fmt;

use stream_model::level::Compression;

use super::{Damage, Inspection, SegmentSummary, SliceStage, SliceSummary, Usage, Verification};

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "volume {} in {}", self.id, self.dir.display())?;
        if self.usage == Usage::InUse {
            writeln!(
                f,
                "  in use by another process, figures may be moving; damage is not looked for"
            )?;
        }
        let bytes: u64 = self.segments.iter().map(|segment| segment.size).sum();
        let count = self.segments.len();
        writeln!(f, "journal: {count} segments, {bytes} bytes")?;
        for segment in &self.segments {
            writeln!(f, "  {segment}")?;
        }
        writeln!(f, "checkpoints: {}", self.checkpoints.len())?;
        for checkpoint in &self.checkpoints {
            writeln!(
                f,
                "  {}: {} slices, up to entry {} of group {}",
                checkpoint.number, checkpoint.slices, checkpoint.last_entry, checkpoint.last_group
            )?;
        }
        let rows: u64 = self.slices.iter().map(|slice| slice.figures.rows).sum();
        writeln!(f, "slices: {}, {rows} rows", self.slices.len())?;
        for slice in &self.slices {
            writeln!(f, "  {slice}")?;
        }
        writeln!(f, "unknown files: {}", self.unknown_files.len())?;
        for file in &self.unknown_files {
            writeln!(f, "  {}", file.display())?;
        }
        if self.usage == Usage::Free {
            list(f, "damage that an opening would report", &self.damage)?;
        }
        Ok(())
    }
}

fn list(f: &mut fmt::Formatter<'_>, title: &str, damage: &[Damage]) -> fmt::Result {
    writeln!(f, "{title}: {}", damage.len())?;
    for damage in damage {
        writeln!(f, "  {damage}")?;
    }
    Ok(())
}

impl fmt::Display for SegmentSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:016x}.segment: {} bytes, valid to {}{}, {} groups",
            self.number,
            self.size,
            self.valid_to,
            if self.newest { " (newest)" } else { "" },
            self.groups
        )?;
        if let Some((first, last)) = self.entries {
            write!(
                f,
                ", entries {first} to {last} ({} bytes): {} batches with {} rows of {} sessions, {} seals, {} releases",
                self.entry_bytes, self.batches, self.rows, self.sessions, self.seals, self.releases
            )?;
        }
        if !self.whole_header {
            f.write_str(", damaged header")?;
        }
        Ok(())
    }
}

impl fmt::Display for SliceSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.id)?;
        match self.compression {
            Compression::None => f.write_str("plain")?,
            Compression::Gzip { level } => write!(f, "gzip {level}")?,
            Compression::Zstd { level } => write!(f, "zstd {level}")?,
        }
        match self.stage {
            SliceStage::Open => f.write_str(", open")?,
            SliceStage::Sealed { successor: None } => f.write_str(", sealed")?,
            SliceStage::Sealed {
                successor: Some(successor),
            } => write!(f, ", sealed, followed by {successor}")?,
        }
        write!(
            f,
            ": {} rows, {} bytes before compression",
            self.figures.rows, self.figures.raw_bytes
        )?;
        match self.file_len {
            None => f.write_str(", no file")?,
            Some(len) => write!(f, ", file of {len} bytes")?,
        }
        write!(
            f,
            ", {} bytes by the checkpoint, {} frames of {} bytes in the journal",
            self.vouched_len, self.journal_frames, self.journal_bytes
        )?;
        for (session, last) in &self.sessions {
            write!(f, "\n    session {session}: last {last}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        let count = match self.findings.len() {
            1 => "1 finding".to_owned(),
            count => format!("{count} findings"),
        };
        writeln!(
            f,
            "{count} in volume {} in {}: {} segments, {} entries, {} checkpoints, {} slice files, {} frames, {} bytes",
            self.inspection.id,
            self.inspection.dir.display(),
            self.inspection.segments.len(),
            self.checked.entries,
            self.inspection.checkpoints.len(),
            self.checked.slice_files,
            self.checked.frames,
            self.checked.bytes
        )
    }
}
