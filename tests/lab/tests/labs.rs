//! The labs themselves: they carry what they should, and leave nothing behind.

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use libtest_mimic::{Arguments, Failed, Trial};
use nix::{
    sys::{
        prctl::set_pdeathsig,
        signal::{Signal, kill},
    },
    unistd::{Pid, Uid},
};
use vmcast_lab::{
    Lab, LabError,
    clock::Clock,
    judge::{Received, judge},
    netns::{end, live_labs, sweep},
    signals,
    topology::{MainTopology, address},
    traffic::{Carriage, GroupPort, MpegTsSource, Receiver, Recorder, SourceConfig, Witness},
};

/// Set in the process that the tests kill.
const VICTIM: &str = "VMCAST_LAB_VICTIM";

const STREAM: GroupPort = GroupPort { group: Ipv4Addr::new(239, 192, 0, 1), port: 5004 };

fn main() {
    if env::var_os(VICTIM).is_some() {
        victim().expect("the victim's lab can be built");
        return;
    }
    let root = Uid::effective().is_root();
    if !root {
        eprintln!("SKIPPED the tests of the labs: network namespaces need root");
    }
    let trial =
        |name: &str, test: fn() -> Result<(), Failed>| Trial::test(name, test).with_ignored_flag(!root);
    let tests = vec![
        trial(
            "a_member_of_the_source_network_receives_the_whole_stream_and_its_neighbour_nothing",
            source_network,
        ),
        trial("the_backbone_carries_unicast_from_end_to_end_and_no_multicast", backbone),
        trial("nothing_is_left_of_a_lab_that_was_dropped", dropped),
        trial("a_killed_lab_leaves_no_process_and_the_next_sweep_removes_the_rest", killed),
        trial("a_lab_that_is_asked_to_end_takes_itself_down", terminated),
        trial("a_lab_that_lives_is_not_swept", alive),
        trial("a_lab_of_another_process_is_ended_by_asking_it", ended),
        trial("a_lab_whose_process_was_stopped_is_ended_all_the_same", stopped),
        trial("a_program_that_cannot_start_is_an_error_with_its_name", missing_program),
    ];
    libtest_mimic::run(&Arguments::from_args(), tests).exit();
}

fn source_network() -> Result<(), Failed> {
    let mut lab = Lab::new("source-network")?;
    let [source, switch, member, neighbour] = lab.namespaces(["source", "switch", "member", "neighbour"])?;
    for host in [&source, &member, &neighbour] {
        lab.veth((host, "eth0"), (&switch, host.node()))?;
    }
    switch.bridge("br0", &["source", "member", "neighbour"])?;
    // A querier, so that the switch knows members and sends the group to nobody else.
    // It trusts what it learnt once a response interval of 0.1 s is over.
    switch.ip("addr add 10.1.0.254/24 dev br0\n\
         link set br0 type bridge mcast_query_response_interval 10 mcast_query_use_ifaddr 1\n\
         link set br0 type bridge mcast_querier 1")?;
    for (host, last) in [(&source, 2), (&member, 3), (&neighbour, 4)] {
        host.ip(&format!("addr add 10.1.0.{last}/24 dev eth0\nroute add 224.0.0.0/4 dev eth0"))?;
    }

    let clock = Clock::start();
    let recorder = Recorder::start(&source, "eth0", STREAM, clock)?;
    let receiver = Receiver::join(&member, STREAM, clock)?;
    wait_for("the switch to learn the member", || {
        let entries = switch.run(mdb())?;
        Ok(String::from_utf8_lossy(&entries.stdout).contains("239.192.0.1"))
    })?;
    thread::sleep(Duration::from_millis(200));
    let witness = Witness::start(&neighbour, "eth0", STREAM, clock)?;
    witness.forbid(true);
    let config =
        SourceConfig { stream: STREAM, local: Ipv4Addr::new(10, 1, 0, 2), bit_rate: 8_000_000, ttl: 1 };
    let ffmpeg = MpegTsSource::start(&source, config)?;
    wait_for("two thousand packets", || Ok(receiver.look(|session| session.counts.packets) >= 2000))?;
    let session = receiver.leave()?;
    drop(ffmpeg);

    let sent = recorder.sent_from(0);
    let received = Received { fingerprints: &session.received, first_at: session.first_at };
    let judgement = judge(&sent, received, session.left_at.expect("it left"));
    assert!(judgement.received >= 2000);
    assert_eq!(
        [judgement.missing(), judgement.duplicated, judgement.reordered, judgement.unknown],
        [0; 4],
        "{judgement:?}"
    );
    assert_eq!((session.continuity.errors(), session.continuity.malformed()), (0, 0));
    assert!(session.join_to_first().is_some());
    assert_eq!(witness.stray().packets, 0, "the neighbour never joined");
    Ok(())
}

