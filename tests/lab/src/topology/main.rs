//! The network of the main job: a multicast source, a backbone that routes unicast only, an access network.
//!
//! ```text
//!  multicast-capable            backbone: plain Linux routers,              access network: unicast,
//!  source network               unicast routes, nothing of vmcast           one broadcast segment
//!  10.1.0.0/24          10.2.0.0/24     10.3.0.0/24     10.4.0.0/24         10.5.0.0/24
//!
//! +--------+ +--------+ +------+   +-------+   +-------+   +------+   +--------+   +-----------+
//! | source |-| srclan |-| vmr1 |---| core1 |---| core2 |---| vmr2 |---| access |-+-| client1   |
//! | ffmpeg | | switch | | VMR  | A | router| A | router| A | VMR  | A | switch | | | agent     |
//! |   .2   | |        | |.1  .1| M |.2   .1| M |.2   .1| M |.2  .1| M |        | | | player .11|
//! +--------+ +--------+ +------+ T +-------+ T +-------+ T +------+ T +--------+ | +-----------+
//!                                     | .1                                       +-| client2 .12
//!                                     | 10.9.0.0/24                              +-| client3 .13
//!                                  +-------+                                     +-| bystander .99
//!                                  | admin |                                         agent, never
//!                                  |  .2   |                                         joins
//!                                  +-------+
//! ```
//!
//! One copy of the stream crosses each link of the backbone; vmr2 makes one for each client that joined.

use std::net::Ipv4Addr;

use crate::{Lab, LabError, Namespace};

/// The addresses of the main topology.
pub mod address {
    use std::net::Ipv4Addr;

    /// The source.
    pub const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
    /// VMR 1, towards the backbone; its tunnels end here.
    pub const VMR1: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 1);
    /// VMR 2, towards the backbone; its tunnels end here.
    pub const VMR2: Ipv4Addr = Ipv4Addr::new(10, 4, 0, 2);
    /// VMR 2, towards its clients.
    pub const VMR2_ACCESS: Ipv4Addr = Ipv4Addr::new(10, 5, 0, 1);
    /// The admin.
    pub const ADMIN: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
}

/// A host of the access network.
#[derive(Clone, Debug)]
pub struct Client {
    /// Its node.
    pub node: Namespace,
    /// Its address on the access network, on `eth0`.
    pub address: Ipv4Addr,
}

/// The nodes of the main topology, cabled, addressed and routed.
#[derive(Clone, Debug)]
pub struct MainTopology {
    /// The host of the source; `eth0` is on the source network.
    pub source: Namespace,
    /// The switch of the source network; its ports are `source` and `vmr1`.
    pub srclan: Namespace,
    /// VMR 1; `src0` is on the source network, `bb0` on the backbone.
    pub vmr1: Namespace,
    /// Backbone router; `vmr1`, `core2` and `admin` are its interfaces.
    pub core1: Namespace,
    /// Backbone router; `core1` and `vmr2` are its interfaces.
    pub core2: Namespace,
    /// VMR 2; `bb0` is on the backbone, `acc0` on the access network.
    pub vmr2: Namespace,
    /// The switch of the access network; its ports are `vmr2` and the names of the clients.
    pub access: Namespace,
    /// Those who join.
    pub clients: Vec<Client>,
    /// One who never joins.
    pub bystander: Client,
    /// The host of the admin; `eth0` is on a network of its own.
    pub admin: Namespace,
}

impl MainTopology {
    /// Builds it.
    ///
    /// # Errors
    /// Without root, or if the kernel lacks network namespaces, veth or bridges.
    pub fn build(lab: &mut Lab) -> Result<Self, LabError> {
        let [source, srclan, vmr1, core1, core2, vmr2, access, admin] =
            lab.namespaces(["source", "srclan", "vmr1", "core1", "core2", "vmr2", "access", "admin"])?;
        let hosts = lab.namespaces(["client1", "client2", "client3", "bystander"])?;
        let mut cables = vec![
            ((&source, "eth0"), (&srclan, "source")),
            ((&srclan, "vmr1"), (&vmr1, "src0")),
            ((&vmr1, "bb0"), (&core1, "vmr1")),
            ((&core1, "core2"), (&core2, "core1")),
            ((&core2, "vmr2"), (&vmr2, "bb0")),
            ((&vmr2, "acc0"), (&access, "vmr2")),
            ((&core1, "admin"), (&admin, "eth0")),
        ];
        cables.extend(hosts.iter().map(|host| ((host, "eth0"), (&access, host.node()))));
        lab.veths(&cables)?;

        srclan.bridge("br0", &["source", "vmr1"])?;
        access.bridge("br0", &["vmr2", "client1", "client2", "client3", "bystander"])?;
        for router in [&vmr1, &core1, &core2, &vmr2] {
            router.sysctl(&[("ipv4/ip_forward", "1")])?;
        }
        source.ip(
            "addr add 10.1.0.2/24 dev eth0\nroute add default via 10.1.0.1\nroute add 224.0.0.0/4 dev eth0",
        )?;
        vmr1.ip(
            "addr add 10.1.0.1/24 dev src0\naddr add 10.2.0.1/24 dev bb0\nroute add default via 10.2.0.2",
        )?;
        core1.ip(
            "addr add 10.2.0.2/24 dev vmr1\naddr add 10.3.0.1/24 dev core2\naddr add 10.9.0.1/24 dev admin\n\
                  route add 10.1.0.0/24 via 10.2.0.1\nroute add 10.4.0.0/24 via 10.3.0.2\n\
                  route add 10.5.0.0/24 via 10.3.0.2",
        )?;
        core2.ip("addr add 10.3.0.2/24 dev core1\naddr add 10.4.0.1/24 dev vmr2\n\
                  route add 10.5.0.0/24 via 10.4.0.2\nroute add default via 10.3.0.1")?;
        vmr2.ip(
            "addr add 10.4.0.2/24 dev bb0\naddr add 10.5.0.1/24 dev acc0\nroute add default via 10.4.0.1",
        )?;
        admin.ip("addr add 10.9.0.2/24 dev eth0\nroute add default via 10.9.0.1")?;

        let mut all = Vec::with_capacity(hosts.len());
        for (node, last) in hosts.into_iter().zip([11, 12, 13, 99]) {
            let address = Ipv4Addr::new(10, 5, 0, last);
            node.ip(&format!(
                "addr add {address}/24 dev eth0\nroute add default via {}",
                address::VMR2_ACCESS
            ))?;
            all.push(Client { node, address });
        }
        let bystander = all.pop().expect("four hosts");
        Ok(Self { source, srclan, vmr1, core1, core2, vmr2, access, clients: all, bystander, admin })
    }
}
