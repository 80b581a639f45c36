//! What stands under an interface: the device whose frames carry its packets, and the VLAN tags between.

use vmcast_common::fib::{IfIndex, Link, Tag};

/// The tag of a VLAN interface, and what the interface stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vlan {
    /// The interface below, in this namespace.
    pub(crate) on: IfIndex,
    /// What it adds to frames.
    pub(crate) tag: Tag,
}

/// More VLAN interfaces stand on each other than frames carry tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it stands on more than two VLANs, and no more than two tags are carried")]
pub(crate) struct TooManyTags;

/// The device under an interface, and which of its links the interface is; an interface that is no VLAN
/// is its own device.
///
/// # Errors
/// If there are more than two tags.
pub(crate) fn device_under(
    ifindex: IfIndex,
    vlan: impl Fn(IfIndex) -> Option<Vlan>,
) -> Result<(IfIndex, Link), TooManyTags> {
    let mut device = ifindex;
    let mut link = Link::PLAIN;
    while let Some(Vlan { on, tag }) = vlan(device) {
        let [outer, inner] = link.tags;
        if inner.is_some() {
            return Err(TooManyTags);
        }
        // The further down, the further out.
        link.tags = [Some(tag), outer];
        device = on;
    }
    Ok((device, link))
}

#[cfg(test)]
mod tests {
    use vmcast_common::fib::TagProtocol;

    use super::*;

    const fn tag(protocol: TagProtocol, id: u16) -> Tag {
        Tag { protocol, id }
    }

    #[test]
    fn the_lowest_vlan_is_the_outermost_tag_and_a_third_is_refused() {
        let (outer, inner) = (tag(TagProtocol::Dot1ad, 200), tag(TagProtocol::Dot1q, 5));
        let vlan = |ifindex: IfIndex| match ifindex.0 {
            3 => Some(Vlan { on: IfIndex(2), tag: outer }),
            4 => Some(Vlan { on: IfIndex(3), tag: inner }),
            5 => Some(Vlan { on: IfIndex(4), tag: inner }),
            // A loop, which the kernel does not make, ends too.
            6 => Some(Vlan { on: IfIndex(6), tag: inner }),
            _ => None,
        };
        let link = |tags| Link { tags, session: None };
        assert_eq!(device_under(IfIndex(2), vlan), Ok((IfIndex(2), Link::PLAIN)));
        assert_eq!(device_under(IfIndex(3), vlan), Ok((IfIndex(2), link([Some(outer), None]))));
        assert_eq!(device_under(IfIndex(4), vlan), Ok((IfIndex(2), link([Some(outer), Some(inner)]))));
        assert_eq!(device_under(IfIndex(5), vlan), Err(TooManyTags));
        assert_eq!(device_under(IfIndex(6), vlan), Err(TooManyTags));
    }
}
