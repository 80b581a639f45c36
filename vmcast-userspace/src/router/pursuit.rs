//! Which of the named upstreams is used, and from which of our addresses.
//!
//! Who names upstreams does so once; routes and addresses come and go. What was named is remembered, and
//! the way there is looked at again: soon after a failure, now and then while all is well.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use vmcast_api::StandIn;

/// First and longest pause after no named upstream could be used.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(30));
/// How often the way to an upstream in use is looked at. Routes may change while no interface does.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Pauses that double from the first to the longest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pauses {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Pauses {
    pub(super) const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// The pause after one more failure.
    pub(super) fn after_failure(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        pause
    }

    /// It worked.
    pub(super) const fn reset(&mut self) {
        self.next = self.first;
    }
}

/// An upstream that may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) endpoint: SocketAddr,
    /// What people call it.
    pub(super) name: Option<String>,
    /// Who has named it in the admin's place.
    pub(super) stands_in: Option<StandIn>,
}

/// The upstream in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Present {
    /// Our address towards it.
    pub(super) local: IpAddr,
    /// The upstream as it was named.
    pub(super) named: SocketAddr,
    /// Whether it was found not to serve.
    pub(super) down: bool,
    /// Who had named it in the admin's place when it was turned to.
    pub(super) stands_in: Option<StandIn>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing: nobody has been named yet.
    Wait,
    /// Nothing: the upstream in use is this one.
    Keep(Named),
    /// Use this upstream from this address of ours.
    Turn(Named, IpAddr),
    /// No route leads to any that was named; what is in use stays, and the routes are looked at again.
    NoRoute,
    /// There is none.
    Leave,
}

/// Remembers who was named.
#[derive(Debug)]
pub(super) struct Pursuit {
    /// In the order of preference; `None` until somebody has said.
    named: Option<Vec<Named>>,
    pauses: Pauses,
    due: Option<Instant>,
}

impl Pursuit {
    pub(super) const fn new() -> Self {
        Self { named: None, pauses: Pauses::new(RETRY.0, RETRY.1), due: None }
    }

    /// These may be used, the best first.
    pub(super) fn name(&mut self, now: Instant, named: Vec<Named>) {
        self.named = Some(named);
        self.hurry(now);
    }

    /// Something has changed that may matter: looks again at once, and soon if that fails.
    pub(super) fn hurry(&mut self, now: Instant) {
        if self.named.is_some() {
            self.pauses.reset();
            self.due = Some(now);
        }
    }

    /// When to look.
    pub(super) const fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// Looks. `source` tells the address that the routes choose towards another, if there is a route.
    pub(super) fn look(
        &mut self,
        now: Instant,
        present: Option<Present>,
        source: impl Fn(SocketAddr) -> Option<IpAddr>,
    ) -> Step {
        self.due = None;
        let Some(named) = &self.named else {
            return Step::Wait;
        };
        if named.is_empty() {
            return Step::Leave;
        }
        let first = first_choice(named, present);
        let mut in_order = named[first..].iter().chain(&named[..first]);
        let Some((chosen, local)) = in_order.find_map(|named| Some((named, source(named.endpoint)?))) else {
            self.failed(now);
            return Step::NoRoute;
        };
        let chosen = chosen.clone();
        self.pauses.reset();
        self.due = Some(now + LOOK_INTERVAL);
        if present.is_some_and(|present| present.named == chosen.endpoint && present.local == local) {
            Step::Keep(chosen)
        } else {
            Step::Turn(chosen, local)
        }
    }

    /// What was to be done could not be.
    pub(super) fn failed(&mut self, now: Instant) {
        self.due = Some(now + self.pauses.after_failure());
    }
}

