//! Names of objects.

use std::fmt;

use super::StagingError;

/// A name that can be a path below a directory and a key in any object store: segments of letters, digits, `-`, `_` and
/// `.`, none of which begins with a dot. Names come out of stored state; one that was damaged must not lead elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ObjectName(String);

impl ObjectName {
    pub(super) fn parse(name: &str) -> Result<Self, StagingError> {
        if name.split('/').all(is_segment) {
            return Ok(Self(name.to_owned()));
        }
        Err(StagingError::InvalidName {
            name: name.to_owned(),
        })
    }

    /// Parses the beginning of names, of whole segments. None: the beginning of all names.
    pub(super) fn parse_prefix(prefix: &str) -> Result<Option<Self>, StagingError> {
        match prefix.trim_end_matches('/') {
            "" => Ok(None),
            prefix => Self::parse(prefix).map(Some),
        }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The last segment.
    pub(super) fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_segment(segment: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !segment.is_empty() && !segment.starts_with('.') && segment.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use stream_model::ErrorKind;
    use stream_model::key::{BranchKey, SinkKey, SourceKey};
    use stream_model::level::Compression;
    use stream_model::{BranchId, ProjectId, SliceId};

    use super::*;
    use crate::staging::Staging;

    #[test]
    fn an_object_is_named_after_its_sink_slice_and_content() {
        let branch = BranchKey {
            project: ProjectId(1),
            branch: BranchId(2),
        };
        let source = SourceKey {
            branch,
            source: "Web_1".parse().expect("valid"),
        };
        let sink = SinkKey {
            source,
            sink: "orders-2".parse().expect("valid"),
        };
        let slice = SliceId::from_bytes([0xab; 16]);
        let checksum = "0123456789abcdef".repeat(4);
        let name = Staging::object_name(&sink, slice, &checksum, Compression::Zstd { level: 1 });
        let expected = format!(
            "1/2/Web_1/orders-2/{}-0123456789abcdef.csv.zst",
            "ab".repeat(16)
        );
        assert_eq!(name, expected);
        ObjectName::parse(&name).expect("a valid name");
    }

    #[test]
    fn refuses_names_that_could_lead_elsewhere() {
        for name in [
            "",
            "/",
            "a//b",
            "/a",
            "a/",
            "..",
            "a/../b",
            "a/.hidden",
            ".uploads/x",
            "a\0",
            "a b",
            "a\\b",
            "é",
            "a#1",
        ] {
            let error = ObjectName::parse(name).expect_err(name);
            assert_eq!(error.kind(), ErrorKind::Invalid, "{name}");
        }
    }
}
