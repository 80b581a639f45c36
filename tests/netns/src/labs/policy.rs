//! The admin's policy at work: what it forbids stops, and nothing else does.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use vmcast_lab::{
    Namespace,
    roles::{AGENT_INTERFACE, Role, wait_ready},
    traffic::{GroupPort, Witness},
};

use super::{
    bed::{Bed, Outcome, ensure, trial},
    filters::{self, GROUP6, SOURCES6},
    over_ipv6,
    small::{Router, SOURCE, SOURCE2, STREAM, Small, static_agent},
    stream::{Frames, Listener, Sender, multicast_socket, payload},
    tokens::{admin_table, agent, router, start_admin, token},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "what the policy forbids stops within a second, and what it allows loses nothing",
            forbids_and_allows,
        ),
        trial("what the policy says of IPv6 is done for IPv6, and streams of IPv4 go on", ipv6),
        trial("rules and limits, set and taken back, take effect within a second of the streams", at_once),
        trial(
            "a source that the policy forbids under (*,G) is cut at once, and the one beside it loses nothing",
            cuts_a_source,
        ),
        trial("of more sources than can be refused one by one only those flow that may send", closes_a_group),
        trial("an agent is told why its join is refused, until the policy allows it", tells_the_agent),
        trial(
            "an agent that joins groups of both families is told of each why it is refused, until it is not",
            tells_of_each_family,
        ),
        trial(
            "who has as many groups as the policy allows is refused one more until it leaves one",
            limits_groups,
        ),
        trial(
            "who has as much bandwidth as the policy allows is refused more until it leaves some",
            limits_bandwidth,
        ),
    ]
}

const SOME: u64 = 150;
/// A second group.
const OTHER: GroupPort = GroupPort { group: Ipv4Addr::new(239, 192, 7, 2), port: 5004 };
/// A change takes effect within that.
const AT_ONCE: Duration = Duration::from_secs(1);

pub(super) fn change(admin: &Role, arguments: &[&str]) -> Result<Value, Failed> {
    let question = [&["policy"], arguments].concat();
    Ok(admin.ask(&question).ok_or_else(|| format!("no answer to {question:?}"))?)
}

/// Waits until a router has the policy that a change has made.
pub(super) fn carries_out(bed: &Bed, router: &Role, policy: &Value) -> Outcome {
    bed.until_answer("the router has the policy", router, &["status"], |status| {
        status["policy_version"] == policy["version"]
    })?;
    Ok(())
}

/// A network whose admin has the policy for a router and two agents; a third client joins nothing.
struct Governed {
    small: Small,
    host: Namespace,
    admin: Role,
    router: Role,
    agents: Vec<Role>,
    bystander: Witness,
}

impl Governed {
    fn start(bed: &mut Bed) -> Result<Self, Failed> {
        let small = Small::build(bed, 3)?;
        let host = small.admin(bed)?;
        let admin = start_admin(bed, &host, NAMES)?;
        let router = router(bed, &small, &admin)?;
        let agents = two_agents(bed, &small, &admin)?;
        let bystander = small.forbid(bed, 3)?;
        Ok(Self { small, host, admin, router, agents, bystander })
    }
}

/// What the admin's certificate is for.
const NAMES: &str = "names = [\"10.9.0.2\"]\n";

/// Fails if something comes to a listener after a while.
fn stops(listener: &Listener, within: Duration) -> Outcome {
    std::thread::sleep(within);
    let count = listener.count();
    std::thread::sleep(Duration::from_millis(500));
    ensure!(listener.count() == count, "{} packets came later than {within:?}", listener.count() - count);
    Ok(())
}

