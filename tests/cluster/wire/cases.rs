//! The table: what is said, and what must come back.
//!
//! In a text `@P` is the path of the source, `@1`, `@2` and `@3` are records of eight characters, which no other case has,
//! `@K` is a thousand letters, and `\\xNN` is a byte.

/// What becomes of the connection after the answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It takes another request.
    Open,
    /// The server closes it.
    Closed,
    /// The server closes it, after anything.
    Foreign,
}

/// One thing to say.
#[derive(Debug)]
pub struct Case {
    /// What is special about it.
    pub name: &'static str,
    /// What is said, in one write.
    pub text: &'static str,
    /// The statuses of the answers.
    pub statuses: &'static [u16],
    /// The records that are in.
    pub records: &'static [&'static str],
    /// And then.
    pub end: End,
}

/// The bytes of a text.
pub fn bytes(text: &str) -> Vec<u8> {
    let mut parts = text.split("\\x");
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (byte, rest) = part.split_at(2);
        bytes.push(u8::from_str_radix(byte, 16).expect("two hexadecimal digits"));
        bytes.extend_from_slice(rest.as_bytes());
    }
    bytes
}

const fn open(
    name: &'static str,
    text: &'static str,
    statuses: &'static [u16],
    records: &'static [&'static str],
) -> Case {
    Case {
        name,
        text,
        statuses,
        records,
        end: End::Open,
    }
}

const fn closed(
    name: &'static str,
    text: &'static str,
    statuses: &'static [u16],
    records: &'static [&'static str],
) -> Case {
    Case {
        end: End::Closed,
        ..open(name, text, statuses, records)
    }
}

const fn foreign(name: &'static str, text: &'static str) -> Case {
    Case {
        end: End::Foreign,
        ..open(name, text, &[], &[])
    }
}

/// A POST with these headers, behind which an empty line and a body come.
macro_rules! post {
    ($headers:literal, $body:literal) => {
        concat!("POST @P HTTP/1.1\r\nHost: x\r\n", $headers, "\r\n", $body)
    };
}

/// A POST in chunks.
macro_rules! chunked {
    ($body:literal) => {
        post!("Transfer-Encoding: chunked\r\n", $body)
    };
}

/// What a smuggler wants to be taken for a request.
macro_rules! smuggled {
    () => {
        "POST @P HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n@2"
    };
}

/// Ten KB of header.
macro_rules! ten {
    ($text:literal) => {
        concat!(
            $text, $text, $text, $text, $text, $text, $text, $text, $text, $text
        )
    };
}

