//! What the two processes say to each other.
//!
//! Every message is a frame: its length in four bytes, little end first, and that many bytes. A message is a byte for its
//! kind and its fields; numbers little end first, texts and bytes with their length in front. The evaluator begins with
//! [`HELLO`]. It answers requests in their order: `define` once, `evaluate` once for each template up to the first that
//! failed, `forget` not at all. Both ends are the same build of the same program, so there is no version.

use std::net::IpAddr;

use bytes::Bytes;
use stream_model::Timestamp;

use super::Templates;
use crate::record::{ContentType, Headers, Record};

/// What the evaluator says first.
pub const HELLO: &[u8] = b"stream jsonnet evaluator";

/// The longest frame. A record and its headers are far below, a value is at most [`crate::MAX_ROW_LEN`].
pub const MAX_FRAME_LEN: usize = 256 << 20;

/// A message that breaks the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message between the service and its evaluator is malformed")]
pub struct BadMessage;

/// Why a template has no value for a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplateFailure {
    /// There is nothing at that path, and no default.
    MissingPath(String),
    /// There is no such header, and no default.
    MissingHeader(String),
    /// The template looks into a body that is neither JSON nor a form.
    NotStructured,
    /// The body is not what its content type says.
    Malformed(String),
    /// The template failed: where and why.
    Failed(String),
    /// The values are longer than any row.
    TooLong,
}

/// What the evaluator says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// All templates compile.
    Defined,
    /// A template does not compile.
    Invalid {
        /// Which one, from 0.
        position: usize,
        /// Where and why.
        message: String,
    },
    /// The value of the next template, as JSON.
    Value(Vec<u8>),
    /// The next template has no value; nothing follows for this record.
    Failed(TemplateFailure),
}

/// What is asked of the evaluator.
#[derive(Debug)]
pub enum Request {
    /// Compile and keep templates.
    Define {
        /// What they are called from now on.
        id: u64,
        /// The templates.
        contents: Vec<String>,
    },
    /// Forget templates.
    Forget {
        /// Which ones.
        id: u64,
    },
    /// Evaluate templates for a record.
    Evaluate {
        /// Which ones.
        id: u64,
        /// The record.
        record: Record,
    },
}

const DEFINE: u8 = b'D';
const FORGET: u8 = b'F';
const EVALUATE: u8 = b'E';
const DEFINED: u8 = b'd';
const INVALID: u8 = b'i';
const VALUE: u8 = b'v';
const MISSING_PATH: u8 = b'p';
const MISSING_HEADER: u8 = b'h';
const NOT_STRUCTURED: u8 = b's';
const MALFORMED: u8 = b'm';
const FAILED: u8 = b'f';
const TOO_LONG: u8 = b'l';

impl Request {
    /// The frame that asks to compile and keep templates.
    #[must_use]
    pub fn define(templates: &Templates) -> Vec<u8> {
        let mut frame = Frame::new(DEFINE);
        frame.number(templates.id());
        frame.number(templates.count() as u64);
        templates
            .contents()
            .for_each(|content| frame.bytes(content.as_bytes()));
        frame.finish()
    }

    /// The frame that asks to forget templates.
    #[must_use]
    pub fn forget(id: u64) -> Vec<u8> {
        let mut frame = Frame::new(FORGET);
        frame.number(id);
        frame.finish()
    }

    /// The frame that asks for the values of a record.
    #[must_use]
    pub fn evaluate(id: u64, record: &Record) -> Vec<u8> {
        let mut frame = Frame::new(EVALUATE);
        frame.number(id);
        frame.number(record.received_at.as_millis().cast_unsigned());
        frame.bytes(record.client_ip.to_string().as_bytes());
        frame.number(match record.content_type {
            ContentType::Json => 0,
            ContentType::Form => 1,
            ContentType::Other => 2,
        });
        frame.number(record.headers.iter().count() as u64);
        for (name, value) in record.headers.iter() {
            frame.bytes(name.as_bytes());
            frame.bytes(value.as_bytes());
        }
        frame.bytes(&record.body);
        frame.finish()
    }

    /// Reads what is in a frame.
    ///
    /// # Errors
    /// When it is not a request.
    pub fn decode(message: &[u8]) -> Result<Self, BadMessage> {
        let mut fields = Fields(message);
        let request = match fields.kind()? {
            DEFINE => {
                let (id, count) = (fields.number()?, fields.number()?);
                let contents = (0..count).map(|_| fields.text());
                let contents = contents.collect::<Result<_, _>>()?;
                Self::Define { id, contents }
            }
            FORGET => Self::Forget {
                id: fields.number()?,
            },
            EVALUATE => Self::Evaluate {
                id: fields.number()?,
                record: fields.record()?,
            },
            _ => return Err(BadMessage),
        };
        fields.finish(request)
    }
}

