//! Who joins and leaves when.

use std::time::Duration;

/// A stretch of membership; without an end it lasts as long as the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Membership {
    pub(super) join: Duration,
    pub(super) leave: Option<Duration>,
}

/// Between two joins.
const STAGGER: Duration = Duration::from_secs(2);

/// How long the third client stays away before it joins again, and stays at least after that.
const AWAY: Duration = Duration::from_secs(4);

/// In a run without end the third client comes and goes with this period.
const PERIOD: Duration = Duration::from_secs(30);

/// The memberships of three clients in a run of the given length: each joins a little later than the one
/// before, and the last leaves at 60 % and comes back if there is time enough.
pub(super) fn memberships(client: usize, length: Option<Duration>) -> Vec<Membership> {
    let stagger = length.map_or(STAGGER, |length| STAGGER.min(length / 8));
    let join = stagger * u32::try_from(client).expect("a small number");
    if client < 2 {
        return vec![Membership { join, leave: None }];
    }
    let Some(length) = length else {
        // A day of coming and going.
        let nth = |n: u32| Membership { join: join + PERIOD * n, leave: Some(PERIOD * n + PERIOD - AWAY) };
        return (0..24 * 3600 / 30).map(nth).collect();
    };
    let leave = length * 6 / 10;
    let mut all = vec![Membership { join, leave: Some(leave) }];
    if leave + AWAY * 2 <= length {
        all.push(Membership { join: leave + AWAY, leave: None });
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(client: usize, length: u64) -> Vec<(f64, Option<f64>)> {
        memberships(client, Some(Duration::from_secs(length)))
            .iter()
            .map(|membership| {
                (membership.join.as_secs_f64(), membership.leave.map(|leave| leave.as_secs_f64()))
            })
            .collect()
    }

    #[test]
    fn clients_join_one_after_the_other_and_the_last_leaves_and_comes_back() {
        assert_eq!(seconds(0, 30), [(0.0, None)]);
        assert_eq!(seconds(1, 30), [(2.0, None)]);
        assert_eq!(seconds(2, 30), [(4.0, Some(18.0)), (22.0, None)]);
    }

    #[test]
    fn a_short_run_has_no_time_to_come_back_but_to_join_and_leave() {
        assert_eq!(seconds(2, 8), [(2.0, Some(4.8))]);
    }

    #[test]
    fn memberships_of_a_run_without_end_do_not_overlap() {
        let all = memberships(2, None);
        assert!(all.windows(2).all(|pair| pair[0].leave.is_some_and(|leave| leave < pair[1].join)));
    }
}
