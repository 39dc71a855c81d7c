//! Idempotency keys on their way from the journal to the runs.

use std::io;

use super::Flusher;

impl Flusher {
    /// Writes keys when there are many; from time to time merges runs and forgets the oldest.
    pub(super) fn look_after_keys(&mut self, ticked: bool) {
        let shared = &self.shared;
        let mut done = Ok(());
        if shared.keys.wants_spill(ticked) {
            done = self.spill_keys();
        }
        if ticked && done.is_ok() {
            done = shared.keys.tidy(&*shared.disk, shared.clock.now());
        }
        match done {
            Ok(()) if !ticked => {}
            Ok(()) => self.keys_failing = false,
            Err(error) => {
                self.keys_failing = true;
                self.failed("cannot write idempotency keys", &error);
            }
        }
    }

    /// Writes all keys that are in the journal only, so that it need not keep them.
    pub(super) fn spill_keys(&self) -> io::Result<()> {
        let shared = &self.shared;
        if let Some(last) = shared.keys.spill(&*shared.disk)? {
            shared.index.lock().usage.cover_keys(last);
        }
        Ok(())
    }
}
