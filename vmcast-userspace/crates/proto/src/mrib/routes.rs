//! Where a source is reached: the RPF check's right input.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use vmcast_common::fib::{self, IfIndex, Rpf, Stream, TunnelId};

use super::below::Below;

/// A tunnel that never is: what is accepted from there alone is accepted from nowhere.
pub(super) const NOWHERE: Rpf = Rpf::Exact(fib::Input::Tunnel(TunnelId((1 << 31) - 1)));

/// Interfaces and the upstream.
#[derive(Debug, Default)]
pub(super) struct Routes {
    interfaces: BTreeMap<IfIndex, Link>,
    upstream: Option<TunnelId>,
    /// Of single (S,G), by group and source.
    of_source: BTreeMap<(IpAddr, IpAddr), TunnelId>,
    /// (S,G) that are accepted from nowhere, by group and source.
    refused: BTreeSet<(IpAddr, IpAddr)>,
    /// By group, and by source where only that one is meant.
    stated: BTreeMap<(IpAddr, Option<IpAddr>), Rpf>,
    pub(super) below: Below,
}

#[derive(Debug)]
struct Link {
    on_link: Vec<(IpAddr, u8)>,
    accepts_sources: bool,
}

impl Routes {
    pub(super) fn set_upstream(&mut self, upstream: Option<TunnelId>) {
        self.upstream = upstream;
    }

    pub(super) fn set_interface(
        &mut self,
        ifindex: IfIndex,
        on_link: Vec<(IpAddr, u8)>,
        accepts_sources: bool,
    ) {
        self.interfaces.insert(ifindex, Link { on_link, accepts_sources });
    }

    pub(super) fn remove_interface(&mut self, ifindex: IfIndex) {
        self.interfaces.remove(&ifindex);
    }

    /// Lets an (S,G) come by a tunnel of its own, or as others do.
    pub(super) fn set_source_tunnel(&mut self, stream: Stream, tunnel: Option<TunnelId>) {
        let Some(source) = stream.source else { return };
        let key = (stream.group, source);
        match tunnel {
            Some(tunnel) => self.of_source.insert(key, tunnel),
            None => self.of_source.remove(&key),
        };
    }

    /// The networks that interfaces which accept sources are on.
    pub(super) fn native(&self) -> impl Iterator<Item = (IpAddr, u8)> {
        let accepting = self.interfaces.values().filter(|link| link.accepts_sources);
        accepting.flat_map(|link| link.on_link.iter().copied())
    }

    /// States where a stream comes from, or no longer.
    pub(super) fn state(&mut self, stream: Stream, rpf: Option<Rpf>) {
        let key = (stream.group, stream.source);
        match rpf {
            Some(rpf) => self.stated.insert(key, rpf),
            None => self.stated.remove(&key),
        };
    }

    /// Refuses an (S,G), or no longer.
    pub(super) fn refuse(&mut self, stream: Stream, refused: bool) {
        let Some(source) = stream.source else { return };
        let key = (stream.group, source);
        if refused {
            self.refused.insert(key);
        } else {
            self.refused.remove(&key);
        }
    }

    /// Whether an (S,G) is refused.
    pub(super) fn is_refused(&self, stream: Stream) -> bool {
        stream.source.is_some_and(|source| self.refused.contains(&(stream.group, source)))
    }

    /// How many sources of a group are refused.
    pub(super) fn refused_of(&self, group: IpAddr) -> usize {
        self.refused_sources(group).count()
    }

    /// The sources of a group that are refused.
    pub(super) fn refused_sources(&self, group: IpAddr) -> impl Iterator<Item = IpAddr> {
        let first = (group, IpAddr::from([0; 4]));
        self.refused.range(first..).take_while(move |(of, _)| *of == group).map(|(_, source)| *source)
    }

    /// How many (S,G) are refused.
    pub(super) fn refused_len(&self) -> usize {
        self.refused.len()
    }

    /// Forgets refused sources of a group beyond so many.
    pub(super) fn forget_refused_beyond(&mut self, group: IpAddr, most: usize) {
        let beyond: Vec<_> = self.refused_sources(group).skip(most).collect();
        for source in beyond {
            self.refused.remove(&(group, source));
        }
    }

    /// The (S,G) that are refused.
    pub(super) fn refused(&self) -> impl Iterator<Item = Stream> {
        self.refused.iter().map(|&(group, source)| Stream { source: Some(source), group })
    }

