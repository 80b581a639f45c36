//! Clocks that are set.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use vmcast_proto::registry::{
    Change, Config, Registered, Registry, Role, Rows as _, Scope, Store as _, UnixMillis, conformance,
};

use crate::admin::{
    Clock, Handle, Mirror, Way,
    server::{look_at_pause, take_over},
    store::SqliteStore,
};

const NOW: UnixMillis = UnixMillis(1_790_000_000_000);
const YEAR: u64 = 365 * 86_400_000;
/// That of the configuration.
const LEASE: Duration = Duration::from_secs(60);

fn at(seconds: u64) -> UnixMillis {
    NOW.after(Duration::from_secs(seconds))
}

/// A registry over a file that an earlier process has written, whose clock showed `then`.
fn restarted(then: u64) -> (tempfile::TempDir, Registry<SqliteStore>) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("registry.db");
    let mut store = SqliteStore::open(&path).expect("open");
    let mut vmr = conformance::node("v", Role::Vmr { rank: 0 }, &["192.0.2.1:2268"], then + 60_000);
    vmr.registered = UnixMillis(then);
    let mut entry = conformance::entry(Scope::Agents, "10.0.0.0/8", "v", then + 3_600_000);
    entry.learned = UnixMillis(then);
    store.commit(&[Change::PutNode(vmr), Change::PutEntry(entry)]).expect("commit");
    store.flush().expect("flush");
    drop(store);
    let mut registry = Registry::new(Config::default(), SqliteStore::open(&path).expect("open"));
    take_over(&mut registry, NOW).expect("taken over");
    (directory, registry)
}

fn live(registry: &Registry<SqliteStore>, now: UnixMillis) -> usize {
    registry.nodes(now, None, 9).len()
}

fn renewed(registry: &mut Registry<SqliteStore>, now: UnixMillis) -> Registered {
    let vmr = conformance::node("v", Role::Vmr { rank: 0 }, &["192.0.2.1:2268"], 0);
    registry.register(now, [192, 0, 2, 1].into(), vmr.registration).expect("granted").outcome
}

// proves A2: a clock that was ahead before a restart makes no lease that lives for ever
#[test]
fn a_lease_that_a_clock_ahead_has_written_ends_in_its_time() {
    let (_directory, mut registry) = restarted(NOW.0 + YEAR);
    assert_eq!(live(&registry, at(59)), 1);
    assert_eq!(live(&registry, at(60)), 0);
    let entry = registry.rows().entries(None, 9).remove(0);
    assert_eq!((entry.learned, entry.expires), (NOW, NOW.after(Config::default().entry_lifetime)));
    assert_eq!(registry.rows().nodes(None, 9)[0].registered, NOW);
    assert_eq!(registry.expire(at(60)).expect("expire").len(), 1);
}

// proves A2: nor does one that was behind, or an admin that was away, end the leases of those who live
#[test]
fn a_lease_that_a_clock_behind_has_written_can_still_be_renewed() {
    for then in [NOW.0 - YEAR, NOW.0 - 61_000, 0] {
        let (_directory, mut registry) = restarted(then);
        assert_eq!(live(&registry, at(0)), 1);
        // A node renews after a third of its lease at the latest.
        assert_eq!(registry.expire(at(20)).expect("expire"), []);
        assert_eq!(renewed(&mut registry, at(20)), Registered::Renewed);
        assert_eq!((live(&registry, at(79)), live(&registry, at(80))), (1, 0));

        let (_directory, mut registry) = restarted(then);
        assert_eq!((live(&registry, at(29)), live(&registry, at(30))), (1, 0), "who is gone is gone");
        assert_eq!(registry.expire(at(30)).expect("expire").len(), 1);
    }
}

#[test]
fn what_a_clock_that_was_right_has_written_stays_as_it_is() {
    let (_directory, registry) = restarted(NOW.0 - 10_000);
    let node = registry.rows().node(&"v".parse().expect("an id")).expect("it is there");
    assert_eq!((node.registered.0, node.expires.0), (NOW.0 - 10_000, NOW.0 + 50_000));
    assert_eq!(LEASE, Config::default().lease);
}

// proves A2: while the process runs nothing depends on what the host's clock is set to
#[test]
fn a_steady_clock_goes_on_from_its_start() {
    let passed = Arc::new(AtomicU64::new(0));
    let elapsed = Arc::clone(&passed);
    let clock = Clock::steady_by(NOW, move || Duration::from_millis(elapsed.load(Ordering::SeqCst)));
    assert_eq!(clock.now(), NOW);
    passed.store(1_500, Ordering::SeqCst);
    assert_eq!(clock.now(), UnixMillis(NOW.0 + 1_500));
    assert_eq!(clock.stood_still(), Duration::ZERO);
    let real = Clock::steady();
    let (one, two) = (real.now(), real.now());
    assert!(one <= two && one.0 > 0);
}

