//! Conversions as members.

use vmcast_common::fib::{Conversion, ConversionId, Output, Way};

use super::{error::Failure, plane::KernelPlane};

impl KernelPlane {
    pub(super) fn set_conversion(&mut self, id: ConversionId, conversion: Conversion) -> Result<(), Failure> {
        let known = match conversion.way {
            Way::Interface(ifindex) => self.state.interfaces.contains_key(&ifindex),
            Way::NextHop(hop) => hop.is_none_or(|hop| self.state.next_hops.contains_key(&hop)),
        };
        if !known {
            return Err(Failure::Unknown);
        }
        let old = self.state.conversions.set(id, conversion).map_err(Failure::Unsupported)?;
        if old == Some(conversion) { Ok(()) } else { self.put_changed(Output::Converted(id)) }
    }

    pub(super) fn remove_conversion(&mut self, id: ConversionId) -> Result<(), Failure> {
        self.drop_everywhere(Output::Converted(id))?;
        self.state.converted.remove(&id);
        self.state.conversions.remove(id);
        Ok(())
    }

    /// Tells the kernel anew of every conversion by a way that has changed.
    pub(super) fn put_converted_by(&mut self, way: Way) -> Result<(), Failure> {
        let by = self.state.conversions.by(way);
        by.into_iter().try_for_each(|id| self.put_changed(Output::Converted(id)))
    }
}
