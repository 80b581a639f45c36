//! Who may come in and who is in: tokens, the certificates that were made for them, and what was refused.

mod record;
mod standing;
mod sweep;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use rustls::pki_types::CertificateDer;
use vmcast_proto::registry::{NodeId, UnixMillis};

pub use self::standing::{Standing, Standings};
use self::{
    record::{
        CertificateRecord, Found, OPERATOR, RevocationRecord, TokenRecord, certificate_key, decode, forget,
        latest, named, put, readable, revocation,
    },
    standing::{Held, held, standing},
};
use super::{
    Authority, AuthorityError, Fingerprint, Role,
    authority::{self, Request, hex, unhex},
    random::random,
    records::{Expected, Kind, Records, RecordsError, Write},
    refusal::{Refusal, Tally},
    seen::SeenTime,
};

/// Tokens at most; for one more than that the oldest goes that is over.
const MAX_TOKENS: usize = 10_000;
/// Uses of one token at most.
const MAX_USES: u32 = 100_000;
/// Longest life of a token, and of a certificate that an operator orders.
const MAX_TTL: Duration = Duration::from_secs(365 * 86_400);
/// Certificates of one node that count at most: with another that it asks for itself, the oldest that it does not use
/// at that moment goes; an operator is refused another.
const MAX_GOOD: usize = 8;
/// Certificates that are over are kept for so long where their node goes on.
const OVER_KEPT: Duration = Duration::from_secs(3600);
/// Records that one commit forgets or notes as over.
const SWEEP_WRITES: usize = 50;
/// A commit is tried so often when other admins are faster.
const TRIES: usize = 8;

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It may not be.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store failed.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// The authority failed.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// There are neither tokens nor certificates.
    #[error(
        "this admin runs without TLS, with neither tokens nor certificates: leave out insecure and --insecure to have \
         them"
    )]
    Insecure,
}

/// What a token is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenOrder {
    /// What its bearers may be.
    pub role: Role,
    /// How long it is good, a year at most.
    pub ttl: Duration,
    /// How many nodes may join by it, 1 to 100,000.
    pub uses: u32,
    /// The only node that may, if it is for one.
    pub node: Option<NodeId>,
}

/// How a token stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenState {
    /// Nodes may join by it.
    Open,
    /// All its uses are gone.
    Used,
    /// Its time is over.
    Expired,
    /// The operator took it back.
    Revoked,
}

/// A token as lists show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenEntry {
    /// Its id.
    pub id: String,
    /// What its bearers may be.
    pub role: Role,
    /// The only node that may join by it.
    pub node: Option<String>,
    /// How it stands.
    pub state: TokenState,
    /// When it was made.
    pub created: UnixMillis,
    /// When its time is over.
    pub expires: UnixMillis,
    /// How many nodes joined by it,
    pub used: u32,
    /// and may yet.
    pub uses_left: u32,
}

/// A certificate as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certified {
    /// Whose it is.
    pub node: NodeId,
    /// What the node may be.
    pub role: Role,
    /// Its serial number in hexadecimal.
    pub serial: String,
    /// When it ends.
    pub expires: UnixMillis,
}

/// A certificate that was just signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// Whose it is, and until when.
    pub certified: Certified,
    /// The certificate in DER.
    pub certificate: CertificateDer<'static>,
}

/// What is to be signed.
struct Signing<'a> {
    node: &'a NodeId,
    role: Role,
    /// As in [`CertificateRecord`].
    token: &'a str,
    generation: u64,
    lifetime: Duration,
}

/// The rules, over records and an authority. Time is passed in.
pub struct Roster {
    records: Box<dyn Records>,
    authority: Arc<Authority>,
    tally: Arc<Tally>,
    /// Behind which key the next sweep goes on, of tokens, certificates, revocations and names.
    swept: [String; 4],
    seen: SeenTime,
}

impl std::fmt::Debug for Roster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Roster").field("authority", &self.authority).finish_non_exhaustive()
    }
}

impl Roster {
    /// A roster of these records.
    #[must_use]
    pub fn new(records: Box<dyn Records>, authority: Authority) -> Self {
        let (authority, tally) = (Arc::new(authority), Arc::default());
        Self { records, authority, tally, swept: Default::default(), seen: SeenTime::default() }
    }

