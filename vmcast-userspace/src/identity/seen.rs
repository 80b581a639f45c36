//! The time as far as admins have seen it pass. What is forgotten for good goes by it, not by a clock that may be wrong.

use std::time::Duration;

use vmcast_proto::registry::{RecordKind, UnixMillis};

use super::{
    authority::after,
    records::{Expected, Records, RecordsError, Write},
};

/// The only record of its kind.
const KEY: &str = "seen";
/// It is written down so often, in the time that it shows: what an admin that ends has not written down it sees again.
const WRITTEN: Duration = Duration::from_secs(3600);
/// The start of 2026: it never was earlier, whatever a host's clock shows that has yet to be set.
const FIRST: UnixMillis = UnixMillis(1_767_225_600_000);

/// One part in so many of the time that passes may be seen to pass beside it.
const CATCHES_UP: u32 = 10;

/// Time that passes while an admin runs, and comes nearer to the clock by a tenth of it: it catches up with one that is
/// right, and one that is ahead, however far it jumped, takes it along by a tenth of how long it is wrong: by a month in
/// most of a year.
#[derive(Debug, Default)]
pub(super) struct SeenTime {
    /// What it showed when it was last looked at, and the clock that nobody sets.
    last: Option<(UnixMillis, UnixMillis)>,
    /// When it is written down again.
    due: UnixMillis,
}

impl SeenTime {
    /// What it showed when it was last looked at; `None`: it is not known yet.
    pub(super) fn last(&self) -> Option<UnixMillis> {
        self.last.map(|(seen, _)| seen)
    }

    /// The time, where the clock shows `now` and `steady` is one that nobody sets; never later than `now`. With what is
    /// to be written down, if it is, and what it replaces. Where nothing was ever written down it begins at `newest`, of
    /// what the records say, for the clock may be ahead already; without any at what the clock shows.
    ///
    /// # Errors
    /// If the store fails.
    pub(super) fn look(
        &mut self,
        records: &dyn Records,
        now: UnixMillis,
        steady: UnixMillis,
        newest: impl FnOnce() -> Result<Option<UnixMillis>, RecordsError>,
    ) -> Result<(UnixMillis, Option<(Expected, Write)>), RecordsError> {
        let value = records.read(RecordKind::Seen, KEY)?;
        let written = value.as_deref().and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
        let written = written.map(UnixMillis);
        let seen = if let Some(written) = written {
            let (own, before) = self.last.unwrap_or((FIRST, steady));
            // Another admin may have run for longer.
            let seen = own.max(written);
            let passed = Duration::from_millis(steady.0.saturating_sub(before.0));
            let seen = now.clamp(seen, after(seen, passed.saturating_add(passed / CATCHES_UP)));
            self.last = Some((seen, steady));
            seen
        } else {
            // It counts from when it is written down: another admin may be faster, and then its time does.
            newest()?.map_or(now, |newest| newest.min(now)).max(FIRST)
        };
        let write = (written.is_none() || seen >= self.due).then(|| {
            // Also if that fails: it is tried again then.
            self.due = after(seen, WRITTEN);
            let (kind, key) = (RecordKind::Seen, KEY.to_owned());
            let write = Write { kind, key: key.clone(), value: Some(seen.0.to_string().into_bytes()) };
            (Expected { kind, key, value }, write)
        });
        Ok((seen.min(now), write))
    }
}
