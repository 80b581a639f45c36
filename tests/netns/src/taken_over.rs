//! A plane that takes over from another one while packets wait before its relay devices.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

use etherparse::SlicedPacket;
use libtest_mimic::{Failed, Trial};
use vmcast_dataplane::conformance::PlaneUnderTest as _;
use vmcast_lab::{OnEnd, clock::Clock};

use crate::{
    dut::{At, Dut, KernelUnderTest},
    one_core::on_one_core,
    stream::{FIRST_PORT, STREAM, frame, ops},
    wire::Wire,
};

/// So many runs a packet needs where one run serves one member.
const MEMBERS: u16 = 12;
/// Take-overs: each meets packets in other places.
const TIMES: usize = 3;
/// Between two packets: a packet that goes through all relays is on its way for a good part of it.
const GAP: Duration = Duration::from_micros(300);
/// Before and after each take-over.
const SOME: u32 = 200;
/// How long so many may take on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn trials() -> Vec<Trial> {
    [At::Pauses, At::Mixed, At::Handed]
        .map(|at| {
            let name =
                format!("{}: a take-over costs nobody a packet that waits before a relay device", at.label());
            Trial::test(name, move || take_over(at))
        })
        .into()
}

// proves "the data plane forwards throughout" (restart and upgrade) for lists with pauses and chains
fn take_over(at: At) -> Result<(), Failed> {
    let dut = Dut::enter("takeover", at)?;
    let (devices, pins) = (dut.devices, dut.pins()?);
    let mut plane = KernelUnderTest::kept(dut, &pins);
    plane.apply(&ops(&devices, MEMBERS))?;
    plane.release();
    let far_end = |device: vmcast_dataplane::conformance::Device| plane.dut().far_end(device.ifindex);
    let [from, to @ ..] = devices.all().map(far_end);
    let (from, to) = (from?, to.into_iter().collect::<Result<Vec<Wire>, _>>()?);
    let (stop, done, sent) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU32::new(0));
    let clock = Clock::start();
    let (outcome, came) = std::thread::scope(|scope| {
        let (stops, ends) = (OnEnd::set(&stop), OnEnd::set(&done));
        let sender = scope.spawn(|| {
            on_one_core(|| {
                while !stop.load(Ordering::Relaxed) {
                    let number = sent.load(Ordering::Relaxed);
                    match from.send(&frame(&devices, number)) {
                        Ok(()) => sent.store(number + 1, Ordering::Relaxed),
                        // The ring had no room (a veth says so since Linux 6.6): nobody has it, it is sent again.
                        Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                        Err(error) => return Err(format!("sending: {error}")),
                    }
                    std::thread::sleep(GAP);
                }
                Ok(())
            })
        });
        let listener = scope.spawn(|| listen(&to, &done));
        let outcome = (|| {
            let wait = |more: u32| {
                let until = sent.load(Ordering::Relaxed) + more;
                let limit = clock.now() + PATIENCE;
                while sent.load(Ordering::Relaxed) < until {
                    if sender.is_finished() || clock.now() > limit {
                        return Err(Failed::from("the sender does not go on"));
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
                Ok(())
            };
            wait(SOME)?;
            for _ in 0..TIMES {
                let kept = plane.end_and_open(&pins).ok_or("nothing was kept")?;
                let members = kept.streams.get(&STREAM).map_or(0, |stream| stream.outputs.len());
                if members != usize::from(MEMBERS) {
                    return Err(Failed::from(format!("{members} members were kept")));
                }
                wait(SOME)?;
                plane.apply(&ops(&devices, MEMBERS))?;
                plane.release();
                wait(SOME)?;
            }
            Ok(())
        })();
        drop(stops);
        let sent = sender.join().expect("the sender");
        // What is on its way comes.
        std::thread::sleep(Duration::from_millis(200));
        drop(ends);
        (sent.map_err(Failed::from).and(outcome), listener.join().expect("the listener"))
    });
    outcome?;
    judge(&came, sent.into_inner())?;
    // The devices of the planes before have gone, when nothing can wait there any more.
    let before = relays();
    std::thread::sleep(Duration::from_millis(1_100));
    plane.refresh();
    let after = relays();
    if after >= before || after > 2 {
        return Err(format!("{before} relay devices were there, {after} are left").into());
    }
    Ok(())
}

/// How many pairs of ours this namespace has.
fn relays() -> usize {
    let devices = nix::net::if_::if_nameindex().expect("listing interfaces");
    let names = devices.iter().map(|device| device.name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("vmc") && !name.ends_with('p')).count()
}

/// Each member by its port, with the numbers of the packets that it got, in order.
fn listen(wires: &[Wire], done: &AtomicBool) -> BTreeMap<u16, Vec<u32>> {
    let mut came: BTreeMap<u16, Vec<u32>> = BTreeMap::new();
    loop {
        let last = done.load(Ordering::Relaxed);
        for frame in wires.iter().flat_map(Wire::drain) {
            let packet = SlicedPacket::from_ethernet(&frame).expect("a frame");
            let Some(etherparse::TransportSlice::Udp(udp)) = packet.transport else { continue };
            let bytes = udp.payload();
            let number =
                bytes.last_chunk().map(|number| u32::from_be_bytes(*number)).expect("a numbered packet");
            came.entry(udp.destination_port()).or_default().push(number);
        }
        if last {
            return came;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Every member got every packet, once and in order, and nobody else got one.
fn judge(came: &BTreeMap<u16, Vec<u32>>, sent: u32) -> Result<(), Failed> {
    let ports: Vec<u16> = came.keys().copied().collect();
    if ports != (FIRST_PORT..FIRST_PORT + MEMBERS).collect::<Vec<_>>() {
        return Err(format!("packets came to {ports:?}").into());
    }
    for (port, numbers) in came {
        let strays: Vec<(usize, u32)> = numbers
            .iter()
            .copied()
            .enumerate()
            .filter(|(at, number)| *at as u32 != *number)
            .take(5)
            .collect();
        if !strays.is_empty() || numbers.len() as u32 != sent {
            let count = numbers.len();
            return Err(format!("{port} got {count} of {sent}, the first out of place: {strays:?}").into());
        }
    }
    Ok(())
}
