//! One stream through more static tunnels than one run of a program serves, over IPv4 and IPv6, to far ends that
//! are known in every way: a permanent entry of the neighbour table, or one that the kernel asks for.
//!
//! ```text
//! +--------+ 10.1.0.0/24 +-----+ 10.70.L.0/24, fd70:L::/64 +-----+
//! | source |-------------| vmr |---------------------------| far |
//! | .2     |        src0 | .1  | bb1 to bb20, or bb1 alone |     |
//! +--------+             +-----+                           +-----+
//! ```

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use libtest_mimic::Trial;
use serde_json::Value;
use vmcast_lab::{
    Namespace,
    roles::{Engine, wait_ready},
    traffic::GroupPort,
};

use super::{
    bed::{Bed, Outcome, ensure, trials_by_engines},
    stream::{Sender, number},
};
use crate::wire::Wire;

pub(super) fn trials() -> Vec<Trial> {
    let engines = [Engine::Xdp, Engine::Tc, Engine::Software];
    [
        trials_by_engines(engines, "a stream goes into 140 tunnels on one link", on_one_link),
        trials_by_engines(engines, "a stream goes into 140 tunnels on twenty links", on_many_links),
        trials_by_engines(engines, "a stream goes into 140 tunnels to four far ends", to_few_ends),
    ]
    .into_iter()
    .flatten()
    .collect()
}

const STREAM: GroupPort = GroupPort { group: Ipv4Addr::new(239, 192, 9, 7), port: 5004 };
const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const TUNNELS: u16 = 140;
const SOME: u64 = 40;
const PAYLOAD: usize = 1316;
/// Between two packets: the ring of a veth holds 256, and each packet is 140 copies.
const PACE: Duration = Duration::from_millis(25);
/// Link-layer address of `far`.
const FAR_MAC: [u8; 6] = [2, 0, 0, 0, 0x70, 0];
/// A GRE header with a key (RFC 2890 §2) of a packet of IPv4.
const GRE: [u8; 4] = [0x20, 0, 8, 0];
/// Bytes of the packet inside.
const INNER: usize = 20 + 8 + PAYLOAD;

/// How the far ends stand.
#[derive(Clone, Copy)]
struct Layout {
    /// Between how many links they are divided.
    links: u16,
    /// Whether the tunnels of one kind share a far end.
    few_ends: bool,
}

impl Layout {
    fn tunnels(self) -> impl Iterator<Item = Tunnel> {
        (0..TUNNELS).map(move |number| Tunnel { number, layout: self })
    }
}

/// A tunnel, by its number, which is its key as well.
#[derive(Clone, Copy)]
struct Tunnel {
    number: u16,
    layout: Layout,
}

impl Tunnel {
    fn link(self) -> u16 {
        self.number % self.layout.links + 1
    }

    /// Neither this nor the next goes by the parity of the number, so that every link has all kinds.
    fn is_v6(self) -> bool {
        self.number / 20 % 2 == 1
    }

    fn is_permanent(self) -> bool {
        self.number / 40 % 2 == 1
    }

    fn near(self) -> IpAddr {
        address(self.link(), self.is_v6(), 1)
    }

    /// The host of its far end.
    fn host(self) -> u16 {
        10 + if self.layout.few_ends { self.is_permanent().into() } else { self.number }
    }

    fn far(self) -> IpAddr {
        address(self.link(), self.is_v6(), self.host())
    }

    fn mac(self) -> [u8; 6] {
        let [high, low] = self.host().to_be_bytes();
        if self.is_permanent() { [2, 0, 0, 0x71, high, low] } else { FAR_MAC }
    }
}

fn device(link: u16) -> String {
    format!("bb{link}")
}

fn address(link: u16, v6: bool, host: u16) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0xfd70, link, 0, 0, 0, 0, 0, host).into()
    } else {
        Ipv4Addr::new(10, 70, link as u8, host as u8).into()
    }
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// The numbers that came on each link to each link-layer address, far end and key, in order.
type Came = BTreeMap<(u16, [u8; 6], IpAddr, u32), Vec<u64>>;

fn on_one_link(bed: &mut Bed, engine: Engine) -> Outcome {
    through_all(bed, engine, Layout { links: 1, few_ends: false })
}

fn on_many_links(bed: &mut Bed, engine: Engine) -> Outcome {
    through_all(bed, engine, Layout { links: 20, few_ends: false })
}

fn to_few_ends(bed: &mut Bed, engine: Engine) -> Outcome {
    through_all(bed, engine, Layout { links: 1, few_ends: true })
}

