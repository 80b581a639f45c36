//! The keys of session tickets (RFC 8446 §4.6.1). They are kept beside the authority's, so that nodes spare the signatures
//! of a handshake with an admin that was started again, too. A ticket proves no more than that its node has shown its
//! certificate: whether that counts is looked up each time.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_lc_rs::{
    aead::{self, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand,
};
use rustls::server::ProducesTickets;
use serde::{Deserialize, Serialize};
use tracing::warn;
use vmcast_proto::registry::UnixMillis;

use super::{
    authority::{hex, unhex},
    files,
    random::random,
};
use crate::admin::Clock;

const FILE: &str = "tickets.json";
/// A key makes tickets for so long, and opens them for as long again.
const ROTATION: Duration = Duration::from_secs(86_400);
const ID_LEN: usize = 8;
const KEY_LEN: usize = 32;

/// A key as the file has it.
#[derive(Clone, Serialize, Deserialize)]
struct Stored {
    /// By which a ticket names it; hexadecimal, 8 bytes.
    id: String,
    /// AES-256-GCM (RFC 5116 §5.2); hexadecimal.
    key: String,
    /// When it was made, in milliseconds of Unix time.
    made: u64,
}

struct Key {
    id: [u8; ID_LEN],
    key: LessSafeKey,
    stored: Stored,
}

impl Key {
    fn new(now: UnixMillis) -> Option<Self> {
        let (id, key) = (random::<ID_LEN>(), random::<KEY_LEN>());
        Self::of(Stored { id: hex(&id), key: hex(&key), made: now.0 })
    }

    fn of(stored: Stored) -> Option<Self> {
        let id = unhex(&stored.id)?.try_into().ok()?;
        let key = UnboundKey::new(&aead::AES_256_GCM, &unhex(&stored.key)?).ok()?;
        Some(Self { id, key: LessSafeKey::new(key), stored })
    }

    /// Of a clock that was set both ways it is taken to be too old.
    fn is_older(&self, than: Duration, now: UnixMillis) -> bool {
        u128::from(now.0.abs_diff(self.stored.made)) >= than.as_millis()
    }
}

/// Makes tickets and opens them.
pub(super) struct Tickets {
    /// Where the keys are kept, if they are.
    path: Option<PathBuf>,
    clock: Clock,
    /// The newest first.
    keys: Mutex<Vec<Arc<Key>>>,
}

impl std::fmt::Debug for Tickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tickets").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Tickets {
    /// Tickets that are good until the process ends.
    pub(super) fn passing(clock: Clock) -> Self {
        Self { path: None, clock, keys: Mutex::default() }
    }

    /// Tickets whose keys are in a file of this directory. One that cannot be used is no more than handshakes that could
    /// have been shorter.
    pub(super) fn of_directory(directory: &Path, clock: Clock) -> Self {
        let path = directory.join(FILE);
        let keys = read(&path).unwrap_or_else(|error| {
            warn!(path = %path.display(), %error, "the keys of session tickets cannot be read; there will be new ones");
            Vec::new()
        });
        Self { path: Some(path), clock, keys: Mutex::new(keys) }
    }

    /// The keys as they are to be now, the newest first.
    fn keys(&self) -> Vec<Arc<Key>> {
        let now = self.clock.now();
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.first().is_none_or(|newest| newest.is_older(ROTATION, now))
            && let Some(key) = Key::new(now)
        {
            keys.retain(|key| !key.is_older(2 * ROTATION, now));
            keys.insert(0, Arc::new(key));
            if let Some(path) = &self.path
                && let Err(error) = write(path, &keys)
            {
                warn!(path = %path.display(), %error, "the keys of session tickets cannot be kept");
            }
        }
        keys.clone()
    }
}

fn read(path: &Path) -> io::Result<Vec<Arc<Key>>> {
    let Some(text) = files::read(path)? else { return Ok(Vec::new()) };
    let stored: Vec<Stored> = serde_json::from_str(&text)?;
    let key = |stored| Key::of(stored).map(Arc::new).ok_or_else(|| io::Error::other("it holds no keys"));
    stored.into_iter().map(key).collect()
}

fn write(path: &Path, keys: &[Arc<Key>]) -> io::Result<()> {
    let stored: Vec<&Stored> = keys.iter().map(|key| &key.stored).collect();
    files::replace_private(path, &serde_json::to_vec_pretty(&stored)?)
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        ROTATION.as_secs() as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let key = self.keys().into_iter().next()?;
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
        let now = self.clock.now();
        let named = |key: &Arc<Key>| key.id == *id && !key.is_older(2 * ROTATION, now);
        let key = self.keys().into_iter().find(named)?;
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = key.key.open_in_place(nonce, Aad::from(key.id), &mut sealed).ok()?.len();
        sealed.truncate(opened);
        Some(sealed)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::PermissionsExt as _,
        sync::atomic::{AtomicU64, Ordering},
    };

    use super::*;

    fn clock(of: &Arc<AtomicU64>) -> Clock {
        let of = Arc::clone(of);
        Clock::new(move || UnixMillis(of.load(Ordering::SeqCst)))
    }

    #[test]
    fn a_ticket_is_opened_by_who_comes_after_and_no_changed_one_by_anybody() {
        let directory = tempfile::tempdir().unwrap();
        let time = Arc::new(AtomicU64::new(1_700_000_000_000));
        let ticket = Tickets::of_directory(directory.path(), clock(&time)).encrypt(b"who").unwrap();
        let mode = fs::metadata(directory.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = Tickets::of_directory(directory.path(), clock(&time));
        assert_eq!(again.decrypt(&ticket).as_deref(), Some(&b"who"[..]));
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert_eq!(again.decrypt(&changed), None, "byte {at}");
            assert_eq!(again.decrypt(&ticket[..at]), None, "{at} bytes");
        }
        assert_eq!(Tickets::passing(clock(&time)).decrypt(&ticket), None);
    }

    #[test]
    fn a_key_makes_tickets_for_a_day_and_opens_them_for_another() {
        let directory = tempfile::tempdir().unwrap();
        let time = Arc::new(AtomicU64::new(1_700_000_000_000));
        let tickets = Tickets::of_directory(directory.path(), clock(&time));
        let pass = |part: u32| time.fetch_add((ROTATION / part).as_millis() as u64, Ordering::SeqCst);
        let first = tickets.encrypt(b"first").unwrap();
        pass(1);
        let second = tickets.encrypt(b"second").unwrap();
        assert_ne!(first[..ID_LEN], second[..ID_LEN]);
        assert_eq!(tickets.decrypt(&first).as_deref(), Some(&b"first"[..]));
        pass(2);
        assert_eq!(
            Tickets::of_directory(directory.path(), clock(&time)).decrypt(&first).as_deref(),
            Some(&b"first"[..])
        );
        pass(2);
        for each in [&tickets, &Tickets::of_directory(directory.path(), clock(&time))] {
            assert_eq!(each.decrypt(&first), None);
            assert_eq!(each.decrypt(&second).as_deref(), Some(&b"second"[..]));
        }
    }

    #[test]
    fn a_file_that_holds_no_keys_costs_no_more_than_the_tickets() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        for text in ["", "[{", r#"[{"id":"00","key":"00","made":0}]"#] {
            fs::write(&path, text).unwrap();
            let tickets = Tickets::of_directory(directory.path(), Clock::system());
            let ticket = tickets.encrypt(b"who").unwrap();
            assert_eq!(tickets.decrypt(&ticket).as_deref(), Some(&b"who"[..]));
            assert_eq!(read(&path).unwrap().len(), 1);
        }
    }
}
