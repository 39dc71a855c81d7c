//! A request as handlers see it: its path and query decoded, its body read within limits.

use std::net::IpAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::HeaderMap;
use hyper::body::Body;
use stream_model::definition::{Actor, Stamp};
use stream_model::{BranchKey, Clock, Secret, SinkId, SinkKey, SourceId, SourceKey};

use crate::auth::OWN_BRANCH;
use crate::error::{ApiError, Code, not_found};

/// The largest body. A sink with 100 templates of 4096 characters of four bytes each fits.
const MAX_BODY_LEN: usize = 4 << 20;

/// A request that was routed and whose token was checked.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) path: Path,
    pub(crate) query: Query,
    pub(crate) body: Bytes,
    /// As they were sent, with the token.
    pub(crate) headers: HeaderMap,
    /// The address of the connection.
    pub(crate) peer: IpAddr,
    /// The holder of the token.
    pub(crate) actor: Actor,
    /// The token of the request, where a change may need it in the project.
    #[allow(dead_code, reason = "what makes tables uses it")]
    pub(crate) owner: Option<Secret<String>>,
}

impl Call {
    /// That the caller does something now.
    pub(crate) fn stamp(&self, clock: &dyn Clock) -> Stamp {
        Stamp {
            at: clock.now(),
            by: self.actor.clone(),
        }
    }
}

/// The variable parts of the path, decoded.
#[derive(Debug)]
pub(crate) struct Path {
    parts: Vec<(String, String)>,
    home: BranchKey,
}

impl Path {
    pub(crate) fn new<'a>(parts: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let parts = parts.map(|(name, value)| (name.to_owned(), percent_decoded(value, false)));
        Self {
            parts: parts.collect(),
            home: OWN_BRANCH,
        }
    }

    /// The path as asked for by somebody whose only branch is `home`.
    pub(crate) fn of(self, home: BranchKey) -> Self {
        Self { home, ..self }
    }

    /// The only branch of whoever asks, where the path has none.
    pub(crate) const fn home(&self) -> &BranchKey {
        &self.home
    }

    /// A variable part by its name in the route.
    pub(crate) fn part(&self, name: &str) -> &str {
        let part = self.parts.iter().find(|(part, _)| part == name);
        part.map_or("", |(_, value)| value)
    }

    /// The branch of the path.
    pub(crate) fn branch(&self) -> Result<BranchKey, ApiError> {
        let branch = self.part("branch");
        if branch == "default" || branch.parse() == Ok(self.home.branch) {
            return Ok(self.home);
        }
        let message = format!(
            "There is no branch {branch:?} here, only the default one can be used; its name is \"default\"."
        );
        Err(ApiError::new(Code::BranchNotFound, message))
    }

    /// The source of the path. An identifier that no source can have is answered like one that none has.
    pub(crate) fn source(&self) -> Result<SourceKey, ApiError> {
        let branch = self.branch()?;
        let source = self.part("source");
        let source: SourceId = source.parse().map_err(|_| not_found::source(source))?;
        Ok(SourceKey { branch, source })
    }

    /// The sink of the path.
    pub(crate) fn sink(&self) -> Result<SinkKey, ApiError> {
        let source = self.source()?;
        let sink = self.part("sink");
        let sink: SinkId = sink.parse().map_err(|_| not_found::sink(sink))?;
        Ok(SinkKey { source, sink })
    }

    /// The version number of the path.
    pub(crate) fn version(&self) -> Result<u64, ApiError> {
        let version = self.part("version");
        let number = version.parse().ok().filter(|number| *number > 0);
        number.ok_or_else(|| {
            let message = format!("A version is a number from 1 on, not {version:?}.");
            ApiError::new(Code::InvalidFieldType, message)
        })
    }
}

/// The parameters after the `?`, decoded.
#[derive(Debug, Default)]
pub(crate) struct Query {
    parameters: Vec<(String, String)>,
}

