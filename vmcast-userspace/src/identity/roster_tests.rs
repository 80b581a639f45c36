//! Who is in, in time and beside other admins; time is passed in.

use std::time::Duration;

use vmcast_proto::registry::{Config, MemoryStore, NodeId, Registry, Rows as _, Store as _, UnixMillis};

use super::{
    Authority, Expected, Kind, Records, RecordsError, Refusal, Role, Roster, RosterError, Signed, Standing,
    TokenOrder, Write, certificate_request,
};
use crate::admin::{Clock, Handle, Mirror, Way};

const NOW: UnixMillis = UnixMillis(1_790_000_000_000);
const DAY: Duration = Duration::from_secs(86_400);

fn id(text: &str) -> NodeId {
    text.parse().unwrap()
}

fn after(now: UnixMillis, time: Duration) -> UnixMillis {
    UnixMillis(now.0 + time.as_millis() as u64)
}

fn store() -> Handle<Mirror> {
    let registry = Registry::new(Config::default(), Mirror::default());
    Handle::new(registry, Clock::new(|| NOW), Way::default()).unwrap()
}

fn roster(store: &Handle<Mirror>) -> Roster {
    Roster::new(Box::new(store.clone()), Authority::make(NOW).unwrap())
}

fn token(roster: &mut Roster, now: UnixMillis) -> (String, String) {
    let order = TokenOrder { role: Role::Agent, ttl: DAY, uses: 1, node: None };
    roster.create_token(now, &order).unwrap()
}

fn join(roster: &mut Roster, now: UnixMillis, node: &str) -> Signed {
    let (token, secret) = token(roster, now);
    roster.join(now, (&token, &secret), &id(node), &certificate_request()).unwrap()
}

fn sign(roster: &mut Roster, now: UnixMillis, request: &[u8]) -> Result<Signed, RosterError> {
    roster.sign_for_operator(now, (&id("a"), Role::Agent), request, None)
}