/// A stream that flows is not moved: the upstream in use stays while it is named, and one that does not
/// serve gives way to the next. The fallback gives way to the first that an admin names.
fn first_choice(named: &[Named], present: Option<Present>) -> usize {
    let is_fallback = present.is_some_and(|present| present.stands_in == Some(StandIn::Fallback));
    let has_admin = named.first().is_some_and(|first| first.stands_in.is_none());
    if is_fallback && has_admin {
        return 0;
    }
    let position = |present: &Present| named.iter().position(|named| named.endpoint == present.named);
    match present.and_then(|present| Some((position(&present)?, present.down))) {
        None => 0,
        Some((at, false)) => at,
        Some((at, true)) => (at + 1) % named.len(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

    fn named(last: u8) -> Named {
        let endpoint = SocketAddr::from(([203, 0, 113, last], 2268));
        Named { endpoint, name: Some(format!("vmr {last}")), stands_in: None }
    }

    fn present(last: u8) -> Option<Present> {
        Some(Present { local: HERE, named: named(last).endpoint, down: false, stands_in: None })
    }

    fn down(last: u8) -> Option<Present> {
        present(last).map(|present| Present { down: true, ..present })
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs some first instant; it never passes by itself"
    )]
    fn start() -> Instant {
        Instant::now()
    }

    fn pursuit(now: Instant, of: impl IntoIterator<Item = u8>) -> Pursuit {
        let mut pursuit = Pursuit::new();
        pursuit.name(now, of.into_iter().map(named).collect());
        pursuit
    }

    #[test]
    fn nothing_happens_before_somebody_was_named() {
        let mut pursuit = Pursuit::new();
        pursuit.hurry(start());
        assert_eq!(pursuit.poll_timeout(), None);
        assert_eq!(pursuit.look(start(), present(1), |_| Some(HERE)), Step::Wait);
    }

    // proves A6
    #[test]
    fn an_upstream_without_a_route_is_tried_again_ever_more_seldom_and_at_once_when_something_changes() {
        let mut now = start();
        let mut pursuit = pursuit(now, [1]);
        for millis in [50, 100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000, 30_000] {
            assert_eq!(pursuit.poll_timeout(), Some(now));
            assert_eq!(pursuit.look(now, None, |_| None), Step::NoRoute);
            assert_eq!(pursuit.poll_timeout(), Some(now + Duration::from_millis(millis)));
            now += Duration::from_millis(millis);
        }
        pursuit.hurry(now);
        assert_eq!(pursuit.poll_timeout(), Some(now));
        assert_eq!(pursuit.look(now, None, |_| None), Step::NoRoute);
        assert_eq!(pursuit.poll_timeout(), Some(now + RETRY.0), "soon after a change");
        assert_eq!(pursuit.look(now, None, |_| Some(HERE)), Step::Turn(named(1), HERE));
        assert_eq!(pursuit.poll_timeout(), Some(now + LOOK_INTERVAL));
    }

    // proves A6
    #[test]
    fn another_source_address_towards_the_same_upstream_is_turned_to() {
        let now = start();
        let mut pursuit = pursuit(now, [1]);
        assert_eq!(pursuit.look(now, present(1), |_| Some(HERE)), Step::Keep(named(1)));
        assert_eq!(pursuit.look(now, present(1), |_| Some(THERE)), Step::Turn(named(1), THERE));
        assert_eq!(pursuit.look(now, present(1), |_| None), Step::NoRoute, "what is in use stays");
    }

    #[test]
    fn an_upstream_that_serves_is_kept_while_it_is_named_however_the_order_changes() {
        let now = start();
        assert_eq!(pursuit(now, [1, 2]).look(now, None, |_| Some(HERE)), Step::Turn(named(1), HERE));
        for order in [[1, 2, 3], [3, 2, 1], [2, 3, 1]] {
            assert_eq!(pursuit(now, order).look(now, present(2), |_| Some(HERE)), Step::Keep(named(2)));
        }
        assert_eq!(pursuit(now, [3, 1]).look(now, present(2), |_| Some(HERE)), Step::Turn(named(3), HERE));
        assert_eq!(pursuit(now, []).look(now, present(2), |_| Some(HERE)), Step::Leave);
    }

    // proves A1
    #[test]
    fn the_fallback_gives_way_to_the_first_that_an_admin_names_and_to_nobody_else() {
        let now = start();
        let fallback = present(2).map(|present| Present { stands_in: Some(StandIn::Fallback), ..present });
        assert_eq!(
            pursuit(now, [1, 2]).look(now, fallback, |_| Some(HERE)),
            Step::Turn(named(1), HERE),
            "it is named, but another is nearer"
        );
        assert_eq!(pursuit(now, [2, 1]).look(now, fallback, |_| Some(HERE)), Step::Keep(named(2)));
        let of_before = |last| Named { stands_in: Some(StandIn::Kept), ..named(last) };
        let mut kept = Pursuit::new();
        kept.name(now, [1, 2].map(of_before).into());
        assert_eq!(kept.look(now, fallback, |_| Some(HERE)), Step::Keep(of_before(2)));
        let one_of_before = present(2).map(|present| Present { stands_in: Some(StandIn::Kept), ..present });
        assert_eq!(pursuit(now, [1, 2]).look(now, one_of_before, |_| Some(HERE)), Step::Keep(named(2)));
        assert_eq!(pursuit(now, [1, 3]).look(now, one_of_before, |_| Some(HERE)), Step::Turn(named(1), HERE));
    }

    #[test]
    fn an_upstream_that_does_not_serve_gives_way_to_each_of_the_others_in_turn() {
        let now = start();
        let mut pursuit = pursuit(now, [1, 2, 3]);
        for (at, next) in [(1, 2), (2, 3), (3, 1)] {
            assert_eq!(pursuit.look(now, down(at), |_| Some(HERE)), Step::Turn(named(next), HERE));
        }
        let alone = &mut self::pursuit(now, [1]);
        assert_eq!(alone.look(now, down(1), |_| Some(HERE)), Step::Keep(named(1)));
    }

    #[test]
    fn of_several_the_first_that_a_route_leads_to_is_used() {
        let now = start();
        let route = |remote| (remote == named(3).endpoint).then_some(HERE);
        assert_eq!(pursuit(now, [1, 2, 3]).look(now, None, route), Step::Turn(named(3), HERE));
    }
}
