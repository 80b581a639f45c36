use vmcast_wire::ipv6::{decapsulate, encapsulate};

/// IPv6 datagrams: what can be unwrapped can be wrapped, and unwraps to the same, unless its payload
/// starts with another extension header.
pub fn ipv6(data: &[u8]) {
    let mut shaped = data.to_vec();
    if shaped.len() >= 40 {
        let length = (shaped.len() - 40) as u16;
        shaped[0] = 0x60 | (shaped[0] & 0x0f);
        shaped[4..6].copy_from_slice(&length.to_be_bytes());
        shaped[6] &= 0x3f;
    }
    for bytes in [data, &shaped] {
        if let Ok(d) = decapsulate(bytes) {
            if d.protocol == 0 || d.payload.len() > vmcast_wire::ipv6::MAX_PAYLOAD {
                continue;
            }
            let (limit, class) = (d.hop_limit, d.traffic_class);
            let again =
                encapsulate(d.source, d.destination, limit, class, d.protocol, d.router_alert, d.payload);
            assert_eq!(decapsulate(&again), Ok(d));
        }
    }
}
