//! What every plane remembers of conversions.

use std::collections::BTreeMap;

use vmcast_common::fib::{Conversion, ConversionId, Output, Stream, Way};

/// The conversions in force.
#[derive(Debug, Default)]
pub(crate) struct Conversions(BTreeMap<ConversionId, Conversion>);

impl Conversions {
    pub(crate) fn get(&self, id: ConversionId) -> Option<&Conversion> {
        self.0.get(&id)
    }

    /// Adds or changes a conversion, and returns what it was.
    ///
    /// # Errors
    /// If it would change its address family.
    pub(crate) fn set(
        &mut self,
        id: ConversionId,
        conversion: Conversion,
    ) -> Result<Option<Conversion>, &'static str> {
        let is_ipv4 = conversion.destination.is_ipv4();
        if self.0.get(&id).is_some_and(|known| known.destination.is_ipv4() != is_ipv4) {
            return Err("a conversion stays with its address family");
        }
        Ok(self.0.insert(id, conversion))
    }

    pub(crate) fn remove(&mut self, id: ConversionId) {
        self.0.remove(&id);
    }

    /// The conversions whose packets leave by a way.
    pub(crate) fn by(&self, way: Way) -> Vec<ConversionId> {
        self.0.iter().filter(|(_, conversion)| conversion.way == way).map(|(id, _)| *id).collect()
    }

    /// Says why a stream's packets cannot go to an output; to other outputs than conversions they can.
    pub(crate) fn fit(&self, stream: &Stream, output: Output) -> Result<(), &'static str> {
        let family = match output {
            Output::Interface(_) | Output::Neighbour(_) | Output::Tunnel(_) => None,
            Output::Converted(id) => self.get(id).map(|conversion| conversion.destination.is_ipv4()),
        };
        if family.is_some_and(|is_ipv4| is_ipv4 != stream.group.is_ipv4()) {
            return Err("a conversion is of its stream's address family");
        }
        Ok(())
    }

    /// All of them.
    pub(crate) fn dump(&self) -> BTreeMap<ConversionId, Conversion> {
        self.0.clone()
    }
}