// proves D4: the policy of the admin, in effect within a second without touching allowed streams
fn forbids_and_allows(bed: &mut Bed) -> Outcome {
    let Governed { small, host, mut admin, mut router, agents: _agents, bystander } = Governed::start(bed)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let stays = Listener::join(small.client(1), STREAM, None)?;
    let goes = Listener::join(small.client(2), STREAM, None)?;
    for listener in [&stays, &goes] {
        listener.more(bed, SOME)?;
    }

    // By identity.
    let policy =
        change(&admin, &["add", "deny", "receive", "--node", "client2", "--groups", "239.192.0.0/16"])?;
    ensure!(policy["rules"][0]["id"] == 1, "the policy is {policy}");
    stops(&goes, AT_ONCE)?;
    carries_out(bed, &router, &policy)?;
    bed.until_answer("the refusal is shown", &router, &["status"], |status| {
        status["refused"][0]["who"] == "10.5.2.2"
            && status["refused"][0]["reason"] == "rule 1 of the policy forbids it"
    })?;
    let stats = router.ask(&["stats"]).unwrap_or_default();
    ensure!(stats["control"]["policy"]["by_rule"] == 1, "the counters are {}", stats["control"]["policy"]);
    let verdict = change(&admin, &["test", "receive", "--from", "10.5.3.2", "--group", "239.192.7.1"])?;
    ensure!(verdict["allowed"] == true, "of another one it says {verdict}");
    let verdict = change(&admin, &["test", "receive", "--from", "10.5.2.2", "--group", "239.192.7.1"])?;
    ensure!(verdict["reason"] == "rule 1 of the policy forbids it", "of the one it says {verdict}");
    stays.more(bed, SOME)?;

    // Without an admin the last one holds, and it survives.
    admin.process.kill()?;
    std::thread::sleep(AT_ONCE);
    let count = goes.count();
    stays.more(bed, SOME)?;
    ensure!(goes.count() == count, "without the admin what it forbade came again");
    let mut admin = start_admin(bed, &host, NAMES)?;
    let kept = change(&admin, &["list"])?;
    ensure!(kept == policy, "after its restart the admin knows {kept}");

    let policy = change(&admin, &["remove", "1"])?;
    carries_out(bed, &router, &policy)?;
    goes.more(bed, SOME)?;

    // By address; then by the source of what is sent.
    let policy = change(&admin, &["add", "deny", "receive", "--from", "10.5.2.0/24"])?;
    carries_out(bed, &router, &policy)?;
    stops(&goes, AT_ONCE)?;
    let policy = change(&admin, &["remove", "1"])?;
    carries_out(bed, &router, &policy)?;
    goes.more(bed, SOME)?;
    let policy = change(&admin, &["add", "deny", "send", "--from", &format!("{SOURCE2}/32")])?;
    carries_out(bed, &router, &policy)?;
    let forbidden = Sender::start(&small.source, SOURCE2, STREAM)?;
    forbidden.more(bed, 3 * SOME)?;
    bed.until_answer("the refused source is shown", &router, &["status"], |status| {
        let refused = status["refused"].as_array().map(Vec::as_slice).unwrap_or_default();
        refused.iter().any(|refused| refused["who"] == SOURCE2.to_string())
    })?;
    let of_forbidden = |listener: &Listener| {
        let heard = listener.heard();
        heard.packets.iter().filter(|(source, _)| *source == SOURCE2).count()
    };
    let before = of_forbidden(&stays);
    forbidden.more(bed, SOME)?;
    ensure!(of_forbidden(&stays) == before, "a source that may not send is heard");
    forbidden.stop()?;

    // A router that starts without an admin goes by the last policy.
    let policy = change(&admin, &["add", "deny", "receive", "--node", "client2"])?;
    carries_out(bed, &router, &policy)?;
    stops(&goes, AT_ONCE)?;
    stays.more(bed, SOME)?;
    let mut heard = stays.heard();
    heard.packets.retain(|(source, _)| *source == SOURCE);
    heard.is_whole()?;
    admin.process.kill()?;
    router.process.stop()?;
    let table = admin_table(bed, &small.vmr, "https://10.9.0.2:8440");
    let router = small.start_router(bed, Router { tables: &table, ..Router::default() })?;
    carries_out(bed, &router, &policy)?;
    stays.more(bed, SOME)?;
    let count = goes.count();
    stays.more(bed, SOME)?;
    ensure!(goes.count() == count, "what the last policy forbids came after a restart");
    sender.stop()?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

// proves D4: prefixes of IPv6 for members, groups and sources, in a daemon
fn ipv6(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 3)?;
    filters::number(&small)?;
    let host = small.admin(bed)?;
    let admin = start_admin(bed, &host, NAMES)?;
    let router = router(bed, &small, &admin)?;
    let agent = |number| static_agent(bed, small.client(number), over_ipv6::ends(number.into())[0], "");
    let mut agents = [agent(1)?, agent(2)?];
    wait_ready(&mut agents, bed.clock)?;
    let bystander = small.forbid(bed, 3)?;
    let stray = Frames::start(small.client(3), "eth0", *GROUP6.ip())?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let sender6 = Sender::start_v6(&small.source, SOURCES6[0], GROUP6, "eth0")?;
    let beside = Listener::join(small.client(2), STREAM, None)?;
    let join = |number| Listener::join_source_v6(small.client(number), GROUP6, SOURCES6[0], AGENT_INTERFACE);
    let (stays, goes) = (join(1)?, join(2)?);
    for listener in [&beside, &stays, &goes] {
        listener.more(bed, SOME)?;
    }

    let member = "2001:db8:5:2::/64";
    let source = format!("{}/128", SOURCES6[0]);
    for (rule, who) in [
        (["--from", member, "--groups", "ff3e::/16"], over_ipv6::ends(2)[1]),
        (["--from", member, "--source", &source], over_ipv6::ends(2)[1]),
    ] {
        let policy = change(&admin, &[&["add", "deny", "receive"][..], &rule].concat())?;
        stops(&goes, AT_ONCE)?;
        carries_out(bed, &router, &policy)?;
        bed.until_answer("the refusal is shown", &router, &["status"], |status| {
            status["refused"][0]["who"] == who.to_string()
                && status["refused"][0]["group"] == GROUP6.ip().to_string()
                && status["refused"][1].is_null()
        })?;
        for listener in [&beside, &stays] {
            listener.more(bed, SOME)?;
        }
        change(&admin, &["remove", "1"])?;
        goes.more(bed, SOME)?;
    }
    stays.heard().is_whole()?;

    // What may not be sent there comes to nobody.
    let group = format!("{}/128", GROUP6.ip());
    let policy = change(&admin, &["add", "deny", "send", "--from", &source, "--groups", &group])?;
    carries_out(bed, &router, &policy)?;
    let cut = sender6.sent() + OF_A_SECOND;
    sender6.more(bed, 2 * OF_A_SECOND)?;
    for listener in [&stays, &goes] {
        let last = listener.heard().last();
        ensure!(last < Some(cut), "packet {last:?} of a source that may not send came, the limit is {cut}");
    }
    beside.more(bed, SOME)?;
    change(&admin, &["remove", "1"])?;
    for listener in [&stays, &goes] {
        listener.more(bed, SOME)?;
    }
    sender6.stop()?;
    let last = sender.stop()? - 1;
    beside.until_last(bed, last)?;
    beside.heard().is_whole()?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    ensure!(stray.count() == 0, "the bystander was sent {} packets of IPv6", stray.count());
    Ok(())
}

