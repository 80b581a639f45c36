//! Two VMRs, one above the other, and clients of the lower one on links of their own.
//!
//! ```text
//! +--------+ 10.1.0.0/24 +-------+ 10.2.0.0/24 +-------+ 10.5.1.0/24  +---------+
//! | source |-------------| upper |-------------| lower |--------------| client1 |
//! | .2     |       src0  |       | core0 core0 |       | acc1         | .2      |
//! +--------+             |       |             |       | 10.5.2.0/24  +---------+
//!                        +-------+             |       |--------------| client2 |
//!                        10.99.0.1             +-------+ acc2         +---------+
//! ```

use std::net::{IpAddr, Ipv4Addr};

use libtest_mimic::Failed;
use vmcast_lab::{
    Namespace,
    roles::{Engine, Launcher, Role, wait_ready},
};

use super::{
    bed::{Bed, Outcome},
    small::{IGMP, SOURCE, VMR, client_address, gateway_of, static_agent},
};

/// Where the upper VMR takes tunnels, on no network of its own: only a route leads there.
pub(super) const UPSTREAM: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// Its end of the network between the two VMRs.
pub(super) const UPPER: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 1);
/// Two addresses for the other end; it has the first.
pub(super) const LOWER: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 2, 0, 2), Ipv4Addr::new(10, 2, 0, 3)];

/// The nodes.
pub(super) struct Chain {
    pub(super) source: Namespace,
    pub(super) upper: Namespace,
    pub(super) lower: Namespace,
    pub(super) clients: [Namespace; 2],
}

impl Chain {
    /// Builds the network; no way leads from the lower VMR to the upper one yet.
    pub(super) fn build(bed: &mut Bed) -> Result<Self, Failed> {
        let [source, upper, lower] = bed.lab.namespaces(["source", "upper", "lower"])?;
        let clients = bed.lab.namespaces(["client1", "client2"])?;
        bed.lab.veths(&[
            ((&source, "eth0"), (&upper, "src0")),
            ((&upper, "core0"), (&lower, "core0")),
            ((&lower, "acc1"), (&clients[0], "eth0")),
            ((&lower, "acc2"), (&clients[1], "eth0")),
        ])?;
        source.ip(&format!("addr add {SOURCE}/24 dev eth0\nroute add default via {VMR}"))?;
        upper.ip(&format!(
            "addr add {VMR}/24 dev src0\naddr add {UPPER}/24 dev core0\naddr add {UPSTREAM}/32 dev lo"
        ))?;
        lower.ip(&format!("addr add {}/24 dev core0", LOWER[0]))?;
        for (number, client) in (1..).zip(&clients) {
            let gateway = gateway_of(number);
            lower.ip(&format!("addr add {gateway}/24 dev acc{number}"))?;
            client.ip(&format!(
                "addr add {}/24 dev eth0\nroute add default via {gateway}",
                client_address(number)
            ))?;
        }
        Ok(Self { source, upper, lower, clients })
    }

    /// Adds the route to the upper VMR.
    pub(super) fn open_way(&self) -> Outcome {
        Ok(self.lower.ip(&format!("route add {UPSTREAM}/32 via {UPPER}"))?)
    }

    /// Starts the upper VMR and waits for it.
    pub(super) fn start_upper(&self, bed: &Bed) -> Result<Role, Failed> {
        self.start_upper_at(bed, UPSTREAM)
    }

    /// The same where it takes tunnels at another address.
    pub(super) fn start_upper_at(&self, bed: &Bed, address: impl Into<IpAddr>) -> Result<Role, Failed> {
        let tunnel = format!("[tunnel]\naddress = \"{}\"\n", address.into());
        let interfaces = [("src0", true), ("core0", false)];
        let mut role = start(&bed.launcher, bed, &self.upper, 0, &tunnel, &interfaces)?;
        wait_ready([&mut role], bed.clock)?;
        Ok(role)
    }

    /// Starts the lower VMR; `tables` say where its upstream is.
    pub(super) fn start_lower(&self, launcher: &Launcher, bed: &Bed, tables: &str) -> Result<Role, Failed> {
        let interfaces = [("core0", false), ("acc1", false), ("acc2", false)];
        start(launcher, bed, &self.lower, 1, tables, &interfaces)
    }

    /// Starts the agents of both clients and waits for them.
    pub(super) fn agents(&self, bed: &Bed) -> Result<[Role; 2], Failed> {
        let [first, second] = &self.clients;
        let mut agents =
            [static_agent(bed, first, gateway_of(1), "")?, static_agent(bed, second, gateway_of(2), "")?];
        wait_ready(&mut agents, bed.clock)?;
        Ok(agents)
    }
}

/// Starts a VMR; `tables` stand before its interfaces.
fn start(
    launcher: &Launcher,
    bed: &Bed,
    node: &Namespace,
    rank: u32,
    tables: &str,
    interfaces: &[(&str, bool)],
) -> Result<Role, Failed> {
    start_with(launcher, bed, node, rank, tables, interfaces, Engine::Auto)
}

/// The same with this engine.
pub(super) fn start_with(
    launcher: &Launcher,
    bed: &Bed,
    node: &Namespace,
    rank: u32,
    tables: &str,
    interfaces: &[(&str, bool)],
    engine: Engine,
) -> Result<Role, Failed> {
    let pins = bed.lab.bpffs()?.join(node.node());
    let mut tables = format!(
        "{tables}[dataplane]\nengine = \"{}\"\non_exit = \"remove\"\npin_path = \"{}\"\n{IGMP}",
        engine.label(),
        pins.display()
    );
    for (name, accepts_sources) in interfaces {
        tables.push_str(&format!("[[interface]]\nname = \"{name}\"\naccepts_sources = {accepts_sources}\n"));
    }
    Ok(launcher.start(node, "router", &format!("rank = {rank}\n"), &tables)?)
}

/// Waits until the upstream of a VMR answers.
pub(super) fn upstream_is_up(bed: &Bed, router: &Role) -> Outcome {
    bed.until_answer("the upstream answers", router, &["status"], |status| {
        status["upstream"]["state"] == "up"
    })?;
    Ok(())
}
