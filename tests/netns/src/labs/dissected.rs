//! Our AMT messages as tshark reads them: all seven, over IPv4 and IPv6, with IGMP and MLD inside (RFC 7450 §5.1.1 to
//! §5.1.7).

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Command, Stdio},
};

use libtest_mimic::{Failed, Trial};
use vmcast_lab::{
    Namespace, Process,
    roles::{AGENT_INTERFACE, wait_ready},
};

use super::{
    bed::{Bed, Outcome, ensure, trial_with},
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
    // Severities from a note on; what is below is mere talk.
    let complaint = "amt && (_ws.malformed || _ws.expert.severity >= 0x400000)";
    let complaints = tshark(&file, &["-Y", complaint, "-V"])?;
    let first: Vec<_> = complaints.lines().take(60).collect();
    ensure!(complaints.is_empty(), "tshark complains:\n{}", first.join("\n"));
    for inside in ["amt.type == 5 && igmp", "amt.type == 5 && icmpv6", "amt.type == 4 && igmp"] {
        ensure!(!tshark(&file, &["-Y", inside])?.is_empty(), "nothing is {inside}");
    }
    Ok(())
}