    /// From where packets of a stream are accepted: what is stated, else as routes say.
    pub(super) fn rpf_of(&self, stream: Stream) -> Rpf {
        if self.is_refused(stream) {
            return NOWHERE;
        }
        let stated = |source| self.stated.get(&(stream.group, source)).copied();
        match (stated(stream.source).or_else(|| stated(None)), stream.source) {
            (Some(rpf), _) => rpf,
            (None, Some(source)) => self.rpf(stream.group, source),
            (None, None) => Rpf::AnyUpstream,
        }
    }

    /// From where packets of `source` are accepted: the accepting interface with the longest prefix
    /// that it is on-link of, the lower ifindex among equals; else its own tunnel, or the upstream.
    fn rpf(&self, group: IpAddr, source: IpAddr) -> Rpf {
        let mut best: Option<(u8, IfIndex)> = None;
        for (&ifindex, link) in self.interfaces.iter().filter(|(_, link)| link.accepts_sources) {
            for &(prefix, length) in &link.on_link {
                if covers(prefix, length, source) && best.is_none_or(|(longest, _)| length > longest) {
                    best = Some((length, ifindex));
                }
            }
        }
        let own = self.of_source.get(&(group, source)).copied();
        let above = self.below.above().filter(|_| !self.below.contains(group, source));
        match (best, own.or(self.upstream), above) {
            (Some((_, ifindex)), _, _) | (None, None, Some(ifindex)) => {
                Rpf::Exact(fib::Input::Interface(ifindex))
            }
            (None, Some(upstream), _) => Rpf::Exact(fib::Input::Tunnel(upstream)),
            (None, None, None) => Rpf::AnyUpstream,
        }
    }

    /// Whether an (S,G) is accepted from above only because it was not heard anywhere else.
    pub(super) fn is_presumed_above(&self, stream: Stream) -> bool {
        let Some((source, above)) = stream.source.zip(self.below.above()) else { return false };
        let is_on_link = || {
            let accepting = self.interfaces.values().filter(|link| link.accepts_sources);
            accepting.flat_map(|link| &link.on_link).any(|&(prefix, length)| covers(prefix, length, source))
        };
        self.rpf_of(stream) == Rpf::Exact(fib::Input::Interface(above))
            && !self.is_stated(stream)
            && !is_on_link()
    }

    /// Whether it is stated where a stream comes from.
    fn is_stated(&self, stream: Stream) -> bool {
        let stated = |source| self.stated.contains_key(&(stream.group, source));
        stated(stream.source) || stated(None)
    }

    /// Whether a packet of an (S,G) that comes in here is from elsewhere than above.
    pub(super) fn is_from_below(&self, stream: Stream, input: fib::Input) -> bool {
        let Some(above) = self.below.above() else { return false };
        if self.is_refused(stream) || input == fib::Input::Interface(above) {
            return false;
        }
        let rpf = self.rpf_of(stream);
        // What comes in by unicast goes only to whom the operator names, and to members.
        let is_unicast = rpf == Rpf::AnyUpstream && self.is_stated(stream);
        let accepted = self.accepts(rpf, input)
            || self.is_presumed_above(stream) && self.accepts(Rpf::AnyUpstream, input);
        accepted && !is_unicast
    }

    /// Whether `input` is right under `rpf`. Of tunnels the data plane lets only those send that may.
    pub(super) fn accepts(&self, rpf: Rpf, input: fib::Input) -> bool {
        match (rpf, input) {
            (Rpf::Exact(right), input) => right == input,
            (Rpf::AnyUpstream, fib::Input::Interface(ifindex)) => {
                self.interfaces.get(&ifindex).is_some_and(|link| link.accepts_sources)
            }
            (Rpf::AnyUpstream, fib::Input::Tunnel(_)) => true,
        }
    }
}

