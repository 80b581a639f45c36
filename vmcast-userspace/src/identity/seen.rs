//! The time as far as admins have seen it pass. What is forgotten for good goes by it, not by a clock that may be wrong.

use std::time::Duration;

use vmcast_proto::registry::{RecordKind, UnixMillis};

use super::{
    authority::after,
    records::{Records, RecordsError, Write},
};

/// The only record of its kind.
const KEY: &str = "seen";
/// It is written down so often, in the time that it shows: what an admin that ends has not written down it sees again.
const WRITTEN: Duration = Duration::from_secs(3600);
/// The start of 2026: it never was earlier, whatever a host's clock shows that has yet to be set.
const FIRST: UnixMillis = UnixMillis(1_767_225_600_000);

/// Time that passes while an admin runs, and comes nearer to the clock by as much: it catches up with one that is right
/// as fast as it lagged behind, and one that is ahead takes it along by as long as it is wrong, however far it jumped.
#[derive(Debug, Default)]
pub(super) struct SeenTime {
    /// What it showed when it was last looked at, and the clock that nobody sets.
    last: Option<(UnixMillis, UnixMillis)>,
    /// When it is written down again.
    due: UnixMillis,
}

impl SeenTime {
    /// The time, where the clock shows `now` and `steady` is one that nobody sets; never later than `now`. With what is
    /// to be written down, if it is.
    ///
    /// # Errors
    /// If the store fails.
    pub(super) fn look(
        &mut self,
        records: &dyn Records,
        now: UnixMillis,
        steady: UnixMillis,
    ) -> Result<(UnixMillis, Option<Write>), RecordsError> {
        let written = records.read(RecordKind::Seen, KEY)?;
        let written =
            written.and_then(|value| std::str::from_utf8(&value).ok()?.parse().ok()).map(UnixMillis);
        let (own, before) = self.last.unwrap_or_else(|| (written.unwrap_or(now).max(FIRST), steady));
        // Another admin may have run for longer.
        let seen = own.max(written.unwrap_or(own));
        let passed = Duration::from_millis(steady.0.saturating_sub(before.0));
        let seen = now.clamp(seen, after(seen, passed.saturating_mul(2)));
        self.last = Some((seen, steady));
        let write = (seen >= self.due).then(|| {
            // Also if that fails: it is tried again then.
            self.due = after(seen, WRITTEN);
            Write {
                kind: RecordKind::Seen,
                key: KEY.to_owned(),
                value: Some(seen.0.to_string().into_bytes()),
            }
        });
        Ok((seen.min(now), write))
    }
}
