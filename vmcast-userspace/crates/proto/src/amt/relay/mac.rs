//! The Response MAC: proof, without state, that a gateway received what was sent to its address
//! (RFC 7450 §5.3.5).

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use siphasher::{sip::SipHasher24, sip128};
use vmcast_wire::amt::ResponseMac;

/// The secret that makes Response MACs, and the one before it, which is still accepted.
#[derive(Clone)]
pub(super) struct Secrets {
    seed: [u8; 16],
    generation: u64,
    current: [u8; 16],
    previous: Option<[u8; 16]>,
    lifetime: Duration,
    /// How long after its end a secret is still accepted.
    grace: Duration,
    rotation: Instant,
}

impl Secrets {
    /// The secrets of a seed that has been in use for `age`. A secret makes Response MACs for `lifetime` and
    /// is accepted for `grace` more, which is no longer than the lifetime of the next one.
    pub(super) fn new(
        now: Instant,
        seed: [u8; 16],
        lifetime: Duration,
        grace: Duration,
        age: Duration,
    ) -> Self {
        let lifetime_ns = lifetime.as_nanos().max(1);
        let generation = u64::try_from(age.as_nanos() / lifetime_ns).unwrap_or(u64::MAX);
        let used = Duration::from_nanos(u64::try_from(age.as_nanos() % lifetime_ns).unwrap_or(0));
        Self {
            seed,
            generation,
            current: derive(&seed, generation),
            previous: generation.checked_sub(1).map(|previous| derive(&seed, previous)),
            lifetime,
            grace,
            rotation: now + (lifetime - used),
        }
    }

    /// When the next secret is due.
    pub(super) const fn rotation(&self) -> Instant {
        self.rotation
    }

    /// Takes as many new secrets as are due.
    pub(super) fn rotate(&mut self, now: Instant) {
        while self.rotation <= now {
            self.generation += 1;
            self.previous = Some(std::mem::replace(&mut self.current, derive(&self.seed, self.generation)));
            self.rotation += self.lifetime;
        }
    }

    /// Makes the MAC for a Request of this nonce from this address and port, with the E flag or without: so the
    /// relay learns of the flag with the Membership Update, and has nothing to remember before.
    pub(super) fn make(&self, gateway: SocketAddr, nonce: u32, ecn: bool) -> ResponseMac {
        mac(&self.current, gateway, nonce, ecn)
    }

    /// Whether the Request had the E flag for whose address, port and nonce we made this MAC not long ago: with the
    /// secret in use, or with the one before while that may be in use by gateways (RFC 7450 §5.3.3.4); `None` if we
    /// made it for no such Request, or too long ago.
    pub(super) fn accepts(
        &self,
        now: Instant,
        gateway: SocketAddr,
        nonce: u32,
        claimed: ResponseMac,
    ) -> Option<bool> {
        let in_grace = self.rotation.saturating_duration_since(now) + self.grace > self.lifetime;
        let matches = |ecn| {
            let of = |secret: &[u8; 16]| {
                let expected = mac(secret, gateway, nonce, ecn);
                // Every byte is looked at, so that the time taken tells nothing.
                expected.iter().zip(claimed).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
            };
            of(&self.current) | self.previous.as_ref().filter(|_| in_grace).is_some_and(of)
        };
        // Nearly all are without the flag.
        if matches(false) { Some(false) } else { matches(true).then_some(true) }
    }
}

fn derive(seed: &[u8; 16], generation: u64) -> [u8; 16] {
    sip128::SipHasher24::new_with_key(seed).hash(&generation.to_be_bytes()).as_bytes()
}

