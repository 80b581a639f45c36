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
        Self::join_in(bed, vm, None, &super::of(&bed.kernel), streams)
    }

    /// The same on these devices of a network namespace of the machine.
    pub(crate) fn join_in(
        bed: &Bed,
        vm: &Vm,
        namespace: Option<&str>,
        devices: &[Device],
        streams: &[Sent],
    ) -> Result<Self, Failed> {
        let places: Vec<(Device, Sent)> = devices
            .iter()
            .copied()
            .flat_map(|device| streams.iter().map(move |sent| (device, *sent)))
            .filter(|(device, sent)| device.carries(sent.stream))
            .collect();
        let names: Vec<String> = places.iter().map(|(device, _)| device.name()).collect();
        let memberships = names.iter().zip(&places).map(|(name, (_, sent))| (&**name, sent.stream, None));
        let listeners = GuestListeners::join_in(bed, vm, namespace, memberships)?;
        Ok(Self { places, listeners })
    }

    /// Waits until so many packets have come to the first of them: whoever sends no more meanwhile overruns nobody.
    pub(crate) fn until(&self, bed: &Bed, packets: u64) -> Outcome {
        let what = format!("{packets} packets have come to the first receiver");
        bed.until(&what, || Ok(self.listeners.heard(0)?.packets.len() as u64 >= packets))
    }

    /// Fails unless behind each device came exactly these numbers, in this order, unchanged; leaves.
    pub(crate) fn judge(self, bed: &Bed, expected: impl Fn(Device, Sent) -> Vec<u64>) -> Outcome {
        self.judge_classes(bed, expected, |_, _| None)
    }

    /// The same; and the packets of a stream have the type of service, or the traffic class, that is said by their
    /// numbers, if one is.
    pub(crate) fn judge_classes(
        self,
        bed: &Bed,
        expected: impl Fn(Device, Sent) -> Vec<u64>,
        class: impl Fn(Sent, u64) -> Option<u8>,
    ) -> Outcome {
        // What has not come by then is said below.
        self.listeners.until_all(bed, |place| {
            let (device, sent) = self.places[place];
            expected(device, sent).len() as u64
        })?;
        let heard = self.listeners.leave(bed)?;
        let complaints: Vec<String> = self
            .places
            .into_iter()
            .zip(heard)
            .filter_map(|((device, sent), heard)| {
                let numbers = expected(device, sent);
                let classes = heard.classes.iter().zip(&numbers);
                let other = || {
                    classes
                        .filter_map(|(class_of, number)| Some((number, *class_of, class(sent, *number)?)))
                        .find(|(_, came, wanted)| came != wanted)
                        .map(|(number, came, wanted)| {
                            format!("packet {number} came with class {came:#04x}, not {wanted:#04x}")
                        })
                };
                let difference = heard.difference(sent.source, &numbers).or_else(other)?;
                Some(format!("{device:?}, {}: {difference}", sent.stream.group))
            })
            .collect();
        ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
        Ok(())
    }
}
