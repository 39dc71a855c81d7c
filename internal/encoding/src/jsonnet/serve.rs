//! What the helper process does: read requests, evaluate, answer.
//!
//! Two threads. The caller's reads, so that the end of the input is noticed while a template loops: the parent is gone, and
//! nobody else would stop it. The other one evaluates, on a stack of its own size.

use std::io::{self, BufReader, Read, Write};
use std::sync::mpsc;

use super::evaluator::Evaluator;
use super::protocol::{BadMessage, HELLO, MAX_FRAME_LEN, Request};

/// The stack of the evaluating thread. Parsing a template takes some of it per bracket.
const STACK_BYTES: usize = 32 << 20;
/// Requests between the two threads. Filled by the reader and drained by the evaluator; the parent has fewer under way.
const QUEUED_REQUESTS: usize = 256;

/// Serves one parent until its end of the line is closed. Returns without waiting for a template that still runs: the
/// process should exit.
///
/// # Errors
/// When the line breaks, or the parent breaks the protocol.
pub fn serve(input: impl Read, output: impl Write + Send + 'static) -> io::Result<()> {
    let (sender, requests) = mpsc::sync_channel(QUEUED_REQUESTS);
    std::thread::Builder::new()
        .name("evaluator".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || answer_all(&requests, output))?;
    let mut input = BufReader::new(input);
    while let Some(request) = read_request(&mut input)? {
        if sender.send(request).is_err() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
    }
    Ok(())
}

/// Answers until there are no more requests, or nobody takes the answers.
fn answer_all(requests: &mpsc::Receiver<Request>, mut output: impl Write) -> io::Result<()> {
    let mut say = |frame: &[u8]| output.write_all(frame).and_then(|()| output.flush());
    let len = u32::try_from(HELLO.len()).map_err(io::Error::other)?;
    say(&[&len.to_le_bytes(), HELLO].concat())?;
    let mut evaluator = Evaluator::new();
    while let Ok(request) = requests.recv() {
        match request {
            Request::Define { id, contents } => say(&evaluator.define(id, &contents).encode())?,
            Request::Forget { id } => evaluator.forget(id),
            // Each answer at once: when this process is ended, the parent sees which template ran.
            Request::Evaluate { id, record } => {
                evaluator.evaluate(id, record, |answer| say(&answer.encode()))?;
            }
        }
    }
    Ok(())
}

/// None at the end of the input.
fn read_request(input: &mut impl Read) -> io::Result<Option<Request>> {
    let mut len = [0; 4];
    match input.read_exact(&mut len) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let len = usize::try_from(u32::from_le_bytes(len)).map_err(io::Error::other)?;
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, BadMessage);
    if len > MAX_FRAME_LEN {
        return Err(invalid());
    }
    let mut message = vec![0; len];
    input.read_exact(&mut message)?;
    Request::decode(&message).map(Some).map_err(|_| invalid())
}
