//! Sources below a proxy (RFC 4605 §4.2): what they send goes to the network above, whoever has joined, and to the
//! networks below that have; never back.
//!
//! ```text
//! +----------+ 10.2.0.0/24 +-------+ 10.5.1.0/24 +---------+
//! | upstream |-------------| proxy |-------------| client1 |  the source
//! +----------+ down0  up0  |       | acc1        +---------+
//!    a host, joins         |       | 10.5.2.0/24 +---------+
//!                          |       |-------------| client2 |  a host, joins
//!                          +-------+ acc2        +---------+
//! ```
//!
//! The networks have IPv6, too: fd02::/64, fd51::/64 and fd52::/64.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6},
    process::Command,
};

use libtest_mimic::{Failed, Trial};
use vmcast_lab::{Namespace, roles::Engine, traffic::GroupPort};

use super::{
    bed::{Bed, Outcome, ensure, trial_with, trials_by_engines},
    proxy::{Chain, dataplane, start},
    stream::{Frames, Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    let engines = [Engine::Xdp, Engine::Tc, Engine::Software];
    let name = "what is sent below a proxy goes up and to the networks that joined and nowhere else";
    let mut trials = Vec::from(trials_by_engines(engines, name, vmcast));
    trials.push(trial_with(
        "igmpproxy takes what is sent below it nowhere",
        "igmpproxy",
        "igmpproxy",
        igmpproxy,
    ));
    trials
}

const SOME: u64 = 150;
/// What is left of the sender's 16 behind a router.
const FORWARDED: u8 = 15;

/// One family's part of the lab.
#[derive(Clone, Copy, Debug)]
struct Stream {
    group: IpAddr,
    below: IpAddr,
    above: IpAddr,
}

const PORT: u16 = 5004;
const V4: Stream = Stream {
    group: IpAddr::V4(Ipv4Addr::new(239, 192, 7, 1)),
    below: IpAddr::V4(Ipv4Addr::new(10, 5, 1, 2)),
    above: IpAddr::V4(Ipv4Addr::new(10, 2, 0, 1)),
};
const V6: Stream = Stream {
    group: IpAddr::V6(Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 7, 1)),
    below: IpAddr::V6(Ipv6Addr::new(0xfd51, 0, 0, 0, 0, 0, 0, 2)),
    above: IpAddr::V6(Ipv6Addr::new(0xfd02, 0, 0, 0, 0, 0, 0, 1)),
};

