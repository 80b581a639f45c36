//! The code points of tags as the kernel's own VLAN devices understand them: by their map each becomes the priority
//! of the packets that come out of the device.

use libtest_mimic::Failed;

use super::PORT;
use crate::{
    bed::{Outcome, ensure},
    devices::Link,
    guest,
    vm::Vm,
};

/// The links that have a tag.
const TAGGED: [Link; 3] = [Link::Vlan, Link::QinQ, Link::TwoTags];
/// What the map of a device makes of the code point; whatever has another stays 0.
const PRIORITY: u8 = 3;

/// Counters of the machine, in one of its network namespaces or without one.
pub(super) struct CodePoints {
    there: String,
}

impl CodePoints {
    /// Lets the devices tell packets with this code point in their inner tag from others, and counts both from now on.
    pub(super) fn watch(vm: &mut Vm, namespace: Option<&str>, pcp: u8) -> Result<Self, Failed> {
        let there = guest::there(namespace);
        let maps: Vec<String> = TAGGED
            .iter()
            .map(|link| {
                format!("{there}ip link set {} type vlan ingress-qos-map {pcp}:{PRIORITY}", link.name())
            })
            .collect();
        let rules: Vec<String> = TAGGED
            .iter()
            .flat_map(|link| {
                let name = link.name();
                ["", "!= "].map(|not| {
                    format!("iifname \"{name}\" udp dport {PORT} meta priority {not}0:{PRIORITY} counter")
                })
            })
            .collect();
        vm.run(&format!(
            "set -e\n{}\n{there}nft -f - <<'END'\ntable inet priorities\ndelete table inet priorities\n\
             table inet priorities {{\n\
             chain in {{\ntype filter hook input priority 0\n{}\n}}\n}}\nEND",
            maps.join("\n"),
            rules.join("\n")
        ))?;
        Ok(Self { there })
    }

    /// Fails unless out of each device so many packets came that had the code point, and so many others.
    pub(super) fn judge(&self, vm: &mut Vm, with: u64, without: u64) -> Outcome {
        let counted = vm.run(&format!(
            "{}nft list chain inet priorities in | sed -n 's/.* counter packets \\([0-9]*\\) .*/\\1/p'",
            self.there
        ))?;
        let wanted = TAGGED.map(|_| format!("{with}\n{without}")).join("\n");
        ensure!(
            counted == wanted,
            "of {TAGGED:?} came, with the code point and without it,\n{counted}\nnot\n{wanted}"
        );
        Ok(())
    }
}
