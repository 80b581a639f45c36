//! Priorities between streams, where a real queueing discipline stands behind TC or the software engine: a stream waits in the class, or the
//! transmit queue, that the operator states for it, and loses nothing while the other one overflows.

use std::{net::Ipv4Addr, process::Command};

use libtest_mimic::{Failed, Trial};
use vmcast_lab::{
    Namespace,
    roles::{Role, wait_ready},
    traffic::GroupPort,
};

use super::{
    bed::{Bed, Outcome, ensure, trial},
    small::{IGMP, SOURCE, SOURCE2, STREAM, Small, client_address, gateway_of},
    stream::{Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "a stream in the class of its priority loses nothing while another overflows, engine tc",
            all_at_tc,
        ),
        trial("a stream that comes in at XDP waits at TC in the class of its priority", in_at_xdp),
        trial(
            "a stream in the class of its priority loses nothing while another overflows, engine software",
            all_in_software,
        ),
        trial(
            "copies of a group that is to be served at TC pass its queues, those of others leave at XDP",
            by_group,
        ),
        trial("a stream waits in the transmit queue of its priority", queue),
        trial("a priority that changes with the next router takes effect without loss", changed),
        trial("copies that XDP sends pass the queues by, and the operator is told", told),
    ]
}

/// The stream without a priority.
const OTHER: GroupPort = GroupPort { group: Ipv4Addr::new(239, 192, 7, 2), port: 5004 };
/// More than the narrow class has room for, and the ring of a veth not.
const SOME: u64 = 400;
/// The classes of streams: some 2.2 Mbit/s fit into two of them, and 0.5 Mbit/s into the one where everything else
/// goes. None borrows.
const CLASSES: &str = "qdisc add dev acc1 root handle 1: htb default 20
class add dev acc1 parent 1: classid 1:10 htb rate 20mbit
class add dev acc1 parent 1: classid 1:11 htb rate 20mbit
class add dev acc1 parent 1: classid 1:20 htb rate 500kbit
qdisc add dev acc1 parent 1:10 handle 10: pfifo limit 200
qdisc add dev acc1 parent 1:11 handle 11: pfifo limit 200
qdisc add dev acc1 parent 1:20 handle 20: pfifo limit 10";

/// Runs lines of `tc` in a namespace.
fn tc(node: &Namespace, lines: &str) -> Result<String, Failed> {
    let mut said = String::new();
    for line in lines.lines() {
        let mut command = Command::new("tc");
        command.args(line.split_whitespace());
        let output = node.run(command)?;
        ensure!(output.status.success(), "tc {line}: {}", String::from_utf8_lossy(&output.stderr));
        said.push_str(&String::from_utf8_lossy(&output.stdout));
    }
    Ok(said)
}

/// Packets that a class of acc1 has sent, and those it has dropped.
fn class(small: &Small, id: &str) -> Result<(u64, u64), Failed> {
    let said = tc(&small.vmr, "-s class show dev acc1")?;
    let is_it = |line: &str| line.starts_with("class ") && line.split_whitespace().nth(2) == Some(id);
    let counts = said.lines().skip_while(|line| !is_it(line)).nth(1).unwrap_or_default();
    let words: Vec<&str> = counts.split_whitespace().collect();
    let behind = |word: &str| {
        let at = words.iter().position(|other| *other == word)?;
        words.get(at + 1)?.trim_end_matches(',').parse().ok()
    };
    let before = |word: &str| {
        let at = words.iter().position(|other| *other == word)?;
        words.get(at.checked_sub(1)?)?.parse().ok()
    };
    let counts = before("pkt").zip(behind("(dropped"));
    counts.ok_or_else(|| format!("class {id} is not shown in\n{said}").into())
}

struct Wanted<'a> {
    engine: &'a str,
    /// More keys of the first client's interface.
    acc1: &'a str,
    priority: &'a str,
    keep: bool,
}

fn router(bed: &Bed, small: &Small, wanted: &Wanted<'_>) -> Result<Role, Failed> {
    let Wanted { engine, acc1, priority, keep } = wanted;
    let pins = bed.lab.bpffs()?.join(small.vmr.node());
    let on_exit = if *keep { "keep" } else { "remove" };
    let tables = format!(
        "[dataplane]\nengine = \"{engine}\"\non_exit = \"{on_exit}\"\npin_path = \"{}\"\n{IGMP}\
         [[interface]]\nname = \"src0\"\naccepts_sources = true\n\
         [[interface]]\nname = \"acc1\"\nquerier = true\n{acc1}\n\
         [[interface]]\nname = \"acc2\"\nquerier = true\n\
         [[priority]]\ngroups = [\"{}\"]\n{priority}\n",
        pins.display(),
        STREAM.group
    );
    let mut role = bed.launcher.start(&small.vmr, "router", "rank = 0\n", &tables)?;
    wait_ready([&mut role], bed.clock)?;
    Ok(role)
}

