//! Devices that have somebody else's XDP program: it stays, the VMR takes frames there at TC, and everything arrives.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use libtest_mimic::{Failed, Trial};
use nix::net::if_::if_nametoindex;
use serde_json::Value;
use vmcast_lab::{
    Namespace,
    roles::{Engine, Role},
};

use super::{
    bed::{Bed, Outcome, drops, ensure, trial},
    small::{Router, SOURCE, STREAM, Small},
    stream::{Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("a stream comes in by and leaves by devices with another's XDP program, which stays", agents),
        trial("a stream goes to hosts by devices with another's XDP program, which stays", hosts),
    ]
}

const SOME: u64 = 150;
/// Its name as the kernel tells it.
const NAME: &str = "pass_all";

/// A program on a device that lets everything pass, until this is dropped.
struct Foreign {
    _link: OwnedFd,
}

/// One of the commands of bpf(2), with its attributes as words of 32 bits.
fn bpf(command: libc::c_int, attributes: &[u32]) -> io::Result<OwnedFd> {
    // SAFETY: the attributes are as long as is said, and what they point to outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size_of_val(attributes)) };
    // SAFETY: a descriptor that the kernel has just made is nobody else's.
    if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) }) }
}

impl Foreign {
    fn attach(node: &Namespace, device: &str) -> Result<Self, Failed> {
        const PROG_LOAD: libc::c_int = 5;
        const LINK_CREATE: libc::c_int = 28;
        const TYPE_XDP: u32 = 6;
        const ATTACH_XDP: u32 = 37;
        const IN_DRIVER: u32 = 1 << 2;
        // r0 = XDP_PASS; exit
        let instructions: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];
        let license = c"GPL";
        let halves = |address: usize| [address as u32, (address as u64 >> 32) as u32];
        let mut load = vec![TYPE_XDP, instructions.len() as u32];
        load.extend(halves(instructions.as_ptr() as usize));
        load.extend(halves(license.as_ptr() as usize));
        // No log, any kernel version, no flags.
        load.extend([0; 6]);
        let mut name = [0; 16];
        name[..NAME.len()].copy_from_slice(NAME.as_bytes());
        load.extend(
            name.chunks_exact(4).map(|four| u32::from_ne_bytes([four[0], four[1], four[2], four[3]])),
        );
        let program = bpf(PROG_LOAD, &load)?;
        let link = node.enter(|| -> io::Result<OwnedFd> {
            let ifindex = if_nametoindex(device)?;
            bpf(LINK_CREATE, &[program.as_raw_fd() as u32, ifindex, ATTACH_XDP, IN_DRIVER])
        })??;
        Ok(Self { _link: link })
    }
}

/// Fails unless the program is still the only one on a device.
fn is_there(small: &Small, device: &str) -> Outcome {
    let mut command = std::process::Command::new("ip");
    command.args(["-details", "-json", "link", "show", device]);
    let links: Value = serde_json::from_slice(&small.vmr.run(command)?.stdout)?;
    ensure!(links[0]["xdp"]["prog"]["name"] == NAME, "on {device} is {}", links[0]["xdp"]);
    Ok(())
}

/// Waits until the operator is told where the frames of an interface are taken.
fn taken_at(bed: &Bed, router: &Role, name: &str, hook: &str) -> Outcome {
    bed.until_answer(
        &format!("the frames of {name} are taken at {hook}"),
        router,
        &["interface", "list"],
        |answer| {
            let all = answer["interfaces"].as_array().map(Vec::as_slice).unwrap_or_default();
            all.iter().any(|shown| shown["name"] == name && shown["attached"] == hook)
        },
    )?;
    Ok(())
}

fn agents(bed: &mut Bed) -> Outcome {
    serve(bed, false)
}

fn hosts(bed: &mut Bed) -> Outcome {
    serve(bed, true)
}

// proves issue 3: a foreign XDP program on the device → tcx, never replaced
fn serve(bed: &mut Bed, querier: bool) -> Outcome {
    let small = Small::build(bed, 3)?;
    let foreign = ["src0", "acc1"].map(|device| Foreign::attach(&small.vmr, device));
    let _foreign: Vec<Foreign> = foreign.into_iter().collect::<Result<_, _>>()?;
    let mut router = small.router(bed, Router { engine: Engine::Auto, querier, ..Router::default() })?;
    let _agents = if querier { Vec::new() } else { small.agents(bed, [1, 2, 3])? };
    let bystander = small.forbid(bed, 3)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listeners = [1, 2].map(|number| Listener::join(small.client(number), STREAM, None));
    let listeners: Vec<Listener> = listeners.into_iter().collect::<Result<_, _>>()?;
    for listener in &listeners {
        listener.more(bed, SOME)?;
    }
    // Packets that came before the first member was in its list had nobody to go to.
    let before = drops(&router)?;
    for (device, hook) in [("src0", "tc"), ("acc1", "tc"), ("acc2", "xdp")] {
        taken_at(bed, &router, device, hook)?;
    }
    let socket = router.socket.display().to_string();
    let output = bed.run(&small.vmr, &["doctor", "--json", "--socket", &socket])?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let findings = report["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
    for device in ["src0", "acc1"] {
        let told = findings.iter().any(|finding| {
            finding["interface"] == device
                && finding["level"] == "warning"
                && finding["found"].as_str().is_some_and(|found| found.contains(NAME))
                && finding["means"].as_str().is_some_and(|means| means.contains("TC"))
        });
        ensure!(told, "nothing is said of {NAME} on {device}: {report:#}");
        is_there(&small, device)?;
    }
    router.check_alive()?;
    let last = sender.stop()? - 1;
    for listener in listeners {
        listener.until_last(bed, last)?;
        listener.leave().is_whole()?;
    }
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    let after = drops(&router)?;
    ensure!(after == before, "packets were dropped meanwhile: {before} became {after}");
    ["src0", "acc1"].iter().try_for_each(|device| is_there(&small, device))
}
