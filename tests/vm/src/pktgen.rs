//! The benchmark's other generator, on kernels that have it: a small rig inside the machine.
//!
//! ```text
//! +-------------------------------- machine --------------------------------+
//! |  +-----------+ in0          in1 +----------+ out1         out0 +------+ |
//! |  | generator |------------------|  router  |-------------------| sink | |
//! |  +-----------+  10.99.0.0/24    +----------+  10.98.0.0/24     +------+ |
//! +-------------------------------------------------------------------------+
//! ```

use std::{collections::BTreeMap, fmt::Write as _};

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use vmcast_lab::roles::Engine;

use crate::{
    bed::{self, Bed, Outcome, ensure},
    capture::Capture,
    guest,
    pieces::Kernel,
    vm::{Job, Vm},
    wire::Wire,
};

/// The streams of the benchmark: its default source, and the groups from its default on.
const SOURCE: &str = "10.99.0.1";
const GROUPS: u64 = 4;
/// Members of each group: hosts that the sink tells apart by their link-layer addresses.
const MEMBERS: u64 = 3;
/// Bytes of a payload in the streams that are looked at, their port, and the hops that copies have left: the generator
/// begins with 32.
const PAYLOAD: usize = 64;
const PORT: &str = "9999";
const HOPS: &str = "31";
const SOCKET: &str = "/tmp/rig.sock";
const RESULTS: &str = "/tmp/rig.json";

/// The test on a kernel whose generator can give packets away, as a veth wants them (6.7).
pub(crate) fn trials(series: &str, kernel: Option<&Kernel>) -> Vec<Trial> {
    if series == "6.1" {
        return Vec::new();
    }
    const NAME: &str = "its packet generator takes the benchmark's configuration and every copy is counted, and what it \
                        is of, with each engine";
    vec![crate::trial(series, kernel, NAME, test)]
}

fn test(bed: &mut Bed) -> Outcome {
    let wire = Wire::open(bed)?;
    let mut vm = bed.boot(&wire)?;
    vm.run(
        "/run/modprobe pktgen\nip netns add router\n\
         ip link add in0 type veth peer name in1 netns router\n\
         ip link add out0 type veth peer name out1 netns router\n\
         ip link set in0 up\nip link set out0 up\n\
         ip -n router link set in1 up\nip -n router link set out1 up\n\
         ip -n router addr add 10.99.0.254/24 dev in1\nip -n router addr add 10.98.0.254/24 dev out1",
    )?;
    guest::turn_gro_on(&mut vm, "out0")?;
    bed::with_each([Engine::Xdp, Engine::Tc], |engine| counted(bed, &mut vm, engine))
}

fn counted(bed: &Bed, vm: &mut Vm, engine: Engine) -> Outcome {
    let router = router(bed, vm, engine)?;
    // At a pace that any machine keeps: as fast as it goes, the generator would leave the machine's only processor to
    // nobody else.
    for (groups, payload, options) in
        [(1, 1316, String::new()), (GROUPS, PAYLOAD, format!("--groups {GROUPS} --payload {PAYLOAD}"))]
    {
        let row = measure(vm, &format!("{options} --rate 200"))?;
        ensure!(row["groups"] == groups && row["payload"] == payload, "the row is {row}");
        let expected = row["expected"].as_u64().unwrap_or_default();
        ensure!(expected > 0 && row["delivered"] == expected, "the row is {row}");
    }
    each_once(bed, vm)?;
    vm.run("kill $(cat /tmp/rig.pid)")?;
    bed.until("the router has ended", || Ok(router.status()?.is_some()))
}

