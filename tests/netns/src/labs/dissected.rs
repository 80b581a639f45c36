//! Our messages as tshark reads them: all seven of AMT, over IPv4 and IPv6, with IGMP and MLD inside (RFC 7450 §5.1.1 to
//! §5.1.7), and the queries of every version.

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Command, Stdio},
};

use libtest_mimic::{Failed, Trial};
use vmcast_lab::{
    Namespace, Process,
    roles::{AGENT_INTERFACE, Engine, wait_ready},
};

use super::{
    bed::{Bed, Outcome, ensure, trial_with},
    hosts::{Hosts, Keys, V4, V6},
    over_ipv6::{self, ends},
    small::{Router, SOURCE, STREAM, Small, gateway_of},
    stream::{Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial_with(
            "tshark reads all seven AMT messages over IPv4 without a complaint",
            "tshark",
            "tshark",
            |bed| all_seven(bed, false),
        ),
        trial_with(
            "tshark reads all seven AMT messages over IPv6 without a complaint",
            "tshark",
            "tshark",
            |bed| all_seven(bed, true),
        ),
        trial_with(
            "tshark reads the queries of IGMPv1 and MLDv1 without a complaint",
            "tshark",
            "tshark",
            |bed| queries(bed, 1, 1, &[IGMP_1, MLD_1, MLD_1_GROUP]),
        ),
        trial_with("tshark reads the queries of IGMPv2 without a complaint", "tshark", "tshark", |bed| {
            queries(bed, 2, 2, &[IGMP_2, IGMP_2_GROUP])
        }),
        trial_with(
            "tshark reads the queries of IGMPv3 and MLDv2 without a complaint",
            "tshark",
            "tshark",
            |bed| {
                queries(bed, 3, 2, &[IGMP_3, IGMP_3_GROUP, IGMP_3_SOURCE, MLD_2, MLD_2_GROUP, MLD_2_SOURCE])
            },
        ),
    ]
}

const SOME: u64 = 50;

/// Captures whole frames of an interface into a file.
fn capture(bed: &Bed, node: &Namespace, interface: &str, file: &Path) -> Result<Process, Failed> {
    let mut command = Command::new("dumpcap");
    command.args(["-P", "-q", "-i", interface, "-w"]).arg(file).stdin(Stdio::null());
    let process = node.spawn("dumpcap", command)?;
    bed.until("the capture has begun", || Ok(std::fs::metadata(file).is_ok_and(|meta| meta.len() > 0)))?;
    Ok(process)
}