/// Whether the first `length` bits of both are the same; never across families.
pub(crate) fn covers(prefix: IpAddr, length: u8, address: IpAddr) -> bool {
    let length = u32::from(length);
    match (prefix, address) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros() >= length.min(32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros() >= length.min(128),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(232, 1, 1, 1));

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn interface(ifindex: u32) -> Rpf {
        Rpf::Exact(fib::Input::Interface(IfIndex(ifindex)))
    }

    #[test]
    fn the_longest_prefix_of_an_accepting_interface_decides_and_then_the_lower_ifindex() {
        let mut routes = Routes::default();
        routes.set_interface(IfIndex(3), vec![(ip("10.0.0.1"), 8), (ip("2001:db8::1"), 64)], true);
        routes.set_interface(IfIndex(4), vec![(ip("10.1.0.1"), 16)], true);
        routes.set_interface(IfIndex(5), vec![(ip("10.1.0.2"), 16)], true);
        routes.set_interface(IfIndex(6), vec![(ip("10.1.2.1"), 24)], false);
        assert_eq!(routes.rpf(GROUP, ip("10.1.2.3")), interface(4));
        assert_eq!(routes.rpf(GROUP, ip("10.2.2.3")), interface(3));
        assert_eq!(routes.rpf(GROUP, ip("2001:db8::77")), interface(3));
        assert_eq!(routes.rpf(GROUP, ip("192.0.2.1")), Rpf::AnyUpstream);
        routes.set_upstream(Some(TunnelId(9)));
        assert_eq!(routes.rpf(GROUP, ip("192.0.2.1")), Rpf::Exact(fib::Input::Tunnel(TunnelId(9))));
        assert_eq!(routes.rpf(GROUP, ip("10.1.2.3")), interface(4));
        routes.remove_interface(IfIndex(4));
        assert_eq!(routes.rpf(GROUP, ip("10.1.2.3")), interface(5));
    }

    // proves A6 (RFC 8777 §3.3.7)
    #[test]
    fn a_tunnel_of_its_own_goes_before_the_upstream_and_behind_what_is_on_link_or_stated() {
        let mut routes = Routes::default();
        let tunnel = |number| Rpf::Exact(fib::Input::Tunnel(TunnelId(number)));
        let stream = |source| Stream { source: Some(ip(source)), group: GROUP };
        let (there, here) = (stream("192.0.2.1"), stream("10.0.0.9"));
        routes.set_upstream(Some(TunnelId(9)));
        routes.set_interface(IfIndex(3), vec![(ip("10.0.0.1"), 8)], true);
        assert_eq!(routes.native().collect::<Vec<_>>(), [(ip("10.0.0.1"), 8)]);
        for of in [there, here] {
            routes.set_source_tunnel(of, Some(TunnelId(7)));
        }
        assert_eq!((routes.rpf_of(there), routes.rpf_of(here)), (tunnel(7), interface(3)));
        assert_eq!(routes.rpf_of(Stream { group: ip("232.1.1.2"), ..there }), tunnel(9));
        routes.state(there, Some(interface(4)));
        assert_eq!(routes.rpf_of(there), interface(4));
        routes.state(there, None);
        routes.set_source_tunnel(there, None);
        assert_eq!(routes.rpf_of(there), tunnel(9));
    }

    #[test]
    fn a_prefix_covers_its_own_bits_only_at_every_length() {
        let address = ip("172.16.5.9");
        for length in 0..=32u8 {
            let IpAddr::V4(v4) = address else { unreachable!() };
            let flip = |bit: u32| IpAddr::V4((v4.to_bits() ^ (1 << (31 - bit))).into());
            for bit in 0..32 {
                assert_eq!(covers(address, length, flip(bit)), bit >= u32::from(length), "{length} {bit}");
            }
        }
        assert!(covers(address, 255, address));
        assert!(!covers(address, 0, ip("::1")));
    }

    #[test]
    fn what_is_stated_of_a_source_goes_before_its_group_and_that_before_routes() {
        let mut routes = Routes::default();
        routes.set_upstream(Some(TunnelId(9)));
        let stream = |source: Option<&str>| Stream { source: source.map(ip), group: ip("239.1.1.1") };
        let (any, one, other) = (stream(None), stream(Some("192.0.2.1")), stream(Some("192.0.2.2")));
        assert_eq!(routes.rpf_of(any), Rpf::AnyUpstream);
        routes.state(one, Some(interface(3)));
        assert_eq!((routes.rpf_of(any), routes.rpf_of(one)), (Rpf::AnyUpstream, interface(3)));
        assert_eq!(routes.rpf_of(other), Rpf::Exact(fib::Input::Tunnel(TunnelId(9))));
        routes.state(any, Some(interface(4)));
        assert_eq!([any, one, other].map(|stream| routes.rpf_of(stream)), [4, 3, 4].map(interface));
        assert_eq!(routes.rpf_of(Stream { group: ip("239.1.1.2"), ..any }), Rpf::AnyUpstream);
        routes.state(one, None);
        assert_eq!(routes.rpf_of(one), interface(4));
        routes.state(any, Some(Rpf::AnyUpstream));
        assert_eq!(routes.rpf_of(other), Rpf::AnyUpstream);
        routes.state(any, None);
        assert_eq!(routes.rpf_of(any), Rpf::AnyUpstream);
    }
}