/// A handle whose time the test passes.
fn running() -> (Arc<AtomicU64>, Clock, Handle<Mirror>) {
    let passed = Arc::new(AtomicU64::new(0));
    let elapsed = Arc::clone(&passed);
    let clock = Clock::running_by(NOW, move || Duration::from_millis(elapsed.load(Ordering::SeqCst)));
    let registry = Registry::new(Config::default(), Mirror::default());
    let handle = Handle::new(registry, clock.clone(), Way::Hops).expect("a thread");
    (passed, clock, handle)
}

async fn renew(handle: &Handle<Mirror>, name: &str) -> Registered {
    let node = conformance::node(name, Role::Agent, &[], 0).registration;
    let granted =
        handle.write(move |registry, now| registry.register(now, [192, 0, 2, 1].into(), node)).await;
    granted.expect("granted").outcome
}

async fn sweep(handle: &Handle<Mirror>) -> usize {
    handle.write(|registry, now| registry.expire(now)).await.expect("memory").len()
}

// proves A2: an admin that stood still ends no lease before its node had time to renew it
#[tokio::test]
async fn after_it_stood_still_every_node_has_time_and_who_is_dead_goes_after_it() {
    let (passed, clock, handle) = running();
    let mut stood_still = Duration::ZERO;
    let mut pass = async |seconds: u64| {
        let mut expired = 0;
        for _ in 0..seconds {
            passed.fetch_add(1000, Ordering::SeqCst);
            look_at_pause(&handle, &mut stood_still);
            expired += sweep(&handle).await;
        }
        expired
    };
    for name in ["alive", "dead"] {
        assert_eq!(renew(&handle, name).await, Registered::New);
    }
    // The leases are nearly over.
    assert_eq!(pass(LEASE.as_secs() - 3).await, 0);
    for hours in [1, 100] {
        passed.fetch_add(hours * 3_600_000, Ordering::SeqCst);
        // A request that comes before anything was noticed finds the lease as it was.
        assert_eq!(renew(&handle, "alive").await, Registered::Renewed);
        assert_eq!(pass(LEASE.as_secs() - 3).await, 0, "nodes may be slow to try again");
        assert_eq!(handle.nodes(None, 9).len(), 2);
        assert_eq!(renew(&handle, "alive").await, Registered::Renewed);
    }
    assert!(clock.stood_still() > Duration::from_secs(101 * 3600 - 10));
    // It has its end: a host that is dead goes after a lease.
    assert_eq!(pass(10).await, 1);
    let left: Vec<_> = handle.nodes(None, 9).iter().map(|node| node.id().to_string()).collect();
    assert_eq!(left, ["alive"]);
    assert_eq!(pass(LEASE.as_secs()).await, 1);
}

#[test]
fn a_process_that_is_slow_did_not_stand_still() {
    let (passed, clock, _handle) = running();
    for step in [0, 1, 200, 1999, 2000] {
        passed.fetch_add(step, Ordering::SeqCst);
        let _ = clock.now();
    }
    assert_eq!((clock.stood_still(), clock.now()), (Duration::ZERO, UnixMillis(NOW.0 + 4200)));
    passed.fetch_add(2500, Ordering::SeqCst);
    assert_eq!((clock.now(), clock.stood_still()), (UnixMillis(NOW.0 + 6200), Duration::from_millis(500)));
    // A clock that went back says nothing.
    passed.store(0, Ordering::SeqCst);
    assert_eq!(clock.now(), UnixMillis(NOW.0 + 6200));
}

// proves A2: a running admin sees that the clock of its host was set, and gives the nodes time if it went ahead
#[tokio::test]
async fn a_running_admin_counts_that_its_clock_was_set() {
    use crate::admin::{steps::Reading, tests::bed::Bed};

    let bed = Bed::new().await;
    let registration = conformance::node("v", Role::Vmr { rank: 0 }, &["192.0.2.1:2268"], 0).registration;
    let register = move |registry: &mut Registry<Mirror>, now| {
        registry.register(now, [192, 0, 2, 1].into(), (*registration).clone())
    };
    bed.handle.write(register).await.expect("granted");
    bed.pass(LEASE / 2);
    let counted = async |count| {
        let looks = async {
            while bed.handle.status().clock.count != count {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), looks).await.expect("it is counted");
        bed.handle.status().clock.last.expect("a step").0
    };
    // What it is made to see last time was an hour ahead, then an hour behind.
    let hour = 3_600_000;
    let mut next = 1;
    for by in [hour, -hour] {
        let reading = Reading::take().expect("a clock");
        bed.handle.steps().look(reading);
        let wall = UnixMillis(reading.wall.0.saturating_add_signed(by));
        let told = bed.handle.steps().look(Reading { wall, ..reading }).expect("a step");
        let seen = counted(next + 1).await;
        assert!((told - by).abs() < 1000 && (seen + by).abs() < 60_000, "{told} {seen}");
        next += 2;
    }
    bed.pass(LEASE / 2 + Duration::from_secs(1));
    assert_eq!(bed.ids().await, ["v"], "its lease goes on since the host may have stood still");
    bed.stop().await;
}