/// Packets of a sender in the time within which a change takes effect, at most.
const OF_A_SECOND: u64 = (AT_ONCE.as_millis() / Sender::PACE.as_millis()) as u64;

/// Makes a change, after which a stream begins at a listener, within a second of packets.
fn begins(bed: &Bed, admin: &Role, arguments: &[&str], (sender, listener): (&Sender, &Listener)) -> Outcome {
    let before = listener.count();
    change(admin, arguments)?;
    let limit = sender.sent() + OF_A_SECOND;
    listener.more(bed, SOME)?;
    let first = listener.heard().packets[before as usize].1;
    ensure!(first <= limit, "after {arguments:?} it began with packet {first}, later than {limit}");
    Ok(())
}

/// Makes a change, after which a stream ends at a listener, within a second of packets.
pub(super) fn ends(
    bed: &Bed,
    admin: &Role,
    arguments: &[&str],
    (sender, listener): (&Sender, &Listener),
) -> Outcome {
    change(admin, arguments)?;
    let limit = sender.sent() + OF_A_SECOND;
    sender.more(bed, 2 * OF_A_SECOND)?;
    let last = listener.heard().last();
    ensure!(last <= Some(limit), "after {arguments:?} it ended with packet {last:?}, later than {limit}");
    Ok(())
}

