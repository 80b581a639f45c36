//! The benchmark's other generator, on kernels that have it: a small rig inside the machine.
//!
//! ```text
//! +-------------------------------- machine --------------------------------+
//! |  +-----------+ in0          in1 +----------+ out1         out0 +------+ |
//! |  | generator |------------------|  router  |-------------------| sink | |
//! |  +-----------+  10.99.0.0/24    +----------+  10.98.0.0/24     +------+ |
//! +-------------------------------------------------------------------------+
//! ```

use std::fmt::Write as _;

use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::{
    bed::{self, Bed, Outcome, ensure},
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
const SOCKET: &str = "/tmp/rig.sock";
const RESULTS: &str = "/tmp/rig.json";

/// The test on a kernel whose generator can give packets away, as a veth wants them (6.7).
pub(crate) fn trials(series: &str, kernel: Option<&Kernel>) -> Vec<Trial> {
    if series == "6.1" {
        return Vec::new();
    }
    const NAME: &str = "its packet generator takes the benchmark's configuration and every copy is counted";
    vec![
        crate::trial(series, kernel, format!("{NAME}, engine xdp"), |bed| test(bed, "xdp")),
        crate::trial(series, kernel, format!("{NAME}, engine tc"), |bed| test(bed, "tc")),
    ]
}

fn test(bed: &mut Bed, engine: &str) -> Outcome {
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
    let _router = router(bed, &mut vm, engine)?;
    // As fast as it goes, which a slow machine may lose of.
    let row = measure(&mut vm, "")?;
    ensure!(row["groups"] == 1 && row["payload"] == 1316, "the row is {row}");
    ensure!(row["delivered"].as_u64() > Some(0), "the row is {row}");
    // At a pace that any machine keeps, nothing is lost.
    let row = measure(&mut vm, &format!("--groups {GROUPS} --payload 64 --rate 200"))?;
    ensure!(row["groups"] == GROUPS && row["payload"] == 64, "the row is {row}");
    let expected = row["expected"].as_u64().unwrap_or_default();
    // Five rounds of a second; the generator may begin late, never early.
    ensure!((500 * MEMBERS..=1100 * MEMBERS).contains(&expected), "the row is {row}");
    ensure!(row["delivered"] == expected, "the row is {row}");
    Ok(())
}

/// Starts the router, with every member of every group, and waits until it serves them.
fn router(bed: &Bed, vm: &mut Vm, engine: &str) -> Result<Job, Failed> {
    let program = bed::program()?.display().to_string();
    let to: Vec<String> = (1..=MEMBERS)
        .map(|member| format!("{{ mac = \"02:62:6e:63:00:{member:02x}\", interface = \"out1\" }}"))
        .collect();
    let mut config = format!(
        "rank = 0\n[control]\nsocket = \"{SOCKET}\"\n[dataplane]\nengine = \"{engine}\"\n\
         [[interface]]\nname = \"in1\"\naccepts_sources = true\n[[interface]]\nname = \"out1\"\n"
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
        "cat > /tmp/rig.toml <<'END'\n{config}END\nexec ip netns exec router {program} router --config /tmp/rig.toml"
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
    ensure!(row["members"] == MEMBERS && row["peer"] == "pktgen", "the row is {row}\n{said}");
    Ok(row.clone())
}
