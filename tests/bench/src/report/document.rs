//! A report as a document with plots.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result};

use super::{Outcome, Ratio, Report, plots, text::Cells};

const HEAD: &str = "\
# Benchmarks

Made by `cargo xtask bench --write-doc`; not written by hand. Figures of a virtual or busy machine vary from run to
run. What travels is the ratio of two rows of one run: their rounds took turns, and a ratio is the median of the
ratios of the rounds.
";

const METHOD: &str = "\
## What each figure means

- **Copies.** Live frames (`BPF_PROG_TEST_RUN`) go in as if an interface had received them; what works in user space
  finds its packets in the queue of its socket. One core does it all: the engine, and behind each cable (veth) an XDP
  program that counts the copy by its receiver and drops it. *Mcopies/s* is what arrived, of each packet and member one
  copy at most, by the time of that core; the median of the rounds, and *least … most* of them. *ns/copy* is its
  reciprocal. *Delivered* says how many copies arrived in the rounds, and of how many, if some did not.
- **Checked** are the copies that were looked at before and after the rounds, by numbers in the packets: each member got
  each packet, and got it once. Without that there is no row. Members are spread over as many cables as keep what comes
  at once below the ring of each.
- **Engines.** *XDP broadcast*, *TC clone* and *software* are vmcast's. *sendmmsg relay* is what relay daemons do, with
  one system call for each packet and all members; *GSO relay* sends 32 packets to a member as one super-packet
  (`UDP_SEGMENT`), which the kernel cuts; *kernel ipmr* is the kernel's own multicast routing, *kernel vxlan* head-end
  replication, *bridge mcast_to_unicast* a bridge with a copy for each host.
- **Floors.** *XDP floor* is a devmap broadcast to the same members of the same groups, of frames as long as the copies,
  that nobody rewrites. A copy that is to be one member's has to be rewritten, and the kernel lets only a program in the
  slot do that: of *XDP floor, one byte rewritten* one writes a single byte, knows no member and counts nothing. *TC
  floor* is a walk of clones that nobody rewrites. Members of a device stand together, and no broadcast or walk has more
  copies than one of vmcast's. Where a packet has more members than that (124 at XDP, 64 at TC), vmcast goes on with the
  next ones through a relay device, a floor with another frame that comes in anew: there the floor is what the kernel
  does with as many copies, and an engine may be faster. Groups of the floors at XDP share the devmaps of their devices,
  as those of vmcast do when nobody has joined or left for ten seconds: so they are measured. With many groups they read
  the same few slots again and again, where who rewrites has to read an entry of each member of each group: what that
  takes of the caches is not in the limit.
- **Limit here** is what a target's ratio is with somebody else in the place of the engine: at XDP the floor with its
  one byte, at TC the floor, for the software plane at many members the `sendmmsg` relay, which looks nobody up; the
  median of the rounds, and the least and the most. Ratios of engines, fan-outs and groups have one, and the admin's
  storm (see there); all other targets have none. Where the limit misses the target too, this machine does not allow it
  to an engine that makes copies so: what vmcast does with a copy could take no time at all, and the target would be
  missed. *Missed, and by more without vmcast*: the engine is nearer to the target than that floor. *Remarks* say how
  near the engine comes.
- **Many members** are spread over 125 devices, few over 4, and join in turns. XDP, TC, software and the floors make the
  copies for a device together, the relay makes them in the order of its list.
- **Ratios** are taken within a round, in which all take turns; the median is shown, and the least and the most.
- **Statistics** are the counters of each stream. *Without* is the same engine with `dataplane.statistics = false`. The
  two take turns in short rounds, as many as it takes until the middle half of the ratios lies within 0.05, up to a
  limit; *Remarks* say how many these were and where that half lies. *Rounds* are the least and the most, as everywhere.
- **Members who come and go** do so one by one, as fast as the plane's thread can, which is one core, while on another a
  stream of 50 packets a second goes to those who stay. Each of these must get each packet once, by the numbers in it.
- **What is not alike.** A veth gives its peer's XDP program a frame as it is if XDP sent it, and a copy of the packet
  if a socket buffer came. So the engines that work on socket buffers, vmcast's at TC and the relays alike, pay for a
  conversion in the sink that a network card would not ask for. By samples of the core (`perf`, cpu-clock) over one run
  of all of them, which tell their shares roughly, the sink with the device's poll takes about 42 of 100 ns of an XDP
  copy, 38 of a TC copy (28 of them the conversion), and 32 of a relay's (20). From that follows: with it left out on
  both sides the ratios against the relay would be about 1.2 times as large at XDP and 1.1 times at TC; with the
  conversion alone left out, about 0.8 times as large at XDP and 1.1 times at TC.