/// Runs the script that the benchmark has left, as an operator would, and fails unless each packet came to each member of
/// its group once, in order and as it was sent, and to nobody else.
fn each_once(bed: &Bed, vm: &mut Vm) -> Outcome {
    let capture = Capture::inside(bed, vm, "out0")?;
    let said = vm.run("sh /tmp/pktgen/pktgen.sh")?;
    let sent = said.split_once("pkts-sofar:").and_then(|(_, rest)| rest.split_whitespace().next());
    let sent: u64 =
        sent.ok_or_else(|| format!("the generator does not say what it sent: {said}"))?.parse()?;
    ensure!(sent > GROUPS, "the generator sent {sent} packets");
    let fields = ["eth.dst", "ip.dst", "ip.ttl", "udp.dstport", "udp.payload"];
    let rows = capture.rows(bed, &format!("ip.src == {SOURCE}"), &fields, sent * MEMBERS)?;
    // By group and member the numbers of packets as they came, and by number what came first.
    let mut came: BTreeMap<(String, String), Vec<u32>> = BTreeMap::new();
    let mut packets: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for row in rows {
        let [member, packet @ ..] = &row[..] else { return Err("tshark has an empty row".into()) };
        let [group, hops, port, payload] = packet else { return Err(format!("tshark has {row:?}").into()) };
        ensure!(hops == HOPS && port == PORT, "of a packet came {row:?}");
        let number = number(payload).ok_or_else(|| format!("a packet came damaged: {row:?}"))?;
        came.entry((group.clone(), member.clone())).or_default().push(number);
        let first = packets.entry(number).or_insert_with(|| packet.to_vec());
        ensure!(first == packet, "of packet {number} came {first:?} to one, and {packet:?} to another");
    }
    let numbers: Vec<u32> = packets.keys().copied().collect();
    ensure!(
        numbers.len() as u64 == sent && numbers.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "of {sent} packets came {numbers:?}"
    );
    for group in 0..GROUPS {
        let group = format!("232.1.0.{group}");
        let its = packets.iter().filter(|(_, packet)| packet[0] == group).map(|(number, _)| *number);
        let its: Vec<u32> = its.collect();
        ensure!(!its.is_empty(), "nothing was sent to {group}");
        for member in 1..=MEMBERS {
            let came = came.remove(&(group.clone(), mac(member))).unwrap_or_default();
            ensure!(came == its, "to member {member} of {group} came {came:?}, not {its:?}");
        }
    }
    ensure!(came.is_empty(), "nobody's copies came: {came:?}");
    Ok(())
}

/// The generator's number of a payload, as tshark has that: behind its magic number, and before the time and zeros.
fn number(payload: &str) -> Option<u32> {
    const MAGIC: &str = "be9be955";
    let digits = payload.replace(':', "").strip_prefix(MAGIC)?.to_owned();
    let (number, rest) = digits.split_at_checked(8)?;
    let zeros = rest.get(16..)?;
    let is_whole = zeros.len() == 2 * (PAYLOAD - 16) && zeros.bytes().all(|digit| digit == b'0');
    is_whole.then(|| u32::from_str_radix(number, 16).ok())?
}

/// The link-layer address of a member.
fn mac(member: u64) -> String {
    format!("02:62:6e:63:00:{member:02x}")
}

/// Starts the router, with every member of every group, and waits until it serves them.
fn router(bed: &Bed, vm: &mut Vm, engine: Engine) -> Result<Job, Failed> {
    let program = bed::program()?.display().to_string();
    let to: Vec<String> = (1..=MEMBERS)
        .map(|member| format!("{{ mac = \"{}\", interface = \"out1\" }}", mac(member)))
        .collect();
    let mut config = format!(
        "rank = 0\n[control]\nsocket = \"{SOCKET}\"\n[dataplane]\nengine = \"{}\"\n\
         [[interface]]\nname = \"in1\"\naccepts_sources = true\n[[interface]]\nname = \"out1\"\n",
        engine.label()
    );
    for group in 0..GROUPS {
        write!(
            config,
            "[[forward]]\ngroup = \"232.1.0.{group}\"\nsource = \"{SOURCE}\"\nfrom = \"in1\"\nto = [{}]\n",
            to.join(", ")
        )
        .expect("writing to a string");
    }
    let job = vm.start(&format!(
        "cat > /tmp/rig.toml <<'END'\n{config}END\necho $$ > /tmp/rig.pid\n\
         exec ip netns exec router {program} router --config /tmp/rig.toml"
    ))?;
    let members = format!("{program} member list --json --socket {SOCKET} 2>/dev/null || true");
    bed.until("every output is a member", || {
        ensure!(job.status()?.is_none(), "the router has ended: {}", job.said());
        Ok(vm.run(&members)?.matches("\"configured\": true").count() as u64 == GROUPS * MEMBERS)
    })
    .map_err(|failed| format!("{}\n{}", failed.message().unwrap_or_default(), job.said()))?;
    Ok(job)
}

/// Runs the benchmark to its end, as short as it gets, and returns its only row.
fn measure(vm: &mut Vm, options: &str) -> Result<Value, Failed> {
    let (bench, program) = (bed::benchmark()?, bed::program()?);
    let said = vm.run(&format!(
        "cd /tmp\n{} --program {} --generator pktgen --in in0 --out out0 --seconds 1 --json {RESULTS} {options}",
        bench.display(),
        program.display()
    ))?;
    let results: Value = serde_json::from_str(&vm.run(&format!("cat {RESULTS}"))?)?;
    let rows = results["rows"].as_array().map(Vec::as_slice).unwrap_or_default();
    let [row] = rows else { return Err(format!("there is not one row: {results}\n{said}").into()) };
    ensure!(
        row["members"] == MEMBERS && row["engine"] == "router on the rig" && row["peer"].is_null(),
        "the row is {row}\n{said}"
    );
    Ok(row.clone())
}