fn mdb() -> Command {
    let mut command = Command::new("bridge");
    command.args(["mdb", "show", "dev", "br0"]);
    command
}

fn backbone() -> Result<(), Failed> {
    let mut lab = Lab::new("backbone")?;
    let net = MainTopology::build(&mut lab)?;
    let listener = net.admin.enter(|| TcpListener::bind((address::ADMIN, 7000)))??;
    for client in net.clients.iter().chain([&net.bystander]) {
        let connect = || {
            let mut stream = TcpStream::connect((address::ADMIN, 7000))?;
            stream.write_all(b"hello")
        };
        client.node.enter(connect)??;
        let (mut stream, from) = listener.accept()?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        assert_eq!((said.as_str(), from.ip()), ("hello", client.address.into()));
    }

    let clock = Clock::start();
    let near = Witness::start(&net.srclan, "vmr1", STREAM, clock)?;
    let far: Vec<_> = [(&net.core1, "vmr1"), (&net.core2, "core1"), (&net.access, "vmr2")]
        .into_iter()
        .map(|(node, interface)| Witness::start(node, interface, STREAM, clock))
        .collect::<Result<_, LabError>>()?;
    let socket = net.source.enter(|| std::net::UdpSocket::bind((address::SOURCE, 0)))??;
    socket.set_multicast_ttl_v4(64)?;
    for _ in 0..100 {
        socket.send_to(b"native", STREAM.socket_addr())?;
    }
    wait_for("the packets at VMR 1", || Ok(near.outgoing(Carriage::Native).packets == 100))?;
    for witness in far {
        assert_eq!(witness.incoming(Carriage::Native).packets, 0, "nothing routes multicast here");
    }
    Ok(())
}

fn dropped() -> Result<(), Failed> {
    let mut lab = Lab::new("dropped")?;
    let node = lab.namespace("node")?;
    let mut sleeper = Command::new("sleep");
    sleeper.arg("1000");
    // Its child is no process of ours, and has to go all the same.
    let mut shell = Command::new("sh");
    shell.args(["-c", "setsid sleep 1000 & echo $! > \"$0\"; wait"]).arg(lab.dir().join("pid"));
    let mut processes = [node.spawn("sleeper", sleeper)?, node.spawn("shell", shell)?];
    let (dir, name) = (lab.dir().to_owned(), node.name().to_owned());
    wait_for("the grandchild", || {
        Ok(fs::read_to_string(dir.join("pid")).is_ok_and(|text| text.ends_with('\n')))
    })?;
    let grandchild: i32 = fs::read_to_string(dir.join("pid"))?.trim().parse()?;
    let mut pids: Vec<_> = processes.iter().map(|process| process.pid().cast_signed()).collect();
    pids.push(grandchild);
    assert!(processes.iter_mut().all(|process| matches!(process.try_wait(), Ok(None))));
    assert!(Path::new("/run/netns").join(&name).exists());

    drop(processes);
    drop(node);
    drop(lab);
    assert!(!dir.exists() && !Path::new("/run/netns").join(&name).exists());
    wait_for("the processes to end", || Ok(pids.iter().all(|pid| !runs(*pid))))?;
    Ok(())
}

fn killed() -> Result<(), Failed> {
    let (victim, found) = start_victim()?;
    drop(victim);
    wait_for("the victim's process to end", || Ok(!runs(found.child)))?;
    // Another test's lab may have swept it away before.
    sweep()?;
    assert!(!Path::new("/run/netns").join(&found.netns).exists());
    assert!(!Path::new(&found.dir).exists());
    Ok(())
}

fn terminated() -> Result<(), Failed> {
    let (mut victim, found) = start_victim()?;
    kill(victim.pid(), Signal::SIGTERM)?;
    assert!(victim.end()?.success());
    assert!(!Path::new("/run/netns").join(&found.netns).exists() && !Path::new(&found.dir).exists());
    assert!(!runs(found.child));
    Ok(())
}

