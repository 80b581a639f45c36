//! A proxy's network above, and who sends below it (RFC 4605 §4.2).

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use vmcast_common::fib::{self, IfIndex, Stream};

use super::timer::{Timer, Timers};
use crate::Filter;

/// Sources that send elsewhere than above, and the interface that theirs is forwarded up by.
#[derive(Debug, Default)]
pub(super) struct Below {
    above: Option<IfIndex>,
    /// By group and source.
    heard: BTreeMap<(IpAddr, IpAddr), Heard>,
}

#[derive(Debug)]
struct Heard {
    /// Whether it goes up; what comes out of a tunnel does not.
    goes_up: bool,
    packets: u64,
    silent_at: Instant,
}

impl Below {
    /// The interface of the network above.
    pub(super) const fn above(&self) -> Option<IfIndex> {
        self.above
    }

    /// The network above as a member of groups.
    pub(super) fn member(&self) -> Option<fib::Output> {
        self.above.map(fib::Output::Interface)
    }

    /// Another network is above, or none; forgets who was heard.
    pub(super) fn set_above(&mut self, above: Option<IfIndex>, timers: &mut Timers) {
        self.above = above;
        for ((group, source), heard) in std::mem::take(&mut self.heard) {
            timers.stop(heard.silent_at, timer(group, source));
        }
    }

    /// How many sources are heard.
    pub(super) fn len(&self) -> usize {
        self.heard.len()
    }

    /// How many of a group.
    pub(super) fn len_of(&self, group: IpAddr) -> usize {
        self.of_group(group).count()
    }

    pub(super) fn contains(&self, group: IpAddr, source: IpAddr) -> bool {
        self.heard.contains_key(&(group, source))
    }

    /// A source that is new sends.
    pub(super) fn hear(
        &mut self,
        (group, source): (IpAddr, IpAddr),
        goes_up: bool,
        silent_at: Instant,
        timers: &mut Timers,
    ) {
        timers.start(silent_at, timer(group, source));
        self.heard.insert((group, source), Heard { goes_up, packets: 0, silent_at });
    }

    /// The packets of one were counted; any other number than before is activity.
    pub(super) fn on_active(
        &mut self,
        (group, source): (IpAddr, IpAddr),
        packets: u64,
        now: Instant,
        keepalive_period: Duration,
        timers: &mut Timers,
    ) {
        if let Some(heard) = self.heard.get_mut(&(group, source))
            && heard.packets != packets
        {
            heard.packets = packets;
            timers.stop(heard.silent_at, timer(group, source));
            heard.silent_at = now + keepalive_period;
            timers.start(heard.silent_at, timer(group, source));
        }
    }

    /// The timer of a source has ended: it is silent.
    pub(super) fn forget(&mut self, group: IpAddr, source: IpAddr) {
        self.heard.remove(&(group, source));
    }

    /// What goes up of a group.
    pub(super) fn filter(&self, group: IpAddr) -> Filter {
        let going_up = self.of_group(group).filter(|(_, heard)| heard.goes_up);
        Filter::Include(going_up.map(|(source, _)| source).collect())
    }

    fn of_group(&self, group: IpAddr) -> impl Iterator<Item = (IpAddr, &Heard)> {
        let first = (group, IpAddr::from([0; 4]));
        let of_group = self.heard.range(first..).take_while(move |((of, _), _)| *of == group);
        of_group.map(|((_, source), heard)| (*source, heard))
    }
}

const fn timer(group: IpAddr, source: IpAddr) -> Timer {
    Timer::Below(Stream { source: Some(source), group })
}