// proves D4: a second is counted in packets of the streams, which a busy machine slows down as well
fn at_once(bed: &mut Bed) -> Outcome {
    let Governed { small, admin, router, agents, bystander, .. } = Governed::start(bed)?;
    let senders = [STREAM, OTHER].map(|group| Sender::start(&small.source, SOURCE, group));
    let [stream, other] = senders;
    let (stream, other) = (stream?, other?);
    let neighbour = Listener::join(small.client(1), STREAM, None)?;
    let listener = Listener::join(small.client(2), OTHER, None)?;
    for listener in [&neighbour, &listener] {
        listener.more(bed, SOME)?;
    }
    let group = OTHER.group.to_string() + "/32";
    for rule in [
        ["add", "deny", "receive", "--from", "10.5.2.0/24", "--groups", &group],
        ["add", "deny", "receive", "--node", "client2", "--groups", &group],
        ["add", "deny", "receive", "--source", "10.1.0.0/24", "--groups", &group],
        ["add", "deny", "send", "--from", "10.1.0.0/24", "--groups", &group],
    ] {
        ends(bed, &admin, &rule, (&other, &listener))?;
        begins(bed, &admin, &["remove", "1"], (&other, &listener))?;
    }
    change(&admin, &["default", "deny"])?;
    stops(&listener, AT_ONCE)?;
    begins(bed, &admin, &["default", "allow"], (&other, &listener))?;
    // The neighbour was cut by the default; what was before was for others.
    neighbour.more(bed, SOME)?;
    drop(neighbour);

    // Somebody who has as much as he may, until he may have more.
    let neighbour = Listener::join(small.client(1), STREAM, None)?;
    neighbour.more(bed, SOME)?;
    let limit = |kind: &'static str, of: &'static str| {
        ["add", "allow", "receive", "--from", "10.5.2.0/24", kind, of, "--before", "1"]
    };
    let policy = change(&admin, &limit("--max-groups", "1")[..7])?;
    // Of two groups that there are when it comes, either could be the one too many.
    carries_out(bed, &router, &policy)?;
    let beyond = Listener::join(small.client(2), STREAM, None)?;
    bed.until_answer("one more is refused", &agents[1], &["status"], |status| {
        status["refused"][0]["group"] == STREAM.group.to_string()
    })?;
    ensure!(beyond.count() == 0, "what is beyond the limit came {} times", beyond.count());
    begins(bed, &admin, &limit("--max-groups", "2"), (&stream, &beyond))?;
    listener.more(bed, SOME)?;

    other.stop()?;
    let last = stream.stop()? - 1;
    for listener in [&neighbour, &beyond] {
        listener.until_last(bed, last)?;
        listener.heard().is_whole()?;
    }
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

// proves D4: of two sources of a group that everybody takes any source of, the one that becomes forbidden is cut
fn cuts_a_source(bed: &mut Bed) -> Outcome {
    let Governed { small, admin, router, agents: _agents, bystander, .. } = Governed::start(bed)?;
    let [allowed, forbidden] = [SOURCE, SOURCE2].map(|source| Sender::start(&small.source, source, STREAM));
    let (allowed, forbidden) = (allowed?, forbidden?);
    let listeners =
        [Listener::join(small.client(1), STREAM, None)?, Listener::join(small.client(2), STREAM, None)?];
    let of = |listener: &Listener, of: Ipv4Addr| {
        listener.heard().packets.iter().filter(|(source, _)| *source == of).count()
    };
    for listener in &listeners {
        bed.until("both sources are heard", || {
            Ok([SOURCE, SOURCE2].iter().all(|source| of(listener, *source) > SOME as usize))
        })?;
    }

    let policy = change(&admin, &["add", "deny", "send", "--from", &format!("{SOURCE2}/32")])?;
    carries_out(bed, &router, &policy)?;
    // What is in the queues still comes.
    forbidden.more(bed, 10)?;
    let before: Vec<_> = listeners.iter().map(|listener| of(listener, SOURCE2)).collect();
    forbidden.more(bed, 3 * SOME)?;
    let after: Vec<_> = listeners.iter().map(|listener| of(listener, SOURCE2)).collect();
    ensure!(before == after, "of what is forbidden came {before:?} packets, then {after:?}");

    let policy = change(&admin, &["remove", "1"])?;
    carries_out(bed, &router, &policy)?;
    for (listener, before) in listeners.iter().zip(before) {
        bed.until("it is heard again", || Ok(of(listener, SOURCE2) > before + SOME as usize))?;
    }
    forbidden.stop()?;
    let last = allowed.stop()? - 1;
    for listener in &listeners {
        bed.until("the end is heard", || {
            Ok(listener.heard().packets.iter().any(|packet| packet.0 == SOURCE && packet.1 == last))
        })?;
        let mut heard = listener.heard();
        heard.packets.retain(|(source, _)| *source == SOURCE);
        heard.is_whole()?;
    }
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

/// Sources that may not send: more than are refused one by one.
const MANY: u16 = 300;

/// One of them.
fn forbidden(number: u16) -> Ipv4Addr {
    let [high, low] = (number + 1).to_be_bytes();
    Ipv4Addr::new(10, 1, 2 + high, low)
}

// proves D4: what may not send is not forwarded, however much of it there is, and what may send is
fn closes_a_group(bed: &mut Bed) -> Outcome {
    let Governed { small, admin, router, agents: _agents, bystander, .. } = Governed::start(bed)?;
    let addresses: Vec<_> =
        (0..MANY).map(|number| format!("addr add {}/32 dev eth0", forbidden(number))).collect();
    small.source.ip(&addresses.join("\n"))?;
    let policy = change(&admin, &["add", "deny", "send", "--from", "10.1.2.0/23"])?;
    carries_out(bed, &router, &policy)?;

    let first = Sender::start(&small.source, SOURCE, STREAM)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    let of = |which: &dyn Fn(IpAddr) -> bool| {
        listener.heard().packets.iter().filter(|(source, _)| which(*source)).count()
    };
    let may_not = |source: IpAddr| source != SOURCE && source != SOURCE2;
    bed.until("the first is heard", || Ok(of(&|source| source == SOURCE) > SOME as usize))?;
    // Each of them sends a packet.
    let all_send = || -> Outcome {
        small.source.enter(|| {
            for number in 0..MANY {
                let socket = multicast_socket(forbidden(number), 16)?;
                socket.send_to(&payload(0), &STREAM.socket_addr().into())?;
                std::thread::sleep(Duration::from_millis(2));
            }
            Ok::<_, std::io::Error>(())
        })??;
        Ok(())
    };
    bed.until("the router takes none that it does not know", || {
        all_send()?;
        let stats = router.ask(&["stats"]).unwrap_or_default();
        Ok(stats["control"]["mrib"]["any_source_closed"] == 1)
    })?;
    // What is in the queues still comes.
    first.more(bed, 10)?;
    let last = first.sent();
    bed.until("what was under way is heard", || {
        Ok(listener.heard().packets.iter().any(|packet| packet.0 == SOURCE && packet.1 >= last))
    })?;
    let before = of(&may_not);
    for _ in 0..3 {
        all_send()?;
    }
    let second = Sender::start(&small.source, SOURCE2, STREAM)?;
    bed.until("another that may send is heard", || Ok(of(&|source| source == SOURCE2) > SOME as usize))?;
    let after = of(&may_not);
    ensure!(before == after, "of what is forbidden came {before} packets, then {after}");
    second.stop()?;
    let last = first.stop()? - 1;
    bed.until("the end is heard", || {
        Ok(listener.heard().packets.iter().any(|packet| packet.0 == SOURCE && packet.1 == last))
    })?;
    let mut heard = listener.heard();
    heard.packets.retain(|(source, _)| *source == SOURCE);
    heard.is_whole()?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

/// The agents of the first two clients, which join by a token each.
fn two_agents(bed: &Bed, small: &Small, admin: &Role) -> Result<Vec<Role>, Failed> {
    let start = |number| {
        let word = token(admin, &["--role", "agent"])?;
        agent(bed, small.client(number), "https://10.9.0.2:8440", &["--token", &word])
    };
    let mut agents = [1, 2].into_iter().map(start).collect::<Result<Vec<_>, Failed>>()?;
    wait_ready(&mut agents, bed.clock)?;
    Ok(agents)
}

/// What an agent shows of the reason for which a group is refused: in its status and its lists.
fn reasons(agent: &Role) -> [Value; 3] {
    let asked = |question: &[&str]| agent.ask(question).unwrap_or_default();
    [
        asked(&["status"])["refused"][0]["reason"].clone(),
        asked(&["member", "list"])["members"][0]["refused"].clone(),
        asked(&["group", "list"])["groups"][0]["refused"].clone(),
    ]
}

// proves D4: refused joins carry the reason to the client, and it goes with the refusal
fn tells_the_agent(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 3)?;
    let host = small.admin(bed)?;
    let admin = start_admin(bed, &host, NAMES)?;
    let router = router(bed, &small, &admin)?;
    let agents = two_agents(bed, &small, &admin)?;
    let bystander = small.forbid(bed, 3)?;
    let policy =
        change(&admin, &["add", "deny", "receive", "--from", "10.5.2.0/24", "--groups", "239.192.0.0/16"])?;
    carries_out(bed, &router, &policy)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let stays = Listener::join(small.client(1), STREAM, None)?;
    stays.more(bed, SOME)?;
    let refused = Listener::join(small.client(2), STREAM, None)?;
    let reason = Value::from("rule 1 of the policy forbids it");
    bed.until("the agent shows the reason", || Ok(reasons(&agents[1]).iter().all(|shown| *shown == reason)))?;
    ensure!(
        reasons(&agents[0]).iter().all(Value::is_null),
        "the neighbour is told {:?}",
        reasons(&agents[0])
    );
    let stats = agents[1].ask(&["stats"]).unwrap_or_default();
    ensure!(stats["control"]["policy"]["joins_refused"] == 1, "it counts {}", stats["control"]["policy"]);
    ensure!(refused.count() == 0, "what is refused came {} times", refused.count());
    stays.more(bed, SOME)?;

    let policy = change(&admin, &["remove", "1"])?;
    carries_out(bed, &router, &policy)?;
    refused.more(bed, SOME)?;
    bed.until("the reason is gone", || Ok(reasons(&agents[1]).iter().all(Value::is_null)))?;
    stays.more(bed, SOME)?;
    sender.stop()?;
    for listener in [&stays, &refused] {
        listener.heard().is_whole()?;
    }
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

/// The reason that an agent shows in its list of groups for each that is refused.
fn reasons_of_groups(agent: &Role) -> BTreeMap<String, String> {
    let list = agent.ask(&["group", "list"]).unwrap_or_default();
    let groups = list["groups"].as_array().map(Vec::as_slice).unwrap_or_default();
    let reason =
        |group: &Value| Some((group["group"].as_str()?.to_owned(), group["refused"].as_str()?.to_owned()));
    groups.iter().filter_map(reason).collect()
}

// proves D4: of a host with IPv4 and IPv6 a refusal of one version is none of the other, and each has its own reason
fn tells_of_each_family(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 3)?;
    filters::number(&small)?;
    let host = small.admin(bed)?;
    let admin = start_admin(bed, &host, NAMES)?;
    let router = router(bed, &small, &admin)?;
    let agents = two_agents(bed, &small, &admin)?;
    let bystander = small.forbid(bed, 3)?;
    let stray = Frames::start(small.client(3), "eth0", *GROUP6.ip())?;
    for groups in ["239.192.0.0/16", "ff3e::/16"] {
        change(&admin, &["add", "deny", "receive", "--node", "client2", "--groups", groups])?;
    }
    let policy = change(&admin, &["list"])?;
    carries_out(bed, &router, &policy)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let sender6 = Sender::start_v6(&small.source, SOURCES6[0], GROUP6, "eth0")?;
    let join = |client: u8| -> Result<[Listener; 2], Failed> {
        let client = small.client(client);
        let of_6 = Listener::join_source_v6(client, GROUP6, SOURCES6[0], AGENT_INTERFACE)?;
        Ok([Listener::join(client, STREAM, None)?, of_6])
    };
    let stay = join(1)?;
    for listener in &stay {
        listener.more(bed, SOME)?;
    }
    let refused = join(2)?;
    let [of_4, of_6] = [STREAM.group.to_string(), GROUP6.ip().to_string()];
    let reason = |group: &String, rule: u8| (group.clone(), format!("rule {rule} of the policy forbids it"));
    let shows = |what: &str, expected: &[(String, String)]| {
        let expected: BTreeMap<_, _> = expected.iter().cloned().collect();
        bed.until(what, || Ok(reasons_of_groups(&agents[1]) == expected))
    };
    shows("it shows both reasons", &[reason(&of_4, 1), reason(&of_6, 2)])?;
    let stats = agents[1].ask(&["stats"]).unwrap_or_default();
    ensure!(stats["control"]["policy"]["joins_refused"] == 2, "it counts {}", stats["control"]["policy"]);
    let neighbour = reasons_of_groups(&agents[0]);
    ensure!(neighbour.is_empty(), "the neighbour is told {neighbour:?}");
    for listener in &refused {
        ensure!(listener.count() == 0, "what is refused came {} times", listener.count());
    }

    // Each ends alone.
    let policy = change(&admin, &["remove", "2"])?;
    carries_out(bed, &router, &policy)?;
    refused[1].more(bed, SOME)?;
    shows("the reason of IPv4 is left", &[reason(&of_4, 1)])?;
    ensure!(refused[0].count() == 0, "what is refused came {} times", refused[0].count());
    let policy = change(&admin, &["remove", "1"])?;
    carries_out(bed, &router, &policy)?;
    refused[0].more(bed, SOME)?;
    shows("no reason is left", &[])?;

    for (sender, number) in [(sender, 0), (sender6, 1)] {
        let last = sender.stop()? - 1;
        for listener in [&stay[number], &refused[number]] {
            listener.until_last(bed, last)?;
            listener.heard().is_whole()?;
        }
    }
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    ensure!(stray.count() == 0, "the bystander was sent {} packets of IPv6", stray.count());
    Ok(())
}

/// What a client with a limit has, beside a neighbour without one.
struct Limited {
    small: Small,
    admin: Role,
    router: Role,
    agents: Vec<Role>,
    senders: Vec<Sender>,
    neighbours: Vec<Listener>,
}

impl Limited {
    fn build(bed: &mut Bed, of_neighbour: &[GroupPort]) -> Result<Self, Failed> {
        let small = Small::build(bed, 3)?;
        let host = small.admin(bed)?;
        let admin = start_admin(bed, &host, NAMES)?;
        let router = router(bed, &small, &admin)?;
        let agents = two_agents(bed, &small, &admin)?;
        let (mut senders, mut neighbours) = (Vec::new(), Vec::new());
        for group in [STREAM, OTHER] {
            senders.push(Sender::start(&small.source, SOURCE, group)?);
        }
        for &group in of_neighbour {
            neighbours.push(Listener::join(small.client(1), group, None)?);
        }
        for listener in &neighbours {
            listener.more(bed, SOME)?;
        }
        Ok(Self { small, admin, router, agents, senders, neighbours })
    }

    /// Client 2 joins one group and is refused another, which it gets as soon as it leaves the first.
    fn one_and_then_the_other(&self, bed: &Bed, reason: &str, counter: &str) -> Result<Listener, Failed> {
        let client = self.small.client(2);
        let first = Listener::join(client, STREAM, None)?;
        first.more(bed, SOME)?;
        let beyond = Listener::join(client, OTHER, None)?;
        bed.until_answer("the agent shows the reason", &self.agents[1], &["status"], |status| {
            status["refused"][0]["reason"] == reason && status["refused"][1].is_null()
        })?;
        let stats = self.router.ask(&["stats"]).unwrap_or_default();
        let counters = &stats["control"]["policy"];
        ensure!(counters[counter] == 1, "it counts {counters}");
        ensure!(beyond.count() == 0, "what is beyond the limit came {} times", beyond.count());
        first.more(bed, SOME)?;
        first.heard().is_whole()?;
        first.leave().is_whole()?;
        beyond.more(bed, SOME)?;
        bed.until_answer("the reason is gone", &self.agents[1], &["status"], |status| {
            status["refused"].is_null()
        })?;
        Ok(beyond)
    }

    fn end(self, bed: &Bed, beyond: &Listener) -> Outcome {
        for listener in &self.neighbours {
            listener.more(bed, SOME)?;
        }
        for sender in self.senders {
            sender.stop()?;
        }
        for listener in self.neighbours.iter().chain([beyond]) {
            listener.heard().is_whole()?;
        }
        Ok(())
    }
}

// proves D4: a limit of groups of one member, in a daemon; a neighbour's groups are its own
fn limits_groups(bed: &mut Bed) -> Outcome {
    let lab = Limited::build(bed, &[STREAM, OTHER])?;
    let bystander = lab.small.forbid(bed, 3)?;
    let policy =
        change(&lab.admin, &["add", "allow", "receive", "--from", "10.5.2.0/24", "--max-groups", "1"])?;
    carries_out(bed, &lab.router, &policy)?;
    let reason = "rule 1 of the policy allows 1 groups and no more";
    let beyond = lab.one_and_then_the_other(bed, reason, "too_many_groups")?;
    lab.end(bed, &beyond)?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

// proves D4: a limit of bandwidth, by what the router measures and the rules declare; what flows is not cut by a lower one
fn limits_bandwidth(bed: &mut Bed) -> Outcome {
    let lab = Limited::build(bed, &[STREAM])?;
    let bystander = lab.small.forbid(bed, 3)?;
    let group = OTHER.group.to_string() + "/32";
    let declared = ["--groups", &group, "--max-rate", "10M", "--stream-rate", "9900k"];
    change(&lab.admin, &[&["add", "allow", "receive", "--from", "10.5.2.0/24"][..], &declared].concat())?;
    let policy =
        change(&lab.admin, &["add", "allow", "receive", "--from", "10.5.2.0/24", "--max-rate", "10M"])?;
    carries_out(bed, &lab.router, &policy)?;
    // For several seconds the router measures what the neighbour has; nothing is declared of that.
    lab.neighbours[0].more(bed, 1000)?;
    let reason = "rule 1 of the policy allows 10000000 bit/s and no more";
    let beyond = lab.one_and_then_the_other(bed, reason, "too_much_bandwidth")?;
    let lower = change(&lab.admin, &["add", "allow", "receive", "--max-rate", "1", "--before", "1"])?;
    carries_out(bed, &lab.router, &lower)?;
    beyond.more(bed, SOME)?;
    // Who waits for room gets it by a limit that is raised, within a second of packets.
    let waits = Listener::join(lab.small.client(2), STREAM, None)?;
    bed.until_answer("one more is refused", &lab.agents[1], &["status"], |status| {
        status["refused"][0]["group"] == STREAM.group.to_string()
    })?;
    ensure!(waits.count() == 0, "what is beyond the limit came {} times", waits.count());
    let lowest = lower["rules"][0]["id"].to_string();
    let raise = ["add", "allow", "receive", "--max-rate", "100M", "--before", &lowest];
    begins(bed, &lab.admin, &raise, (&lab.senders[0], &waits))?;
    waits.leave().is_whole()?;
    lab.end(bed, &beyond)?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}
