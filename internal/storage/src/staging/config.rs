//! Where staging is.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::StagingError;

const FILE_SCHEME: &str = "file";

/// Settings of staging.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct StagingConfig {
    /// URL of the staging area: `file:///` and an absolute path, taken literally, without percent-encoding. All
    /// processes that upload or import must see the same directory. Default: `staging` in `dataDir`.
    pub url: String,
}

impl StagingConfig {
    /// The settings for a local directory.
    ///
    /// # Errors
    /// When the path is not absolute or not UTF-8.
    pub fn in_directory(path: &Path) -> Result<Self, StagingError> {
        let url = format!("{FILE_SCHEME}://{}", path.display());
        match path.to_str() {
            Some(_) => {
                let config = Self { url };
                config.validate().map(|()| config)
            }
            None => Err(StagingError::InvalidUrl {
                url,
                reason: "the path must be UTF-8",
            }),
        }
    }

    /// Checks the settings without touching a disk.
    ///
    /// # Errors
    /// When the URL is not supported or has no absolute path.
    pub fn validate(&self) -> Result<(), StagingError> {
        self.directory().map(|_| ())
    }

    /// The directory that the URL names.
    pub(super) fn directory(&self) -> Result<PathBuf, StagingError> {
        let refuse = |reason| StagingError::InvalidUrl {
            url: self.url.clone(),
            reason,
        };
        let Some((scheme, path)) = self.url.split_once("://") else {
            return Err(refuse("it must begin with file:///"));
        };
        if scheme != FILE_SCHEME {
            // The rest may contain credentials.
            return Err(StagingError::UnsupportedScheme {
                scheme: scheme.to_owned(),
            });
        }
        if !path.starts_with('/') || path.contains('\0') {
            return Err(refuse(
                "three slashes and an absolute path must follow file:",
            ));
        }
        if path.trim_matches('/').is_empty() {
            return Err(refuse("it must name a directory other than the root"));
        }
        Ok(PathBuf::from(path))
    }
}

#[cfg(test)]
mod tests {
    use stream_model::ErrorKind;

    use super::*;

    fn config(url: &str) -> StagingConfig {
        StagingConfig {
            url: url.to_owned(),
        }
    }

    #[test]
    fn takes_absolute_paths_literally() {
        for path in ["/var/lib/stream/staging", "/with space/100%/#1"] {
            let config = StagingConfig::in_directory(Path::new(path)).expect("valid");
            assert_eq!(config.url, format!("file://{path}"));
            assert_eq!(config.directory().expect("valid"), Path::new(path));
        }
        assert!(StagingConfig::in_directory(Path::new("relative")).is_err());
    }

    #[test]
    fn refuses_other_urls_in_one_sentence_without_secrets() {
        for (url, sentence) in [
            ("", "must begin with file:///"),
            ("/var/lib", "must begin with file:///"),
            ("file://var/lib", "three slashes"),
            ("file:///", "other than the root"),
            (
                "s3://key:hunter2@bucket/prefix",
                "s3, az and gs come in a later version",
            ),
            ("az://container", "\"az\""),
        ] {
            let error = config(url).validate().expect_err(url);
            assert_eq!(error.kind(), ErrorKind::Invalid);
            let text = error.to_string();
            assert!(
                text.contains("staging.url") && text.contains(sentence),
                "{url}: {text}"
            );
            assert!(!text.contains("hunter2"), "{text}");
        }
    }
}
