//! What the host joins and leaves, and what it is handed.

use std::{collections::BTreeSet, net::IpAddr, time::Instant};

use vmcast_proto::{
    Filter, Machine as _,
    amt::discovery,
    membership::{self, Family, Querier, Version, is_source_specific},
};
use vmcast_wire::{
    igmp,
    membership::{Message, Record, RecordType},
    mld,
};

use super::{
    super::host_packet::{self, leaves_the_link},
    Core, Event, Output, Traffic, Wanted,
};

/// Streams that are counted one by one; an any-source group could else fill the memory.
const MAX_STREAMS: usize = 4096;

impl Core {
    pub(super) fn on_host_packet(&mut self, now: Instant, packet: &[u8]) {
        match host_packet::read(packet) {
            Ok((family, input)) => self.querier_mut(family).handle_input(now, input),
            Err(reason) => self.drops.count(reason),
        }
    }

    pub(super) fn on_host_joined(&mut self, now: Instant, group: IpAddr, sources: &BTreeSet<IpAddr>) {
        let mut known = !self.querier(Family::of(group)).filter(group).is_none();
        if self.early.take_back(group) && known && self.early.admit(now, group) {
            // The host's report of the leave may still be under way. To hear it now already leaves it nothing to end.
            self.early.expect_leave(group);
            self.end_at_querier(now, group);
            known = false;
        }
        if known || self.stopped || !group.is_multicast() || !leaves_the_link(group) {
            return;
        }
        // A source-specific group without a source: the host is about to name it, and its report will.
        if sources.is_empty() && is_source_specific(group) {
            return;
        }
        if self.early.admit(now, group) {
            let filter = if sources.is_empty() { Filter::any() } else { Filter::Include(sources.clone()) };
            self.on_membership(now, group, filter);
        }
    }

    pub(super) fn on_host_left(&mut self, now: Instant, group: IpAddr) {
        if self.early.remove(group) {
            self.on_membership(now, group, Filter::none());
        }
        let is_member = !self.querier(Family::of(group)).filter(group).is_none();
        if is_member && !self.early.leave(now, group) {
            self.end_at_querier(now, group);
        }
    }

    /// The host's own leave is under way. To hear it now already spares the wait, and when it comes there is nothing left
    /// to end.
    pub(super) fn end_at_querier(&mut self, now: Instant, group: IpAddr) {
        let family = Family::of(group);
        if !self.querier(family).filter(group).is_none() {
            let (source, destination, message) = leave(self.querier(family), group);
            let Ok(payload) = message.emit(source, destination) else { return };
            let input = membership::Input::Datagram {
                source,
                link_source: None,
                link_unicast: false,
                stranger: false,
                destination,
                ttl: 1,
                router_alert: true,
                payload: &payload,
            };
            self.querier_mut(family).handle_input(now, input);
        }
    }

    pub(super) fn on_membership(&mut self, now: Instant, group: IpAddr, filter: Filter) {
        let before = self.wanted.get(&group).map(|wanted| &wanted.filter);
        if !leaves_the_link(group) || before.map_or_else(|| filter.is_none(), |before| *before == filter) {
            return;
        }
        if filter.is_none() {
            self.wanted.remove(&group);
            self.forget_refused(group);
            self.streams.retain(|(of, _), _| *of != group);
        } else {
            let wanted = self.wanted.entry(group).or_insert(Wanted { filter: Filter::none(), since: now });
            wanted.filter = filter.clone();
        }
        self.want(now, group, &filter);
        self.outputs.push_back(Output::Event(Event::Membership(group, filter)));
    }

    /// The VMR has sent a packet that the host is to get.
    pub(in crate::agent) fn on_data(&mut self, now: Instant, packet: Vec<u8>) {
        if self.discovery.is_some()
            && let Some((_, source)) = host_packet::stream(&packet)
        {
            self.discover_with(now, discovery::Input::Traffic { source });
        }
        self.hand_over(now, packet);
    }

    /// The gateway has checked that the packet is of its relay and that the host wants it.
    pub(in crate::agent) fn hand_over(&mut self, now: Instant, packet: Vec<u8>) {
        if let Some(key) = host_packet::stream(&packet)
            && (self.streams.len() < MAX_STREAMS || self.streams.contains_key(&key))
        {
            let traffic = self.streams.entry(key).or_insert(Traffic { packets: 0, bytes: 0, last: now });
            traffic.packets += 1;
            traffic.bytes += packet.len() as u64;
            traffic.last = now;
        }
        self.outputs.push_back(Output::ToHost(packet));
    }
}

/// The leave of the only host, in the words that the querier understands: those of older versions say
/// nothing of source-specific groups.
fn leave(querier: &Querier, group: IpAddr) -> (IpAddr, IpAddr, Message) {
    let (source, all_routers, all_v3_routers) = match Family::of(group) {
        Family::V4 => (Family::V4.unspecified(), igmp::ALL_ROUTERS.into(), igmp::ALL_IGMPV3_ROUTERS.into()),
        Family::V6 => (host_packet::HOST.into(), mld::ALL_ROUTERS.into(), mld::ALL_MLDV2_ROUTERS.into()),
    };
    if querier.config().version == Version::V3 {
        let record_type = RecordType::ChangeToIncludeMode;
        let records = vec![Record { record_type, group, sources: Vec::new() }];
        (source, all_v3_routers, Message::ReportV3 { records })
    } else {
        (source, all_routers, Message::Leave { group })
    }
}
