//! The software plane with its sockets and its thread.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read as _, Write as _},
    os::{fd::AsFd as _, unix::net::UnixStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, TryRecvError},
    },
    thread::JoinHandle,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vmcast_common::{
    fib::{FibOp, IfIndex, Output, Stream},
    maps::{DroppedCopies, StreamCounters},
    verdict::DropReason,
};

use super::{
    Core, Limits,
    outbox::Outbox,
    socket::{Batch, Receiver},
};
use crate::{
    ApplyError, Copied, Counters, Dataplane, DumpError, Engine, EngineInfo, Fib, Hook, PacketTooBig, Punt,
    StatsError,
    clock::now_ns,
    reassembled::{self, Ends, Heard, Listening, PACKETS_AT_ONCE, RawSocket},
};

/// Batches taken from one interface before the others have their turn.
const BATCHES_PER_TURN: usize = 8;

/// A data plane made of packet sockets and one thread, which ends when the plane is dropped.
///
/// It taps and does not take away: the host sees every packet too, AMT data on its socket included.
/// Frames for other hosts are left alone. Super-packets of UDP segments are cut up first, and checksums that a
/// device was to fill in are filled in.
///
/// Sockets are opened in the network namespace of the thread that calls [`Plane::new`] and
/// [`Dataplane::apply`]; it must be the same.
#[derive(Debug)]
pub struct Plane {
    core: Arc<Mutex<Core>>,
    reason: String,
    tapped: BTreeSet<IfIndex>,
    listening: Listening,
    commands: mpsc::Sender<Command>,
    /// Wakes the thread for a command; closed to end it.
    wake: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Command {
    Hear(Ends, RawSocket),
    StopHearing(Ends),
    Tap(IfIndex, Receiver),
    Untap(IfIndex),
}

impl Plane {
    /// Starts a plane; `reason` tells the operator why this one was chosen.
    ///
    /// # Errors
    /// If no thread or socket can be made.
    pub fn new(limits: Limits, reason: String) -> io::Result<Self> {
        let core = Arc::new(Mutex::new(Core::new(limits)));
        let (wake, woken) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let (commands, queue) = mpsc::channel();
        let worker = Worker {
            core: Arc::clone(&core),
            commands: queue,
            woken,
            receivers: BTreeMap::new(),
            listeners: BTreeMap::new(),
            whole: reassembled::Buffer::default(),
            batch: Batch::new(),
            scratch: Vec::new(),
            outbox: Outbox::default(),
        };
        let thread = std::thread::Builder::new().name("vmcast-plane".to_owned()).spawn(|| worker.run())?;
        Ok(Self {
            core,
            reason,
            tapped: BTreeSet::new(),
            listening: Listening::default(),
            commands,
            wake: Some(wake),
            thread: Some(thread),
        })
    }

    fn apply_one(&mut self, op: &FibOp) -> Result<(), ApplyError> {
        match *op {
            FibOp::SetInterface(ref interface) => {
                let device = interface.device;
                let receiver = if self.tapped.contains(&device) {
                    None
                } else {
                    let receiver = Receiver::open(device).map_err(|source| ApplyError::Kernel {
                        what: "a packet socket",
                        op: *op,
                        source: source.into(),
                    })?;
                    Some(receiver)
                };
                lock(&self.core).apply(std::slice::from_ref(op))?;
                if let Some(receiver) = receiver {
                    self.tapped.insert(device);
                    self.command(Command::Tap(device, receiver));
                }
                self.untap();
                Ok(())
            }
            FibOp::RemoveInterface(_) => {
                lock(&self.core).apply(std::slice::from_ref(op))?;
                self.untap();
                Ok(())
            }
            FibOp::SetTunnel(id, ref tunnel) => {
                lock(&self.core).apply(std::slice::from_ref(op))?;
                let change = self.listening.set_tunnel(id, Some(tunnel));
                self.listen(change);
                Ok(())
            }
            FibOp::RemoveTunnel(id) => {
                lock(&self.core).apply(std::slice::from_ref(op))?;
                let change = self.listening.set_tunnel(id, None);
                self.listen(change);
                Ok(())
            }
            FibOp::SetUnicastInput { endpoint, .. } => {
                lock(&self.core).apply(std::slice::from_ref(op))?;
                let change = self.listening.set_input(endpoint, true);
                self.listen(change);
                Ok(())
            }
            FibOp::RemoveUnicastInput(endpoint) => {
                lock(&self.core).apply(std::slice::from_ref(op))?;
                let change = self.listening.set_input(endpoint, false);
                self.listen(change);
                Ok(())
            }
            FibOp::SetEndpoint(_)
            | FibOp::RemoveEndpoint(_)
            | FibOp::SetNextHop(..)
            | FibOp::RemoveNextHop(_)
            | FibOp::SetConversion(..)
            | FibOp::RemoveConversion(_)
            | FibOp::SetStream(..)
            | FibOp::SetPriority(..)
            | FibOp::RemoveStream(_)
            | FibOp::AddMember(..)
            | FibOp::RemoveMember(..)
            | FibOp::ShareGroup(..)
            | FibOp::UnshareGroup(..) => lock(&self.core).apply(std::slice::from_ref(op)),
        }
    }