fn alive() -> Result<(), Failed> {
    let (victim, found) = start_victim()?;
    assert!(!sweep()?.contains(&found.netns));
    assert!(Path::new("/run/netns").join(&found.netns).exists() && runs(found.child));
    let pid = victim.pid().as_raw();
    assert!(live_labs()?.iter().any(|lab| lab.pid == pid && lab.name == "victim" && lab.nodes.len() == 1));
    drop(victim);
    sweep()?;
    Ok(())
}

fn ended() -> Result<(), Failed> {
    let (victim, found) = start_victim()?;
    let status = end_victim(victim, &found, Duration::from_secs(20), true)?;
    assert!(status.success());
    Ok(())
}

fn stopped() -> Result<(), Failed> {
    let (victim, found) = start_victim()?;
    kill(victim.pid(), Signal::SIGSTOP)?;
    let status = end_victim(victim, &found, Duration::from_millis(200), false)?;
    assert_eq!(status.signal(), Some(libc::SIGKILL));
    Ok(())
}

fn end_victim(
    mut victim: Victim,
    found: &Found,
    limit: Duration,
    by_itself: bool,
) -> Result<ExitStatus, Failed> {
    let pid = victim.pid().as_raw();
    let lab = live_labs()?.into_iter().find(|lab| lab.pid == pid).ok_or("the victim's lab is not seen")?;
    assert_eq!(end(&lab, limit)?, by_itself);
    assert!(!Path::new("/run/netns").join(&found.netns).exists() && !Path::new(&found.dir).exists());
    wait_for("the victim's process to end", || Ok(!runs(found.child)))?;
    victim.end()
}

fn missing_program() -> Result<(), Failed> {
    let mut lab = Lab::new("missing-program")?;
    let node = lab.namespace("node")?;
    let error =
        node.spawn("nothing", Command::new("/nonexistent/program")).expect_err("there is no such program");
    assert!(error.to_string().contains("/nonexistent/program"), "{error}");
    let mut fails = Command::new("sh");
    fails.args(["-c", "echo reason >&2; exit 3"]);
    let error = node.run(fails).expect_err("it fails");
    assert!(error.to_string().contains("reason") && error.to_string().contains('3'), "{error}");
    Ok(())
}

/// A lab that waits to be killed, and does not outlive who started it.
fn victim() -> Result<(), LabError> {
    set_pdeathsig(Signal::SIGKILL).expect("the kernel can be asked for a signal");
    signals::install()?;
    let mut lab = Lab::new("victim")?;
    let node = lab.namespace("node")?;
    let mut sleeper = Command::new("sleep");
    sleeper.arg("1000");
    let process = node.spawn("sleeper", sleeper)?;
    println!("{} {} {}", node.name(), lab.dir().display(), process.pid());
    while !signals::stop_requested() {
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

struct Found {
    netns: String,
    dir: String,
    child: i32,
}

/// Another process with a lab; it ends with this.
struct Victim(Child);

impl Victim {
    fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id().cast_signed())
    }

    /// Waits for its end.
    fn end(&mut self) -> Result<ExitStatus, Failed> {
        let mut ended = None;
        wait_for("the victim to end", || {
            ended = self.0.try_wait().map_err(LabError::io("waiting for the victim"))?;
            Ok(ended.is_some())
        })?;
        Ok(ended.ok_or("it has not ended")?)
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // One that was waited for is gone by now.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_victim() -> Result<(Victim, Found), Failed> {
    let mut command = Command::new(env::current_exe()?);
    let mut victim = Victim(command.env(VICTIM, "1").stdout(Stdio::piped()).spawn()?);
    let mut line = String::new();
    BufReader::new(victim.0.stdout.take().expect("piped")).read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (Some(netns), Some(dir), Some(child)) = (words.next(), words.next(), words.next()) else {
        return Err(format!("the victim said only {line:?}").into());
    };
    Ok((victim, Found { netns, dir, child: child.parse()? }))
}

/// Whether a process runs; one that nobody has waited for yet does not.
fn runs(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().next());
    state.is_some_and(|state| state != "Z" && state != "X")
}

fn wait_for(what: &str, mut done: impl FnMut() -> Result<bool, LabError>) -> Result<(), Failed> {
    let clock = Clock::start();
    while !done()? {
        if clock.now() > Duration::from_secs(20) {
            return Err(format!("waited in vain for {what}").into());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