impl Answer {
    /// The frame that says it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Defined => Frame::new(DEFINED).finish(),
            Self::Invalid { position, message } => {
                let mut frame = Frame::new(INVALID);
                frame.number(*position as u64);
                frame.bytes(message.as_bytes());
                frame.finish()
            }
            Self::Value(json) => Frame::with(VALUE, json),
            Self::Failed(failure) => match failure {
                TemplateFailure::MissingPath(path) => Frame::with(MISSING_PATH, path.as_bytes()),
                TemplateFailure::MissingHeader(name) => {
                    Frame::with(MISSING_HEADER, name.as_bytes())
                }
                TemplateFailure::NotStructured => Frame::new(NOT_STRUCTURED).finish(),
                TemplateFailure::Malformed(message) => Frame::with(MALFORMED, message.as_bytes()),
                TemplateFailure::Failed(message) => Frame::with(FAILED, message.as_bytes()),
                TemplateFailure::TooLong => Frame::new(TOO_LONG).finish(),
            },
        }
    }

    /// Reads what is in a frame.
    ///
    /// # Errors
    /// When it is not an answer.
    pub fn decode(message: &[u8]) -> Result<Self, BadMessage> {
        let mut fields = Fields(message);
        let answer = match fields.kind()? {
            DEFINED => Self::Defined,
            INVALID => Self::Invalid {
                position: usize::try_from(fields.number()?).map_err(|_| BadMessage)?,
                message: fields.text()?,
            },
            VALUE => Self::Value(fields.bytes()?.to_vec()),
            MISSING_PATH => Self::Failed(TemplateFailure::MissingPath(fields.text()?)),
            MISSING_HEADER => Self::Failed(TemplateFailure::MissingHeader(fields.text()?)),
            NOT_STRUCTURED => Self::Failed(TemplateFailure::NotStructured),
            MALFORMED => Self::Failed(TemplateFailure::Malformed(fields.text()?)),
            FAILED => Self::Failed(TemplateFailure::Failed(fields.text()?)),
            TOO_LONG => Self::Failed(TemplateFailure::TooLong),
            _ => return Err(BadMessage),
        };
        fields.finish(answer)
    }
}

/// A frame that is being written.
struct Frame(Vec<u8>);

impl Frame {
    fn new(kind: u8) -> Self {
        Self(vec![0, 0, 0, 0, kind])
    }

    fn with(kind: u8, bytes: &[u8]) -> Vec<u8> {
        let mut frame = Self::new(kind);
        frame.bytes(bytes);
        frame.finish()
    }

    fn number(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn finish(mut self) -> Vec<u8> {
        let len = u32::try_from(self.0.len() - 4).expect("bodies and values are far below 4 GiB");
        self.0[..4].copy_from_slice(&len.to_le_bytes());
        self.0
    }
}

/// What is left of a message.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], BadMessage> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(BadMessage)?;
        self.0 = rest;
        Ok(taken)
    }

    fn kind(&mut self) -> Result<u8, BadMessage> {
        Ok(self.take(1)?[0])
    }

    fn number(&mut self) -> Result<u64, BadMessage> {
        let bytes = self.take(8)?.try_into().map_err(|_| BadMessage)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn bytes(&mut self) -> Result<&'a [u8], BadMessage> {
        let len = usize::try_from(self.number()?).map_err(|_| BadMessage)?;
        self.take(len)
    }

    fn text(&mut self) -> Result<String, BadMessage> {
        let text = std::str::from_utf8(self.bytes()?).map_err(|_| BadMessage)?;
        Ok(text.to_owned())
    }

    fn record(&mut self) -> Result<Record, BadMessage> {
        let received_at = Timestamp::from_millis(self.number()?.cast_signed());
        let client_ip: IpAddr = self.text()?.parse().map_err(|_| BadMessage)?;
        let content_type = match self.number()? {
            0 => ContentType::Json,
            1 => ContentType::Form,
            2 => ContentType::Other,
            _ => return Err(BadMessage),
        };
        let mut headers = Vec::new();
        for _ in 0..self.number()? {
            headers.push((self.text()?, self.bytes()?));
        }
        let pairs = headers.iter().map(|(name, value)| (name.as_str(), *value));
        Ok(Record {
            received_at,
            client_ip,
            headers: Headers::new(pairs),
            content_type,
            body: Bytes::copy_from_slice(self.bytes()?),
        })
    }

    /// Nothing may be left.
    fn finish<T>(&self, value: T) -> Result<T, BadMessage> {
        if self.0.is_empty() {
            Ok(value)
        } else {
            Err(BadMessage)
        }
    }
}