- **Latency.** Packets arrive at random moments (Poisson), at 10 % and 90 % of what the same chain takes at most. Their
  time starts when they should have been sent, so waiting counts. Sender, hop and far end share one core. *Added* is
  what is beyond the cable alone under the same share of its own load, round by round. At 90 % of capacity a core
  that was stopped for a moment has a queue to work off, and the p99 of the cable alone may be the longer one: the hop
  seems to add less than nothing. In a round where the plane does, its ratio is 0, where the kernel's ipmr does, it is
  infinite (*inf*), where both do, the round says nothing. *Remarks* say of each ratio how many rounds were like that.
- **Holding a core.** Tracepoints say when a softirq that receives begins and ends, and when the turn of a device in it
  (its share of a NAPI poll) ends. One packet at a time. The targets judge the longest of all rounds; beside it stands
  the median of what was the longest in each. Whatever stops a virtual core meanwhile counts, the kernel's ipmr shows
  how much.
- **Kernel memory.** The growth of `SUnreclaim`, `VmallocUsed` and `Percpu` with very many more entries in each
  round, the median of the rounds, and an entry's share of tables that are allocated as a whole. A member of an (S,G) is
  counted without the tunnel that leads to it: a tunnel has one entry for all the (S,G)s that its member has. A member
  who has joined one (S,G), behind a tunnel of its own, takes both; there is no target for that.
- **Joins.** From `setsockopt` to the first packet, for a group that nobody has joined yet and whose stream flows.
- **Moved.** Packets that are missing between the last one before a change and the first one after it, by the pace of the
  stream. The agent stands behind a translator of the kernel (`nftables`), of whose changes nobody tells it.
- **Joins and leaves in a second.** Gateways in great numbers send Requests, Membership Updates and Teardowns to the
  sockets of the router daemon, which has a core to itself. *Per s* is by the time of its threads and includes what the
  kernel does for them: receiving, answering, changing its tables; it ends when the router shows every member. *In all*
  is by the time that passed. Alone, the relay's machine is given the messages by a loop, which makes them too. *For
  these the router's limits are raised* (`answers_per_second`, `answers_per_prefix_per_second` and
  `max_tunnels_per_prefix` in `[tunnel]`), as all gateways stand in few networks and come at once. By default a router
  answers 20000 Requests in a second, 10000 of them from one network (a /24, of IPv6 a /56), whatever a core could do,
  and a network has 16384 tunnels; these limits do not count for joins and leaves through tunnels that are there.
  *IPv4* and *IPv6* are both the tunnels and what is joined through them, by IGMPv3 or MLDv2. What gateways have to
  say goes out in one call, up to 100 messages. *Nobody* is what this machine takes without a router: a thread on its
  core, in its turn in each round, receives what is there in one call, answers all Requests of it in one, and writes
  an entry of a table for each Membership Update in one. It reads no message but for type and nonce, proves no address
  and has no lists of members. It is the *limit here* of joins by Request, Query and Update.
- **Report to member served.** From the moment a frame with the report is sent. Through a tunnel, until the answer to a
  Request right behind it has come back: the router does what messages ask for one after the other, so the member was in
  the kernel's tables before. On a link, until the first copy of a stream that flows already, a packet each 0.2 ms.
- **Floods.** Frames of some 65,000 forged senders are put in as if an interface of the router had received them
  (`BPF_PROG_TEST_RUN` with live frames), by two cores at once as from a NIC with two queues: that of the router, which
  has what is left of it, and that of everybody else here. They go through the stack and the filters of the router's
  sockets, whose limits are those it has by default. *Read* is what the router took of them, *dropped* what it counts as
  refused, or as dropped before it was read; what was read may be refused as well. *Joins* are those of a host on the
  flooded link, or of a gateway of the flooded relay, which were there before, one after the other. *Packets* and *lost*
  are of a stream that another gateway has all the time. *Limit here* is the same flood on a host without a router,
  beside nothing, at sockets that nobody reads, whose filter lets nothing in: what the generator makes and the kernel
  takes as far as a socket.
- **Memory of the daemon.** With members who all made a tunnel of their own by the real handshake. *Bytes/tunnel* is
  what each added: its places in the tables of tunnels, members and routes, and its next hop. The target of 40 MB is for
  what is *allocated*. The rest of the resident set, which is there without a member, are pages of the program's file
  as the kernel maps them around those in use; all processes share them, and they go when memory is short. The target
  for an idle tunnel counts them all the same.
- **The admin.** The program as it is installed, over its SQLite file; its clients talk gRPC to it on loopback. *Answers
  in a second* are by the time of its threads, all on one core, and include what the kernel does for them; the clients
  are on another core, and each answer was compared with what it should be. *Agents at once* register each by a
  connection of its own, which ends then; *µs each* is the time of the server's threads, *cores* how many of the
  machine's both ends kept busy; a lease is granted when the file has it. Over TLS each agent shows a certificate of its
  own, and each handshake is a whole one: the admin makes its key share, signs, and verifies who comes. What the agents
  would do on machines of their own is done on the admin's two cores, as little of it as can be: they sign and agree on
  the secret, but compare the admin's certificate with one that was verified before, and have one key share. So two rows
  judge 20 s: until all had their leases, the clients' work on the same cores included (*limit here* is how long that
  alone kept all cores busy: no admin could be faster), and half the time of the admin's threads. The latter is
  computed, not measured: no run gave both cores to the admin. It is how long two cores would be busy if clients
  elsewhere left them to it, and if its threads never waited for each other. *Bytes/agent* is what a registration adds,
  *resident MB* includes what is kept of all certificates.
