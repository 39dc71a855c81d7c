//! Local API tokens and other random secrets.
//!
//! The first start of an installation makes one admin token and keeps it in a file that only its owner can read. The
//! state has only the hash. The file is written before the hash: a crash between the two leaves a file whose token is
//! added to the state by the next start, never a token that nobody knows.

use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rand::TryRng;
use rand::rngs::SysRng;
use stream_model::definition::Token;
use stream_model::definition::token::{Role, token_hash};
use stream_model::{Clock, ErrorKind, Secret, Timestamp};
use stream_state::{StateError, Store};
use tracing::warn;

/// Length of a token, in alphanumeric characters: 43 × log2(62) ≈ 256 bits.
const TOKEN_LEN: usize = 43;
const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
/// Access to the token file: its owner may read and write, nobody else anything.
const OWNER_ONLY: u32 = 0o600;

/// Where the first admin token comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminToken {
    /// It was made just now. Show it once; later it is only in the file.
    Created(Secret<String>),
    /// The installation has tokens already.
    Existing,
}

/// Why the first admin token could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The token file cannot be read or written.
    #[error("cannot {operation} the admin token in {}", path.display())]
    File {
        /// What was attempted.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The token file does not hold a token.
    #[error("{} does not hold a token: restore it, or remove it and start again to get a new one", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The state cannot be read or written.
    #[error(transparent)]
    State(#[from] StateError),
}

impl TokenError {
    /// What the caller can do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::File { .. } => ErrorKind::Unavailable,
            Self::Damaged { .. } => ErrorKind::Corrupt,
            Self::State(error) => error.kind(),
        }
    }
}

/// Makes a new token.
#[must_use]
pub fn generate() -> Secret<String> {
    Secret::new(random_text(TOKEN_LEN))
}

/// What the state keeps of a token: its hash, and the rest under it.
#[must_use]
pub fn record(
    token: &Secret<String>,
    role: Role,
    description: String,
    created_at: Timestamp,
) -> (String, Token) {
    let hash = token_hash(token);
    let token = Token {
        // Part of the hash, so that the same token gets the same id again.
        id: hash.chars().take(12).collect(),
        description,
        role,
        created_at,
    };
    (hash, token)
}

/// Random letters and digits from the operating system.
pub(crate) fn random_text(len: usize) -> String {
    let mut text = String::with_capacity(len);
    let mut bytes = [0; 64];
    while text.len() < len {
        fill_random(&mut bytes);
        // The largest multiple of 62 below 256: the rest is thrown away, so that no character is more likely.
        let fair = bytes.iter().filter(|byte| **byte < 248);
        let chars = fair.map(|byte| char::from(ALPHABET[usize::from(byte % 62)]));
        text.extend(chars.take(len - text.len()));
    }
    text
}

/// Random bytes from the operating system.
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    fill_random(&mut bytes);
    bytes
}

fn fill_random(bytes: &mut [u8]) {
    SysRng
        .try_fill_bytes(bytes)
        .expect("the operating system always has random bytes once it has booted");
}

/// Makes sure that a new installation has an admin token.
///
/// Nothing happens when the state has tokens. When it has none, the token in the file at `path` is added to it (the state
/// was lost, or the last start was cut short), or a new token is made and written to the file. A token that was revoked
/// stays revoked as long as there is another one.
///
/// # Errors
/// When the file or the state cannot be read or written. Repeating the call is safe.
pub async fn ensure_admin_token(
    store: &Store,
    path: &Path,
    clock: &dyn Clock,
) -> Result<AdminToken, TokenError> {
    if !store.tokens().await?.is_empty() {
        return Ok(AdminToken::Existing);
    }
    if let Some(token) = read_file(path).await? {
        store_admin(store, &token, clock).await?;
        return Ok(AdminToken::Existing);
    }
    let token = generate();
    write_file(path, token.clone()).await?;
    store_admin(store, &token, clock).await?;
    Ok(AdminToken::Created(token))
}