/// SipHash-2-4 over address, port and nonce, and one byte more with the E flag, cut to 48 bits.
fn mac(secret: &[u8; 16], gateway: SocketAddr, nonce: u32, ecn: bool) -> ResponseMac {
    let mut input = [0; 16 + 2 + 4 + 1];
    let length = match gateway.ip() {
        IpAddr::V4(v4) => {
            input[..4].copy_from_slice(&v4.octets());
            4
        }
        IpAddr::V6(v6) => {
            input[..16].copy_from_slice(&v6.octets());
            16
        }
    };
    input[length..length + 2].copy_from_slice(&gateway.port().to_be_bytes());
    input[length + 2..length + 6].copy_from_slice(&nonce.to_be_bytes());
    let length = length + 6 + usize::from(ecn);
    let [mac @ .., _, _] = SipHasher24::new_with_key(secret).hash(&input[..length]).to_be_bytes();
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIME: Duration = Duration::from_secs(100);
    const GRACE: Duration = Duration::from_secs(40);

    fn gateway() -> SocketAddr {
        "198.51.100.7:40000".parse().unwrap()
    }

    #[test]
    fn a_mac_is_good_for_its_address_port_and_nonce_only() {
        let now = vmcast_sim::epoch();
        let secrets = Secrets::new(now, [1; 16], LIFETIME, GRACE, Duration::ZERO);
        let mac = secrets.make(gateway(), 7, false);
        assert_eq!(secrets.accepts(now, gateway(), 7, mac), Some(false));
        assert_eq!(secrets.accepts(now, gateway(), 8, mac), None);
        assert_eq!(secrets.accepts(now, "198.51.100.8:40000".parse().unwrap(), 7, mac), None);
        assert_eq!(secrets.accepts(now, "198.51.100.7:40001".parse().unwrap(), 7, mac), None);
        assert_eq!(secrets.accepts(now, "[2001:db8::7]:40000".parse().unwrap(), 7, mac), None);
        for bit in 0..48 {
            let mut wrong = mac;
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(secrets.accepts(now, gateway(), 7, wrong), None, "bit {bit}");
        }
        let other = Secrets::new(vmcast_sim::epoch(), [2; 16], LIFETIME, GRACE, Duration::ZERO);
        assert_eq!(other.accepts(now, gateway(), 7, mac), None);
    }

    // proves RFC 9601 §6.1.4.2: what a relay stores of a gateway is what the gateway itself said.
    #[test]
    fn a_mac_tells_whether_the_request_had_the_e_flag() {
        let now = vmcast_sim::epoch();
        let secrets = Secrets::new(now, [1; 16], LIFETIME, GRACE, Duration::ZERO);
        for gateway in [gateway(), "[2001:db8::7]:40000".parse().unwrap()] {
            for ecn in [false, true] {
                let mac = secrets.make(gateway, 7, ecn);
                assert_eq!(secrets.accepts(now, gateway, 7, mac), Some(ecn));
                let mut later = secrets.clone();
                later.rotate(now + LIFETIME);
                assert_eq!(later.accepts(now + LIFETIME, gateway, 7, mac), Some(ecn), "in the grace");
            }
        }
    }

    #[test]
    fn a_mac_outlives_its_secret_by_the_grace_and_no_longer() {
        // RFC 7450 §5.3.3.4
        let start = vmcast_sim::epoch();
        let mut secrets = Secrets::new(start, [1; 16], LIFETIME, GRACE, Duration::ZERO);
        let mac = secrets.make(gateway(), 7, false);
        let mut now = start + LIFETIME;
        secrets.rotate(now);
        assert_ne!(secrets.make(gateway(), 7, false), mac);
        assert_eq!(secrets.accepts(now, gateway(), 7, mac), Some(false));
        assert_eq!(secrets.rotation(), start + LIFETIME * 2);
        now += GRACE - Duration::from_nanos(1);
        assert_eq!(secrets.accepts(now, gateway(), 7, mac), Some(false));
        now += Duration::from_nanos(1);
        assert_eq!(secrets.accepts(now, gateway(), 7, mac), None);
        let fresh = secrets.make(gateway(), 7, false);
        now = start + LIFETIME * 2 - Duration::from_nanos(1);
        assert_eq!(secrets.accepts(now, gateway(), 7, fresh), Some(false));
    }

    #[test]
    fn after_a_long_sleep_neither_secret_of_before_is_left() {
        let start = vmcast_sim::epoch();
        let mut secrets = Secrets::new(start, [1; 16], LIFETIME, GRACE, Duration::ZERO);
        let mac = secrets.make(gateway(), 7, false);
        let now = start + LIFETIME * 10;
        secrets.rotate(now);
        assert_eq!(secrets.accepts(now, gateway(), 7, mac), None);
    }

    #[test]
    fn a_relay_that_starts_again_with_its_seed_accepts_what_it_made_before() {
        let start = vmcast_sim::epoch();
        let age = LIFETIME * 7 + LIFETIME / 5;
        let before = Secrets::new(start, [1; 16], LIFETIME, GRACE, age);
        let mac = before.make(gateway(), 7, false);
        let later = LIFETIME / 4;
        let again = Secrets::new(start + later, [1; 16], LIFETIME, GRACE, age + later);
        assert_eq!(again.accepts(start + later, gateway(), 7, mac), Some(false));
        assert_eq!(again.rotation(), before.rotation());
        let next = Secrets::new(start + LIFETIME, [1; 16], LIFETIME, GRACE, age + LIFETIME);
        assert_eq!(next.accepts(start + LIFETIME, gateway(), 7, mac), Some(false));
        let too_late = Secrets::new(start + LIFETIME * 2, [1; 16], LIFETIME, GRACE, age + LIFETIME * 2);
        assert_eq!(too_late.accepts(start + LIFETIME * 2, gateway(), 7, mac), None);
    }
}
