//! The hidden command that evaluates templates, and how the service starts itself for it.
//!
//! The process bounds its own memory before it reads anything, writes nothing but answers, and ends when its parent does.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, setrlimit};
use stream_encoding::jsonnet;
use stream_model::unit::ByteSize;
use stream_node::Helpers;

/// The command. It is not for people, so no help mentions it.
const COMMAND: &str = "jsonnet-worker";
/// What the evaluating thread has as its stack, and what the interpreter keeps for itself.
const OWN_BYTES: u64 = 48 << 20;

/// Evaluators that may take that much memory.
pub fn helpers(memory: ByteSize) -> Helpers {
    // This very program, also when its file was replaced by a newer one.
    let args: Vec<OsString> = vec![COMMAND.into(), memory.0.to_string().into()];
    Helpers::program("/proc/self/exe".into(), args, jsonnet::HELLO)
}

/// Whether this process is to be an evaluator; the memory that it may take then.
pub fn requested(mut args: impl Iterator<Item = OsString>) -> Option<u64> {
    if args.nth(1).as_deref() != Some(OsStr::new(COMMAND)) {
        return None;
    }
    args.next()?.to_str()?.parse().ok()
}

/// Evaluates until the parent is gone.
pub fn run(memory: u64) -> ExitCode {
    // Whatever goes wrong: the parent notices the end, and nobody reads messages.
    std::panic::set_hook(Box::new(|_| std::process::abort()));
    let served = limit(memory).and_then(|()| {
        let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        jsonnet::serve(input, output)
    });
    // A template may still run on the other thread.
    std::process::exit(i32::from(served.is_err()))
}

/// Bounds memory beyond what the program itself takes, and forbids to write it to disk when it ends.
fn limit(memory: u64) -> io::Result<()> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let bytes = |name| {
        let mut lines = status.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)).unwrap_or("");
        let number = value.split_whitespace().next().unwrap_or("");
        number.parse::<u64>().unwrap_or(0) << 10
    };
    let (all, data) = (bytes("VmSize:"), bytes("VmData:"));
    for (resource, limit) in [
        (Resource::As, all + OWN_BYTES + memory),
        (Resource::Data, data + OWN_BYTES + memory),
        (Resource::Core, 0),
    ] {
        let limit = Rlimit {
            current: Some(limit),
            maximum: Some(limit),
        };
        setrlimit(resource, limit)?;
    }
    Ok(())
}