    /// The authority.
    #[must_use]
    pub const fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }

    /// What was done and refused.
    #[must_use]
    pub const fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    /// Makes a token; returns its id and its secret, which is kept nowhere.
    ///
    /// # Errors
    /// If there are too many, or the store fails.
    pub fn create_token(&mut self, now: UnixMillis, order: &TokenOrder) -> Result<(String, String), Error> {
        let mut writes = self.room_for_a_token(now)?;
        // It is of after all revocations, also of one by a clock that was ahead.
        let revoked = latest(&*self.records, Kind::Revocation, |record: &RevocationRecord| record.at)?;
        let created = revoked.map_or(now.0, |at| now.0.max(at.saturating_add(1)));
        let (id, secret) = (hex(&random::<8>()), random::<16>());
        let record = TokenRecord {
            hash: Fingerprint::of(&secret),
            role: order.role,
            node: order.node.as_ref().map(ToString::to_string),
            created,
            expires: authority::after(now, order.ttl.min(MAX_TTL)).0,
            uses_left: order.uses.clamp(1, MAX_USES),
            used: 0,
            revoked: false,
            over: false,
        };
        writes.push(put(Kind::Token, &id, &record));
        self.records.commit(&[], &writes)?;
        Ok((id, hex(&secret)))
    }

    /// Has the oldest tokens go that are over so that there is room for one more: after a time without any admin the
    /// sweeps see late that theirs is.
    fn room_for_a_token(&self, now: UnixMillis) -> Result<Vec<Write>, Error> {
        let tokens = self.records.list(Kind::Token, "", "", usize::MAX)?;
        let excess = (tokens.len() + 1).saturating_sub(MAX_TOKENS);
        if excess == 0 {
            return Ok(Vec::new());
        }
        let over = |(key, value): (String, Vec<u8>)| {
            let token: TokenRecord = decode(&value).ok()?;
            (token.state(now) != TokenState::Open).then_some((token.expires, key))
        };
        let mut over: Vec<_> = tokens.into_iter().filter_map(over).collect();
        if over.len() < excess {
            return Err(self.tally.refuse(Refusal::TooManyTokens).into());
        }
        over.sort();
        let forget = |(_, key)| Write { kind: Kind::Token, key, value: None };
        Ok(over.into_iter().take(excess.min(SWEEP_WRITES)).map(forget).collect())
    }

    /// Tokens in the order of their ids: at most `limit`, those behind `after`.
    ///
    /// # Errors
    /// If the store fails.
    pub fn tokens(
        &self,
        now: UnixMillis,
        after: &str,
        limit: usize,
    ) -> Result<Vec<TokenEntry>, RecordsError> {
        // A page is full also where some of the records cannot be read; all are 10,000 at most.
        let rows = self.records.list(Kind::Token, "", after, usize::MAX)?;
        let entry = |(id, _, record): (&String, _, TokenRecord)| TokenEntry {
            id: id.clone(),
            role: record.role,
            state: record.state(now),
            created: UnixMillis(record.created),
            expires: UnixMillis(record.expires),
            used: record.used,
            uses_left: record.uses_left,
            node: record.node,
        };
        Ok(readable(&rows).take(limit).map(entry).collect())
    }

    /// Takes a token back; false if there is none of this id. Who joined by it stays.
    ///
    /// # Errors
    /// If the store fails.
    pub fn revoke_token(&mut self, id: &str) -> Result<bool, RecordsError> {
        for _ in 0..TRIES {
            let Some(old) = self.records.read(Kind::Token, id)? else { return Ok(false) };
            let record = TokenRecord { revoked: true, ..decode(&old)? };
            let expected = Expected { kind: Kind::Token, key: id.to_owned(), value: Some(old) };
            if self.records.commit(&[expected], &[put(Kind::Token, id, &record)])? {
                return Ok(true);
            }
        }
        Err(RecordsError("other admins change the same token".to_owned()))
    }

    /// Lets a node in by a token. Who asks again with the same key, since the answer was lost, gets another
    /// certificate and uses the token no second time.
    ///
    /// # Errors
    /// If the token or the name is not good, the request is none, or the store fails.
    pub fn join(
        &mut self,
        now: UnixMillis,
        (id, secret): (&str, &str),
        node: &NodeId,
        request: &[u8],
    ) -> Result<Signed, Error> {
        for _ in 0..TRIES {
            match self.try_join(now, (id, secret), node, request) {
                Ok(Some(signed)) => {
                    self.tally.joined.fetch_add(1, Ordering::Relaxed);
                    return Ok(signed);
                }
                Ok(None) => {}
                Err(Error::Refused(refusal)) => return Err(self.tally.refuse(refusal).into()),
                Err(error) => return Err(error),
            }
        }
        Err(RecordsError("other admins change the same token".to_owned()).into())
    }

    fn try_join(
        &mut self,
        now: UnixMillis,
        (id, secret): (&str, &str),
        node: &NodeId,
        request: &[u8],
    ) -> Result<Option<Signed>, Error> {
        let old = self.records.read(Kind::Token, id)?.ok_or(Refusal::TokenUnknown)?;
        let token: TokenRecord = decode(&old)?;
        // What is compared is a hash: how long it takes tells nothing of the secret.
        if unhex(secret).map(|secret| Fingerprint::of(&secret)) != Some(token.hash) {
            return Err(Refusal::TokenUnknown.into());
        }
        let request = Request::parse(request).ok_or(Refusal::BadRequest)?;
        let key = request.key();
        let name = self.name(node)?;
        let (revocation, revoked) = self.revocation(node)?;
        let certificates = self.certificates(node)?;
        let again = certificates.iter().any(|(_, held)| {
            held.token == id && held.key == key && held.role == token.role && held.revoked.is_none()
        });
        match token.state(now) {
            TokenState::Revoked => return Err(Refusal::TokenRevoked.into()),
            TokenState::Expired => return Err(Refusal::TokenExpired.into()),
            TokenState::Used if !again => return Err(Refusal::TokenUsed.into()),
            TokenState::Used | TokenState::Open => {}
        }
        if token.node.as_ref().is_some_and(|only| only != node.as_str()) {
            return Err(Refusal::TokenOfAnotherNode.into());
        }
        let counts = |held: &CertificateRecord| held.revoked.is_none() && held.expires > now.0;
        if !again && certificates.iter().any(|(_, held)| counts(held)) {
            return Err(Refusal::NameTaken.into());
        }
        if !again && revoked.is_some_and(|revoked| revoked.at >= token.created) {
            return Err(Refusal::NodeRevoked.into());
        }
        let generation = revoked.unwrap_or_default().generation;
        let lifetime = self.authority.lifetime();
        let signing = Signing { node, role: token.role, token: id, generation, lifetime };
        let (signed, write) = self.sign(now, signing, &request)?;
        let mut writes = vec![write, named(&signed.certified)];
        let beyond = beyond(&certificates, None);
        let dropped = beyond.len() as u64;
        writes.extend(beyond);
        if !again {
            let used = TokenRecord { uses_left: token.uses_left - 1, used: token.used + 1, ..token };
            writes.push(put(Kind::Token, id, &used));
        }
        let expected = Expected { kind: Kind::Token, key: id.to_owned(), value: Some(old) };
        let committed = self.records.commit(&[expected, revocation, name], &writes)?;
        if committed {
            self.tally.dropped.fetch_add(dropped, Ordering::Relaxed);
        }
        Ok(committed.then_some(signed))
    }

    /// Signs the certificate of a node by the operator's order, who has its request for one. Nothing of it is told to the
    /// node: the operator brings it there. Who asks again with the same key gets another certificate.
    ///
    /// # Errors
    /// If the name is taken, the key is one that was revoked or has certificates enough, the request is none, or the
    /// store fails.
    pub fn sign_for_operator(
        &mut self,
        now: UnixMillis,
        (node, role): (&NodeId, Role),
        request: &[u8],
        lifetime: Option<Duration>,
    ) -> Result<Signed, Error> {
        for _ in 0..TRIES {
            match self.try_sign_for_operator(now, (node, role), request, lifetime) {
                Ok(Some(signed)) => {
                    self.tally.signed.fetch_add(1, Ordering::Relaxed);
                    return Ok(signed);
                }
                Ok(None) => {}
                Err(Error::Refused(refusal)) => return Err(self.tally.refuse(refusal).into()),
                Err(error) => return Err(error),
            }
        }
        Err(RecordsError("other admins change the same node".to_owned()).into())
    }

    fn try_sign_for_operator(
        &mut self,
        now: UnixMillis,
        (node, role): (&NodeId, Role),
        request: &[u8],
        lifetime: Option<Duration>,
    ) -> Result<Option<Signed>, Error> {
        let request = Request::parse(request).ok_or(Refusal::BadRequest)?;
        let key = request.key();
        let name = self.name(node)?;
        let (revocation, revoked) = self.revocation(node)?;
        let certificates = self.certificates(node)?;
        if certificates.iter().any(|(_, held)| held.key == key && held.revoked.is_some()) {
            return Err(Refusal::KeyRevoked.into());
        }
        let is_anothers = |held: &CertificateRecord| {
            let counts = held.revoked.is_none() && held.expires > now.0;
            counts && (held.key != key || held.role != role)
        };
        if certificates.iter().any(|(_, held)| is_anothers(held)) {
            return Err(Refusal::NameTaken.into());
        }
        let generation = revoked.unwrap_or_default().generation;
        let lifetime = lifetime.map_or(self.authority.lifetime(), |lifetime| lifetime.min(MAX_TTL));
        let signing = Signing { node, role, token: OPERATOR, generation, lifetime };
        let (over, rest) = parted(self.seen(now), certificates);
        // Nobody knows which of them the node has: none goes for another.
        let counts = |held: &CertificateRecord| held.revoked.is_none() && held.expires > now.0;
        if rest.iter().filter(|(_, held)| counts(held)).count() >= MAX_GOOD {
            return Err(Refusal::TooManyCertificates.into());
        }
        let (signed, write) = self.sign(now, signing, &request)?;
        let named = named(&signed.certified);
        let writes: Vec<_> = [write, named].into_iter().chain(over).collect();
        let committed = self.records.commit(&[revocation, name], &writes)?;
        Ok(committed.then_some(signed))
    }

    /// Gives a node that is in another certificate, of the key of this request. The one it has stays good.
    ///
    /// # Errors
    /// If its own does not count, the request is none, or the store fails.
    pub fn renew(
        &mut self,
        now: UnixMillis,
        node: &NodeId,
        serial: &str,
        request: &[u8],
    ) -> Result<Signed, Error> {
        for _ in 0..TRIES {
            let held = match self.held(node, serial)? {
                Held::Good(held) => held,
                Held::Revoked => return Err(self.tally.refuse(Refusal::CertificateRevoked).into()),
                Held::Unknown => return Err(self.tally.refuse(Refusal::CertificateUnknown).into()),
            };
            let Some(request) = Request::parse(request) else {
                return Err(self.tally.refuse(Refusal::BadRequest).into());
            };
            let (revocation, _) = self.revocation(node)?;
            let lifetime = self.authority.lifetime();
            let signing =
                Signing { node, role: held.role, token: &held.token, generation: held.generation, lifetime };
            let (signed, write) = self.sign(now, signing, &request)?;
            let (over, rest) = parted(self.seen(now), self.certificates(node)?);
            let beyond = beyond(&rest, Some(&certificate_key(node, serial)));
            let dropped = beyond.len() as u64;
            let writes: Vec<_> = std::iter::once(write).chain(over).chain(beyond).collect();
            if self.records.commit(&[revocation], &writes)? {
                self.tally.dropped.fetch_add(dropped, Ordering::Relaxed);
                self.tally.renewed.fetch_add(1, Ordering::Relaxed);
                return Ok(signed);
            }
        }
        Err(RecordsError("other admins change the same node".to_owned()).into())
    }

    fn revocation(&self, node: &NodeId) -> Result<Found<RevocationRecord>, RecordsError> {
        revocation(&*self.records, node)
    }

    /// What must still stand of a name when it is given away, lest two admins give it to two. It is to be read before
    /// the certificates that tell whether it is free.
    fn name(&self, node: &NodeId) -> Result<Expected, RecordsError> {
        let value = self.records.read(Kind::Name, node.as_str())?;
        Ok(Expected { kind: Kind::Name, key: node.to_string(), value })
    }

    fn held(&self, node: &NodeId, serial: &str) -> Result<Held, RecordsError> {
        held(&*self.records, node, serial)
    }

    fn sign(
        &self,
        now: UnixMillis,
        signing: Signing<'_>,
        request: &Request,
    ) -> Result<(Signed, Write), Error> {
        let Signing { node, role, token, generation, lifetime } = signing;
        let issued = self.authority.certify_node(node, role, request, now, lifetime)?;
        let record = CertificateRecord {
            role,
            key: request.key(),
            token: token.to_owned(),
            issued: now.0,
            expires: issued.expires.0,
            generation,
            revoked: None,
            seal: Some(self.authority.seal(&issued.der)),
        };
        let write = put(Kind::Certificate, &certificate_key(node, &issued.serial), &record);
        let certified =
            Certified { node: node.clone(), role, serial: issued.serial, expires: issued.expires };
        Ok((Signed { certified, certificate: issued.der }, write))
    }

    /// How a certificate stands, as [`Standings::of`].
    ///
    /// # Errors
    /// If the store fails.
    pub fn standing(&self, node: &NodeId, serial: &str) -> Result<Standing, RecordsError> {
        standing(&*self.records, node, serial)
    }

    /// Who tells how certificates stand while the roster is at work.
    #[must_use]
    pub fn standings(&self) -> Standings {
        Standings(self.records.share().into())
    }

    /// Shuts a node out: none of its certificates counts any more. Returns the ids of the tokens that it joined by
    /// and that are still open, or `None` if it has no certificate that counted.
    ///
    /// # Errors
    /// If the store fails.
    pub fn revoke_node(
        &mut self,
        now: UnixMillis,
        node: &NodeId,
    ) -> Result<Option<Vec<String>>, RecordsError> {
        for _ in 0..TRIES {
            let (certificates, unreadable) = self.readable_certificates(node)?;
            let counted: Vec<_> = certificates.iter().filter(|(_, held)| held.revoked.is_none()).collect();
            // One that cannot be read may count.
            if counted.is_empty() && unreadable.is_none() {
                return Ok(None);
            }
            let (expected, before) = self.revocation(node)?;
            // Another admin may have signed one while this one forgot that the node was ever revoked.
            let signed = counted.iter().map(|(_, held)| held.generation).max().unwrap_or_default();
            let generation = before.unwrap_or_default().generation.max(signed) + 1;
            // Tokens of before let it in no more, also those by a clock that was ahead.
            let created = latest(&*self.records, Kind::Token, |record: &TokenRecord| record.created)?;
            let record = RevocationRecord { generation, at: now.0.max(created.unwrap_or_default()) };
            // The generation is what counts; these are for who looks at them one by one.
            let mark = |(key, held): &&(String, CertificateRecord)| {
                put(Kind::Certificate, key, &CertificateRecord { revoked: Some(now.0), ..held.clone() })
            };
            let marks = counted.iter().rev().take(SWEEP_WRITES).map(mark);
            let writes: Vec<_> =
                std::iter::once(put(Kind::Revocation, node.as_str(), &record)).chain(marks).collect();
            if !self.records.commit(&[expected], &writes)? {
                continue;
            }
            let mut tokens: Vec<_> = counted.into_iter().map(|(_, held)| held.token.clone()).collect();
            tokens.sort();
            tokens.dedup();
            let mut open = Vec::new();
            for id in tokens {
                let token = self.records.read(Kind::Token, &id)?;
                let token: Option<TokenRecord> = token.as_deref().map(decode).transpose()?;
                if token.is_some_and(|token| token.state(now) == TokenState::Open) {
                    open.push(id);
                }
            }
            return Ok(Some(open));
        }
        Err(RecordsError("other admins change the same node".to_owned()))
    }

    fn certificates(&self, node: &NodeId) -> Result<Keyed, RecordsError> {
        let (certificates, unreadable) = self.readable_certificates(node)?;
        unreadable.map_or(Ok(certificates), Err)
    }

    /// All certificates of a node but for those that cannot be read, which a later version may have written; why, if there
    /// are any.
    fn readable_certificates(&self, node: &NodeId) -> Result<(Keyed, Option<RecordsError>), RecordsError> {
        let prefix = certificate_key(node, "");
        let revocation = self.revocation(node)?.1.unwrap_or_default();
        let (mut certificates, mut unreadable) = (Vec::new(), None);
        for (key, value) in self.records.list(Kind::Certificate, &prefix, "", usize::MAX)? {
            match decode::<CertificateRecord>(&value) {
                Ok(mut held) => {
                    if held.generation < revocation.generation {
                        held.revoked.get_or_insert(revocation.at);
                    }
                    certificates.push((key, held));
                }
                Err(error) => unreadable = Some(error),
            }
        }
        Ok((certificates, unreadable))
    }
}

