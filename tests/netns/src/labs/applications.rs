//! Applications that people use, unmodified: they join and leave by the system's own calls, on a host whose link a VMR
//! serves, and on one that has an agent. Each writes what it receives into a file as it came: numbered packets, so
//! that one which is missing, doubled or out of order shows.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use libtest_mimic::{Failed, Trial};
use vmcast_lab::{
    Namespace,
    roles::{AGENT_INTERFACE, Engine},
    traffic::Carriage,
};

use super::{
    bed::{Bed, Outcome, ensure, trial_with},
    hosts::{Hosts, Streams, V4, V6},
    stream::{Frames, number, payload},
};

pub(super) fn trials() -> Vec<Trial> {
    let trial = |name, application: Application, test: fn(&mut Bed) -> Outcome| {
        trial_with(name, application.program, application.packages, test)
    };
    vec![
        trial("ffmpeg joins and leaves on a link of a VMR", FFMPEG, |bed| on_link(bed, FFMPEG)),
        trial("ffmpeg joins and leaves behind an agent", FFMPEG, |bed| behind_agent(bed, FFMPEG)),
        trial("VLC joins and leaves on a link of a VMR", VLC, |bed| on_link(bed, VLC)),
        trial("VLC joins and leaves behind an agent", VLC, |bed| behind_agent(bed, VLC)),
        trial("GStreamer joins and leaves on a link of a VMR", GSTREAMER, |bed| on_link(bed, GSTREAMER)),
        trial("GStreamer joins and leaves behind an agent", GSTREAMER, |bed| behind_agent(bed, GSTREAMER)),
    ]
}

const SOME: u64 = 150;

/// A program that plays or records streams.
#[derive(Clone, Copy)]
struct Application {
    program: &'static str,
    /// Debian's packages that it comes with.
    packages: &'static str,
    /// Whether it can join a single source.
    joins_sources: bool,
    /// What it is started with.
    command: fn(&Join<'_>) -> Command,
}

/// What is to be joined, and where what comes is written to.
struct Join<'a> {
    stream: SocketAddr,
    source: Option<IpAddr>,
    interface: &'a str,
    file: &'a Path,
}

const FFMPEG: Application =
    Application { program: "ffmpeg", packages: "ffmpeg", joins_sources: true, command: ffmpeg };
const VLC: Application =
    Application { program: "cvlc", packages: "vlc-bin vlc-plugin-base", joins_sources: true, command: vlc };
const GSTREAMER: Application = Application {
    program: "gst-launch-1.0",
    packages: "gstreamer1.0-tools gstreamer1.0-plugins-good",
    // Not in the version of Debian 12.
    joins_sources: false,
    command: gstreamer,
};

fn ffmpeg(join: &Join<'_>) -> Command {
    let source = join.source.map(|source| format!("&sources={source}")).unwrap_or_default();
    let mut command = Command::new("ffmpeg");
    command
        .args(["-hide_banner", "-nostdin", "-loglevel", "warning"])
        // Nothing is looked for in what comes: it goes into the file at once, byte by byte.
        .args(["-probesize", "32", "-analyzeduration", "0", "-f", "data", "-i"])
        .arg(format!("udp://{}?reuse=1{source}", join.stream))
        .args(["-map", "0", "-c", "copy", "-flush_packets", "1", "-f", "data"])
        .arg(join.file);
    command
}

/// VLC refuses to run as root.
fn vlc(join: &Join<'_>) -> Command {
    let source =
        join.source.map(|source| if source.is_ipv6() { format!("[{source}]") } else { source.to_string() });
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "cvlc"])
        .env("HOME", join.file.parent().unwrap_or(join.file))
        .args(["--intf", "dummy", "--no-plugins-cache", "--demux", "dump", "--demuxdump-file"])
        .arg(join.file)
        .arg(format!("udp://{}@{}", source.unwrap_or_default(), join.stream));
    command
}

fn gstreamer(join: &Join<'_>) -> Command {
    let mut command = Command::new("gst-launch-1.0");
    command
        .args(["-q", "udpsrc", "auto-multicast=true", "buffer-size=8000000"])
        .arg(format!("address={}", join.stream.ip()))
        .arg(format!("port={}", join.stream.port()))
        .arg(format!("multicast-iface={}", join.interface))
        .args(["!", "filesink", "buffer-mode=unbuffered"])
        .arg(format!("location={}", join.file.display()));
    command
}

// proves E2, A13 with applications that people use: any source and one source, both versions of IP
fn on_link(bed: &mut Bed, application: Application) -> Outcome {
    let hosts = Hosts::start(bed, 2, Engine::Auto)?;
    let site = Site { hosts: &hosts, application, interface: "eth0", carriage: Carriage::Native };
    for streams in [V4, V6] {
        site.any_source(bed, streams)?;
        site.one_source(bed, streams)?;
    }
    Ok(())
}

// proves E1 with them: what they join on the agent's interface comes through its tunnel
fn behind_agent(bed: &mut Bed, application: Application) -> Outcome {
    let hosts = Hosts::start(bed, 2, Engine::Auto)?;
    let _agents = hosts.small.agents(bed, [1, 2])?;
    let site = Site { hosts: &hosts, application, interface: AGENT_INTERFACE, carriage: Carriage::Amt };
    site.any_source(bed, V4)?;
    // Agents capture channels of IPv6 alone, if they are not told otherwise.
    site.one_source(bed, V4)?;
    site.one_source(bed, V6)
}