- **The nearest VMR** is looked for by the real machines in random networks with a delay, a loss and a time to live. An
  answer is *exact* if no VMR that the requester may have is nearer; *stretch* is how many times farther it is than the
  nearest, 1 if it is exact. Distances are hops where hops are measured, and delays otherwise.
";

impl Report {
    /// Writes the document, and its plots into a directory below it.
    pub(crate) fn write_document(&self, path: &Path, plots_dir: &Path) -> Result<()> {
        let plots = self.write_plots(plots_dir)?;
        let base = path.parent().unwrap_or(Path::new(""));
        let mut text = HEAD.to_owned();
        writeln!(text, "\n{}\n", self.machine.sentence())?;
        let version = if self.quick { "The short version of the run (`--quick`)" } else { "The run" };
        writeln!(text, "{version} took {:.0} s.\n", self.seconds)?;
        text += &self.targets();
        for plot in plots {
            let place = plots_dir.strip_prefix(base).unwrap_or(plots_dir).join(plot.file);
            writeln!(text, "![{}]({})\n", plot.title, place.display())?;
        }
        for cells in self.tables() {
            writeln!(text, "## {}\n\n{}", cells.title, markdown(&cells))?;
        }
        if !self.remarks.is_empty() {
            text += "## Remarks\n\n";
            for remark in &self.remarks {
                writeln!(text, "- {remark}")?;
            }
            text.push('\n');
        }
        text += METHOD;
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// Writes the plots alone.
    pub(crate) fn write_plots(&self, dir: &Path) -> Result<Vec<plots::Plot>> {
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        plots::write(self, dir)
    }

    fn targets(&self) -> String {
        let rows = self.ratios.iter().map(|ratio| {
            let Ratio { name, value, unit, target, bound, spread, stretch, .. } = ratio;
            let spread = spread.map_or_else(String::new, |[least, most]| format!("{least:.2} … {most:.2}"));
            let stretch = stretch.map_or_else(String::new, |stretch| format!(", stretch {stretch}"));
            let verdict = match ratio.outcome() {
                Outcome::Stretch => "stretch met",
                Outcome::Met => "met",
                Outcome::Missed => "**missed**",
                Outcome::NotAllowed => "**missed**: the machine does not allow it",
                Outcome::Surpassed => "**missed**, and by more without vmcast",
            };
            vec![
                name.clone(),
                format!("{value:.2} {unit}"),
                spread,
                format!("{bound} {target} {unit}{stretch}"),
                ratio.limit_text().unwrap_or_default(),
                verdict.to_owned(),
            ]
        });
        let cells = Cells {
            title: "Targets",
            header: vec!["what", "measured", "rounds", "wanted", "limit here", ""],
            rows: rows.collect(),
        };
        if cells.rows.is_empty() { String::new() } else { format!("## Targets\n\n{}\n", markdown(&cells)) }
    }
}

fn markdown(cells: &Cells) -> String {
    let mut text = format!("| {} |\n|---|", cells.header.join(" | "));
    text += &"---:|".repeat(cells.header.len() - 1);
    text.push('\n');
    for row in &cells.rows {
        text += &format!("| {} |\n", row.join(" | "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{super::Bound, *};

    #[test]
    fn a_table_has_its_figures_to_the_right() {
        let cells = Cells {
            title: "t",
            header: vec!["engine", "ns/copy"],
            rows: vec![vec!["XDP".to_owned(), "180".to_owned()]],
        };
        assert_eq!(markdown(&cells), "| engine | ns/copy |\n|---|---:|\n| XDP | 180 |\n");
    }

    #[test]
    fn the_document_shows_each_target_with_what_became_of_it() {
        let mut report = Report::new(true);
        report
            .ratios
            .push(Ratio::new("speed".to_owned(), 5.0, "×", Bound::AtLeast(8.0)).with_stretch(Some(10.0)));
        assert!(
            report.targets().contains("| speed | 5.00 × |  | at least 8 ×, stretch 10 |  | **missed** |")
        );
    }

    #[test]
    fn what_is_said_of_a_relays_limits_is_what_it_has_by_default() {
        let limits = vmcast_proto::amt::relay::Config::new([0; 16]);
        let text = METHOD.split_whitespace().collect::<Vec<_>>().join(" ");
        for said in [
            format!("answers {} Requests in a second", limits.answers_per_second),
            format!("{} of them from one network", limits.answers_per_prefix_per_second),
            format!("a network has {} tunnels", limits.max_tunnels_per_prefix),
        ] {
            assert!(text.contains(&said), "{said}");
        }
    }
}
