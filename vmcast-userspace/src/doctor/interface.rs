//! Judges an interface.

use vmcast_dataplane::probe::OWN_PROGRAMS;

use super::{
    facts::{Asked, Engine, InterfaceFacts, LinkFacts},
    finding::Finding,
};

/// What AMT over IPv4 adds to a packet, in bytes: IPv4, UDP and AMT data headers.
const AMT_OVERHEAD: u32 = 30;
/// What a packet of seven transport-stream packets takes, with RTP and without, in bytes.
const USUAL_PACKET: u32 = 1356;

pub(super) fn judge(facts: &InterfaceFacts, engine: &Engine) -> Vec<Finding> {
    let InterfaceFacts { asked, link } = facts;
    let name = &asked.name;
    let mut findings = Vec::new();
    match link {
        None => findings.push(
            Finding::error("there is no interface of this name", "the router does not start without it")
                .mend("`ip -brief link` lists those there are; correct its name, or make it"),
        ),
        Some(link) => {
            findings.extend(refused(asked));
            findings.extend(state(name, link, asked));
            findings.extend(hook(link));
            findings.extend(programs(name, link, engine));
            findings.extend(driver(name, link, asked, engine));
            findings.extend(offloads(name, link, asked, engine));
            findings.extend(queues(name, link, asked, engine));
            findings.extend(surroundings(name, link, asked));
        }
    }
    for finding in &mut findings {
        finding.interface = Some(name.clone());
    }
    findings
}

/// What the router has no room for.
fn refused(asked: &Asked) -> Option<Finding> {
    let reason = asked.refused.as_ref()?;
    let finding = Finding::error(
        format!("the router does not take it: {reason}"),
        "nothing comes in or leaves by it until another interface goes",
    );
    Some(finding.mend("raise the key that is named in [dataplane] and start the router again"))
}

fn device<'a>(name: &'a str, link: &'a LinkFacts) -> &'a str {
    link.device.as_deref().unwrap_or(name)
}

fn is_veth(link: &LinkFacts) -> bool {
    link.kind.as_deref() == Some("veth")
}

fn state(name: &str, link: &LinkFacts, asked: &Asked) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !link.up {
        let down =
            Finding::error("it is down", "nothing comes in or leaves").mend(format!("ip link set {name} up"));
        // Nobody said that it is to be used.
        findings.push(if asked.configured { down } else { Finding::ok("it is down") });
    } else if !link.running {
        findings.push(Finding::warning(
            "it has no carrier",
            "nothing comes in or leaves until the other end is up",
        ));
    }
    let room = link.mtu.saturating_sub(AMT_OVERHEAD);
    findings.push(if room < USUAL_PACKET {
        Finding::warning(
            format!("its MTU is {} bytes", link.mtu),
            format!("packets longer than {room} bytes do not fit into its AMT tunnels; `vmcast stats` counts them as oversize"),
        )
        .mend(format!("ip link set {name} mtu 1500, if all of its network takes that"))
    } else {
        Finding::ok(format!("MTU {}: packets of up to {room} bytes fit into AMT tunnels", link.mtu))
    });
    findings
}

fn hook(link: &LinkFacts) -> Option<Finding> {
    let hook = link.hook.as_deref()?;
    Some(Finding::ok(format!("frames are taken at {hook}")))
}

/// Programs of others, and who they are.
fn programs(name: &str, link: &LinkFacts, engine: &Engine) -> Vec<Finding> {
    let device = device(name, link);
    let is_own = |name: &Option<String>| name.as_ref().is_some_and(|name| name.starts_with(OWN_PROGRAMS));
    let foreign = link.programs.iter().filter(|(_, name)| !is_own(name));
    let judged = foreign.map(|(id, who)| {
        let who = who.as_deref().unwrap_or("without a name");
        let found = format!("another XDP program is on {device}: {who} (id {id})");
        let mend = format!(
            "ip link set {device} xdp off, if nothing needs it; `bpftool prog show id {id}` tells more"
        );
        if engine.is_only_xdp() {
            Finding::warning(
                found,
                "XDP takes one program only, so what comes in is looked at at TC, which is slower",
            )
            .mend(mend)
        } else if engine.is_xdp() {
            Finding::warning(
                found,
                "XDP takes one program only, so this device is served at TC, which is slower",
            )
            .mend(mend)
        } else {
            Finding::warning(found, "it sees packets before vmcast, and may take them")
        }
    });
    judged.collect()
}