/// Where an application is started.
struct Site<'a> {
    hosts: &'a Hosts,
    application: Application,
    /// The interface that it joins on.
    interface: &'a str,
    /// What its packets are on its link.
    carriage: Carriage,
}

impl Site<'_> {
    fn any_source(&self, bed: &Bed, streams: Streams) -> Outcome {
        self.session(bed, streams.any, streams.sources, None)
    }

    fn one_source(&self, bed: &Bed, streams: Streams) -> Outcome {
        if !self.application.joins_sources {
            return Ok(());
        }
        self.session(bed, streams.channel, streams.sources, Some(streams.sources[0]))
    }

    /// The application joins, gets what it asked for, and leaves. The second address sends only if it is not wanted.
    fn session(&self, bed: &Bed, stream: SocketAddr, from: [IpAddr; 2], source: Option<IpAddr>) -> Outcome {
        let Self { hosts, application, interface, carriage } = self;
        let bystander = hosts.forbid(bed, 2, stream)?;
        let link = hosts.watch(bed, 1, stream)?;
        hosts.until_nobody(bed)?;
        let [ours, others] = from.map(|from| self.frames_of(from, stream.ip()));
        let (ours, others) = (ours?, others?);
        let wanted = hosts.send(from[0], stream)?;
        let unwanted = source.map(|_| hosts.send(from[1], stream)).transpose()?;
        wanted.more(bed, SOME)?;
        let before = link.incoming(*carriage).packets;
        ensure!(before == 0, "{before} packets came before anybody had joined");

        let recording = Recording::new(bed, stream)?;
        let join = Join { stream, source, interface, file: &recording.file };
        let mut process = recording.start(hosts.host(1), *application, &join)?;
        bed.until(&format!("{SOME} packets of {stream} come to {}", application.program), || {
            let ended = process.try_wait()?;
            ensure!(ended.is_none(), "{} has ended: {}", application.program, process.log_tail(10));
            Ok(recording.numbers()?.len() as u64 >= SOME)
        })?;
        match carriage {
            Carriage::Native => hosts.until_only_member(bed, 1, stream, source)?,
            Carriage::Amt => hosts.until_only_tunnel(bed, 1, stream, source)?,
        }
        recording.is_whole()?;
        process.stop()?;
        recording.is_whole()?;
        hosts.until_nobody(bed)?;
        let senders: Vec<_> = [Some(&wanted), unwanted.as_ref()].into_iter().flatten().collect();
        hosts.gets_nothing(bed, 1, stream, &senders, SOME)?;
        ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
        // It sent all the time where one source was asked for.
        ensure!(ours.count() >= SOME, "{} packets of the wanted source crossed the link", ours.count());
        ensure!(others.count() == 0, "{} packets of the other source crossed the link", others.count());
        Ok(())
    }

    /// Counts what a source sends to a group and crosses the link of the first host, as it is carried here.
    fn frames_of(&self, source: IpAddr, group: IpAddr) -> Result<Frames, Failed> {
        let octets = |address: IpAddr| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let addresses = [octets(source), octets(group)].concat();
        let (version, addresses_at) = if source.is_ipv4() { (4, 12) } else { (6, 8) };
        // The tunnels here are over IPv4: its header, that of UDP and that of AMT data come first.
        let packet = match self.carriage {
            Carriage::Native => 14,
            Carriage::Amt => 14 + 20 + 8 + 2,
        };
        let at = packet + addresses_at;
        Frames::watch(self.hosts.host(1), "eth0", move |frame| {
            frame[packet] >> 4 == version && frame[at..at + addresses.len()] == addresses
        })
    }
}

/// What an application wrote.
struct Recording {
    file: PathBuf,
}

impl Recording {
    /// A file in a directory that every user can write to.
    fn new(bed: &Bed, stream: SocketAddr) -> Result<Self, Failed> {
        let dir = bed.lab.dir().join("recordings");
        fs::create_dir_all(&dir)?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777))?;
        let kind = if stream.is_ipv4() { "v4" } else { "v6" };
        Ok(Self { file: dir.join(format!("{kind}-{}", stream.port())) })
    }

    fn start(
        &self,
        node: &Namespace,
        application: Application,
        join: &Join<'_>,
    ) -> Result<vmcast_lab::Process, Failed> {
        Ok(node.spawn(application.program, (application.command)(join))?)
    }

    /// The numbers of the packets that are there as a whole, in their order.
    fn numbers(&self) -> Result<Vec<u64>, Failed> {
        let bytes = match fs::read(&self.file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => read?,
        };
        let whole = bytes.chunks_exact(payload(0).len());
        let numbers = whole.map(|bytes| number(bytes).ok_or("a packet is not as it was sent"));
        Ok(numbers.collect::<Result<_, _>>()?)
    }

    /// Fails unless there is no gap between the packets, and none is there twice.
    fn is_whole(&self) -> Outcome {
        for pair in self.numbers()?.windows(2) {
            ensure!(pair[1] == pair[0] + 1, "after packet {} came packet {}", pair[0], pair[1]);
        }
        Ok(())
    }
}
