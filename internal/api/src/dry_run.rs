//! A dry run: the rows that the mappings of a source make of a request. Nothing is stored or sent anywhere.
//!
//! Pure but for the evaluators of templates: the body is taken apart, and its records are mapped, by the same code as in the
//! HTTP source, under the same limits. What differs is who asks: the headers of the API call that are not the sender's own
//! (the token, the host of the API) are left out, and `X-Forwarded-For` is believed, because whoever has a token gains
//! nothing by it but a test of a column.
//!
//! Refuses to answer with more than [`MAX_ROWS_BYTES`]: a hundred sinks make as many rows of each record.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HOST};
use stream_encoding::jsonnet::TemplateValues;
use stream_encoding::{
    BatchError, BatchFormat, BatchLimits, CompiledMapping, ContentEncoding, ContentError,
    ContentType, Headers, MapError, Record, RowReader, RowValues, Rows,
};
use stream_model::Timestamp;
use stream_model::definition::Sink;
use stream_model::level::Compression;

use crate::auth::remove_token;
use crate::context::Context;
use crate::error::{ApiError, Code, sentence};
use crate::request::Call;
use crate::token::random_bytes;
use crate::view::dry_run::{ColumnView, RowView, TableView};

/// The most records of a body, as in the HTTP source.
const MAX_RECORDS: usize = 10_000;
/// The most bytes of all rows together.
const MAX_ROWS_BYTES: usize = 16 << 20;
/// Where proxies write whom they speak for.
const X_FORWARDED_FOR: &str = "x-forwarded-for";

/// What a record may have. The settings of the HTTP source, so that a dry run ends as the real one would.
#[derive(Debug, Clone, Copy)]
pub struct RecordLimits {
    /// The most bytes of a row.
    pub row: usize,
    /// The most bytes of a body with one record, before and after decoding.
    pub body: usize,
    /// The most bytes of a body with many records, before and after decoding.
    pub batch: usize,
    /// CPU time of templates for one record.
    pub template_time: Duration,
}

/// The records of a body.
pub(crate) struct Sample {
    /// Each, or why it is none.
    records: Vec<Result<Record, MapError>>,
    extent: Extent,
}

/// Whether a body has one record or many.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    One,
    Many,
}

/// What stands in the way of a row.
struct Refused {
    /// The place of the record, from 0.
    index: usize,
    error: MapError,
}

impl Sample {
    /// Takes the body of a call apart.
    ///
    /// # Errors
    /// What the HTTP source would answer to it.
    pub(crate) async fn read(
        call: &Call,
        limits: RecordLimits,
        now: Timestamp,
    ) -> Result<Self, ApiError> {
        let content_type = call.headers.get(CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok());
        let asked_for = call.query.get("batch") == Some("true");
        let batch = BatchFormat::of(content_type, asked_for);
        let limit = batch.map_or(limits.body, |_| limits.batch);
        let encoding = encoding(&call.headers)?;
        let content_type = ContentType::parse(content_type);
        let (headers, client_ip) = (sender_headers(&call.headers), client(call));
        let record = move |content_type, body| Record {
            received_at: now,
            client_ip,
            headers: headers.clone(),
            content_type,
            body,
        };
        let body = call.body.clone();
        let read = move || {
            let body = decode(encoding, body, limit)?;
            let Some(format) = batch else {
                return Ok(Self {
                    records: vec![Ok(record(content_type, body))],
                    extent: Extent::One,
                });
            };
            let items = split(format, &body, limit)?.into_iter();
            let records = items.map(|item| item.map(|body| record(ContentType::Json, body)));
            Ok(Self {
                records: records.collect(),
                extent: Extent::Many,
            })
        };
        on_thread(read).await?
    }

    /// Maps the records for each of the sinks, in this order.
    ///
    /// # Errors
    /// The first record that a sink refuses, with the sink and the column.
    pub(crate) async fn map(
        &self,
        context: &Context,
        sinks: &[Sink],
    ) -> Result<Vec<TableView>, ApiError> {
        let mut tables = Vec::with_capacity(sinks.len());
        let mut room = MAX_ROWS_BYTES;
        for sink in sinks {
            let rows = self.rows(context, sink, &mut room).await?;
            tables.push(TableView {
                sink_id: sink.key.sink.to_string(),
                table_id: sink.table.table_id.clone(),
                rows,
            });
        }
        Ok(tables)
    }

    async fn rows(
        &self,
        context: &Context,
        sink: &Sink,
        room: &mut usize,
    ) -> Result<Vec<RowView>, ApiError> {
        let mapping = CompiledMapping::compile(&sink.table.mapping)
            .map_err(|error| ApiError::bad_request(sentence(&error)))?;
        let limits = context.record_limits;
        let records = self
            .readable()
            .map_err(|refused| self.name(sink, refused))?;
        let values = match mapping.templates() {
            None => vec![None; records.len()],
            Some(templates) => {
                let values = (context.templates)
                    .evaluate(templates, &records, limits)
                    .await?;
                let values = (0..).zip(values).map(|(index, value)| match value {
                    Ok(values) => Ok(Some(values)),
                    Err(error) => Err(Refused { index, error }),
                });
                let values: Result<Vec<_>, _> = values.collect();
                values.map_err(|refused| self.name(sink, refused))?
            }
        };
        let mapped = on_thread(move || map(&mapping, &records, &values, limits.row)).await?;
        let rows = mapped.map_err(|refused| self.name(sink, refused))?;
        *room = room.checked_sub(rows.len()).ok_or_else(|| {
            let message = format!(
                "The rows of all sinks have more than {} MiB; try with fewer records.",
                MAX_ROWS_BYTES >> 20
            );
            ApiError::new(Code::BodyTooLarge, message)
        })?;
        Ok(shown(sink, &rows))
    }

