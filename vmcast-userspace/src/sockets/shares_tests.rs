//! Shares before sockets, against the kernel in network namespaces.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use tokio::time::timeout;
use vmcast_common::hdr::eth::Mac;
use vmcast_dataplane::shares::{Rates, RelayCuts, SocketShares};
use vmcast_proto::membership::Family;

use super::{tests::pair, *};
use crate::netlink::{
    Links,
    netns::{NetNs, skip_without_root},
};

/// As good as no limit.
const ANY: u32 = 1_000_000;
const PATIENCE: Duration = Duration::from_secs(20);

/// Shares, unless this is not root or the kernel takes no such programs, which is said.
fn shares(rates: Rates) -> Option<Arc<SocketShares>> {
    if skip_without_root("shares before sockets") {
        return None;
    }
    match SocketShares::open(rates) {
        Ok(shares) => Some(Arc::new(shares)),
        Err(error) => {
            eprintln!("SKIPPED: shares before sockets: {error}");
            None
        }
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A relay's socket in a namespace of its own, whose loopback device has all addresses of 127.0.0.0/8.
fn with_endpoint(shares: &SocketShares, address: &str, work: impl AsyncFnOnce(&UdpEndpoint) + Send) {
    let namespace = NetNs::new();
    namespace.block_on(async || {
        let local = SocketAddr::new(ip(address), 2268);
        let endpoint = UdpEndpoint::bind_behind(Some(shares.relay_filter()), local).expect("a socket");
        work(&endpoint).await;
    });
}

fn send(from: &str, endpoint: &UdpEndpoint, times: usize) {
    let socket = UdpSocket::bind((from, 0)).expect("a socket");
    for _ in 0..times {
        socket.send_to(b"hello", endpoint.local()).expect("loopback");
    }
}

/// Who was heard of those who have sent; somebody with a tunnel speaks last.
async fn heard(endpoint: &UdpEndpoint, shares: &SocketShares) -> Vec<IpAddr> {
    let last = "127.44.8.8";
    shares.add_gateway(ip(last));
    shares.share_out();
    send(last, endpoint, 1);
    let (mut buffer, mut heard) = (Buffer::new(), Vec::new());
    loop {
        let next = timeout(PATIENCE, endpoint.recv(&mut buffer)).await.expect("in time");
        let from = next.expect("no error").datagram().expect("a datagram").remote.ip();
        if from == ip(last) {
            return heard;
        }
        heard.push(from);
    }
}

// proves that whoever comes with many others begins with a share of his own that is whole
#[test]
fn gateways_that_come_together_are_all_heard() {
    let Some(shares) = shares(Rates { source: 2, strangers: 1, link_strangers: 1 }) else { return };
    with_endpoint(&shares, "127.44.0.3", async |endpoint| {
        let gateways: Vec<String> = (1..=100).map(|gateway| format!("127.44.2.{gateway}")).collect();
        gateways.iter().for_each(|gateway| shares.add_gateway(ip(gateway)));
        shares.share_out();
        gateways.iter().for_each(|gateway| send(gateway, endpoint, 1));
        let heard = heard(endpoint, &shares).await;
        assert_eq!(heard, gateways.iter().map(|gateway| ip(gateway)).collect::<Vec<_>>());
        assert_eq!(shares.relay_cuts(), RelayCuts::default());
    });
}

// proves that forged sources take no room of who has a tunnel, and that what is cut is counted
#[test]
fn a_gateway_with_a_tunnel_is_heard_beside_any_number_of_strangers() {
    let Some(shares) = shares(Rates { source: ANY, strangers: 1, link_strangers: 1 }) else { return };
    with_endpoint(&shares, "127.44.0.1", async |endpoint| {
        shares.add_gateway(ip("127.44.9.9"));
        shares.add_gateway(ip("127.44.9.9"));
        shares.remove_gateway(ip("127.44.9.9"));
        shares.share_out();
        for stranger in 1..=100 {
            send(&format!("127.44.1.{stranger}"), endpoint, 2);
            send("127.44.9.9", endpoint, 1);
        }
        let heard = heard(endpoint, &shares).await;
        let gateway = ip("127.44.9.9");
        assert_eq!(heard.iter().filter(|from| **from == gateway).count(), 100, "{heard:?}");
        let strangers = heard.len() as u64 - 100;
        let RelayCuts { source, strangers: cut } = shares.relay_cuts();
        assert_eq!((source, strangers + cut), (0, 200));
        assert!(strangers >= 1, "nobody is kept out for good");
        // One each second, and this took none.
        assert!(cut > 0, "{strangers} of 200");
        assert_eq!(endpoint.drops(), cut, "they count as dropped, too");
        // The last tunnel is gone: a stranger again, as is one whose tunnel went before it had a share.
        shares.add_gateway(ip("127.44.9.8"));
        shares.remove_gateway(ip("127.44.9.8"));
        shares.share_out();
        send("127.44.9.8", endpoint, 200);
        let before = cut;
        let cut = shares.relay_cuts().strangers;
        assert!(cut > before);
        shares.remove_gateway(gateway);
        send("127.44.9.9", endpoint, 200);
        assert!(shares.relay_cuts().strangers > cut);
    });
}

// proves that one source takes no more than its own share, of IPv6 a network of 64 bits
#[test]
fn a_source_that_floods_is_cut_and_others_are_heard() {
    let Some(shares) = shares(Rates { source: 1, strangers: ANY, link_strangers: 1 }) else { return };
    with_endpoint(&shares, "127.44.0.1", async |endpoint| {
        send("127.44.1.1", endpoint, 200);
        send("127.44.1.2", endpoint, 1);
        let heard = heard(endpoint, &shares).await;
        let other = heard.iter().filter(|from| **from == ip("127.44.1.2")).count();
        let RelayCuts { source: cut, strangers } = shares.relay_cuts();
        assert_eq!((other, heard.len() as u64 + cut, strangers), (1, 201, 0));
        assert!(cut > 0);
        // A tunnel gives a source no larger share.
        shares.add_gateway(ip("127.44.1.3"));
        shares.share_out();
        send("127.44.1.3", endpoint, 200);
        assert!(shares.relay_cuts().source > cut);
    });
    let before = shares.relay_cuts().source;
    let (near, far) = pair();
    near.ip("address add 2001:db8:1::1/64 dev near0 nodad");
    for host in 2..=41 {
        far.ip(&format!("address add 2001:db8:1::{host:x}/64 dev far0 nodad"));
    }
    far.ip("address add 2001:db8:2::2/64 dev far0 nodad");
    near.ip("route add 2001:db8:2::/64 dev near0");
    near.block_on(async || {
        let local = SocketAddr::new(ip("2001:db8:1::1"), 2268);
        let endpoint = UdpEndpoint::bind_behind(Some(shares.relay_filter()), local).expect("a socket");
        far.run(|| (2..=41).for_each(|host| send(&format!("2001:db8:1::{host:x}"), &endpoint, 1)));
        far.run(|| send("2001:db8:2::2", &endpoint, 1));
        let mut buffer = Buffer::new();
        let mut of_first = 0;
        loop {
            let next = timeout(PATIENCE, endpoint.recv(&mut buffer)).await.expect("in time");
            let from = next.expect("no error").datagram().expect("a datagram").remote.ip();
            if from == ip("2001:db8:2::2") {
                break;
            }
            of_first += 1;
        }
        let cut = shares.relay_cuts().source - before;
        assert_eq!(of_first + cut, 40);
        assert!(cut > 0);
    });
}

// proves that forged link-layer addresses keep nobody from being heard who was before
#[test]
fn a_known_host_is_heard_beside_any_number_of_forged_ones() {
    let Some(shares) = shares(Rates { source: 1, strangers: 1, link_strangers: 1 }) else { return };
    let (near, far) = pair();
    near.block_on(async || {
        let near0 = Links::open().expect("links").find("near0").await.expect("near0");
        let open = |shares| MembershipSocket::open(Family::V4, near0.ifindex, shares).expect("a socket");
        let socket = open(Some(Arc::clone(&shares)));
        let sender = far.block_on(async || {
            let far0 = Links::open().expect("links").find("far0").await.expect("far0");
            MembershipSocket::open(Family::V4, far0.ifindex, None).expect("a socket")
        });
        let report = [0x22, 0, 0xdd, 0xff, 0, 0, 0, 0];
        let [address, to] = ["10.1.0.2", "224.0.0.22"].map(ip);
        let send = |from: Mac, times: usize| {
            far.ip(&format!("link set far0 address {}", crate::mac::text(from)));
            (0..times).for_each(|_| sender.send(address, to, &report).expect("sent"));
        };
        let known = [2, 9, 0, 0, 0, 1];
        socket.set_known([known], true);
        for stranger in 1..=20 {
            send([2, 7, 0, 0, 0, stranger], 10);
            send(known, 5);
        }
        let mut buffer = vec![0; RECEIVE_LEN];
        let (mut strangers, mut of_known) = (0, 0);
        while of_known < 100 {
            let next = timeout(PATIENCE, socket.recv(&mut buffer)).await;
            let (_, ends) = next.expect("in time").expect("a datagram");
            match ends.source {
                Some(from) if from == known => of_known += 1,
                _ => strangers += 1,
            }
        }
        // What the kernel says by itself counts, too.
        let cut = socket.cut();
        assert!(strangers >= 1 && cut > 0 && strangers + cut >= 200, "{strangers} heard, {cut} cut");
        // Another protocol, and a link that is gone, know nothing of it.
        assert_eq!(shares.link_cut(vmcast_common::shares::LinkKey::new(near0.ifindex, 0x86dd)), 0);
        drop(socket);
        let socket = open(Some(Arc::clone(&shares)));
        assert_eq!(socket.cut(), 0);
        send(known, 50);
        assert!(socket.cut() > 0, "nobody is known on a new one");
        socket.set_known([known], true);
        let cut = socket.cut();
        send(known, 50);
        assert_eq!(socket.cut(), cut);
        socket.set_known([known], false);
        send(known, 50);
        assert!(socket.cut() > cut);
    });
}

// proves that the share of unknown hosts is narrowed by a power of two, that of one link alone, and until it is gone
#[test]
fn the_share_of_unknown_hosts_of_a_link_is_narrowed_and_widened() {
    let Some(shares) = shares(Rates { source: 1, strangers: 1, link_strangers: 1_024 }) else { return };
    let (near, far) = pair();
    near.block_on(async || {
        let near0 = Links::open().expect("links").find("near0").await.expect("near0");
        let open = || MembershipSocket::open(Family::V4, near0.ifindex, Some(Arc::clone(&shares)));
        let sender = far.block_on(async || {
            let far0 = Links::open().expect("links").find("far0").await.expect("far0");
            MembershipSocket::open(Family::V4, far0.ifindex, None).expect("a socket")
        });
        let report = [0x22, 0, 0xdd, 0xff, 0, 0, 0, 0];
        let [address, to] = ["10.1.0.2", "224.0.0.22"].map(ip);
        let cut_of = |socket: &MembershipSocket, times: usize| {
            let before = socket.cut();
            (0..times).for_each(|_| sender.send(address, to, &report).expect("sent"));
            socket.cut() - before
        };
        // What comes at once is four times what comes in a second.
        let socket = open().expect("a socket");
        assert_eq!(cut_of(&socket, 100), 0);
        socket.narrow(10);
        assert!(cut_of(&socket, 100) > 0);
        socket.narrow(0);
        assert_eq!(cut_of(&socket, 100), 0, "it is whole again");
        socket.narrow(10);
        drop(socket);
        assert_eq!(cut_of(&open().expect("a socket"), 100), 0, "a new one is whole");
    });
}
