use vmcast_wire::ipv4::{decapsulate, encapsulate};

use crate::seal_ipv4;

/// IPv4 datagrams: what can be unwrapped can be wrapped, and unwraps to the same.
pub fn ipv4(data: &[u8]) {
    let mut sealed = data.to_vec();
    seal_ipv4(&mut sealed);
    for bytes in [data, &sealed] {
        if let Ok(d) = decapsulate(bytes) {
            let again =
                encapsulate(d.source, d.destination, d.ttl, d.tos, d.protocol, d.router_alert, d.payload);
            assert_eq!(decapsulate(&again), Ok(d));
        }
    }
}