/// Both streams go to the first client by a link that is too narrow for one of them.
fn contend(bed: &mut Bed, engine: &str, acc1: &str) -> Outcome {
    let small = Small::build(bed, 2)?;
    tc(&small.vmr, CLASSES)?;
    let priority = "dscp = \"af41\"\nskb_priority = \"1:10\"";
    let router = router(bed, &small, &Wanted { engine, acc1, priority, keep: false })?;
    let bystander = small.forbid(bed, 2)?;
    let [first, other] = [STREAM, OTHER].map(|stream| Listener::join(small.client(1), stream, None));
    let (first, other) = (first?, other?);
    let senders =
        [Sender::start(&small.source, SOURCE, STREAM)?, Sender::start(&small.source, SOURCE2, OTHER)?];
    first.more(bed, SOME)?;
    other.more(bed, 1)?;
    let shown = bed.table(&router, &["group", "list"])?;
    ensure!(shown.contains("af41, class 1:10"), "the priority is not shown:\n{shown}");
    let told = bed.run(&small.vmr, &["doctor", "--socket", &router.socket.display().to_string()])?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    ensure!(!told.contains("by acc1 pass none"), "doctor complains of queues that work:\n{told}");
    let [last, others] = senders.map(Sender::stop);
    let (last, others) = (last? - 1, others?);
    first.until_last(bed, last)?;

    first.heard().is_whole()?;
    let (sent, dropped) = class(&small, "1:10")?;
    ensure!(
        (sent, dropped) == (first.count(), 0),
        "class 1:10 sent {sent} and dropped {dropped} of {}",
        first.count()
    );
    let (rest, lost) = class(&small, "1:20")?;
    let came = other.heard();
    ensure!(came.damaged == 0 && lost > SOME / 4, "class 1:20 sent {rest} and dropped {lost}");
    // Queries and neighbour discovery of the host itself wait, and are dropped, there too.
    let arrived = came.packets.len() as u64;
    ensure!(
        arrived < others && arrived <= rest,
        "{arrived} of {others} packets came, class 1:20 sent {rest} and dropped {lost}"
    );
    let in_order = came.packets.windows(2).all(|pair| pair[0].1 < pair[1].1);
    ensure!(in_order, "packets came out of order or twice");
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

// proves E6: with congestion the stream with a priority loses nothing
fn all_at_tc(bed: &mut Bed) -> Outcome {
    contend(bed, "tc", "")
}

// proves E6: the process says how its packets wait
fn all_in_software(bed: &mut Bed) -> Outcome {
    contend(bed, "software", "")
}

// proves E6: what the packet carries from XDP to TC
fn in_at_xdp(bed: &mut Bed) -> Outcome {
    contend(bed, "auto", "engine = \"tc\"")
}

// proves that the engine is chosen by group, too: on one interface, of one engine but for what is stated of a group
fn by_group(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 2)?;
    tc(&small.vmr, CLASSES)?;
    let priority = "skb_priority = \"1:10\"\nengine = \"tc\"";
    let router = router(bed, &small, &Wanted { engine: "auto", acc1: "", priority, keep: false })?;
    let bystander = small.forbid(bed, 2)?;
    let [at_tc, other] = [STREAM, OTHER].map(|stream| Listener::join(small.client(1), stream, None));
    let (at_tc, other) = (at_tc?, other?);
    let senders =
        [Sender::start(&small.source, SOURCE, STREAM)?, Sender::start(&small.source, SOURCE2, OTHER)?];
    at_tc.more(bed, SOME)?;
    other.more(bed, SOME)?;
    let shown = bed.table(&router, &["group", "list"])?;
    ensure!(shown.contains("class 1:10, at TC"), "what is stated of the group is not shown:\n{shown}");
    let socket = router.socket.display().to_string();
    for command in ["doctor", "stats", "status"] {
        let told = bed.run(&small.vmr, &[command, "--socket", &socket])?;
        let told = String::from_utf8_lossy(&told.stdout).into_owned();
        ensure!(
            told.contains("their [[priority]] says so"),
            "{command} does not say why the engine is mixed:\n{told}"
        );
        ensure!(!told.contains("by acc1 pass none"), "{command} complains of queues that work:\n{told}");
    }
    for (listener, sender) in [&at_tc, &other].into_iter().zip(senders) {
        listener.until_last(bed, sender.stop()? - 1)?;
        listener.heard().is_whole()?;
    }
    let (sent, dropped) = class(&small, "1:10")?;
    ensure!(
        (sent, dropped) == (at_tc.count(), 0),
        "class 1:10 sent {sent} and dropped {dropped} of {}",
        at_tc.count()
    );
    // Queries and neighbour discovery of the host itself wait there: the other stream would not fit.
    let (rest, lost) = class(&small, "1:20")?;
    ensure!(rest + lost < SOME / 4, "{rest} packets waited in the other class, and {lost} were lost");
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

// proves E6
fn queue(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 2)?;
    // The same cable with four queues.
    small.vmr.ip(&format!(
        "link del acc1\n\
         link add acc1 numtxqueues 4 numrxqueues 4 type veth peer name eth0 numtxqueues 4 numrxqueues 4 netns {}\n\
         link set acc1 up\naddr add {}/24 dev acc1",
        small.client(1).name(),
        gateway_of(1)
    ))?;
    small.client(1).ip(&format!(
        "link set eth0 up\naddr add {}/24 dev eth0\nroute add default via {}",
        client_address(1),
        gateway_of(1)
    ))?;
    tc(&small.vmr, "qdisc replace dev acc1 root handle 1: mq")?;
    let wanted = Wanted { engine: "tc", acc1: "", priority: "queue = 2", keep: false };
    let _router = router(bed, &small, &wanted)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    listener.more(bed, SOME)?;
    let last = sender.stop()? - 1;
    listener.until_last(bed, last)?;
    listener.heard().is_whole()?;
    let (sent, _) = class(&small, "1:3")?;
    ensure!(sent >= listener.count(), "the third queue sent {sent} of {} packets", listener.count());
    let [a, b, c] = ["1:1", "1:2", "1:4"].map(|id| class(&small, id));
    let elsewhere = a?.0 + b?.0 + c?.0;
    // Queries and neighbour discovery of the host itself.
    ensure!(elsewhere < SOME / 4, "{elsewhere} packets took other queues");
    Ok(())
}

