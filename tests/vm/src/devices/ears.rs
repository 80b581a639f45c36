//! A receiver behind every device at once.

use std::net::IpAddr;

use libtest_mimic::Failed;

use super::Device;
use crate::{
    bed::{Bed, Outcome, ensure},
    guest::GuestListeners,
    numbered::Stream,
    vm::Vm,
};

/// A stream and the source that it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) source: IpAddr,
    pub(crate) stream: Stream,
}

/// The receivers.
pub(crate) struct Ears {
    places: Vec<(Device, Sent)>,
    listeners: GuestListeners,
}

impl Ears {
    /// Joins streams on every device of the machine that carries them.
    pub(crate) fn join(bed: &Bed, vm: &Vm, streams: &[Sent]) -> Result<Self, Failed> {
        let places: Vec<(Device, Sent)> = super::of(&bed.kernel)
            .into_iter()
            .flat_map(|device| streams.iter().map(move |sent| (device, *sent)))
            .filter(|(device, sent)| device.carries(sent.stream))
            .collect();
        let names: Vec<String> = places.iter().map(|(device, _)| device.name()).collect();
        let memberships = names.iter().zip(&places).map(|(name, (_, sent))| (&**name, sent.stream, None));
        let listeners = GuestListeners::join(bed, vm, memberships)?;
        Ok(Self { places, listeners })
    }

    /// Fails unless behind each device came exactly these numbers, in this order, unchanged; leaves.
    pub(crate) fn judge(self, bed: &Bed, expected: impl Fn(Device, Sent) -> Vec<u64>) -> Outcome {
        // What has not come by then is said below.
        let _ = bed.until("everything has come", || {
            for (place, (device, sent)) in self.places.iter().enumerate() {
                if self.listeners.heard(place)?.packets.len() < expected(*device, *sent).len() {
                    return Ok(false);
                }
            }
            Ok(true)
        });
        let heard = self.listeners.leave(bed)?;
        let complaints: Vec<String> = self
            .places
            .into_iter()
            .zip(heard)
            .filter_map(|((device, sent), heard)| {
                let difference = heard.difference(sent.source, &expected(device, sent))?;
                Some(format!("{device:?}, {}: {difference}", sent.stream.group))
            })
            .collect();
        ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
        Ok(())
    }
}