/// Certificates, by their keys.
type Keyed = Vec<(String, CertificateRecord)>;

/// Has those certificates of a node go that were seen to be over, which are of no use any more; with the rest.
fn parted(seen: UnixMillis, certificates: Keyed) -> (impl Iterator<Item = Write>, Keyed) {
    let over = |held: &CertificateRecord| authority::after(UnixMillis(held.expires), OVER_KEPT) <= seen;
    let (over, rest): (Vec<_>, Vec<_>) = certificates.into_iter().partition(|(_, held)| over(held));
    (over.into_iter().map(|(key, _)| forget(key)).take(SWEEP_WRITES), rest)
}

/// Has the oldest certificates of a node go, but for the one in use, so that there is room for one more.
fn beyond(certificates: &[(String, CertificateRecord)], in_use: Option<&str>) -> Vec<Write> {
    let good = certificates.iter().filter(|(_, held)| held.revoked.is_none());
    let excess = (good.clone().count() + 1).saturating_sub(MAX_GOOD);
    let mut others: Vec<_> = good.filter(|(key, _)| Some(key.as_str()) != in_use).collect();
    others.sort_by_key(|(_, held)| held.issued);
    others.iter().take(excess.min(SWEEP_WRITES)).map(|(key, _)| forget(key.clone())).collect()
}
