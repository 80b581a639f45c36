//! The smallest network with everything in it: a source, one VMR, and clients on links of their own.
//!
//! ```text
//! +--------+ 10.1.0.0/24 +-----+ 10.5.1.0/24  +---------+
//! | source |-------------| vmr |--------------| client1 |
//! | .2  .3 |       src0  |     | acc1         | .2      |
//! +--------+             |     |              +---------+
//!                        |     | 10.5.2.0/24  +---------+
//!                        |     |--------------| client2 |
//!                        +-----+ acc2         +---------+
//! ```

use std::net::{IpAddr, Ipv4Addr};

use libtest_mimic::Failed;
use vmcast_lab::{
    Namespace,
    roles::{AGENT_INTERFACE, Engine, Launcher, Role, wait_ready},
    traffic::{GroupPort, Witness},
};

use super::bed::Bed;

/// A group that agents capture.
pub(super) const STREAM: GroupPort = GroupPort { group: Ipv4Addr::new(239, 192, 7, 1), port: 5004 };
/// The first address of the source.
pub(super) const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
/// Its second.
pub(super) const SOURCE2: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 3);
/// The VMR on the source's network.
pub(super) const VMR: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);

/// The admin, where there is one.
pub(super) const ADMIN: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
/// Where nodes find it.
pub(super) const ADMIN_TABLE: &str = "[admin]\nurls = [\"http://10.9.0.2:8440\"]\ninsecure = true\n";

/// IGMP for labs: a leave is complete soon, as the launcher of the main lab has it.
pub(super) const IGMP: &str = "[igmp]\nlast_member_query_interval_seconds = 0.2\n";

/// The nodes.
pub(super) struct Small {
    pub(super) source: Namespace,
    pub(super) vmr: Namespace,
    pub(super) clients: Vec<Namespace>,
}

/// What sets the VMR apart.
#[derive(Clone, Copy, Default)]
pub(super) struct Router<'a> {
    pub(super) engine: Engine,
    /// Whether it is IGMP querier towards the clients.
    pub(super) querier: bool,
    /// Whether its programs stay when it ends.
    pub(super) keep: bool,
    /// More keys of `[dataplane]`.
    pub(super) dataplane: &'a str,
    /// More tables.
    pub(super) tables: &'a str,
    /// More arguments.
    pub(super) arguments: &'a [&'a str],
    /// What starts it, if not that of the lab.
    pub(super) launcher: Option<&'a Launcher>,
}

/// The VMR on the link of a client, counted from 1.
pub(super) const fn gateway_of(client: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 5, client, 1)
}

/// A client, counted from 1.
pub(super) const fn client_address(client: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 5, client, 2)
}

impl Small {
    pub(super) fn build(bed: &mut Bed, clients: u8) -> Result<Self, Failed> {
        let [source, vmr] = bed.lab.namespaces(["source", "vmr"])?;
        let clients: Vec<Namespace> = (1..=clients)
            .map(|number| bed.lab.namespace(&format!("client{number}")))
            .collect::<Result<_, _>>()?;
        let ports: Vec<String> = (1..=clients.len()).map(|number| format!("acc{number}")).collect();
        let mut cables = vec![((&source, "eth0"), (&vmr, "src0"))];
        cables.extend(
            ports.iter().zip(&clients).map(|(port, client)| ((&vmr, port.as_str()), (client, "eth0"))),
        );
        bed.lab.veths(&cables)?;
        vmr.sysctl(&[("ipv4/ip_forward", "1")])?;
        source.ip(&format!(
            "addr add {SOURCE}/24 dev eth0\naddr add {SOURCE2}/24 dev eth0\nroute add default via {VMR}"
        ))?;
        vmr.ip(&format!("addr add {VMR}/24 dev src0"))?;
        for (number, client) in (1..).zip(&clients) {
            vmr.ip(&format!("addr add {}/24 dev acc{number}", gateway_of(number)))?;
            client.ip(&format!(
                "addr add {}/24 dev eth0\nroute add default via {}",
                client_address(number),
                gateway_of(number)
            ))?;
        }
        Ok(Self { source, vmr, clients })
    }