    /// Hears what the host puts together out of fragments, where that has changed.
    fn listen(&self, reassembled::Change { opened, closed }: reassembled::Change) {
        closed.into_iter().for_each(|ends| self.command(Command::StopHearing(ends)));
        opened.into_iter().for_each(|(ends, socket)| self.command(Command::Hear(ends, socket)));
    }

    /// Stops to receive on devices that no interface is on any more.
    fn untap(&mut self) {
        let unused: Vec<IfIndex> = {
            let core = lock(&self.core);
            self.tapped.iter().filter(|device| !core.has_device(**device)).copied().collect()
        };
        for device in unused {
            self.tapped.remove(&device);
            self.command(Command::Untap(device));
        }
    }

    fn command(&self, command: Command) {
        // The thread lives as long as the plane; a full socket will wake it all the same.
        let _ = self.commands.send(command);
        if let Some(mut wake) = self.wake.as_ref() {
            let _ = wake.write(&[0]);
        }
    }
}

impl Dataplane for Plane {
    fn apply(&mut self, ops: &[FibOp]) -> Result<(), ApplyError> {
        ops.iter().try_for_each(|op| self.apply_one(op))
    }

    fn dump(&self) -> Result<Fib, DumpError> {
        Ok(lock(&self.core).dump())
    }

    fn poll_punt(&mut self) -> Option<Punt> {
        lock(&self.core).poll_punt()
    }

    fn poll_too_big(&mut self) -> Option<PacketTooBig> {
        lock(&self.core).poll_too_big()
    }

    fn counters(&self) -> Result<Counters, StatsError> {
        Ok(lock(&self.core).counters())
    }

    fn stream_counters(&self, stream: Stream) -> Result<Option<StreamCounters>, StatsError> {
        Ok(lock(&self.core).stream_counters(stream))
    }

    fn dropped_copies(
        &self,
        stream: Stream,
        member: Option<Output>,
    ) -> Result<Vec<(Output, DroppedCopies)>, StatsError> {
        Ok(lock(&self.core).dropped_copies(stream, member))
    }

    fn engine(&self) -> EngineInfo {
        EngineInfo { engine: Engine::Software, reason: self.reason.clone() }
    }

    fn hook(&self, device: IfIndex) -> Option<Hook> {
        self.tapped.contains(&device).then_some(Hook::PacketSocket)
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.wake = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the software plane's thread panicked");
        }
    }
}

struct Worker {
    core: Arc<Mutex<Core>>,
    commands: mpsc::Receiver<Command>,
    woken: UnixStream,
    receivers: BTreeMap<IfIndex, Receiver>,
    listeners: BTreeMap<Ends, RawSocket>,
    whole: reassembled::Buffer,
    batch: Batch,
    scratch: Vec<u8>,
    outbox: Outbox,
}

impl Worker {
    fn run(mut self) {
        loop {
            let ready = match self.wait() {
                Ok(ready) => ready,
                Err(error) => {
                    tracing::error!(%error, "the software plane cannot wait for packets and stops");
                    return;
                }
            };
            if ready.woken && !self.take_commands() {
                return;
            }
            for ifindex in ready.interfaces {
                self.forward(ifindex);
            }
            for ends in ready.listeners {
                self.forward_reassembled(ends);
            }
        }
    }

