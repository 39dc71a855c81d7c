//! How messages travel as messages of gRPC.

use std::marker::PhantomData;

use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use super::message::{Garbled, Reply, Request};

/// The codec of the side that sends `Out` and receives `In`.
pub(super) struct Messages<Out, In>(PhantomData<(Out, In)>);

impl<Out, In> Messages<Out, In> {
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

/// Writes messages.
pub(super) struct Writer<M>(PhantomData<M>);

/// Reads messages.
pub(super) struct Reader<M>(PhantomData<M>);

impl Codec for Messages<Request, Reply> {
    type Encode = Request;
    type Decode = Reply;
    type Encoder = Writer<Request>;
    type Decoder = Reader<Reply>;

    fn encoder(&mut self) -> Self::Encoder {
        Writer(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        Reader(PhantomData)
    }
}

impl Codec for Messages<Reply, Request> {
    type Encode = Reply;
    type Decode = Request;
    type Encoder = Writer<Reply>;
    type Decoder = Reader<Request>;

    fn encoder(&mut self) -> Self::Encoder {
        Writer(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        Reader(PhantomData)
    }
}

impl Encoder for Writer<Request> {
    type Item = Request;
    type Error = Status;

    fn encode(&mut self, message: Request, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(message.len());
        message.write(out);
        Ok(())
    }
}

impl Encoder for Writer<Reply> {
    type Item = Reply;
    type Error = Status;

    fn encode(&mut self, message: Reply, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        message.write(out);
        Ok(())
    }
}

impl Decoder for Reader<Request> {
    type Item = Request;
    type Error = Status;

    fn decode(&mut self, input: &mut DecodeBuf<'_>) -> Result<Option<Request>, Status> {
        Request::read(input).map(Some).map_err(garbled)
    }
}

impl Decoder for Reader<Reply> {
    type Item = Reply;
    type Error = Status;

    fn decode(&mut self, input: &mut DecodeBuf<'_>) -> Result<Option<Reply>, Status> {
        Reply::read(input).map(Some).map_err(garbled)
    }
}

/// The rest of the message is still in the buffer, so the stream is of no more use.
fn garbled(error: Garbled) -> Status {
    Status::invalid_argument(error.to_string())
}
