//! The tables as a packet meets them that the host has put together.

use vmcast_common::{
    fib::Interface,
    forward,
    maps::{
        EndpointEntry, EndpointKey, InterfaceEntry, InterfaceKey, SharedKey, StreamEntry, StreamKey,
        TunnelEntry, TunnelKey,
    },
};

use super::tables::Tables;

/// A socket tells the interface by its number, and nothing of how its frames look on a device.
pub(super) struct Arrived<'a> {
    pub(super) tables: &'a Tables,
    /// Where the packet came in; `None` out of a tunnel, where nobody asks.
    pub(super) on: Option<Interface>,
}

impl forward::Tables for Arrived<'_> {
    fn stream(&self, key: &StreamKey) -> Option<StreamEntry> {
        self.tables.stream(key)
    }

    fn tunnel(&self, key: &TunnelKey) -> Option<TunnelEntry> {
        forward::Tables::tunnel(self.tables, key)
    }

    fn endpoint(&self, key: &EndpointKey) -> Option<EndpointEntry> {
        self.tables.endpoint(key)
    }

    fn interface(&self, _: &InterfaceKey) -> Option<InterfaceEntry> {
        self.on.as_ref().map(InterfaceEntry::of)
    }

    fn shared_group(&self, key: &SharedKey) -> Option<bool> {
        self.tables.shared_group(key)
    }
}