impl Stream {
    fn send(self, node: &Namespace, from: IpAddr, interface: &'static str) -> Result<Sender, Failed> {
        match (from, self.group) {
            (IpAddr::V4(from), IpAddr::V4(group)) => {
                Sender::start(node, from, GroupPort { group, port: PORT })
            }
            (IpAddr::V6(from), IpAddr::V6(group)) => {
                Sender::start_v6(node, from, SocketAddrV6::new(group, PORT, 0, 0), interface)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => unreachable!("of one family"),
        }
    }

    /// Joins the group, or the source below alone.
    fn join(self, node: &Namespace, interface: &str, by_source: bool) -> Result<Listener, Failed> {
        match (self.below, self.group) {
            (IpAddr::V4(source), IpAddr::V4(group)) => {
                Listener::join(node, GroupPort { group, port: PORT }, by_source.then_some(source))
            }
            (IpAddr::V6(source), IpAddr::V6(group)) => {
                let group = SocketAddrV6::new(group, PORT, 0, 0);
                if by_source {
                    Listener::join_source_v6(node, group, source, interface)
                } else {
                    Listener::join_v6(node, group, interface)
                }
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => unreachable!("of one family"),
        }
    }

    /// Counts packets of a source to the group that a router has sent on to this place.
    fn forwarded(self, node: &Namespace, interface: &'static str, source: IpAddr) -> Result<Frames, Failed> {
        let group = self.group;
        Frames::watch(node, interface, move |frame| match (source, group) {
            (IpAddr::V4(source), IpAddr::V4(group)) => {
                frame[12..14] == [8, 0]
                    && frame[22..24] == [FORWARDED, 17]
                    && frame[26..30] == source.octets()
                    && frame[30..34] == group.octets()
            }
            (_, IpAddr::V6(group)) => {
                let IpAddr::V6(source) = source else { return false };
                frame[12..14] == [0x86, 0xdd]
                    && frame[20..22] == [17, FORWARDED]
                    && frame[22..38] == source.octets()
                    && frame[38..54] == group.octets()
            }
            (IpAddr::V6(_), IpAddr::V4(_)) => false,
        })
    }
}

/// The chain's networks with IPv6, and hosts that know the ways of multicast.
fn build(bed: &mut Bed) -> Result<Chain, Failed> {
    let chain = Chain::build(bed)?;
    chain.upstream.ip(
        "addr add fd02::1/64 dev down0\nroute add 224.0.0.0/4 dev down0\nroute add 10.5.0.0/16 via 10.2.0.2",
    )?;
    chain
        .proxy
        .ip("addr add fd02::2/64 dev up0\naddr add fd51::1/64 dev acc1\naddr add fd52::1/64 dev acc2")?;
    for (number, client) in (1..).zip(&chain.clients) {
        client.ip(&format!("addr add fd5{number}::2/64 dev eth0"))?;
    }
    Ok(chain)
}

// proves RFC 4605 §4.2: a source below, hosts above and beside it that have joined or not, over IPv4 and IPv6
fn vmcast(bed: &mut Bed, engine: Engine) -> Outcome {
    let chain = build(bed)?;
    let timers = "query_interval_seconds = 2\nquery_response_interval_seconds = 1\n";
    let tables = format!(
        "{}engine = \"{}\"\n[igmp]\n{timers}last_member_query_interval_seconds = 0.2\n\
         [mld]\n{timers}last_listener_query_interval_seconds = 0.2\n\
         [[interface]]\nname = \"up0\"\nupstream = true\ngroups = [\"239.192.0.0/16\", \"ff0e::/16\"]\n\
         [[interface]]\nname = \"acc1\"\nquerier = true\naccepts_sources = true\n\
         [[interface]]\nname = \"acc2\"\nquerier = true\n",
        dataplane(bed, &chain.proxy)?,
        engine.label(),
    );
    let _proxy = start(bed, &chain.proxy, &tables)?;
    [V4, V6].into_iter().try_for_each(|stream| {
        judge(bed, &chain, stream)
            .map_err(|failed| format!("{stream:?}: {}", failed.message().unwrap_or("it failed")).into())
    })
}

fn judge(bed: &Bed, chain: &Chain, stream: Stream) -> Outcome {
    let Chain { upstream, clients, .. } = chain;
    let Stream { below, above, group } = stream;
    let up = stream.forwarded(upstream, "down0", below)?;
    let back = stream.forwarded(&clients[0], "eth0", below)?;
    let beside = stream.forwarded(&clients[1], "eth0", below)?;
    // One that may not go up, as its group is none of those.
    let other = match group {
        IpAddr::V4(_) => Stream { group: [239, 193, 7, 1].into(), ..stream },
        IpAddr::V6(_) => Stream { group: Ipv6Addr::new(0xff08, 0, 0, 0, 0, 0, 7, 1).into(), ..stream },
    };
    let kept = other.forwarded(upstream, "down0", below)?;
    let kept_sender = other.send(&clients[0], below, "eth0")?;
    let sender = stream.send(&clients[0], below, "eth0")?;
    bed.until("it goes up though nobody has joined", || Ok(up.count() >= SOME))?;
    ensure!(beside.count() == 0, "{} packets came beside before anybody joined", beside.count());
    // A host above, one beside, and then that one by the source's address.
    let host_above = stream.join(upstream, "down0", false)?;
    host_above.more(bed, SOME)?;
    for by_source in [false, true] {
        let host_beside = stream.join(&clients[1], "eth0", by_source)?;
        host_beside.more(bed, SOME)?;
        host_above.more(bed, SOME)?;
        host_beside.leave().is_whole()?;
        bed.until("the leave has taken effect beside", || {
            let (before, sent) = (beside.count(), sender.sent());
            bed.until("more is sent", || Ok(sender.sent() >= sent + 20))?;
            Ok(beside.count() == before)
        })?;
        host_above.more(bed, SOME)?;
    }
    // What is sent above goes down to whoever has joined, and not up again.
    let returned = stream.forwarded(upstream, "down0", above)?;
    let down = stream.send(upstream, above, "down0")?;
    let from_above = stream.forwarded(&clients[1], "eth0", above)?;
    let host_beside = stream.join(&clients[1], "eth0", false)?;
    bed.until("both sources come beside", || {
        Ok(from_above.count() >= SOME && host_beside.count() >= 3 * SOME)
    })?;
    let heard = host_beside.leave();
    for source in [below, above] {
        let numbers = heard.packets.iter().filter(|(of, _)| *of == source).map(|(_, number)| *number);
        let numbers: Vec<_> = numbers.collect();
        ensure!(numbers.len() > 1, "nothing of {source} came beside");
        let in_order = numbers.windows(2).all(|pair| pair[1] == pair[0] + 1);
        ensure!(in_order, "packets of {source} came twice, or not, or in another order");
    }
    // The one above goes on behind it, which the host there hears from itself.
    let last = sender.stop()? - 1;
    down.more(bed, 10)?;
    down.stop()?;
    host_above.until_last_of(bed, below, last)?;
    let heard = host_above.leave();
    let of_below = heard.packets.iter().filter(|(source, _)| *source == below).map(|(_, number)| *number);
    let numbers: Vec<_> = of_below.collect();
    ensure!(
        numbers.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "the host above did not get each packet once"
    );
    ensure!(heard.damaged == 0, "{} packets came damaged", heard.damaged);
    ensure!(up.count() <= last + 1, "{} packets of {} went up: some twice", up.count(), last + 1);
    ensure!(back.count() == 0, "{} packets came back to where they were sent", back.count());
    ensure!(returned.count() == 0, "{} packets from above went up again", returned.count());
    ensure!(kept_sender.stop()? > SOME, "the source of the other group sent little");
    ensure!(kept.count() == 0, "{} packets of a group went up that was not to", kept.count());
    Ok(())
}

/// The baseline, told what it can be told: that the downstream networks have sources, too.
fn igmpproxy(bed: &mut Bed) -> Outcome {
    let chain = build(bed)?;
    let file = bed.lab.dir().join("igmpproxy.conf");
    fs::write(
        &file,
        "quickleave\nphyint up0 upstream ratelimit 0 threshold 1\naltnet 10.0.0.0/8\n\
         phyint acc1 downstream ratelimit 0 threshold 1\naltnet 10.0.0.0/8\n\
         phyint acc2 downstream ratelimit 0 threshold 1\n",
    )?;
    let mut command = Command::new("igmpproxy");
    command.arg("-n").arg(&file);
    let _igmpproxy = chain.proxy.spawn("igmpproxy", command)?;
    let up = V4.forwarded(&chain.upstream, "down0", V4.below)?;
    let beside = V4.forwarded(&chain.clients[1], "eth0", V4.below)?;
    let _host_above = V4.join(&chain.upstream, "down0", false)?;
    let host_beside = V4.join(&chain.clients[1], "eth0", false)?;
    let down = V4.send(&chain.upstream, V4.above, "down0")?;
    host_beside.more(bed, SOME)?;
    down.stop()?;
    let sender = V4.send(&chain.clients[0], V4.below, "eth0")?;
    sender.more(bed, 4 * SOME)?;
    let (up, beside) = (up.count(), beside.count());
    ensure!((up, beside) == (0, 0), "igmpproxy sent {up} packets up and {beside} beside");
    Ok(())
}
