//! What kernel programs built with the feature `trace` say.

use aya::Ebpf;
use aya_log::EbpfLogger;

use super::plane::KernelPlane;

/// Lines of the kernel programs.
pub struct KernelLog(EbpfLogger<&'static dyn ::log::Log>);

impl KernelLog {
    fn take_from(object: &mut Ebpf) -> Option<Self> {
        match EbpfLogger::init(object) {
            Ok(logger) => Some(Self(logger)),
            Err(aya_log::Error::MapNotFound) => None,
            Err(error) => {
                tracing::warn!(%error, "the kernel programs log, but it cannot be read");
                None
            }
        }
    }

    /// Hands every line that waits to the logger of the `log` crate.
    pub fn flush(&mut self) {
        self.0.flush();
    }
}

impl KernelPlane {
    /// The log of the kernel programs, if they were built to write one; taken once. Needs a logger
    /// that is set up before.
    pub fn take_log(&mut self) -> Option<KernelLog> {
        KernelLog::take_from(&mut self.object)
    }
}
