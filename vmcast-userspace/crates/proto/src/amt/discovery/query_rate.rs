//! How many questions may be asked: ten in any 100 ms (RFC 8777 §3.2.2).

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Questions in one period.
const MOST: usize = 10;
/// The period.
const PERIOD: Duration = Duration::from_millis(100);

/// When the last questions were asked.
#[derive(Debug, Default)]
pub(super) struct QueryRate(VecDeque<Instant>);

impl QueryRate {
    /// Whether one more may be asked now; if so it counts as asked.
    pub(super) fn admit(&mut self, now: Instant) -> bool {
        if self.next().is_some_and(|next| next > now) {
            return false;
        }
        if self.0.len() == MOST {
            self.0.pop_front();
        }
        self.0.push_back(now);
        true
    }

    /// When one may be asked, if that has to be waited for.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.front().filter(|_| self.0.len() == MOST).map(|first| *first + PERIOD)
    }
}