/// All cases.
pub const ALL: &[Case] = &[
    // Framing by length.
    open(
        "a length",
        post!("Content-Length: 8\r\n", "@1"),
        &[200],
        &["@1"],
    ),
    open("no length is no body", post!("", ""), &[200], &[""]),
    open(
        "the same length twice",
        post!("Content-Length: 8\r\nContent-Length: 8\r\n", "@1"),
        &[200],
        &["@1"],
    ),
    closed(
        "two lengths",
        post!("Content-Length: 8\r\nContent-Length: 0\r\n", "@1"),
        &[400],
        &[],
    ),
    closed(
        "two lengths in one header",
        post!("Content-Length: 8, 8\r\n", "@1"),
        &[400],
        &[],
    ),
    closed(
        "a negative length",
        post!("Content-Length: -8\r\n", "@1"),
        &[400],
        &[],
    ),
    closed(
        "a length with a sign",
        post!("Content-Length: +8\r\n", "@1"),
        &[400],
        &[],
    ),
    closed(
        "a length with a space",
        post!("Content-Length: 8 8\r\n", "@1"),
        &[400],
        &[],
    ),
    closed(
        "a length in hexadecimal",
        post!("Content-Length: 0x8\r\n", "@1"),
        &[400],
        &[],
    ),
    closed(
        "an empty length",
        post!("Content-Length:\r\n", "@1"),
        &[400],
        &[],
    ),
    closed(
        "a length beyond 64 bits",
        post!("Content-Length: 99999999999999999999\r\n", "@1"),
        &[400],
        &[],
    ),
    closed(
        "a length of 64 bits",
        post!("Content-Length: 18446744073709551615\r\n", "@1"),
        &[431],
        &[],
    ),
    closed(
        "a length of 63 bits",
        post!("Content-Length: 9223372036854775807\r\n", "@1"),
        &[413],
        &[],
    ),
    open(
        "a length with zeros",
        post!("Content-Length: 00008\r\n", "@1"),
        &[200],
        &["@1"],
    ),
    open(
        "what follows the body is a request",
        concat!(post!("Content-Length: 8\r\n", "@1"), smuggled!()),
        &[200, 200],
        &["@1", "@2"],
    ),
    open(
        "a request inside a body is none",
        post!(
            "Content-Length: 95\r\n",
            "GET /nothing HTTP/1.1\r\nHost: x\r\n\r\nPOST /stream/1/wire/x HTTP/1.1\r\nContent-Length: 8\r\n\r\n@1"
        ),
        &[200],
        &[
            "GET /nothing HTTP/1.1\r\nHost: x\r\n\r\nPOST /stream/1/wire/x HTTP/1.1\r\nContent-Length: 8\r\n\r\n@1",
        ],
    ),
    // Both kinds of framing: the chunks count, and nothing behind them does.
    closed(
        "length and chunks",
        concat!(
            post!(
                "Content-Length: 8\r\nTransfer-Encoding: chunked\r\n",
                "8\r\n@1\r\n0\r\n\r\n"
            ),
            smuggled!()
        ),
        &[200],
        &["@1"],
    ),
    closed(
        "chunks and length",
        concat!(
            post!(
                "Transfer-Encoding: chunked\r\nContent-Length: 8\r\n",
                "8\r\n@1\r\n0\r\n\r\n"
            ),
            smuggled!()
        ),
        &[200],
        &["@1"],
    ),
    closed(
        "a length that ends before a request",
        concat!(
            post!(
                "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                "0\r\n\r\n"
            ),
            smuggled!()
        ),
        &[200],
        &[""],
    ),
    closed(
        "chunks that are not the last encoding",
        concat!(
            post!(
                "Transfer-Encoding: chunked, identity\r\nContent-Length: 8\r\n",
                "8\r\n@1\r\n0\r\n\r\n"
            ),
            smuggled!()
        ),
        &[400],
        &[],
    ),
    closed(
        "nearly chunks",
        post!("Transfer-Encoding: xchunked\r\nContent-Length: 8\r\n", "@1"),
        &[400],
        &[],
    ),
    closed(
        "chunks twice",
        concat!(
            post!(
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                "8\r\n@1\r\n0\r\n\r\n"
            ),
            smuggled!()
        ),
        &[400],
        &[],
    ),
    closed(
        "chunks of chunks",
        concat!(
            post!(
                "Transfer-Encoding: chunked, chunked\r\n",
                "8\r\n@1\r\n0\r\n\r\n"
            ),
            smuggled!()
        ),
        &[400],
        &[],
    ),
    closed(
        "identity and chunks",
        concat!(
            post!(
                "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
                "8\r\n@1\r\n0\r\n\r\n"
            ),
            smuggled!()
        ),
        &[400],
        &[],
    ),
    closed(
        "compressed chunks",
        concat!(
            post!(
                "Transfer-Encoding: gzip, chunked\r\n",
                "8\r\n@1\r\n0\r\n\r\n"
            ),
            smuggled!()
        ),
        &[400],
        &[],
    ),
    closed(
        "a vertical tab before chunked",
        concat!(
            post!(
                "Transfer-Encoding: \\x0bchunked\r\nContent-Length: 8\r\n",
                "8\r\n@1\r\n0\r\n\r\n"
            ),
            smuggled!()
        ),
        &[400],
        &[],
    ),
    open(
        "chunked in capitals",
        post!("Transfer-Encoding: CHUNKED\r\n", "8\r\n@1\r\n0\r\n\r\n"),
        &[200],
        &["@1"],
    ),
    // Chunks.
    open(
        "chunks",
        chunked!("4\r\nchun\r\n8\r\n@1\r\n0\r\n\r\n"),
        &[200],
        &["chun@1"],
    ),
    open(
        "a chunk with an extension",
        chunked!("8;name=\"value;\"\r\n@1\r\n0;last\r\n\r\n"),
        &[200],
        &["@1"],
    ),
    open(
        "a chunk size with zeros",
        chunked!("0000008\r\n@1\r\n000\r\n\r\n"),
        &[200],
        &["@1"],
    ),
    open(
        "a chunk size in capitals",
        chunked!("A\r\n@1--\r\n0\r\n\r\n"),
        &[200],
        &["@1--"],
    ),
    closed(
        "trailers",
        chunked!("8\r\n@1\r\n0\r\nContent-Length: 3\r\nX-Trailer: 1\r\n\r\n"),
        &[200],
        &["@1"],
    ),
    closed(
        "a chunk size that is none",
        chunked!("zz\r\n@1\r\n0\r\n\r\n"),
        &[400],
        &[],
    ),
    closed(
        "an empty chunk size",
        chunked!("\r\n@1\r\n0\r\n\r\n"),
        &[400],
        &[],
    ),
    closed(
        "a negative chunk size",
        chunked!("-8\r\n@1\r\n0\r\n\r\n"),
        &[400],
        &[],
    ),
    closed(
        "a chunk size with a sign",
        chunked!("+8\r\n@1\r\n0\r\n\r\n"),
        &[400],
        &[],
    ),
    closed(
        "a chunk size with 0x",
        chunked!("0x8\r\n@1\r\n0\r\n\r\n"),
        &[400],
        &[],
    ),
    closed(
        "a chunk size beyond 64 bits",
        chunked!("FFFFFFFFFFFFFFFFF\r\n@1\r\n0\r\n\r\n"),
        &[400],
        &[],
    ),
    closed(
        "a chunk longer than its size",
        chunked!("4\r\n@1\r\n0\r\n\r\n"),
        &[400],
        &[],
    ),
    closed(
        "a chunk shorter than its size",
        concat!(chunked!("9\r\n@1\r\n0\r\n\r\n"), smuggled!()),
        &[400],
        &[],
    ),
    closed(
        "a chunk size that ends with LF",
        chunked!("8\n@1\r\n0\r\n\r\n"),
        &[400],
        &[],
    ),
    closed(
        "an extension that ends with LF",
        chunked!("8;x\n@1\r\n0\r\n\r\n"),
        &[400],
        &[],
    ),
    closed(
        "a chunk that ends with LF",
        chunked!("8\r\n@1\n0\r\n\r\n"),
        &[400],
        &[],
    ),
    // Behind the last chunk come trailers, which are not looked at; nothing that follows is taken for a request.
    closed(
        "chunks that end with LF",
        concat!(chunked!("8\r\n@1\r\n0\r\n\n"), smuggled!()),
        &[200],
        &["@1"],
    ),
    closed(
        "20 KB of extensions",
        chunked!("8;@K@K@K@K@K@K@K@K@K@K@K@K@K@K@K@K@K@K@K@K\r\n@1\r\n0\r\n\r\n"),
        &[400],
        &[],
    ),
    // Heads.
    open(
        "empty lines before a request",
        concat!("\r\n\r\n", post!("Content-Length: 8\r\n", "@1")),
        &[200],
        &["@1"],
    ),
    open(
        "lines that end with LF",
        "POST @P HTTP/1.1\nHost: x\nContent-Length: 8\n\n@1",
        &[200],
        &["@1"],
    ),
    open(
        "no host",
        "POST @P HTTP/1.1\r\nContent-Length: 8\r\n\r\n@1",
        &[200],
        &["@1"],
    ),
    open(
        "two hosts",
        post!("Host: y\r\nContent-Length: 8\r\n", "@1"),
        &[200],
        &["@1"],
    ),
    open(
        "bytes that are no text in a header",
        post!(
            "X-Bytes: \\xff\\x80\\xc3\\x28\r\nContent-Length: 8\r\n",
            "@1"
        ),
        &[200],
        &["@1"],
    ),
    open(
        "a tab in a header",
        post!("X-Tab: a\tb\r\nContent-Length: 8\r\n", "@1"),
        &[200],
        &["@1"],
    ),
    closed(
        "a folded header",
        post!("X-Fold: a\r\n b\r\nContent-Length: 8\r\n", "@1"),
        &[400],
        &[],
    ),
    closed(
        "a folded length",
        post!("Content-Length:\r\n 8\r\n", "@1"),
        &[400],
        &[],
    ),
    closed(
        "a space before the first header",
        "POST @P HTTP/1.1\r\n Host: x\r\nContent-Length: 8\r\n\r\n@1",
        &[400],
        &[],
    ),
    closed(
        "a space before the colon",
        post!("Content-Length : 8\r\n", "@1"),
        &[400],
        &[],
    ),
    closed(
        "NUL in a header",
        post!("X-Nul: a\\x00b\r\nContent-Length: 8\r\n", "@1"),
        &[400],
        &[],
    ),
    closed(
        "NUL in a name",
        post!("X\\x00: a\r\nContent-Length: 8\r\n", "@1"),
        &[400],
        &[],
    ),
    closed(
        "a control character in a header",
        post!("X-Bell: a\\x07b\r\nContent-Length: 8\r\n", "@1"),
        &[400],
        &[],
    ),
    closed(
        "DEL in a header",
        post!("X-Del: a\\x7fb\r\nContent-Length: 8\r\n", "@1"),
        &[400],
        &[],
    ),
    closed(
        "CR in a header",
        post!("X-Cr: a\rContent-Length: 8\r\n", "@1"),
        &[400],
        &[],
    ),
    closed(
        "a header without a name",
        post!(": a\r\nContent-Length: 8\r\n", "@1"),
        &[400],
        &[],
    ),
    closed(
        "a header without a colon",
        post!("X-Colon\r\nContent-Length: 8\r\n", "@1"),
        &[400],
        &[],
    ),
    closed(
        "a name that is no token",
        post!("X@Y: a\r\nContent-Length: 8\r\n", "@1"),
        &[400],
        &[],
    ),
    open(
        "a header of 15 KB",
        post!(
            "X-Long: @K@K@K@K@K@K@K@K@K@K@K@K@K@K@K\r\nContent-Length: 8\r\n",
            "@1"
        ),
        &[200],
        &["@1"],
    ),
    open(
        "a header of 20 KB",
        concat!(
            post!(
                "X-Long: @K@K@K@K@K@K@K@K@K@K@K@K@K@K@K@K@K@K@K@K\r\nContent-Length: 8\r\n",
                "@1"
            ),
            smuggled!()
        ),
        &[413, 200],
        &["@2"],
    ),
    closed(
        "a header of 70 KB",
        concat!(
            "POST @P HTTP/1.1\r\nHost: x\r\nX-Long: ",
            ten!("@K@K@K@K@K@K@K"),
            "\r\n\r\n"
        ),
        &[431],
        &[],
    ),
    open(
        "90 headers",
        concat!(
            "POST @P HTTP/1.1\r\nContent-Length: 8\r\n",
            ten!("A: 1\r\nB: 1\r\nC: 1\r\nD: 1\r\nE: 1\r\nF: 1\r\nG: 1\r\nH: 1\r\nI: 1\r\n"),
            "\r\n@1"
        ),
        &[200],
        &["@1"],
    ),
    closed(
        "101 headers",
        concat!(
            "POST @P HTTP/1.1\r\nContent-Length: 8\r\n",
            ten!(
                "A: 1\r\nB: 1\r\nC: 1\r\nD: 1\r\nE: 1\r\nF: 1\r\nG: 1\r\nH: 1\r\nI: 1\r\nJ: 1\r\n"
            ),
            "\r\n@1"
        ),
        &[431],
        &[],
    ),
    open(
        "a path of 20 KB",
        concat!(
            "POST /",
            ten!("@K@K"),
            " HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n@1"
        ),
        &[413],
        &[],
    ),
    closed(
        "a path of 70 KB",
        concat!(
            "POST /",
            ten!("@K@K@K@K@K@K@K"),
            " HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n@1"
        ),
        &[431],
        &[],
    ),
    // Targets.
    open(
        "a whole URL",
        "POST http://elsewhere:1@P HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n@1",
        &[200],
        &["@1"],
    ),
    open(
        "a query without anything",
        "POST @P? HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n@1",
        &[200],
        &["@1"],
    ),
    open(
        "a query with anything",
        "POST @P?a=b&verbose=true&%00?/ HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n@1",
        &[200],
        &["@1"],
    ),
    open(
        "two slashes",
        "POST /@P HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n@1",
        &[404],
        &[],
    ),
    open(
        "a slash at the end",
        "POST @P/ HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n@1",
        &[404],
        &[],
    ),
    open(
        "a slash in disguise",
        "POST /stream%2f1/wire/x HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n@1",
        &[404],
        &[],
    ),
    open(
        "dots",
        "POST /x/..@P HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n@1",
        &[404],
        &[],
    ),
    open(
        "dots at the end",
        "POST @P/../x HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n@1",
        &[404],
        &[],
    ),
    open(
        "NUL in disguise",
        "POST @P%00 HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n@1",
        &[404],
        &[],
    ),
    open(
        "everything",
        "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        &[404],
        &[],
    ),
    open(
        "a proxy",
        "CONNECT elsewhere:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        &[404],
        &[],
    ),
    closed(
        "a relative path",
        "POST stream/1/wire/x HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n@1",
        &[400],
        &[],
    ),
    closed(
        "a space in the path",
        "POST @P x HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n@1",
        &[400],
        &[],
    ),
    closed(
        "two spaces",
        "POST  @P HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n@1",
        &[400],
        &[],
    ),
    closed(
        "a control character in the path",
        "POST @P\\x01 HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n@1",
        &[400],
        &[],
    ),
    // Methods.
    open(
        "a method in small letters",
        "post @P HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n@1",
        &[405],
        &[],
    ),
    open(
        "a method of somebody's own",
        "BREW @P HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n@1",
        &[405],
        &[],
    ),
    open(
        "a body of a GET",
        concat!(
            "GET /health-check HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n@1",
            smuggled!()
        ),
        &[200, 200],
        &["@2"],
    ),
    // A short body that is refused is read to its end, and the connection goes on if that is beyond doubt.
    open(
        "a body of a refused method in chunks",
        concat!(
            "DELETE @P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n@1\r\n0\r\n\r\n",
            smuggled!()
        ),
        &[405, 200],
        &["@2"],
    ),
    closed(
        "a body of a refused method in chunks that end with LF",
        concat!(
            "DELETE @P HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n@1\r\n0\r\n\n",
            smuggled!()
        ),
        &[405],
        &[],
    ),
    closed(
        "a method that is no token",
        "PO(ST @P HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n@1",
        &[400],
        &[],
    ),
    // Versions and connections.
    closed(
        "HTTP/1.0",
        "POST @P HTTP/1.0\r\nContent-Length: 8\r\n\r\n@1",
        &[200],
        &["@1"],
    ),
    open(
        "HTTP/1.0 that stays",
        "POST @P HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 8\r\n\r\n@1",
        &[200],
        &["@1"],
    ),
    closed(
        "HTTP/1.0 in chunks",
        "POST @P HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n@1\r\n0\r\n\r\n",
        &[400],
        &[],
    ),
    closed(
        "HTTP/1.1 that goes",
        concat!(
            post!("Connection: close\r\nContent-Length: 8\r\n", "@1"),
            smuggled!()
        ),
        &[200],
        &["@1"],
    ),
    closed(
        "HTTP/1.1 that goes after all",
        concat!(
            post!(
                "Connection: keep-alive, close\r\nContent-Length: 8\r\n",
                "@1"
            ),
            smuggled!()
        ),
        &[200],
        &["@1"],
    ),
    open(
        "an upgrade that nobody offered",
        post!(
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nContent-Length: 8\r\n",
            "@1"
        ),
        &[200],
        &["@1"],
    ),
    closed("HTTP/0.9", "POST @P\r\nHost: x\r\n\r\n", &[400], &[]),
    closed(
        "HTTP/1.2",
        "POST @P HTTP/1.2\r\nHost: x\r\nContent-Length: 8\r\n\r\n@1",
        &[400],
        &[],
    ),
    closed(
        "HTTP/2.0 in words",
        "POST @P HTTP/2.0\r\nHost: x\r\nContent-Length: 8\r\n\r\n@1",
        &[400],
        &[],
    ),
    closed(
        "HTTP/9.9",
        "POST @P HTTP/9.9\r\nHost: x\r\nContent-Length: 8\r\n\r\n@1",
        &[400],
        &[],
    ),
    closed(
        "no version of HTTP",
        "POST @P FTP/1.1\r\nHost: x\r\n\r\n",
        &[400],
        &[],
    ),
    closed(
        "nearly the beginning of HTTP/2",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\rX",
        &[400],
        &[],
    ),
    foreign(
        "the beginning of HTTP/2 by mistake",
        concat!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", smuggled!()),
    ),
    foreign(
        "TLS",
        "\\x16\\x03\\x01\\x00\\x10\\x01\\x00\\x00\\x0c\\x03\\x03abcdefghij\r\n\r\n",
    ),
    foreign("another protocol", "SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    foreign("nothing but NUL", "\\x00\\x00\\x00\\x00\r\n\r\n"),
];