    fn wait(&self) -> io::Result<Ready> {
        let mut sources: Vec<_> = std::iter::once(self.woken.as_fd())
            .chain(self.receivers.values().map(|receiver| receiver.as_fd()))
            .chain(self.listeners.values().map(|listener| listener.as_fd()))
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        match poll(&mut sources, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut any = sources.iter().map(|source| source.any().unwrap_or(true));
        let woken = any.next().unwrap_or(true);
        let interfaces = self.receivers.keys().zip(&mut any).filter(|(_, any)| *any);
        let interfaces = interfaces.map(|(&ifindex, _)| ifindex).collect();
        let listeners = self.listeners.keys().zip(any).filter(|(_, any)| *any);
        Ok(Ready { woken, interfaces, listeners: listeners.map(|(&ends, _)| ends).collect() })
    }

    /// Follows what the plane asks for; false once the plane is gone.
    fn take_commands(&mut self) -> bool {
        let mut bytes = [0; 64];
        let open = !matches!(self.woken.read(&mut bytes), Ok(0));
        loop {
            match self.commands.try_recv() {
                Ok(Command::Tap(ifindex, receiver)) => {
                    self.receivers.insert(ifindex, receiver);
                }
                Ok(Command::Untap(ifindex)) => {
                    self.receivers.remove(&ifindex);
                    self.outbox.close(ifindex);
                }
                Ok(Command::Hear(ends, socket)) => {
                    self.listeners.insert(ends, socket);
                }
                Ok(Command::StopHearing(ends)) => {
                    self.listeners.remove(&ends);
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return open,
            }
        }
    }

    fn forward(&mut self, ifindex: IfIndex) {
        let Self { core, receivers, batch, scratch, outbox, .. } = self;
        let Some(receiver) = receivers.get(&ifindex) else {
            return;
        };
        let mut is_behind = false;
        for _ in 0..BATCHES_PER_TURN {
            match receiver.receive(batch) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // A packet merged in a way that cannot be told to us; the kernel has thrown it away.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    lock(core).count_lost(DropReason::KernelRefused, 1);
                    continue;
                }
                Err(error) => {
                    tracing::debug!(ifindex = ifindex.0, %error, "nothing can be received at present");
                    break;
                }
            }
            let now_ns = now_ns();
            {
                let mut core = lock(core);
                for (offload, frame) in batch.frames() {
                    offload.undo(frame, scratch, |frame| {
                        outbox.begin();
                        core.process(ifindex, frame, now_ns, &mut |egress, copy, priority| {
                            outbox.push(egress, copy, priority);
                        });
                    });
                }
            }
            let refused = outbox.flush();
            if refused > 0 {
                lock(core).count_lost(DropReason::DeviceRefused, refused);
            }
            if !batch.is_full() {
                break;
            }
            is_behind = true;
        }
        // What overflowed was before frames that waited.
        if is_behind {
            lock(core).count_lost(DropReason::Overrun, receiver.take_lost());
        }
    }

    /// Takes in packets that the host has put together. What came whole was tapped; as most does, what has
    /// no room in the socket says nothing of what is lost.
    fn forward_reassembled(&mut self, ends: Ends) {
        let Self { core, listeners, whole, outbox, .. } = self;
        for _ in 0..PACKETS_AT_ONCE {
            let Some(listener) = listeners.get_mut(&ends) else {
                return;
            };
            let on = match listener.receive(whole) {
                Ok(Heard::OutOfTunnel) => None,
                Ok(Heard::ByUnicast(arrival)) if listeners.contains_key(&arrival.tunnel) => continue,
                Ok(Heard::ByUnicast(arrival)) => Some(arrival.on),
                Ok(Heard::Whole) => continue,
                Ok(Heard::Nothing) => break,
                Err(error) => {
                    tracing::debug!(%ends, %error, "nothing can be heard there at present");
                    break;
                }
            };
            outbox.begin();
            let mut out = |egress, copy: Copied<'_>, priority| outbox.push(egress, copy, priority);
            lock(core).process_reassembled(on, whole.frame(), now_ns(), &mut out);
        }
        let refused = outbox.flush();
        if refused > 0 {
            lock(core).count_lost(DropReason::DeviceRefused, refused);
        }
    }
}

struct Ready {
    woken: bool,
    interfaces: Vec<IfIndex>,
    listeners: Vec<Ends>,
}

fn lock(core: &Mutex<Core>) -> MutexGuard<'_, Core> {
    core.lock().unwrap_or_else(PoisonError::into_inner)
}