    /// All records, or the first that is none.
    fn readable(&self) -> Result<Vec<Record>, Refused> {
        let records = self.records.iter().enumerate();
        let records = records.map(|(index, record)| match record {
            Ok(record) => Ok(record.clone()),
            Err(error) => Err(Refused {
                index,
                error: error.clone(),
            }),
        });
        records.collect()
    }

    fn name(&self, sink: &Sink, refused: Refused) -> ApiError {
        let Refused { index, error } = refused;
        let sink = sink.key.sink.as_str();
        let message = match self.extent {
            Extent::One => format!("Sink {sink:?}, {error}."),
            Extent::Many => format!("Sink {sink:?}, record {index}: {error}."),
        };
        ApiError::new(Code::UnprocessableContent, message)
    }
}

/// The rows of all records, or the first record that has none.
fn map(
    mapping: &CompiledMapping,
    records: &[Record],
    values: &[Option<TemplateValues>],
    row_limit: usize,
) -> Result<Rows, Refused> {
    let mut rows = Rows::with_row_limit(row_limit);
    for (index, (record, values)) in records.iter().zip(values).enumerate() {
        mapping
            .map_with(record, values.as_ref(), &mut rows, &mut random_bytes::<10>)
            .map_err(|error| Refused { index, error })?;
        // What does not fit into the answer need not be made.
        if rows.len() > MAX_ROWS_BYTES {
            break;
        }
    }
    Ok(rows)
}

/// Rows as a target would read them.
fn shown(sink: &Sink, rows: &Rows) -> Vec<RowView> {
    let columns = &sink.table.mapping.columns;
    let mut reader = RowReader::new(Compression::None, columns.len(), rows.as_bytes());
    let (mut row, mut shown) = (RowValues::new(), Vec::new());
    while reader
        .next(&mut row)
        .expect("these rows were written a moment ago")
    {
        let values = columns.iter().zip(row.iter());
        let values = values.map(|(column, value)| ColumnView {
            name: column.name.clone(),
            value: String::from_utf8_lossy(value).into_owned(),
        });
        shown.push(RowView {
            columns: values.collect(),
        });
    }
    shown
}

fn encoding(headers: &HeaderMap) -> Result<Option<ContentEncoding>, ApiError> {
    let mut encodings = headers.get_all(CONTENT_ENCODING).iter();
    let Some(header) = encodings.next() else {
        return Ok(None);
    };
    let encoding = header.to_str().ok().map(ContentEncoding::parse);
    match (encoding, encodings.next()) {
        (Some(Ok(encoding)), None) => Ok(encoding),
        _ => {
            let message = "The content encoding is not supported; use one of gzip, deflate and zstd, or none.";
            Err(ApiError::new(Code::UnsupportedMediaType, message))
        }
    }
}

fn decode(encoding: Option<ContentEncoding>, body: Bytes, limit: usize) -> Result<Bytes, ApiError> {
    let too_large = || {
        let message = format!("The body has more than {limit} bytes; send less.");
        ApiError::new(Code::BodyTooLarge, message)
    };
    if body.len() > limit {
        return Err(too_large());
    }
    let Some(encoding) = encoding else {
        return Ok(body);
    };
    match encoding.decode(&body, limit, |_| true) {
        Ok(decoded) => Ok(Bytes::from(decoded)),
        Err(ContentError::TooLarge { .. }) => Err(too_large()),
        Err(_) => Err(ApiError::bad_request(
            "The body is not in the content encoding that its header names.",
        )),
    }
}

fn split(
    format: BatchFormat,
    body: &Bytes,
    limit: usize,
) -> Result<Vec<Result<Bytes, MapError>>, ApiError> {
    let limits = BatchLimits {
        records: MAX_RECORDS,
        csv_as_json_bytes: limit.saturating_mul(4),
    };
    let items = format.split(body, limits).map_err(|error| {
        let code = match error {
            BatchError::TooManyRecords { .. } | BatchError::TooLarge { .. } => Code::BodyTooLarge,
            _ => Code::BadRequest,
        };
        ApiError::new(code, sentence(&error))
    })?;
    let items = items.into_iter();
    Ok(items
        .map(|item| item.map_err(|malformed| malformed.error))
        .collect())
}

/// The headers that a sender would have sent himself.
fn sender_headers(headers: &HeaderMap) -> Headers {
    let mut own = headers.clone();
    remove_token(&mut own);
    own.remove(HOST);
    Headers::new(
        own.iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes())),
    )
}

/// The first address of `X-Forwarded-For`, else that of the connection.
fn client(call: &Call) -> IpAddr {
    let forwarded = call.headers.get(X_FORWARDED_FOR);
    let forwarded = forwarded.and_then(|value| value.to_str().ok());
    let first = forwarded.and_then(|list| list.split(',').next()?.trim().parse().ok());
    first.unwrap_or(call.peer).to_canonical()
}

/// Does on a thread of its own what may take a while.
async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| ApiError::new(Code::Internal, "The dry run failed; see the log."))
}