fn refusal<T: std::fmt::Debug>(outcome: Result<T, RosterError>) -> Refusal {
    match outcome {
        Err(RosterError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

fn count(roster: &Roster, name: &str) -> u64 {
    roster.tally().counters().find(|(label, _)| *label == name).expect("a counter").1
}

fn standing(roster: &Roster, signed: &Signed) -> Standing {
    roster.standing(&signed.certified.node, &signed.certified.serial).unwrap()
}

fn keys(store: &Handle<Mirror>, kind: Kind) -> Vec<String> {
    store.list(kind, "", "", 99).unwrap().into_iter().map(|(key, _)| key).collect()
}

fn sweep(roster: &mut Roster, now: UnixMillis) {
    sweep_by(roster, now, now);
}

/// Where the clock shows something else than has passed.
fn sweep_by(roster: &mut Roster, now: UnixMillis, steady: UnixMillis) {
    // It looks at a part at a time.
    for _ in 0..5 {
        roster.sweep(now, steady).unwrap();
    }
}

/// Sweeps once a day for so many, from `steady` on; the clock shows `ahead` more.
fn days(roster: &mut Roster, steady: UnixMillis, ahead: Duration, count: u32) -> UnixMillis {
    for day in 1..=count {
        let steady = after(steady, day * DAY);
        sweep_by(roster, after(steady, ahead), steady);
    }
    after(steady, count * DAY)
}

// proves D4: a node that was let in again after its revocation is in for as long as it renews its certificate
#[test]
fn a_node_that_came_back_after_its_revocation_stays_in() {
    let store = store();
    let mut roster = roster(&store);
    let mut now = NOW;
    let first = join(&mut roster, now, "a");
    now = after(now, DAY);
    roster.revoke_node(now, &id("a")).unwrap().expect("it was in");
    now = after(now, DAY);
    let mut signed = join(&mut roster, now, "a");
    for _ in 0..50 {
        now = after(now, 10 * DAY);
        sweep(&mut roster, now);
        assert_eq!(standing(&roster, &signed), Standing::Good);
        assert_eq!(keys(&store, Kind::Revocation), ["a"]);
        let request = certificate_request();
        signed = roster.renew(now, &id("a"), &signed.certified.serial, &request).expect("it is in");
    }
    assert_eq!(standing(&roster, &first), Standing::Unknown, "long ago");
    roster.revoke_node(now, &id("a")).unwrap().expect("it was in");
    assert_eq!(standing(&roster, &signed), Standing::Revoked);
    // It is forgotten when there is nothing more of it.
    now = after(now, 500 * DAY);
    sweep(&mut roster, now);
    for kind in [Kind::Certificate, Kind::Revocation, Kind::Name, Kind::Token] {
        assert_eq!(keys(&store, kind), [""; 0], "{kind:?}");
    }
}

// proves A2: another admin may forget a revocation while a node comes back
#[test]
fn a_revocation_that_is_forgotten_puts_nobody_out_and_lets_nobody_in() {
    let mut store = store();
    let mut roster = roster(&store);
    join(&mut roster, NOW, "a");
    roster.revoke_node(NOW, &id("a")).unwrap().expect("it was in");
    let now = after(NOW, DAY);
    let signed = join(&mut roster, now, "a");
    let forget = Write { kind: Kind::Revocation, key: "a".to_owned(), value: None };
    assert!(store.commit(&[], &[forget]).unwrap());
    assert_eq!(standing(&roster, &signed), Standing::Good);
    let next = roster.renew(now, &id("a"), &signed.certified.serial, &certificate_request()).expect("in");
    // What another admin signed at that moment, and nobody knows of, is of the same generation.
    let key = |signed: &Signed| format!("a/{}", signed.certified.serial);
    let unknown = Write {
        kind: Kind::Certificate,
        key: key(&next),
        value: store.read(Kind::Certificate, &key(&next)).unwrap(),
    };
    assert!(store.commit(&[], &[Write { value: None, ..unknown.clone() }]).unwrap());
    roster.revoke_node(now, &id("a")).unwrap().expect("it was in");
    assert!(store.commit(&[], &[unknown]).unwrap());
    for signed in [&signed, &next] {
        assert_eq!(standing(&roster, signed), Standing::Revoked);
    }
}

// proves D4: signing the same request again and again takes nothing from the node that is in by it
#[test]
fn a_request_that_is_signed_again_costs_the_node_none_of_its_certificates() {
    let store = store();
    let mut roster = roster(&store);
    let request = certificate_request();
    let signed: Vec<_> = (0..8).map(|_| sign(&mut roster, NOW, &request).expect("signed")).collect();
    for _ in 0..3 {
        assert_eq!(refusal(sign(&mut roster, NOW, &request)), Refusal::TooManyCertificates);
    }
    assert_eq!((count(&roster, "too_many_certificates"), count(&roster, "certificates_dropped")), (3, 0));
    for signed in &signed {
        assert_eq!(standing(&roster, signed), Standing::Good);
    }
    assert_eq!(keys(&store, Kind::Certificate).len(), 8);
    // Those that are over are in nobody's way, and go when that was seen, not when a clock shows it.
    let now = after(NOW, 31 * DAY);
    let ahead = sign(&mut roster, now, &request).expect("signed");
    assert_eq!(keys(&store, Kind::Certificate).len(), 9);
    roster = Roster::new(Box::new(store.clone()), Authority::make(NOW).unwrap());
    roster.renew(now, &id("a"), &ahead.certified.serial, &request).expect("signed");
    assert_eq!(signed.iter().filter(|signed| standing(&roster, signed) == Standing::Good).count(), 6);
    sweep(&mut roster, NOW);
    roster.renew(now, &id("a"), &ahead.certified.serial, &request).expect("signed");
    assert_eq!(signed.iter().filter(|signed| standing(&roster, signed) == Standing::Good).count(), 5);
    days(&mut roster, NOW, Duration::ZERO, 31);
    sign(&mut roster, now, &request).expect("signed");
    assert!(signed.iter().all(|signed| standing(&roster, signed) == Standing::Unknown));
    assert_eq!(keys(&store, Kind::Certificate).len(), 4);
}

// proves A2: a clock that is ahead, also from the start on, has nothing forgotten that others need when it is right
#[test]
fn a_clock_that_jumps_ahead_forgets_nobody_who_is_in_and_nobody_who_is_out() {
    let store = store();
    let mut roster = roster(&store);
    sweep(&mut roster, NOW);
    let order = TokenOrder { role: Role::Agent, ttl: 300 * DAY, uses: 9, node: None };
    let (token, secret) = roster.create_token(NOW, &order).unwrap();
    let [live, out] = ["live", "out"]
        .map(|node| roster.join(NOW, (&token, &secret), &id(node), &certificate_request()).expect("in"));
    roster.revoke_node(NOW, &id("out")).unwrap().expect("it was in");
    let expect = |roster: &Roster| {
        assert_eq!((standing(roster, &live), standing(roster, &out)), (Standing::Good, Standing::Revoked));
        assert_eq!(keys(&store, Kind::Token), [token.as_str()]);
        assert_eq!(keys(&store, Kind::Revocation), ["out"]);
    };
    let mut now = NOW;
    for ahead in [61 * DAY, 600 * DAY, 60 * 365 * DAY] {
        now = days(&mut roster, now, ahead, 3);
        expect(&roster);
        // So it is found by a process that starts meanwhile, and when it is right again.
        roster = Roster::new(Box::new(store.clone()), Authority::make(NOW).unwrap());
        now = days(&mut roster, now, ahead, 3);
        expect(&roster);
        now = days(&mut roster, now, Duration::ZERO, 1);
        expect(&roster);
    }
    roster.renew(now, &id("live"), &live.certified.serial, &certificate_request()).expect("in");
    // With a clock that is right they go in their time, also where the admin was away for long.
    now = days(&mut roster, now, Duration::ZERO, 62);
    assert_eq!(keys(&store, Kind::Certificate), [""; 0]);
    roster = Roster::new(Box::new(store.clone()), Authority::make(NOW).unwrap());
    now = after(now, 450 * DAY);
    sweep(&mut roster, now);
    assert_eq!(keys(&store, Kind::Revocation), ["out"], "it may be a clock that jumped");
    days(&mut roster, now, Duration::ZERO, 450);
    for kind in [Kind::Revocation, Kind::Token, Kind::Name] {
        assert_eq!(keys(&store, kind), [""; 0], "{kind:?}");
    }
}

// proves A2: of several admins one that is wrong for a month takes the time along by days
#[test]
fn an_admin_that_is_ahead_from_its_start_forgets_nobody_of_the_others() {
    let store = store();
    let mut right = roster(&store);
    let mut signed = join(&mut right, NOW, "a");
    let mut wrong = Roster::new(Box::new(store.clone()), Authority::make(NOW).unwrap());
    let mut now = NOW;
    for day in 1..=100 {
        now = days(&mut wrong, now, 61 * DAY, 1);
        sweep(&mut right, now);
        assert_eq!(standing(&right, &signed), Standing::Good, "day {day}");
        if day % 20 == 0 {
            let request = certificate_request();
            signed = right.renew(now, &id("a"), &signed.certified.serial, &request).expect("it is in");
        }
    }
}

// proves A2: the first admin of this version to look at a registry may be one whose clock is ahead
#[test]
fn a_registry_without_a_time_begins_at_what_its_records_say() {
    let store = store();
    let mut roster = roster(&store);
    let (token, _) = token(&mut roster, NOW);
    let signed = [join(&mut roster, NOW, "in"), join(&mut roster, NOW, "out")];
    roster.revoke_node(after(NOW, DAY), &id("out")).unwrap().expect("it was in");
    assert_eq!(keys(&store, Kind::Seen), [""; 0]);
    days(&mut roster, NOW, 61 * DAY, 3);
    days(&mut roster, after(NOW, 3 * DAY), 3000 * DAY, 3);
    let standings = signed.each_ref().map(|signed| standing(&roster, signed));
    assert_eq!(standings, [Standing::Good, Standing::Revoked]);
    assert!(keys(&store, Kind::Token).contains(&token));
    // It began with the revocation, and not before it.
    let seen = store.read(Kind::Seen, "seen").unwrap().expect("written down");
    let seen: u64 = String::from_utf8(seen).unwrap().parse().unwrap();
    assert!(seen > after(NOW, 6 * DAY).0 && seen < after(NOW, 9 * DAY).0, "{seen}");
}

// proves A2: two admins that begin at once begin at one time
#[test]
fn the_time_that_another_admin_wrote_down_first_stands() {
    let store = store();
    let mut one = roster(&store);
    let mut other = Behind::roster(&store);
    sweep(&mut one, NOW);
    let read = || store.read(Kind::Seen, "seen").unwrap();
    let first = read();
    other.sweep(after(NOW, 61 * DAY), NOW).unwrap();
    assert_eq!(read(), first);
    let signed = join(&mut one, NOW, "a");
    let now = days(&mut other, NOW, 61 * DAY, 3);
    assert_eq!(standing(&one, &signed), Standing::Good);
    let seen: u64 = String::from_utf8(read().expect("written down")).unwrap().parse().unwrap();
    assert!(seen < after(now, DAY).0, "{seen}");
}

// proves A2: nor does a clock that goes back
#[test]
fn a_clock_that_goes_back_forgets_nothing_and_holds_nothing_for_ever() {
    let store = store();
    let mut roster = roster(&store);
    sweep(&mut roster, NOW);
    let signed = join(&mut roster, NOW, "a");
    let mut now = NOW;
    for day in 0..20_u64 {
        now = after(now, DAY);
        // A host whose clock has yet to be set, for a day out of two.
        let shown = if day % 2 == 0 { UnixMillis(day) } else { now };
        sweep_by(&mut roster, shown, now);
        assert_eq!(standing(&roster, &signed), Standing::Good);
    }
    roster.revoke_node(now, &id("a")).unwrap().expect("it was in");
    now = days(&mut roster, now, Duration::ZERO, 100);
    assert_eq!((keys(&store, Kind::Certificate), keys(&store, Kind::Token)), (vec![], vec![]));
    days(&mut roster, now, Duration::ZERO, 320);
    assert_eq!(keys(&store, Kind::Revocation), [""; 0]);

    // One that is set for the first time after the first start.
    let store = self::store();
    let mut roster = Roster::new(Box::new(store.clone()), Authority::make(NOW).unwrap());
    sweep_by(&mut roster, UnixMillis(0), NOW);
    join(&mut roster, NOW, "a");
    days(&mut roster, NOW, Duration::ZERO, 400);
    assert_eq!(keys(&store, Kind::Certificate), [""; 0]);
}

// proves A2: whether a token was made before a revocation or after it is no matter of clocks
#[test]
fn a_token_of_before_lets_no_revoked_node_in_and_one_of_after_does_whatever_clocks_show() {
    for by in [-100_i64, -1, 0, 1, 100] {
        let store = store();
        let mut roster = roster(&store);
        let order = TokenOrder { role: Role::Agent, ttl: 300 * DAY, uses: 9, node: None };
        let before = roster.create_token(NOW, &order).unwrap();
        let ask = |roster: &mut Roster, now, (token, secret): &(String, String)| {
            roster.join(now, (token, secret), &id("a"), &certificate_request())
        };
        ask(&mut roster, NOW, &before).expect("in");
        let then = UnixMillis(NOW.0.saturating_add_signed(by * DAY.as_millis() as i64));
        roster.revoke_node(then, &id("a")).unwrap().expect("it was in");
        assert_eq!(refusal(ask(&mut roster, NOW, &before)), Refusal::NodeRevoked, "{by}");
        let next = roster.create_token(NOW, &order).unwrap();
        ask(&mut roster, NOW, &next).expect("the operator lets it in again");
        assert_eq!(refusal(ask(&mut roster, NOW, &before)), Refusal::NameTaken, "{by}");
    }
}

// proves A2: what a newer admin writes keeps no older one from shutting a node out
#[test]
fn a_record_that_cannot_be_read_is_in_the_way_of_no_order() {
    let mut store = store();
    let mut roster = roster(&store);
    let signed = join(&mut roster, NOW, "a");
    for kind in [Kind::Token, Kind::Revocation, Kind::Certificate] {
        let value = Some(br#"{"of":"later"}"#.to_vec());
        assert!(store.commit(&[], &[Write { kind, key: "later".to_owned(), value }]).unwrap());
    }
    roster.revoke_node(NOW, &id("a")).unwrap().expect("it was in");
    assert_eq!(standing(&roster, &signed), Standing::Revoked);
    join(&mut roster, NOW, "a");
    assert_eq!(roster.tokens(NOW, "", 9).unwrap().len(), 2, "the others are listed");
    assert_eq!(roster.tokens(NOW, "", 2).unwrap().len(), 2, "and fill a page");
    days(&mut roster, NOW, Duration::ZERO, 400);
    for kind in [Kind::Token, Kind::Revocation, Kind::Certificate] {
        assert_eq!(keys(&store, kind), ["later"], "the others are forgotten");
    }
}

// proves A2: neither a certificate that a newer admin has written in another form, nor a great many that are over, keep a
// node from being shut out
#[test]
fn a_node_is_shut_out_whatever_certificates_it_has_had() {
    let mut store = store();
    let mut roster = roster(&store);
    for _ in 0..1_100 {
        join(&mut roster, NOW, "a");
        roster.revoke_node(NOW, &id("a")).unwrap().expect("it was in");
    }
    let signed = join(&mut roster, NOW, "a");
    let value = Some(br#"{"of":"later"}"#.to_vec());
    let later = Write { kind: Kind::Certificate, key: "a/ff".to_owned(), value };
    assert!(store.commit(&[], std::slice::from_ref(&later)).unwrap());
    roster.revoke_node(NOW, &id("a")).unwrap().expect("it was in");
    assert_eq!(standing(&roster, &signed), Standing::Revoked);
    // The one of the later version may count.
    let before = store.read(Kind::Revocation, "a").unwrap();
    roster.revoke_node(NOW, &id("a")).unwrap().expect("it may have been in");
    assert_ne!(store.read(Kind::Revocation, "a").unwrap(), before);
}

/// The records of a store as an admin has them that hears late of what others write: when it writes itself, as with
/// etcd.
#[derive(Clone)]
struct Behind {
    store: Handle<Mirror>,
    seen: MemoryStore,
}

impl Behind {
    fn roster(store: &Handle<Mirror>) -> Roster {
        let mut records = Self { store: store.clone(), seen: MemoryStore::default() };
        records.catch_up();
        Roster::new(Box::new(records), Authority::make(NOW).unwrap())
    }

    fn catch_up(&mut self) {
        self.seen = MemoryStore::default();
        for kind in Kind::ALL {
            let rows = self.store.list(kind, "", "", 99).unwrap().into_iter();
            let rows: Vec<_> = rows.map(|(key, value)| Write { kind, key, value: Some(value) }).collect();
            self.seen.commit_records(&[], &rows).unwrap();
        }
    }
}

impl Records for Behind {
    fn share(&self) -> Box<dyn Records> {
        Box::new(self.clone())
    }

    fn read(&self, kind: Kind, key: &str) -> Result<Option<Vec<u8>>, RecordsError> {
        Ok(self.seen.record(kind, key))
    }

    fn list(
        &self,
        kind: Kind,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<(String, Vec<u8>)>, RecordsError> {
        Ok(self.seen.records(kind, prefix, after, limit))
    }

    fn commit(&mut self, expected: &[Expected], writes: &[Write]) -> Result<bool, RecordsError> {
        let committed = self.store.commit(expected, writes)?;
        self.catch_up();
        Ok(committed)
    }

    fn changes(&self, kind: Kind) -> u64 {
        self.seen.record_changes(kind)
    }
}

// proves A2 and D4: two admins give one name to one key, whichever way they are asked
#[test]
fn a_name_that_two_admins_give_away_at_once_goes_to_one() {
    for (one_joins, other_joins) in [(true, true), (true, false), (false, true), (false, false)] {
        let store = store();
        let mut one = roster(&store);
        let tokens = [token(&mut one, NOW), token(&mut one, NOW)];
        let mut other = Behind::roster(&store);
        let give = |roster: &mut Roster, joins: bool, (token, secret): &(String, String)| {
            let request = certificate_request();
            match joins {
                true => roster.join(NOW, (token, secret), &id("a"), &request),
                false => sign(roster, NOW, &request),
            }
        };
        let first = give(&mut one, one_joins, &tokens[0]).expect("it is free");
        let refused = refusal(give(&mut other, other_joins, &tokens[1]));
        assert_eq!(refused, Refusal::NameTaken, "{one_joins} {other_joins}");
        assert_eq!(keys(&store, Kind::Certificate), [format!("a/{}", first.certified.serial)]);
        let tokens = one.tokens(NOW, "", 9).unwrap();
        assert_eq!(tokens.iter().map(|token| token.used).sum::<u32>(), u32::from(one_joins));
    }
}

// proves A2: a registry that an earlier version has written has no records of names
#[test]
fn a_node_without_a_record_of_its_name_is_in_and_its_name_is_taken() {
    let mut store = store();
    let mut roster = roster(&store);
    let (token, secret) = token(&mut roster, NOW);
    let request = certificate_request();
    let ask = |roster: &mut Roster| roster.join(NOW, (&token, &secret), &id("a"), &request);
    let first = ask(&mut roster).expect("in");
    let forget = |store: &mut Handle<Mirror>| {
        assert!(store.commit(&[], &[Write { kind: Kind::Name, key: "a".to_owned(), value: None }]).unwrap());
    };
    forget(&mut store);
    assert_eq!(standing(&roster, &first), Standing::Good);
    assert_eq!(refusal(sign(&mut roster, NOW, &certificate_request())), Refusal::NameTaken);
    roster.renew(NOW, &id("a"), &first.certified.serial, &certificate_request()).expect("in");
    ask(&mut roster).expect("the answer was lost");
    forget(&mut store);
    roster.revoke_node(NOW, &id("a")).unwrap().expect("it was in");
    sign(&mut roster, NOW, &certificate_request()).expect("the name is free");
    assert_eq!(keys(&store, Kind::Name), ["a"]);
}
