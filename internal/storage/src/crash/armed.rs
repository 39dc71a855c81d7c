//! What the points do where they are compiled in.

use std::env::VarError;
use std::io;
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, setrlimit};

use super::{Fault, Point};

/// The environment variable that arms points and faults.
const VARIABLE: &str = "FAILPOINTS";

/// Arms what `FAILPOINTS` names: points and faults of this crate, and `others` elsewhere.
///
/// # Errors
/// When the text is not understood, or names what does not exist.
pub fn arm(others: &[&str]) -> Result<(), String> {
    let text = match std::env::var(VARIABLE) {
        Ok(text) => text,
        Err(VarError::NotPresent) => return Ok(()),
        Err(VarError::NotUnicode(_)) => return Err(format!("{VARIABLE} is not UTF-8")),
    };
    let orders = text
        .split(';')
        .map(str::trim)
        .filter(|order| !order.is_empty());
    // A death that was asked for leaves no image of the process behind. Where that is not allowed, it does.
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let _ = setrlimit(Resource::Core, none);
    for order in orders {
        let Some((name, actions)) = order.split_once('=') else {
            return Err(format!("{VARIABLE} has no \"=\" in \"{order}\""));
        };
        if !is_known(name) && !others.contains(&name) {
            return Err(format!("{VARIABLE} names \"{name}\", which does not exist"));
        }
        fail::cfg(name, actions).map_err(|error| format!("{VARIABLE} at \"{name}\": {error}"))?;
        tracing::info!(name, actions, "fail point armed");
    }
    Ok(())
}

fn is_known(name: &str) -> bool {
    let mut points = Point::ALL.iter().map(|point| point.name());
    let mut faults = Fault::ALL.iter().map(|fault| fault.name());
    points.any(|known| known == name) || faults.any(|known| known == name)
}

/// Dies here, when armed.
pub fn point(point: Point) {
    fail::fail_point!(point.name(), |_| die(point));
}

/// Dies here, when armed for this file.
pub fn point_at(point: Point, path: &Path) {
    fail::fail_point!(point.name(), |fragment| {
        if fragment.is_none_or(|fragment| path.to_string_lossy().contains(&fragment)) {
            die(point);
        }
    });
}

fn die(point: Point) {
    tracing::info!(name = point.name(), "dying at a fail point");
    std::process::abort();
}

/// The error that a call to the disk has to return, when armed for this file.
pub(super) fn fault(fault: Fault, path: &Path) -> io::Result<()> {
    fail::fail_point!(fault.name(), |argument| injected(argument.as_deref(), path));
    Ok(())
}

/// `ERROR[:FRAGMENT[:SWITCH]]`: the error, for files with the fragment in their path, while a file named by the switch exists.
fn injected(argument: Option<&str>, path: &Path) -> io::Result<()> {
    let mut parts = argument.unwrap_or("EIO").splitn(3, ':');
    let name = parts.next().unwrap_or_default();
    let meant = parts
        .next()
        .is_none_or(|fragment| path.to_string_lossy().contains(fragment));
    let on = parts.next().is_none_or(|switch| Path::new(switch).exists());
    if meant && on {
        return Err(error(name));
    }
    Ok(())
}

fn error(name: &str) -> io::Error {
    match name {
        "EIO" => Errno::IO.into(),
        "ENOSPC" => Errno::NOSPC.into(),
        "EROFS" => Errno::ROFS.into(),
        _ => io::Error::other(format!("{VARIABLE} names an unknown error \"{name}\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn injects_the_error_for_the_files_that_are_meant_and_while_the_switch_is_there() {
        let file = Path::new("/volumes/hdd/b/journal/1.segment");
        let code = |argument: Option<&str>| {
            injected(argument, file)
                .err()
                .and_then(|error| error.raw_os_error())
        };
        let eio = Some(Errno::IO.raw_os_error());
        assert_eq!(code(None), eio);
        assert_eq!(code(Some("EIO")), eio);
        assert_eq!(code(Some("ENOSPC")), Some(Errno::NOSPC.raw_os_error()));
        assert_eq!(code(Some("EIO:/hdd/b/")), eio);
        assert_eq!(code(Some("EIO:/hdd/a/")), None);
        let dir = tempfile::tempdir().expect("a temporary directory");
        let switch = dir.path().join("failing");
        let argument = format!("EIO:/hdd/b/:{}", switch.display());
        assert_eq!(code(Some(&argument)), None);
        std::fs::write(&switch, "").expect("written");
        assert_eq!(code(Some(&argument)), eio);
    }

    #[test]
    fn names_are_unique() {
        let points = Point::ALL.iter().map(|point| point.name());
        let faults = Fault::ALL.iter().map(|fault| fault.name());
        let mut names: Vec<_> = points.chain(faults).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
