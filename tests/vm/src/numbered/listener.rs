//! An ordinary application on the host that joins a group.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use libtest_mimic::Failed;
use vmcast_lab::Namespace;

use super::{Heard, Hears, Stream, number, socket};

/// Listens until it is dropped.
pub(crate) struct Listener {
    heard: Arc<Mutex<Heard>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Joins a group, or a source of it, on an interface of a node.
    pub(crate) fn join(
        node: &Namespace,
        interface: &str,
        stream: Stream,
        source: Option<IpAddr>,
    ) -> Result<Self, Failed> {
        let socket = node.enter(|| socket::listener(stream, source, interface))??;
        let (heard, stop) = (Arc::new(Mutex::new(Heard::default())), Arc::new(AtomicBool::new(false)));
        let (theirs, ended) = (Arc::clone(&heard), Arc::clone(&stop));
        let thread = thread::Builder::new().name(format!("{}-listener", node.node())).spawn(move || {
            let mut buffer = vec![0; 65536];
            while !ended.load(Ordering::Relaxed) {
                let Ok((length, from, class)) = socket::receive(&socket, &mut buffer) else { continue };
                let mut heard = theirs.lock().expect("a listener does not panic");
                match number(&buffer[..length]) {
                    Some(number) => {
                        heard.packets.push((from, number));
                        heard.classes.push(class);
                    }
                    None => heard.damaged += 1,
                }
            }
        })?;
        Ok(Self { heard, stop, thread: Some(thread) })
    }
}

impl Hears for Listener {
    fn heard(&self) -> Result<Heard, Failed> {
        Ok(self.heard.lock().expect("a listener does not panic").clone())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of it would have shown as a poisoned lock.
            let _ = thread.join();
        }
    }
}