async fn store_admin(
    store: &Store,
    token: &Secret<String>,
    clock: &dyn Clock,
) -> Result<(), TokenError> {
    let description = "admin token of the first start".to_owned();
    let (hash, record) = record(token, Role::Admin, description, clock.now());
    match store.create_token(&hash, record).await {
        // Another process was faster with the same file.
        Ok(_) | Err(StateError::AlreadyExists { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The token in the file, if there is a file.
async fn read_file(path: &Path) -> Result<Option<Secret<String>>, TokenError> {
    let owned = path.to_owned();
    let read = blocking(move || {
        let text = std::fs::read(&owned)?;
        let mode = std::fs::metadata(&owned)?.permissions().mode() & 0o777;
        if mode & !OWNER_ONLY != 0 {
            warn!(path = %owned.display(), mode = format!("{mode:o}"), "admin token was readable by others, restricting it");
            std::fs::set_permissions(&owned, std::fs::Permissions::from_mode(OWNER_ONLY))?;
        }
        Ok(text)
    });
    let text = match read.await {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(TokenError::File {
                operation: "read",
                path: path.to_owned(),
                source,
            });
        }
    };
    let token = std::str::from_utf8(&text).map(str::trim).ok();
    let token = token.filter(|token| {
        token.len() >= TOKEN_LEN && token.bytes().all(|byte| byte.is_ascii_graphic())
    });
    match token {
        Some(token) => Ok(Some(Secret::new(token.to_owned()))),
        None => Err(TokenError::Damaged {
            path: path.to_owned(),
        }),
    }
}

/// Writes the file so that after a power loss it is there as a whole or not at all.
async fn write_file(path: &Path, token: Secret<String>) -> Result<(), TokenError> {
    let owned = path.to_owned();
    let written = blocking(move || write_durably(&owned, token.expose())).await;
    written.map_err(|source| TokenError::File {
        operation: "write",
        path: path.to_owned(),
        source,
    })
}

fn write_durably(path: &Path, token: &str) -> io::Result<()> {
    let dir = path
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    // Left over from a crash, and maybe with other permissions: those of a new file apply only when it is new.
    match std::fs::remove_file(&part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(OWNER_ONLY)
        .open(&part)?;
    file.write_all(token.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    std::fs::rename(&part, path)?;
    std::fs::File::open(dir)?.sync_all()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_long_alphanumeric_and_never_the_same() {
        let tokens: std::collections::HashSet<String> =
            (0..100).map(|_| generate().expose().clone()).collect();
        assert_eq!(tokens.len(), 100);
        for token in &tokens {
            assert_eq!(token.len(), TOKEN_LEN);
            assert!(
                token.bytes().all(|byte| byte.is_ascii_alphanumeric()),
                "{token}"
            );
        }
        let used: std::collections::HashSet<char> =
            tokens.iter().flat_map(|token| token.chars()).collect();
        assert_eq!(used.len(), 62, "the whole alphabet is used");
    }

    #[tokio::test]
    async fn the_file_is_only_for_its_owner_and_read_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("admin-token");
        assert_eq!(read_file(&path).await.expect("no file"), None);
        std::fs::write(dir.path().join("admin-token.part"), "left over").expect("written");
        let token = generate();
        write_file(&path, token.clone()).await.expect("written");
        let mode = std::fs::metadata(&path)
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, OWNER_ONLY);
        assert_eq!(read_file(&path).await.expect("readable"), Some(token));
        assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 1);
    }

    #[tokio::test]
    async fn a_damaged_file_is_named_and_not_shown() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("admin-token");
        for content in [&b"short"[..], b"", b"\xff\xfe", &[b' '; 60]] {
            std::fs::write(&path, content).expect("written");
            let error = read_file(&path).await.expect_err("no token");
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(
                error.to_string().contains("admin-token does not hold"),
                "{error}"
            );
            assert!(!error.to_string().contains("short"));
        }
    }
}
