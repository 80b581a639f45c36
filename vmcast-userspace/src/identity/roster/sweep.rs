//! What ended long ago is forgotten.

use std::time::Duration;

use vmcast_proto::registry::UnixMillis;

use super::{
    Roster, SWEEP_WRITES,
    record::{CertificateRecord, RevocationRecord, TokenRecord, newest, put, readable},
};
use crate::identity::{
    authority,
    records::{Expected, Kind, RecordsError, Write},
};

/// What has ended is kept for so long, so that an operator sees it, and a clock that jumped may come back meanwhile.
const KEPT: Duration = Duration::from_secs(30 * 86_400);
/// A node that was revoked is remembered for longer than any certificate of it can last, and for as long as it has one.
const REVOCATION_KEPT: Duration = Duration::from_secs(400 * 86_400);
/// Records that one sweep looks at, of each kind.
const SWEEP: usize = 500;

impl Roster {
    /// Notes which tokens are over, and forgets what ended long ago; looks at a part of the records at a time. `steady` is
    /// a clock that nobody sets: what is forgotten was seen to end.
    ///
    /// # Errors
    /// If the store fails.
    pub fn sweep(&mut self, now: UnixMillis, steady: UnixMillis) -> Result<(), RecordsError> {
        let Self { records, seen, .. } = self;
        let (seen, written) = seen.look(&**records, now, steady, || newest(&**records))?;
        let long_ago = |ended: u64| authority::after(UnixMillis(ended), KEPT) <= seen;
        let forget = |kind, key: &str| Write { kind, key: key.to_owned(), value: None };
        let (mut expected, mut writes): (Vec<_>, Vec<_>) = written.into_iter().unzip();
        let tokens = self.records.list(Kind::Token, "", &self.swept[0], SWEEP)?;
        for (id, value, token) in readable::<TokenRecord>(&tokens) {
            if long_ago(token.expires) {
                writes.push(forget(Kind::Token, id));
            } else if token.expires <= now.0 && !token.over {
                // Its last use, at another admin, is not to be taken back.
                expected.push(Expected { kind: Kind::Token, key: id.clone(), value: Some(value.clone()) });
                writes.push(put(Kind::Token, id, &TokenRecord { over: true, ..token }));
            }
        }
        let certificates = self.records.list(Kind::Certificate, "", &self.swept[1], SWEEP)?;
        for (key, _, certificate) in readable::<CertificateRecord>(&certificates) {
            if long_ago(certificate.expires) {
                writes.push(forget(Kind::Certificate, key));
            }
        }
        let revocations = self.records.list(Kind::Revocation, "", &self.swept[2], SWEEP)?;
        for (key, _, revocation) in readable::<RevocationRecord>(&revocations) {
            // A node that has come back since has certificates of its generation.
            if authority::after(UnixMillis(revocation.at), REVOCATION_KEPT) <= seen
                && !self.has_certificates(key)?
            {
                writes.push(forget(Kind::Revocation, key));
            }
        }
        let names = self.records.list(Kind::Name, "", &self.swept[3], SWEEP)?;
        for (key, value) in &names {
            if !self.has_certificates(key)? {
                // Another admin may give it away at this moment.
                expected.push(Expected { kind: Kind::Name, key: key.clone(), value: Some(value.clone()) });
                writes.push(forget(Kind::Name, key));
            }
        }
        writes.truncate(SWEEP_WRITES);
        let kept = |expected: &Expected| {
            writes.iter().any(|write| write.kind == expected.kind && write.key == expected.key)
        };
        expected.retain(kept);
        if !writes.is_empty() {
            self.records.commit(&expected, &writes)?;
            // There may be more: this part is looked at again.
            return Ok(());
        }
        for (place, rows) in self.swept.iter_mut().zip([&tokens, &certificates, &revocations, &names]) {
            let full = rows.len() == SWEEP;
            *place = rows.last().filter(|_| full).map(|(key, _)| key.clone()).unwrap_or_default();
        }
        Ok(())
    }

    /// The time as far as the sweeps have seen it pass; none before the first of them.
    pub(super) fn seen(&self, now: UnixMillis) -> UnixMillis {
        self.seen.last().map_or(UnixMillis(0), |seen| seen.min(now))
    }

    fn has_certificates(&self, node: &str) -> Result<bool, RecordsError> {
        Ok(!self.records.list(Kind::Certificate, &format!("{node}/"), "", 1)?.is_empty())
    }
}
