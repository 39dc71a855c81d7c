//! What the head of a request asks for: path, query, and how long it is.

use hyper::http::request::Parts;

use crate::answer::Detail;

/// What the path of a request names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target<'a> {
    /// Whether the component answers.
    HealthCheck,
    /// A record for a source, or many.
    Stream {
        /// The project, not checked yet.
        project: &'a str,
        /// The source.
        source: &'a str,
        /// The secret.
        secret: &'a str,
    },
    /// Nothing of ours.
    Nothing,
}

impl<'a> Target<'a> {
    /// Reads a path.
    pub fn parse(path: &'a str) -> Self {
        if path == "/health-check" {
            return Self::HealthCheck;
        }
        let mut segments = path.strip_prefix("/stream/").unwrap_or("").split('/');
        match (
            segments.next(),
            segments.next(),
            segments.next(),
            segments.next(),
        ) {
            (Some(project), Some(source), Some(secret), None)
                if ![project, source, secret].contains(&"") =>
            {
                Self::Stream {
                    project,
                    source,
                    secret,
                }
            }
            _ => Self::Nothing,
        }
    }
}

/// Bytes of request line and headers, as HTTP/1.1 writes them.
pub(crate) fn header_bytes(head: &Parts) -> usize {
    let line = head.method.as_str().len() + head.uri.path().len() + "  HTTP/1.1\r\n".len();
    let query = head.uri.query().map_or(0, |query| query.len() + 1);
    let headers = head.headers.iter();
    let headers = headers.map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len());
    line + query + headers.sum::<usize>()
}

/// What the URL asks for. Anything unknown is ignored: clients add what their own tools want.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Query {
    /// How much is told about a success.
    pub detail: Detail,
    /// The body has many records.
    pub batch: bool,
}

impl Query {
    /// Reads a query.
    pub fn read(query: &str) -> Self {
        let has = |wanted| query.split('&').any(|pair| pair == wanted);
        Self {
            detail: if has("verbose=true") {
                Detail::Verbose
            } else {
                Detail::Short
            },
            batch: has("batch=true"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_three_whole_segments_name_a_source() {
        let expected = Target::Stream {
            project: "1",
            source: "orders",
            secret: "abc",
        };
        assert_eq!(Target::parse("/stream/1/orders/abc"), expected);
        for path in [
            "/stream/1/orders",
            "/stream/1/orders/",
            "/stream/1/orders/abc/",
            "/stream//orders/abc",
            "/stream",
            "/",
            "/streams/1/orders/abc",
            "/x/stream/1/orders/abc",
            "/health-check/",
        ] {
            assert_eq!(Target::parse(path), Target::Nothing, "{path}");
        }
    }

    #[test]
    fn only_the_exact_flags_count() {
        let query = |detail, batch| Query { detail, batch };
        assert_eq!(
            Query::read("a=1&verbose=true"),
            query(Detail::Verbose, false)
        );
        assert_eq!(
            Query::read("verbose=false&xverbose=true&batch=1"),
            query(Detail::Short, false)
        );
        assert_eq!(
            Query::read("batch=true&verbose=true"),
            query(Detail::Verbose, true)
        );
    }
}
