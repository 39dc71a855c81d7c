//! Keeps texts that nobody else may read: AES-256 in GCM, with the key of the installation.
//!
//! A sealed text is the base64 of a format byte, a nonce and the ciphertext with its tag. The nonce is random and new each time.
//! The place where the text is kept is bound to it: moved to another key of the state, it cannot be opened.
//!
//! The only user of ring.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use stream_model::destination::Sealed;
use stream_model::{ErrorKind, Secret};

/// The first byte of what this version writes.
const FORMAT: u8 = 1;
/// Length of the key.
const KEY_LEN: usize = 32;

/// The key of the installation.
#[derive(Debug)]
pub struct Custody {
    key: LessSafeKey,
    random: SystemRandom,
}

/// A text that is not a key. It is not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it must be the base64 of 32 bytes, for example from: openssl rand -base64 32")]
pub struct InvalidKey;

/// Why a text could not be sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CustodyError {
    /// The system has no random bytes.
    #[error("cannot seal a credential: the system gives no random bytes")]
    NoRandom,
    /// It was sealed with another key, for another place, or is damaged.
    #[error(
        "the credential of {place} cannot be opened: it was sealed with another encryption.aes.secretKey, or is damaged"
    )]
    Unopenable {
        /// Where it is kept.
        place: String,
    },
}

impl CustodyError {
    /// What the caller can do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::NoRandom => ErrorKind::Unavailable,
            Self::Unopenable { .. } => ErrorKind::Corrupt,
        }
    }
}

impl Custody {
    /// Takes the key.
    ///
    /// # Errors
    /// When it is none.
    pub fn new(key: &Secret<String>) -> Result<Self, InvalidKey> {
        let bytes = STANDARD.decode(key.expose().trim());
        let bytes = bytes.map_err(|_| InvalidKey)?;
        if bytes.len() != KEY_LEN {
            return Err(InvalidKey);
        }
        let key = UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| InvalidKey)?;
        Ok(Self {
            key: LessSafeKey::new(key),
            random: SystemRandom::new(),
        })
    }

    /// Seals a text that is kept at `place`.
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub fn seal(&self, place: &str, text: &Secret<String>) -> Result<Sealed, CustodyError> {
        let mut nonce = [0; NONCE_LEN];
        let random = self.random.fill(&mut nonce);
        random.map_err(|_| CustodyError::NoRandom)?;
        let mut content = text.expose().as_bytes().to_vec();
        self.key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(place.as_bytes()),
                &mut content,
            )
            .expect("a text in memory is shorter than the 64 GiB that can be sealed");
        let mut sealed = Vec::with_capacity(1 + NONCE_LEN + content.len());
        sealed.push(FORMAT);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&content);
        Ok(Sealed::new(STANDARD.encode(sealed)))
    }

    /// Opens a text that is kept at `place`.
    ///
    /// # Errors
    /// When it was sealed with another key or for another place, or is damaged.
    pub fn open(&self, place: &str, sealed: &Sealed) -> Result<Secret<String>, CustodyError> {
        self.opened(place, sealed)
            .ok_or_else(|| CustodyError::Unopenable {
                place: place.to_owned(),
            })
    }

    fn opened(&self, place: &str, sealed: &Sealed) -> Option<Secret<String>> {
        let bytes = STANDARD.decode(sealed.as_str()).ok()?;
        let (format, rest) = bytes.split_first()?;
        if *format != FORMAT {
            return None;
        }
        let (nonce, content) = rest.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut content = content.to_vec();
        let aad = Aad::from(place.as_bytes());
        let text = self.key.open_in_place(nonce, aad, &mut content).ok()?;
        Some(Secret::new(std::str::from_utf8(text).ok()?.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn custody(byte: u8) -> Custody {
        let key = Secret::new(STANDARD.encode([byte; KEY_LEN]));
        Custody::new(&key).expect("a key")
    }

    fn text() -> Secret<String> {
        Secret::new("hunter2".to_owned())
    }

    #[test]
    fn what_was_sealed_is_opened_in_its_place_with_its_key_only() {
        let sealed = custody(1).seal("destination/a", &text()).expect("sealed");
        assert!(!sealed.as_str().contains("hunter2"));
        let open = |key: u8, place: &str| custody(key).open(place, &sealed);
        assert_eq!(open(1, "destination/a"), Ok(text()));
        for (key, place) in [(2, "destination/a"), (1, "destination/b")] {
            let error = open(key, place).expect_err("another key or place");
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().contains(place), "{error}");
        }
    }

    #[test]
    fn the_same_text_is_sealed_differently_each_time() {
        let custody = custody(1);
        let seal = || custody.seal("a", &text()).expect("sealed");
        assert_ne!(seal(), seal());
    }

    #[test]
    fn any_changed_byte_is_noticed() {
        let custody = custody(1);
        let sealed = custody.seal("a", &text()).expect("sealed");
        let bytes = STANDARD.decode(sealed.as_str()).expect("base64");
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            let damaged = Sealed::new(STANDARD.encode(damaged));
            assert!(custody.open("a", &damaged).is_err(), "byte {at}");
        }
        for text in ["", "!", "AQ==", "AXNlYWxlZA=="] {
            let sealed = Sealed::new(text.to_owned());
            assert!(custody.open("a", &sealed).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_key_has_32_bytes_and_is_not_shown() {
        for key in ["", "hunter2", "aHVudGVyMg==", &STANDARD.encode([1; 33])] {
            let error = Custody::new(&Secret::new(key.to_owned())).expect_err("no key");
            assert!(!error.to_string().contains("hunter2"));
        }
        assert!(!format!("{:?}", custody(65)).contains("65"));
    }
}
