//! The policy between what members ask for and what they are given.

use std::{collections::BTreeSet, net::IpAddr, time::Instant};

use vmcast_common::fib::{Input, Output, Stream, TunnelId};
use vmcast_dataplane::StreamStats;
use vmcast_proto::{
    Filter, Machine as _,
    amt::relay,
    mrib::{self, Account},
    policy::{Policy, Subject},
    registry::OwnTunnel,
};
use vmcast_signal::v1;

use super::Core;
use crate::router::tunnels::tunnel_id;

impl Core {
    /// Carries out what an admin tells: its policy or, if that is older than the one at work, where nodes are by it. False if
    /// nothing changes.
    pub(in crate::router) fn take_policy(&mut self, now: Instant, told: Policy) -> bool {
        let is_older = self.policed.is_older(&told);
        let policy = if is_older { self.policed.policy().with_places_of(&told) } else { told };
        self.set_policy(now, policy)
    }

    /// Carries out another policy: those that it allows notice nothing. False if it is the same.
    pub(in crate::router) fn set_policy(&mut self, now: Instant, policy: Policy) -> bool {
        let relay = &self.relay;
        let is_proved = |own: &OwnTunnel| relay.has_answered(now, own.tunnel, own.nonce, own.response_mac);
        if !self.policed.set(policy, is_proved) {
            return false;
        }
        let groups: Vec<_> = self.mrib.groups().map(|info| info.group).collect();
        // A list that names a source may do so no longer; what flowed by that is judged all the same.
        let before: BTreeSet<_> =
            groups.iter().flat_map(|group| self.mrib.streams(*group)).map(|info| info.stream).collect();
        for (member, group, filter) in self.asked(now) {
            self.want(now, member, group, filter);
        }
        let groups = self.mrib.groups().map(|info| info.group);
        let after = groups.flat_map(|group| self.mrib.streams(group)).map(|info| info.stream);
        let known = after.chain(self.mrib.refused()).chain(self.mrib.passing());
        let streams: BTreeSet<_> = known.chain(before).collect();
        for stream in streams {
            self.judge_source(now, stream);
            if self.mrib.is_refused(stream) && self.mrib.lacks_entry(stream) {
                // Before it is heard under (*,G). Where it comes from does not matter.
                let input = Input::Tunnel(TunnelId(0));
                self.mrib.handle_input(now, mrib::Input::NewSource { stream, input });
            }
        }
        self.mrib.handle_input(now, mrib::Input::Reopen);
        self.settle(now);
        true
    }

    /// Gives a member what the policy allows of what it wants of a group, as far as there is room on its account.
    pub(super) fn want(&mut self, now: Instant, member: Output, group: IpAddr, wanted: Filter) {
        let who = self.subject(member, group);
        let had = self.mrib.filter_of(group, member);
        let filter = self.policed.permit(who, member, group, wanted, &had);
        self.tell_refusal(now);
        let account = match member {
            Output::Interface(ifindex) => Some(Account::Interface(ifindex)),
            Output::Tunnel(_) => who.address.map(|address| Account::Network(relay::Prefix::of(address))),
            Output::Neighbour(_) | Output::Converted(_) => None,
        };
        let takes_any = matches!(filter, Filter::Exclude(_));
        self.mrib.handle_input(now, mrib::Input::Membership { member, group, filter, account });
        if takes_any {
            for (stream, input) in self.unasked.take(now, group) {
                self.new_source(now, stream, input);
            }
        }
    }

    /// A source is heard under (*,G); it gets an (S,G).
    pub(in crate::router) fn new_source(&mut self, now: Instant, stream: Stream, input: Input) {
        // An entry would let one through that may not send.
        if self.judge_source(now, stream) {
            self.mrib.handle_input(now, mrib::Input::NewSource { stream, input });
        }
    }

    fn tell_refusal(&mut self, now: Instant) {
        if let Some(refusal) = self.policed.take_refusal() {
            self.news.refused(now, refusal);
        }
    }

    /// The joins that are refused to gateways.
    pub(in crate::router) fn refused_joins(&self) -> impl Iterator<Item = v1::RefusedJoin> {
        self.policed.refused().filter_map(|(number, group, refused)| {
            let Some(Output::Tunnel(id)) = Output::from_number(number) else { return None };
            let (_, remote, _) = self.relay.ends(id.0)?;
            let (tunnel, group) = (remote.to_string(), group.to_string());
            Some(v1::RefusedJoin { tunnel, group, reason: refused.reason.to_string() })
        })
    }

    /// Streams were measured: there may be room for joins that were refused.
    pub(super) fn measure(&mut self, now: Instant, streams: &[StreamStats]) {
        for StreamStats { stream, counters, .. } in streams {
            self.policed.note(now, *stream, counters.bytes);
        }
        for (member, group, filter) in self.policed.reconsider() {
            // One to which there is no way at present says it again when there is.
            let waits = matches!(member, Output::Tunnel(id) if self.tunnels.is_waiting(id.0));
            if !waits {
                self.want(now, member, group, filter);
            }
        }
    }

    /// A member is gone with all its groups.
    pub(super) fn member_gone(&mut self, member: Output) {
        self.policed.gone(member);
    }

    /// Refuses a source, or no longer. False if it may not send, and there is no room to refuse it.
    pub(super) fn judge_source(&mut self, now: Instant, stream: Stream) -> bool {
        let Some(source) = stream.source else { return true };
        let known = self.mrib.is_refused(stream);
        let refused = match (known, self.policed.policy().send(source, stream.group)) {
            (true, Err(_)) | (false, Ok(())) => return true,
            (true, Ok(())) => false,
            // It is not forwarded, and there may be very many.
            (false, Err(_)) if self.mrib.awaits_source(stream) => true,
            (false, Err(_)) => !self.policed.may_send(source, stream.group),
        };
        self.tell_refusal(now);
        self.mrib.handle_input(now, mrib::Input::Refuse { stream, refused });
        !refused || self.mrib.is_refused(stream)
    }

    /// What rules on members are compared with: the far end of a tunnel; of the hosts on a link, whom nobody tells apart
    /// here, our address in their network.
    fn subject(&self, member: Output, group: IpAddr) -> Subject {
        match member {
            Output::Tunnel(id) => {
                self.relay.ends(id.0).map_or_else(Subject::default, |(_, remote, _)| remote.into())
            }
            Output::Interface(ifindex) => {
                let mut addresses = self
                    .interfaces
                    .get(&ifindex)
                    .into_iter()
                    .flat_map(|state| state.addresses.iter().copied());
                addresses.find(|address| address.is_ipv4() == group.is_ipv4()).into()
            }
            // What the operator states is not a member's wish.
            Output::Neighbour(_) | Output::Converted(_) => Subject::default(),
        }
    }

    /// Everything that members ask for at present.
    fn asked(&self, now: Instant) -> Vec<(Output, IpAddr, Filter)> {
        let tunnels = self.relay.tunnels().filter(|info| !self.tunnels.is_waiting(info.id));
        let of_tunnels = tunnels.flat_map(|info| {
            let member = Output::Tunnel(tunnel_id(info.id));
            info.groups.into_iter().map(move |(group, filter)| (member, group, filter))
        });
        let of_links = self.interfaces.iter().flat_map(|(&ifindex, state)| {
            let serving = state.queriers.values().filter(|querier| state.beside_querier || querier.serves());
            serving.flat_map(move |querier| {
                let groups = querier.groups(now).map(|info| info.group);
                groups.map(move |group| (Output::Interface(ifindex), group, querier.filter(group)))
            })
        });
        of_tunnels.chain(of_links).collect()
    }
}