    /// Adds the host of an admin, on a network of its own behind the VMR: it is [`ADMIN`] to everybody.
    pub(super) fn admin(&self, bed: &mut Bed) -> Result<Namespace, Failed> {
        let admin = bed.lab.namespace("admin")?;
        bed.lab.veth((&admin, "eth0"), (&self.vmr, "adm0"))?;
        admin.ip(&format!("addr add {ADMIN}/24 dev eth0\nroute add default via 10.9.0.1"))?;
        self.vmr.ip("addr add 10.9.0.1/24 dev adm0")?;
        Ok(admin)
    }

    /// Starts the VMR and waits for it.
    pub(super) fn router(&self, bed: &Bed, router: Router<'_>) -> Result<Role, Failed> {
        let mut role = self.start_router(bed, router)?;
        wait_ready([&mut role], bed.clock)?;
        Ok(role)
    }

    /// Starts the VMR with more keys of `[igmp]` and of each client's interface, and waits for it.
    pub(super) fn router_with_timers(
        &self,
        bed: &Bed,
        router: Router<'_>,
        igmp: &str,
        interface: &str,
    ) -> Result<Role, Failed> {
        let mut role = self.start(bed, router, igmp, interface)?;
        wait_ready([&mut role], bed.clock)?;
        Ok(role)
    }

    /// Starts the VMR.
    pub(super) fn start_router(&self, bed: &Bed, router: Router<'_>) -> Result<Role, Failed> {
        self.start(bed, router, "", "")
    }

    fn start(&self, bed: &Bed, router: Router<'_>, igmp: &str, interface: &str) -> Result<Role, Failed> {
        let Router { engine, querier, keep, dataplane, tables, arguments, launcher } = router;
        let pins = bed.lab.bpffs()?.join(self.vmr.node());
        let on_exit = if keep { "keep" } else { "remove" };
        let mut tables = format!(
            "{tables}[dataplane]\nengine = \"{}\"\non_exit = \"{on_exit}\"\npin_path = \"{}\"\n{dataplane}{IGMP}{igmp}\
             [[interface]]\nname = \"src0\"\naccepts_sources = true\n",
            engine.label(),
            pins.display()
        );
        for number in 1..=self.clients.len() {
            tables.push_str(&format!(
                "[[interface]]\nname = \"acc{number}\"\nquerier = {querier}\n{interface}"
            ));
        }
        let launcher = launcher.unwrap_or(&bed.launcher);
        Ok(launcher.start_with(&self.vmr, "router", arguments, "rank = 0\n", &tables)?)
    }

    /// Starts the agents of the clients counted from 1, which know their VMR by its address.
    pub(super) fn agents(
        &self,
        bed: &Bed,
        clients: impl IntoIterator<Item = u8>,
    ) -> Result<Vec<Role>, Failed> {
        let mut roles = Vec::new();
        for number in clients {
            roles.push(static_agent(bed, self.client(number), gateway_of(number), "")?);
        }
        wait_ready(&mut roles, bed.clock)?;
        Ok(roles)
    }

    /// The address of the VMR's interface on the link of a client.
    pub(super) fn vmr_mac(&self, number: u8) -> Result<[u8; 6], Failed> {
        let mut command = std::process::Command::new("ip");
        command.args(["-json", "link", "show", &format!("acc{number}")]);
        let output = self.vmr.run(command)?;
        let links: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let text = links[0]["address"].as_str().ok_or("an interface without an address")?;
        let bytes: Vec<u8> =
            text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
        bytes.try_into().map_err(|_| format!("{text} is no link-layer address").into())
    }

    /// A client, counted from 1.
    pub(super) fn client(&self, number: u8) -> &Namespace {
        &self.clients[usize::from(number) - 1]
    }

    /// Watches the wire of a client for the stream, which is forbidden there from now on.
    pub(super) fn forbid(&self, bed: &Bed, number: u8) -> Result<Witness, Failed> {
        let witness = Witness::start(self.client(number), "eth0", STREAM, bed.clock)?;
        witness.forbid(true);
        Ok(witness)
    }
}

/// Starts an agent that knows its VMR by address.
pub(super) fn static_agent(
    bed: &Bed,
    node: &Namespace,
    vmr: impl Into<IpAddr>,
    tables: &str,
) -> Result<Role, Failed> {
    let vmr = vmr.into();
    let tables = format!(
        "{tables}[upstream]\nfrom = \"static\"\naddress = \"{vmr}\"\n[interface]\nname = \"{AGENT_INTERFACE}\"\n{IGMP}"
    );
    Ok(bed.launcher.start(node, "agent", "", &tables)?)
}