fn tshark(file: &Path, arguments: &[&str]) -> Result<String, Failed> {
    let output = Command::new("tshark")
        // AMT's UDP has no checksum over IPv6 either (RFC 7450 §4.2.2.3, RFC 6935).
        .args(["-n", "-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE"])
        .args(["-o", "udp.ignore_ipv6_zero_checksum:TRUE", "-r"])
        .arg(file)
        .args(arguments)
        .stdin(Stdio::null())
        .output()?;
    ensure!(output.status.success(), "tshark {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// An agent asks for the relay, joins by IGMP and by MLD, gets the stream, moves to another address and so tears its
/// tunnel down, and leaves.
// proves A6 (RFC 7450 §5.1.1 to §5.1.7)
fn all_seven(bed: &mut Bed, by_ipv6: bool) -> Outcome {
    let small = Small::build(bed, 1)?;
    over_ipv6::number(&small)?;
    let file = bed.lab.dir().join("capture.pcap");
    let mut dumpcap = capture(bed, small.client(1), "eth0", &file)?;
    let router = small.router(bed, Router::default())?;
    let vmr = if by_ipv6 { ends(1)[0].into() } else { std::net::IpAddr::from(gateway_of(1)) };
    let tables = format!(
        "[upstream]\nfrom = \"static\"\naddress = \"{vmr}\"\ndiscover = true\n[interface]\nname = \"{AGENT_INTERFACE}\"\n"
    );
    let mut agent = bed.launcher.start(small.client(1), "agent", "", &tables)?;
    wait_ready([&mut agent], bed.clock)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    let group = "[ff3e::8000:7]:5004".parse()?;
    let source = "2001:db8:1::2".parse()?;
    let _of_mld = Listener::join_source_v6(small.client(1), group, source, AGENT_INTERFACE)?;
    bed.until_answer("both have joined", &router, &["member", "list"], |answer| {
        answer["members"].as_array().is_some_and(|members| members.len() == 2)
    })?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    listener.more(bed, SOME)?;
    small.client(1).ip(&if by_ipv6 {
        let [vmr, host] = ends(1);
        format!(
            "addr del {host}/64 dev eth0\naddr add 2001:db8:5:1::3/64 dev eth0 nodad\n\
             route replace default via {vmr}"
        )
    } else {
        format!(
            "addr del 10.5.1.2/24 dev eth0\naddr add 10.5.1.3/24 dev eth0\nroute add default via {}",
            gateway_of(1)
        )
    })?;
    listener.more(bed, SOME)?;
    sender.stop()?;
    drop(listener);
    agent.process.stop()?;
    let types = || -> Result<BTreeSet<u8>, Failed> {
        let fields = tshark(&file, &["-Y", "amt", "-T", "fields", "-E", "occurrence=f", "-e", "amt.type"])?;
        let number = |field: &str| {
            field.strip_prefix("0x").map_or_else(|| field.parse(), |hex| u8::from_str_radix(hex, 16))
        };
        Ok(fields.split_whitespace().map(number).collect::<Result<_, _>>()?)
    };
    // A capture whose last frame is being written is not whole yet.
    let all: BTreeSet<u8> = (1..=7).collect();
    let _ = bed.until("all are captured", || Ok(types().is_ok_and(|seen| seen == all)));
    dumpcap.stop()?;
    let seen = types()?;
    ensure!(seen == all, "messages of the types {seen:?} were sent");
    no_complaint(&file, "amt")?;
    for inside in [
        "amt.type == 4 && igmp",
        "amt.type == 4 && icmpv6",
        "amt.type == 5 && igmp",
        "amt.type == 5 && icmpv6",
        "amt.type == 6 && ip.dst == 239.192.7.1",
    ] {
        ensure!(!tshark(&file, &["-Y", inside])?.is_empty(), "nothing is {inside}");
    }
    Ok(())
}

/// Fails if tshark says of a frame of this kind that something is wrong.
fn no_complaint(file: &Path, kind: &str) -> Outcome {
    // Severities from a note on; what is below is mere talk.
    let complaint = format!("{kind} && (_ws.malformed || _ws.expert.severity >= 0x400000)");
    let complaints = tshark(file, &["-Y", &complaint, "-V"])?;
    let first: Vec<_> = complaints.lines().take(60).collect();
    ensure!(complaints.is_empty(), "tshark complains:\n{}", first.join("\n"));
    Ok(())
}

/// The router's queries as tshark names them: of version 1 to 3, of all groups, of one, and of sources of one.
const IGMP_1: &str = "igmp.version == 1 && igmp.type == 0x11";
const IGMP_2: &str = "igmp.version == 2 && igmp.type == 0x11 && igmp.maddr == 0.0.0.0";
const IGMP_2_GROUP: &str = "igmp.version == 2 && igmp.type == 0x11 && igmp.maddr != 0.0.0.0";
const IGMP_3: &str = "igmp.version == 3 && igmp.type == 0x11 && igmp.maddr == 0.0.0.0";
const IGMP_3_GROUP: &str =
    "igmp.version == 3 && igmp.type == 0x11 && igmp.maddr != 0.0.0.0 && igmp.num_src == 0";
const IGMP_3_SOURCE: &str =
    "igmp.version == 3 && igmp.type == 0x11 && igmp.maddr != 0.0.0.0 && igmp.num_src == 1";
const MLD_1: &str = "icmpv6.type == 130 && icmpv6.mld.multicast_address == :: && !icmpv6.mld.nb_sources";
const MLD_1_GROUP: &str =
    "icmpv6.type == 130 && icmpv6.mld.multicast_address != :: && !icmpv6.mld.nb_sources";
const MLD_2: &str = "icmpv6.type == 130 && icmpv6.mld.multicast_address == :: && icmpv6.mld.nb_sources == 0";
const MLD_2_GROUP: &str =
    "icmpv6.type == 130 && icmpv6.mld.multicast_address != :: && icmpv6.mld.nb_sources == 0";
const MLD_2_SOURCE: &str =
    "icmpv6.type == 130 && icmpv6.mld.multicast_address != :: && icmpv6.mld.nb_sources == 1";

/// A host of these versions joins and leaves groups, and sources of them where there are such; the router asks what these
/// filters of tshark say.
// proves RFC 2236 §2.4 and RFC 9776 §4, RFC 2710 §3 and RFC 9777 §5, as somebody else reads them
fn queries(bed: &mut Bed, igmp: u8, mld: u8, asked: &[&str]) -> Outcome {
    let keys = format!("[interface.igmp]\nversion = {igmp}\n[interface.mld]\nversion = {mld}\n");
    let keys = Keys { interface: &keys, ..Keys::default() };
    let file = bed.lab.dir().join("capture.pcap");
    let hosts = Hosts::start_all(bed, 1, Engine::Auto, keys, |small| {
        let versions =
            [("ipv4/conf/eth0/force_igmp_version", igmp), ("ipv6/conf/eth0/force_mld_version", mld)];
        versions
            .into_iter()
            .try_for_each(|(key, version)| small.client(1).sysctl(&[(key, &version.to_string())]))?;
        Ok(())
    })?;
    let mut dumpcap = capture(bed, hosts.host(1), "eth0", &file)?;
    for streams in [V4, V6] {
        let with_sources = streams.protocol == "mld" && mld == 2 || igmp == 3;
        let channel = with_sources.then_some((streams.channel, Some(streams.sources[0])));
        for (stream, source) in [(streams.any, None)].into_iter().chain(channel) {
            let listener = hosts.join(1, stream, source)?;
            let group = stream.ip().to_string();
            bed.until_answer("the host is a member", &hosts.router, &["member", "list"], |answer| {
                let members = answer["members"].as_array().map(Vec::as_slice).unwrap_or_default();
                members.iter().any(|member| member["group"] == group)
            })?;
            drop(listener.leave());
        }
    }
    let is_there = |filter: &str| tshark(&file, &["-Y", filter]).is_ok_and(|frames| !frames.is_empty());
    let all = bed.until("each query is captured", || Ok(asked.iter().all(|filter| is_there(filter))));
    dumpcap.stop()?;
    let missing: Vec<_> = asked.iter().filter(|filter| !is_there(filter)).collect();
    ensure!(all.is_ok() && missing.is_empty(), "nothing is {missing:?}");
    no_complaint(&file, "(igmp || icmpv6.type in {130, 131, 132, 143})")
}