// proves A8 for many tunnels at once
fn through_all(bed: &mut Bed, engine: Engine, layout: Layout) -> Outcome {
    let [source, vmr, far] = bed.lab.namespaces(["source", "vmr", "far"])?;
    let ports: Vec<String> = (1..=layout.links).map(device).collect();
    let mut cables = vec![((&source, "eth0"), (&vmr, "src0"))];
    cables.extend(ports.iter().map(|port| ((&vmr, port.as_str()), (&far, port.as_str()))));
    bed.lab.veths(&cables)?;
    source.ip(&format!("addr add {SOURCE}/24 dev eth0\nroute add default via 10.1.0.1"))?;
    vmr.ip("addr add 10.1.0.1/24 dev src0")?;
    networks(&vmr, &far, layout)?;

    let pins = bed.lab.bpffs()?.join(vmr.node());
    let tables = tables(engine, &pins.display().to_string(), layout);
    let mut router = bed.launcher.start(&vmr, "router", "rank = 0\n", &tables)?;
    wait_ready([&mut router], bed.clock)?;
    let is_resolved = |tunnel: &Value| tunnel["next_hop"]["state"] == "resolved";
    bed.until_answer("the ways to all far ends are known", &router, &["tunnel", "list"], |answer| {
        let tunnels = answer["tunnels"].as_array().map(Vec::as_slice).unwrap_or_default();
        tunnels.len() == usize::from(TUNNELS) && tunnels.iter().all(is_resolved)
    })?;

    let wires: Vec<Wire> =
        far.enter(|| ports.iter().map(|port| Wire::open(port)).collect::<io::Result<_>>())??;
    let sender = Sender::with_pace(&source, SOURCE, STREAM, PACE)?;
    let mut came = Came::new();
    let listen =
        |came: &mut Came| (1..).zip(&wires).try_for_each(|(link, wire)| sort(link, wire.drain(), came));
    bed.until("the source has sent", || {
        listen(&mut came)?;
        Ok(sender.sent() >= SOME)
    })?;
    let sent = sender.stop()?;
    let copies = |came: &Came| came.values().map(|numbers| numbers.len() as u64).sum::<u64>();
    let waited = bed.until("the last packet came everywhere", || {
        listen(&mut came)?;
        Ok(copies(&came) >= sent * u64::from(TUNNELS))
    });
    let drops = router.ask(&["stats"]).unwrap_or_default()["drops"].clone();
    ensure!(waited.is_ok(), "of {sent} packets came {} copies: {drops}", copies(&came));
    let all: Vec<u64> = (0..sent).collect();
    for tunnel in layout.tunnels() {
        let copy = (tunnel.link(), tunnel.mac(), tunnel.far(), tunnel.number.into());
        let got = came.remove(&copy);
        ensure!(got.as_ref() == Some(&all), "through tunnel {} of {sent} came {got:?}", tunnel.number);
    }
    ensure!(came.is_empty(), "nobody's copies were sent: {:02x?}", came.keys());
    ensure!(drops["next_hop_unresolved"].as_u64().unwrap_or(0) == 0, "copies were dropped: {drops}");
    Ok(())
}

/// The networks of the far ends: nobody is spared detecting duplicate addresses (RFC 4862 §5.4).
fn networks(vmr: &Namespace, far: &Namespace, layout: Layout) -> Outcome {
    let (mut near, mut other) = (String::new(), String::new());
    for link in 1..=layout.links {
        let [v4, v6] = [false, true].map(|v6| address(link, v6, 1));
        let name = device(link);
        write!(near, "addr add {v4}/24 dev {name}\naddr add {v6}/64 dev {name}\n")?;
        writeln!(other, "link set {name} address {}", text(FAR_MAC))?;
    }
    let mut ends: BTreeMap<IpAddr, Tunnel> = BTreeMap::new();
    ends.extend(layout.tunnels().map(|tunnel| (tunnel.far(), tunnel)));
    for (end, tunnel) in ends {
        let name = device(tunnel.link());
        if tunnel.is_permanent() {
            writeln!(near, "neigh replace {end} lladdr {} dev {name} nud permanent", text(tunnel.mac()))?;
        } else {
            let length = if tunnel.is_v6() { 64 } else { 24 };
            writeln!(other, "addr add {end}/{length} dev {name}")?;
        }
    }
    far.ip(&other)?;
    vmr.ip(&near)?;
    Ok(())
}

fn tables(engine: Engine, pins: &str, layout: Layout) -> String {
    let mut text = format!(
        "[dataplane]\nengine = \"{}\"\npin_path = \"{pins}\"\n[[interface]]\nname = \"src0\"\naccepts_sources = true\n",
        engine.label()
    );
    for link in 1..=layout.links {
        text += &format!("[[interface]]\nname = \"{}\"\n", device(link));
    }
    let mut to = Vec::new();
    for tunnel in layout.tunnels() {
        let (number, near, far) = (tunnel.number, tunnel.near(), tunnel.far());
        text += &format!(
            "[[static_tunnel]]\nname = \"t{number}\"\nkind = \"gre\"\nlocal = \"{near}\"\nremote = \"{far}\"\n\
             key = {number}\n"
        );
        to.push(format!("\"t{number}\""));
    }
    text + &format!("[[forward]]\ngroup = \"{}\"\nfrom = \"src0\"\nto = [{}]\n", STREAM.group, to.join(", "))
}

/// Takes note of every copy of the stream that came on a link, and fails on one that is damaged.
fn sort(link: u16, frames: Vec<Vec<u8>>, came: &mut Came) -> Outcome {
    for frame in frames {
        let Some(number) = frame.len().checked_sub(PAYLOAD).and_then(|at| number(&frame[at..])) else {
            continue;
        };
        let (headers, gre) = frame.split_at(frame.len().saturating_sub(INNER + 8));
        ensure!(gre.starts_with(&GRE), "packet {number} came without its GRE header: {frame:02x?}");
        let key = u32::from_be_bytes([gre[4], gre[5], gre[6], gre[7]]);
        let inner = &gre[8..28];
        ensure!(
            inner[8] == 15 && inner[16..20] == STREAM.group.octets(),
            "packet {number} came as {inner:02x?}"
        );
        let (mac, far) = ends(headers).ok_or_else(|| format!("packet {number} came in {headers:02x?}"))?;
        came.entry((link, mac, far, key)).or_default().push(number);
    }
    Ok(())
}

/// Whom the frame and the packet of these headers go to.
fn ends(headers: &[u8]) -> Option<([u8; 6], IpAddr)> {
    let (link, outer) = headers.split_first_chunk::<14>()?;
    let far = match (&link[12..], outer.len()) {
        ([8, 0], 20) => IpAddr::from(*outer.last_chunk::<4>()?),
        ([0x86, 0xdd], 40) => IpAddr::from(*outer.last_chunk::<16>()?),
        _ => return None,
    };
    Some((*link.first_chunk()?, far))
}