impl Query {
    pub(crate) fn parse(query: &str) -> Self {
        let parameters = query
            .split('&')
            .filter(|part| !part.is_empty())
            .map(|part| {
                let (name, value) = part.split_once('=').unwrap_or((part, ""));
                (percent_decoded(name, true), percent_decoded(value, true))
            });
        Self {
            parameters: parameters.collect(),
        }
    }

    /// The first parameter of that name.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let parameter = self
            .parameters
            .iter()
            .find(|(parameter, _)| parameter == name);
        parameter.map(|(_, value)| value.as_str())
    }

    /// True or false; false when absent.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, ApiError> {
        match self.get(name) {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1") => Ok(true),
            Some(other) => Err(ApiError::new(
                Code::InvalidFieldType,
                format!("Query parameter {name:?} must be \"true\" or \"false\", not {other:?}."),
            )),
        }
    }
}

/// Reads a body of at most [`MAX_BODY_LEN`] bytes.
pub(crate) async fn read_body<B>(body: B) -> Result<Bytes, ApiError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match Limited::new(body, MAX_BODY_LEN).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::new(
            Code::BodyTooLarge,
            format!(
                "The body is larger than {} MiB, which is the limit.",
                MAX_BODY_LEN >> 20
            ),
        )),
        Err(_) => Err(ApiError::bad_request(
            "The body ended before it was complete.",
        )),
    }
}

/// Decodes `%41`, and `+` where that means a space. What is no valid escape stays as it is.
fn percent_decoded(text: &str, plus_is_space: bool) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escape = (byte == b'%')
            .then(|| escaped_byte(bytes.get(at + 1..at + 3)))
            .flatten();
        match escape {
            Some(escaped) => {
                decoded.push(escaped);
                at += 3;
            }
            None => {
                decoded.push(if plus_is_space && byte == b'+' {
                    b' '
                } else {
                    byte
                });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn escaped_byte(digits: Option<&[u8]>) -> Option<u8> {
    let digits = digits.filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parameters_are_decoded_and_the_first_one_counts() {
        let query = Query::parse("afterId=a%2Fb+c&limit=5&limit=6&&flag");
        assert_eq!(query.get("afterId"), Some("a/b c"));
        assert_eq!(query.get("limit"), Some("5"));
        assert_eq!(query.get("flag"), Some(""));
        assert_eq!(query.get("none"), None);
    }

    #[test]
    fn only_the_default_branch_exists() {
        let branch = |text: &str| {
            let path = Path::new([("branch", text)].into_iter());
            path.branch()
                .map(|key| key.branch)
                .map_err(|error| error.code)
        };
        assert_eq!(branch("default"), Ok(OWN_BRANCH.branch));
        assert_eq!(branch("1"), Ok(OWN_BRANCH.branch));
        assert_eq!(branch("2"), Err(Code::BranchNotFound));
        assert_eq!(branch("main"), Err(Code::BranchNotFound));
    }

    #[test]
    fn identifiers_that_nothing_can_have_are_not_found() {
        let parts = [("branch", "1"), ("source", "a%2Fb"), ("sink", "x")];
        let path = Path::new(parts.into_iter());
        assert_eq!(
            path.source().expect_err("a slash").code,
            Code::SourceNotFound
        );
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused() {
        let body = |len: usize| Full::new(Bytes::from(vec![b' '; len]));
        assert!(read_body(body(MAX_BODY_LEN)).await.is_ok());
        let error = read_body(body(MAX_BODY_LEN + 1))
            .await
            .expect_err("too large");
        assert_eq!(error.code, Code::BodyTooLarge);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn escaped_text_is_decoded_and_nothing_panics(text in ".{0,20}", any in "[%0-9a-f+&=é]{0,20}") {
            let escaped: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
            prop_assert_eq!(percent_decoded(&escaped, true), text);
            Query::parse(&any);
        }
    }
}
