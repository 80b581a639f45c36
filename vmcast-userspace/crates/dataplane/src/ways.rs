//! By what way a member's copies leave.

use vmcast_common::{
    fib::{self, Conversion, ConversionId, IfIndex, Interface, NextHop, NextHopId, Output, Tunnel, TunnelId},
    maps::{MemberEntry, NextHopEntry},
    rewrite,
    verdict::DropReason,
};

/// A way, and what a copy is made with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    pub(crate) egress: IfIndex,
    pub(crate) member: MemberEntry,
    pub(crate) hop: NextHopEntry,
}

impl Way {
    /// Largest packet in bytes that the link takes whole.
    pub(crate) fn whole_max(&self) -> u16 {
        self.hop.mtu.saturating_sub(rewrite::overhead(self.member.kind) as u16)
    }
}

/// What a plane was told of outputs.
pub(crate) trait Ways {
    fn interface(&self, ifindex: IfIndex) -> Option<Interface>;
    fn next_hop(&self, id: NextHopId) -> Option<NextHop>;
    fn tunnel(&self, id: TunnelId) -> Option<Tunnel>;
    fn conversion(&self, id: ConversionId) -> Option<Conversion>;

    /// The way of a member.
    ///
    /// # Errors
    /// The reason why its copies go nowhere.
    fn way(&self, output: Output) -> Result<Way, DropReason> {
        let hop = |id: Option<NextHopId>| {
            let hop = id.and_then(|id| self.next_hop(id));
            hop.ok_or(DropReason::NextHopUnresolved)
        };
        Ok(match output {
            Output::Interface(ifindex) => {
                let interface = self.interface(ifindex).ok_or(DropReason::MemberGone)?;
                let hop = NextHopEntry::native(&interface);
                Way { egress: interface.device, member: MemberEntry::native(0), hop }
            }
            Output::Neighbour(id) => {
                let hop = hop(Some(id))?;
                let member = MemberEntry::neighbour(0);
                Way { egress: hop.ifindex, member, hop: NextHopEntry::of(&hop) }
            }
            Output::Tunnel(id) => {
                let tunnel = self.tunnel(id).ok_or(DropReason::MemberGone)?;
                let hop = hop(tunnel.next_hop)?;
                let member = MemberEntry::tunnel(0, &tunnel).ok_or(DropReason::MemberGone)?;
                Way { egress: hop.ifindex, member, hop: NextHopEntry::of(&hop) }
            }
            Output::Converted(id) => {
                let conversion = self.conversion(id).ok_or(DropReason::MemberGone)?;
                let member = MemberEntry::converted(0, &conversion).ok_or(DropReason::MemberGone)?;
                match conversion.way {
                    fib::Way::Interface(ifindex) => {
                        let interface = self.interface(ifindex).ok_or(DropReason::NextHopUnresolved)?;
                        Way { egress: interface.device, member, hop: NextHopEntry::native(&interface) }
                    }
                    fib::Way::NextHop(id) => {
                        let hop = hop(id)?;
                        Way { egress: hop.ifindex, member, hop: NextHopEntry::of(&hop) }
                    }
                }
            }
        })
    }
}
