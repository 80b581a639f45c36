//! A subscriber whose PPPoE session ends and is dialled again while a stream is sent to it.

use std::{
    ops::Range,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use libtest_mimic::Failed;
use serde_json::Value;
use vmcast_lab::{OnEnd, roles::Engine};

use super::{
    ENGINES, SENT,
    inside::{RouterInside, Sessions},
    member::Member,
    program::PEER,
    shape,
};
use crate::{
    bed::{self, Bed, Outcome, ensure},
    capture::Capture,
    devices::{self, Device, Link, Tunnel},
    frame::{self, Port, group_mac},
    guest::GuestSession,
    vm::Vm,
    wire::{self, BRIDGE, Wire},
};

/// The link of the session; the other ones stay.
const REDIALLED: Link = Link::Session;
const STEADY: [Link; 2] = [Link::Vlan, Link::QinQ];
/// What the peer calls the session when it is dialled again.
const SECOND: u16 = 0x4321;
/// The field of a shape that has it.
const SESSION_FIELD: usize = 4;
/// Packets while nothing changes.
const SOME: u64 = 40;
/// Between two packets: the machine is slow.
const PACE: Duration = Duration::from_millis(20);

/// When the operator had seen what, in packets of the source.
#[derive(Clone, Copy, Debug, Default)]
struct Marks {
    /// Before the session was ended.
    ending: u64,
    /// It was known to be gone.
    gone: u64,
    /// Before it was dialled again.
    dialling: u64,
    /// It was known to be back.
    back: u64,
    /// All that were sent.
    end: u64,
}

// proves issue 3 for a PPP device that goes and comes back: others lose nothing, the operator sees it, and the
// members behind it get their stream again, natively and through tunnels
pub(super) fn test(bed: &mut Bed) -> Outcome {
    let wire = Wire::open(bed)?;
    let mut vm = bed.boot(&wire)?;
    wire::set_up(&mut vm)?;
    devices::make_links(&mut vm, PEER, STEADY)?;
    bed::with_each(ENGINES, |engine| redial(bed, &wire, &mut vm, engine))
}

fn redial(bed: &Bed, wire: &Wire, vm: &mut Vm, engine: Engine) -> Outcome {
    let (first, _) = REDIALLED.session().ok_or("the link has a session")?;
    let session = devices::open_session(bed, vm, REDIALLED, first, PEER)?;
    let links = STEADY.into_iter().chain([REDIALLED]);
    let members: Vec<Member> = links.flat_map(members_on).collect();
    let router = RouterInside::start(bed, vm, engine, &SENT[..1], &members, &[], Sessions::Found)?;
    let capture = Capture::of_all(bed, &wire.node, BRIDGE)?;

    let port = Port::open(&wire.node, BRIDGE)?;
    let (sent, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let (marks, session) = thread::scope(|scope| -> Result<_, Failed> {
        let stops = OnEnd::set(&stop);
        let sender = scope.spawn(|| send(&port, &sent, &stop).map_err(|failed| format!("{failed:?}")));
        let shaken = shake(bed, vm, &router, session, &sent);
        drop(stops);
        sender.join().map_err(|_| "the source panicked")??;
        let (marks, session) = shaken?;
        Ok((Marks { end: sent.load(Ordering::SeqCst), ..marks }, session))
    })?;
    let stats: Value = serde_json::from_str(&router.ask(vm, "stats --json")?).unwrap_or_default();
    let dropped = |reason: &str| stats["drops"][reason].as_u64().unwrap_or(0);
    let counted = dropped("device_refused") + dropped("overrun") * members.len() as u64;
    judge(bed, capture, &members, marks, counted).map_err(|failed| {
        let (message, drops) = (failed.message().unwrap_or_default(), &stats["drops"]);
        format!("{message}\n{marks:?}, dropped: {drops}\n{}", router.said())
    })?;
    router.end(bed, vm)?;
    session.end(bed)
}

/// Who is reached by a link: its network, and a tunnel of each kind.
fn members_on(link: Link) -> [Member; 4] {
    [None, Some(Tunnel::Gre(None)), Some(Tunnel::Ip6tnl)]
        .map(|tunnel| Member::Device(Device { link, tunnel }))
        .into_iter()
        .chain([Member::Amt { link, v6: false }])
        .collect::<Vec<_>>()
        .try_into()
        .expect("four")
}

/// Sends until it is told to stop.
fn send(port: &Port, sent: &AtomicU64, stop: &AtomicBool) -> Outcome {
    let [of, _] = SENT;
    while !stop.load(Ordering::SeqCst) {
        let packet = frame::packet(of.source, of.stream, sent.load(Ordering::SeqCst))?;
        port.send(&frame::ethernet(group_mac(of.stream.group), &[], None, &packet)?)?;
        sent.fetch_add(1, Ordering::SeqCst);
        thread::sleep(PACE);
    }
    Ok(())
}

/// Ends the session, and dials again; the new session is the caller's.
fn shake(
    bed: &Bed,
    vm: &mut Vm,
    router: &RouterInside,
    session: GuestSession,
    sent: &AtomicU64,
) -> Result<(Marks, GuestSession), Failed> {
    let now = || sent.load(Ordering::SeqCst);
    let some_more = || {
        let target = now() + SOME;
        bed.until("some packets are sent", || Ok(now() >= target))
    };
    some_more()?;
    let ending = now();
    session.end(bed)?;
    let is_gone = |shown: &Value| shown["ifindex"].is_null() && shown["up"] == false;
    until_shown(bed, vm, router, "the operator sees that the session is gone", is_gone)?;
    ensure!(router.said().contains("interface gone"), "its log does not say so");
    let mut gone = 0;
    let before = unresolved(vm, router)?;
    bed.until("copies for those behind it are counted as dropped", || {
        gone = now();
        Ok(unresolved(vm, router)? > before)
    })?;
    some_more()?;
    let dialling = now();
    let session = devices::open_session(bed, vm, REDIALLED, SECOND, PEER)?;
    let is_back = |shown: &Value| shown["up"] == true && !shown["attached"].is_null();
    until_shown(bed, vm, router, "the operator sees that the session is back", is_back)?;
    bed.until("nothing is dropped any more", || {
        let dropped = unresolved(vm, router)?;
        some_more()?;
        Ok(unresolved(vm, router)? == dropped)
    })?;
    let back = now();
    some_more()?;
    Ok((Marks { ending, gone, dialling, back, end: 0 }, session))
}

/// Waits until `vmcast interface list` says of the session what is wanted.
fn until_shown(
    bed: &Bed,
    vm: &mut Vm,
    router: &RouterInside,
    what: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Outcome {
    let mut last = String::new();
    bed.until(what, || {
        last = router.ask(vm, "interface list --json")?;
        let answer: Value = serde_json::from_str(&last).unwrap_or_default();
        let all = answer["interfaces"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(all.iter().any(|shown| shown["name"] == REDIALLED.name() && wanted(shown)))
    })
    .map_err(|failed| {
        format!("{}; it says {last}\n{}", failed.message().unwrap_or_default(), router.said()).into()
    })
}

/// Copies that were dropped as the way to their member is not known.
fn unresolved(vm: &mut Vm, router: &RouterInside) -> Result<u64, Failed> {
    let stats: Value = serde_json::from_str(&router.ask(vm, "stats --json")?).unwrap_or_default();
    Ok(stats["drops"]["next_hop_unresolved"].as_u64().unwrap_or(0))
}

/// Fails unless those on other links got each packet once and in order, those behind the session all but those while it
/// was gone, and nobody else any.
///
/// A machine that does not get its turns may lack room for copies in the ring of its device, and its router for packets
/// in its own: as many copies as are `counted` so may be missing.
fn judge(bed: &Bed, capture: Capture, members: &[Member], marks: Marks, counted: u64) -> Outcome {
    let [of, _] = SENT;
    let steady = members.iter().filter(|member| member.link() != REDIALLED).count() as u64;
    let redialled = members.len() as u64 - steady;
    let least = steady * marks.end + redialled * (marks.ending + marks.end - marks.back);
    let mut came = shape::came(bed, capture, least.saturating_sub(counted))?;
    let mut missing = 0;
    for member in members {
        let mut shape = shape::of(*member, of.stream, PEER);
        let what = shape.join(" | ");
        let first = came.remove(&shape).unwrap_or_default();
        if member.link() != REDIALLED {
            missing += missing_of(&first, 0..marks.end)
                .ok_or_else(|| format!("to {what} went {first:?}, not each once and in order"))?;
            continue;
        }
        shape[SESSION_FIELD] = format!("0x{SECOND:04x}");
        let second = came.remove(&shape).unwrap_or_default();
        let until = first.last().copied().flatten().map_or(0, |last| last + 1);
        missing += missing_of(&first, 0..until)
            .ok_or_else(|| format!("by the first session to {what} went {first:?}"))?;
        ensure!((marks.ending..=marks.gone).contains(&until), "by the first session to {what} went {until}");
        let from = second.first().copied().flatten().unwrap_or(marks.end);
        missing += missing_of(&second, from..marks.end)
            .ok_or_else(|| format!("by the second session to {what} went {second:?}"))?;
        ensure!(
            (marks.dialling..=marks.back).contains(&from),
            "by the second session to {what} went from {from}"
        );
    }
    ensure!(came.is_empty(), "nobody's copies were sent: {:?}", came.keys());
    ensure!(missing <= counted, "{missing} copies are missing, and {counted} are counted as lost");
    Ok(())
}

/// How many of these packets have not come; `None` if one is not whole, came twice or out of order, or is another.
fn missing_of(came: &[Option<u64>], all: Range<u64>) -> Option<u64> {
    let came: Vec<u64> = came.iter().copied().collect::<Option<_>>()?;
    let in_order = came.is_sorted_by(|one, next| one < next);
    let ours = came.iter().all(|number| all.contains(number));
    (in_order && ours).then(|| all.end - all.start - came.len() as u64)
}