fn driver(name: &str, link: &LinkFacts, asked: &Asked, engine: &Engine) -> Vec<Finding> {
    let Some(features) = link.features.filter(|_| engine.is_xdp()) else {
        return Vec::new();
    };
    let device = device(name, link);
    if link.bare && !engine.is_only_xdp() {
        return vec![Finding::ok(format!("packets of {device} have no link-layer header: TC serves it"))];
    }
    if !features.takes_redirected() && asked.copies {
        let found = format!("{device} takes no frames redirected at XDP");
        let mut finding = if engine.is_only_xdp() {
            Finding::error(found, "the router does not start with dataplane.engine = \"xdp\"")
                .mend("write engine = \"auto\" in [dataplane]")
        } else {
            Finding::warning(found, "copies that leave by it are made at TC, which is slower")
        };
        if is_veth(link) {
            finding = finding.mend("ethtool -K PEER gro on, where PEER is the other end of the veth");
        }
        return vec![finding];
    }
    vec![if features.is_native() {
        Finding::ok(format!("the driver of {device} runs XDP programs and sends what they redirect"))
    } else {
        Finding::warning(
            format!("the driver of {device} has no XDP"),
            "what comes in by it is looked at by TC, which is slower",
        )
    }]
}

fn offloads(name: &str, link: &LinkFacts, asked: &Asked, engine: &Engine) -> Vec<Finding> {
    let Some(offloads) = link.offloads else {
        return Vec::new();
    };
    let device = device(name, link);
    let tagged = asked.tagged || link.device.is_some();
    let mut findings = Vec::new();
    if offloads.lro {
        findings.push(
            Finding::error(
                format!("{device} merges packets it receives (LRO)"),
                "merged packets are not the source's any more",
            )
            .mend(format!("ethtool -K {device} lro off")),
        );
    }
    // TC gets a tag that was taken out told beside the packet; XDP does not.
    if offloads.rx_vlan && engine.is_xdp() && !is_veth(link) {
        let found = format!("{device} takes VLAN tags out of frames before XDP sees them (rx-vlan-offload)");
        let mend = format!("ethtool -K {device} rx-vlan-offload off");
        findings.push(if tagged {
            Finding::error(found, "streams in VLANs are taken for streams without a tag").mend(mend)
        } else {
            Finding::warning(found, "a stream in a VLAN of this device would be taken for one without a tag")
                .mend(mend)
        });
    }
    if is_veth(link) && tagged && engine.is_xdp() {
        findings.push(
            Finding::warning(
                "the other end of a veth may keep VLAN tags beside the frame",
                "XDP then takes streams in VLANs for streams without a tag",
            )
            .mend("ethtool -K PEER tx-vlan-offload off, where PEER is the other end of the veth"),
        );
    }
    if is_veth(link) && asked.accepts_sources && offloads.tx_checksum && engine.is_xdp() {
        findings.push(
            Finding::warning(
                "senders behind a veth leave their checksums to it, unless told not to",
                "the copies that XDP makes of such packets have wrong UDP checksums, and receivers drop them",
            )
            .mend(
                "ethtool -K PEER tx off, where PEER is the other end of the veth; ignore it if that is done",
            ),
        );
    }
    findings
}

/// Frames that XDP sends pass no queueing discipline.
fn queues(name: &str, link: &LinkFacts, asked: &Asked, engine: &Engine) -> Option<Finding> {
    let by_xdp = engine.is_xdp() && link.features.is_none_or(|features| features.takes_redirected());
    if asked.queues != Some(false) || !asked.copies || !by_xdp {
        return None;
    }
    let device = device(name, link);
    Some(
        Finding::warning(
            format!("copies that XDP sends by {device} pass none of its queues"),
            "queue and skb_priority of [[priority]] tables do nothing here; dscp and pcp do",
        )
        .mend("write engine = \"tc\" in its [[interface]] table, or in the [[priority]] table for those groups alone"),
    )
}

fn surroundings(name: &str, link: &LinkFacts, asked: &Asked) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some((master, kind)) = &link.master {
        if kind.as_deref() == Some("bridge") {
            findings.push(
                Finding::warning(
                    format!("it is a port of the bridge {master}"),
                    "the bridge has its addresses and hears its IGMP; its frames are looked at at TC, which is slower",
                )
                .mend(format!("write name = \"{master}\" in its [[interface]] table")),
            );
        } else {
            let kind = kind.as_deref().unwrap_or("device");
            findings.push(
                Finding::warning(
                    format!("it is a port of the {kind} {master}"),
                    format!("its addresses are those of {master}"),
                )
                .mend(format!("write name = \"{master}\" in its [[interface]] table")),
            );
        }
    }
    if link.rp_filter == Some(1) && asked.configured {
        findings.push(
            Finding::warning(
                "reverse path filtering is strict (rp_filter is 1)",
                "requests for tunnels that come by another way than the answers take are dropped by the kernel",
            )
            .mend(format!("sysctl -w net.ipv4.conf.{}.rp_filter=2", name.replace('.', "/"))),
        );
    }
    findings
}
