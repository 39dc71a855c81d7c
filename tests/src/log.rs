//! What a process writes, read line by line while it runs.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use serde_json::Value;

/// The lines of one output of a process, collected by a thread of its own so that the process never waits for a reader.
#[derive(Debug)]
pub struct Output {
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Output {
    /// Starts reading.
    pub fn collect(source: impl Read + Send + 'static) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let collected = Arc::clone(&lines);
        let reader = std::thread::spawn(move || {
            let mut source = BufReader::new(source);
            let mut line = Vec::new();
            while matches!(source.read_until(b'\n', &mut line), Ok(1..)) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                collected
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(text);
                line.clear();
            }
        });
        Self {
            lines,
            reader: Some(reader),
        }
    }

    /// Waits until the process has closed the output, which it has when it is gone.
    pub fn finish(&mut self) {
        if let Some(reader) = self.reader.take() {
            // The thread does nothing that can panic.
            let _ = reader.join();
        }
    }

    /// What was written up to now.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The lines that are warnings, errors or no JSON log lines at all, and hold none of the `allowed` texts.
#[must_use]
pub fn unexpected(lines: &[String], allowed: &[&str]) -> Vec<String> {
    let is_quiet = |line: &str| {
        let parsed: Result<Value, _> = serde_json::from_str(line);
        let level = parsed.as_ref().ok().and_then(|line| line["level"].as_str());
        matches!(level, Some("INFO" | "DEBUG" | "TRACE"))
    };
    let is_allowed = |line: &str| allowed.iter().any(|text| line.contains(text));
    let kept = lines
        .iter()
        .filter(|line| !is_quiet(line) && !is_allowed(line));
    kept.cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_errors_and_plain_lines_are_unexpected_unless_allowed() {
        let lines: Vec<String> = [
            r#"{"level":"INFO","fields":{"message":"ready"}}"#,
            r#"{"level":"WARN","fields":{"message":"few files"}}"#,
            r#"{"level":"ERROR","fields":{"message":"disk failed"}}"#,
            "thread panicked",
        ]
        .map(str::to_owned)
        .to_vec();
        assert_eq!(unexpected(&lines, &["few files"]), lines[2..]);
        assert_eq!(unexpected(&lines, &[]), lines[1..]);
    }

    #[test]
    fn output_is_collected_up_to_its_end() {
        let mut output = Output::collect(&b"a\nb\xff\n\nlast"[..]);
        output.finish();
        assert_eq!(output.lines(), ["a", "b\u{fffd}", "", "last"]);
    }
}
