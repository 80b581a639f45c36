//! The keys of session tickets (RFC 8446 §4.6.1). They are derived from the authority's and the day, so nothing has to be
//! kept: nodes spare the signatures of a handshake with an admin that was started again, too, and with every other admin
//! that has the authority. A ticket proves no more than that its node has shown its certificate: whether that counts is
//! looked up each time.

use std::{
    array,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_lc_rs::{
    aead::{self, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hmac, rand,
};
use rustls::server::ProducesTickets;

use super::Authority;
use crate::admin::Clock;

/// What the keys are derived for, and their names.
const PURPOSE: &[u8] = b"vmcast session tickets";
/// A key makes tickets for so long, and opens them for as long before and after: the clocks of admins differ.
const ROTATION: Duration = Duration::from_secs(86_400);
const ID_LEN: usize = 8;

/// AES-256-GCM (RFC 5116 §5.2), and by what a ticket names it.
struct Key {
    id: [u8; ID_LEN],
    key: LessSafeKey,
}

/// The keys that are good in one period: its own, and those of the ones before and after.
type Keys = [Key; 3];

/// Makes tickets and opens them.
pub(super) struct Tickets {
    secret: hmac::Key,
    clock: Clock,
    /// With the number of the period.
    keys: Mutex<Option<(u64, Arc<Keys>)>>,
}

impl std::fmt::Debug for Tickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tickets").finish_non_exhaustive()
    }
}

impl Tickets {
    /// Those of all admins that have this authority.
    pub(super) fn new(authority: &Authority, clock: Clock) -> Self {
        let of_authority = hmac::Key::new(hmac::HMAC_SHA256, authority.key_pem().as_bytes());
        let secret = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&of_authority, PURPOSE).as_ref());
        Self { secret, clock, keys: Mutex::default() }
    }

    /// The key of a period: 32 bytes of HMAC with SHA-256 (RFC 2104), and its name by another one.
    fn key(&self, period: u64) -> Key {
        let derived = |what: &[u8]| hmac::sign(&self.secret, &[what, &period.to_be_bytes()].concat());
        let key = UnboundKey::new(&aead::AES_256_GCM, derived(b"key").as_ref()).expect("32 bytes are a key");
        let name = derived(b"name");
        Key { id: array::from_fn(|at| name.as_ref()[at]), key: LessSafeKey::new(key) }
    }

    /// The keys that are good now, the one that makes tickets first.
    fn keys(&self) -> Arc<Keys> {
        let period = self.clock.now().0 / ROTATION.as_millis() as u64;
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        match &*keys {
            Some((of, keys)) if *of == period => Arc::clone(keys),
            Some(_) | None => {
                let periods = [period, period.saturating_sub(1), period.saturating_add(1)];
                let made = Arc::new(periods.map(|period| self.key(period)));
                *keys = Some((period, Arc::clone(&made)));
                made
            }
        }
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        ROTATION.as_secs() as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let key = &self.keys()[0];
        // Seeded by the operating system, which need not be asked for each.
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let mut ticket = Vec::with_capacity(ID_LEN + NONCE_LEN + plain.len() + aead::MAX_TAG_LEN);
        ticket.extend_from_slice(&key.id);
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(plain);
        let body = &mut ticket[ID_LEN + NONCE_LEN..];
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = key.key.seal_in_place_separate_tag(nonce, Aad::from(key.id), body).ok()?;
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (id, rest) = ticket.split_first_chunk::<ID_LEN>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let keys = self.keys();
        let key = keys.iter().find(|key| key.id == *id)?;
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = key.key.open_in_place(nonce, Aad::from(key.id), &mut sealed).ok()?.len();
        sealed.truncate(opened);
        Some(sealed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use vmcast_proto::registry::UnixMillis;

    use super::*;

    const DAY: u64 = ROTATION.as_millis() as u64;
    /// The beginning of one.
    const START: u64 = 20_000 * DAY;

    fn clock(of: &Arc<AtomicU64>) -> Clock {
        let of = Arc::clone(of);
        Clock::new(move || UnixMillis(of.load(Ordering::SeqCst)))
    }

    fn authority() -> Authority {
        Authority::make(UnixMillis(START)).expect("an authority")
    }

    #[test]
    fn a_ticket_is_opened_by_who_has_the_authority_and_no_changed_one_by_anybody() {
        let (time, authority) = (Arc::new(AtomicU64::new(START)), authority());
        let ticket = Tickets::new(&authority, clock(&time)).encrypt(b"who").unwrap();
        let again = Authority::of_parts(&authority.key_pem(), authority.certificate().to_vec()).unwrap();
        let again = Tickets::new(&again, clock(&time));
        assert_eq!(again.decrypt(&ticket).as_deref(), Some(&b"who"[..]));
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert_eq!(again.decrypt(&changed), None, "byte {at}");
            assert_eq!(again.decrypt(&ticket[..at]), None, "{at} bytes");
        }
        assert_eq!(Tickets::new(&self::authority(), clock(&time)).decrypt(&ticket), None);
    }

    #[test]
    fn a_key_makes_tickets_for_a_day_and_opens_them_for_another_also_where_clocks_differ() {
        let (time, authority) = (Arc::new(AtomicU64::new(START)), authority());
        let tickets = Tickets::new(&authority, clock(&time));
        let first = tickets.encrypt(b"first").unwrap();
        let opens = |at: u64| {
            time.store(at, Ordering::SeqCst);
            tickets.decrypt(&first).is_some()
        };
        // Of an admin whose clock is behind, or ahead.
        assert!(opens(START - 1) && opens(START - DAY) && !opens(START - DAY - 1));
        assert!(opens(START + 1) && opens(START + 2 * DAY - 1) && !opens(START + 2 * DAY));
        let later = tickets.encrypt(b"later").unwrap();
        assert_ne!(first[..ID_LEN], later[..ID_LEN]);
        assert_eq!(tickets.decrypt(&later).as_deref(), Some(&b"later"[..]));
    }
}