// proves E6: a change of a priority is no pause
fn changed(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 2)?;
    tc(&small.vmr, CLASSES)?;
    let wanted = Wanted { engine: "tc", acc1: "", priority: "skb_priority = \"1:10\"", keep: true };
    let mut before = router(bed, &small, &wanted)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    listener.more(bed, SOME)?;
    before.process.stop()?;
    let _after = router(bed, &small, &Wanted { priority: "skb_priority = \"1:11\"", keep: false, ..wanted })?;
    listener.more(bed, SOME)?;
    let last = sender.stop()? - 1;
    listener.until_last(bed, last)?;
    listener.heard().is_whole()?;
    let (old, new) = (class(&small, "1:10")?.0, class(&small, "1:11")?.0);
    ensure!(
        old >= SOME && new > 0 && old + new == listener.count(),
        "{old} and {new} of {}",
        listener.count()
    );
    Ok(())
}

fn told(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 2)?;
    let wanted =
        Wanted { engine: "auto", acc1: "engine = \"tc\"", priority: "queue = 1\npcp = 3", keep: false };
    let router = router(bed, &small, &wanted)?;
    let listener = Listener::join(small.client(2), STREAM, None)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    listener.more(bed, SOME)?;
    let last = sender.stop()? - 1;
    listener.until_last(bed, last)?;
    listener.heard().is_whole()?;
    let interfaces = router.ask(&["interface", "list"]).unwrap_or_default();
    let shown = interfaces["interfaces"].as_array().map(Vec::as_slice).unwrap_or_default();
    for (name, queues) in [("acc1", true), ("acc2", false)] {
        let is_so = shown.iter().any(|shown| shown["name"] == name && shown["queues"] == queues);
        ensure!(is_so, "{name} is not shown with queues = {queues}: {interfaces}");
    }
    let told = bed.run(&small.vmr, &["doctor", "--socket", &router.socket.display().to_string()])?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    for (name, expected) in [("acc1", false), ("acc2", true)] {
        let said = told.contains(&format!("copies that XDP sends by {name} pass none of its queues"));
        ensure!(said == expected, "doctor on {name}:\n{told}");
    }
    let groups = router.ask(&["group", "list"]).unwrap_or_default();
    let priority = &groups["groups"][0]["priority"];
    ensure!(priority["queue"] == 1 && priority["pcp"] == 3, "{groups}");
    Ok(())
}
