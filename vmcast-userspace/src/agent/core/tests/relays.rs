//! Sources with relays of their own (RFC 8777).

use super::*;

// proves A6 (RFC 8777): the VMR is asked for the rest, and data of a source is taken from its relay alone
#[test]
fn a_source_with_a_relay_of_its_own_is_had_from_there_and_the_rest_from_the_vmr() {
    use vmcast_proto::amt::discovery::{self, Answer, Question};
    struct Everywhere;
    impl discovery::Routes for Everywhere {
        fn source(&self, _: IpAddr) -> Option<IpAddr> {
            Some([198, 51, 100, 5].into())
        }
    }
    let mut bed = Bed::new();
    bed.core.find_relays(discovery::Config::new([3; 16]));
    bed.offer(&[0]);
    bed.run(Duration::from_secs(1));
    for group in [OTHER_GROUP, GROUP] {
        bed.report(3, group, &[SOURCE, OTHER_SOURCE]);
    }
    let mut queries: Vec<(u64, IpAddr)> = Vec::new();
    for output in bed.relays.drain(..) {
        if let RelayEffect::Query { query, question: Question::Relays(source) } = output {
            queries.push((query, source));
        }
    }
    assert_eq!(queries.len(), 2, "one question for a source, whatever its groups");
    let relay = at("192.0.2.3:2268");
    let record = vec![vec![10, 0x81, 192, 0, 2, 3]];
    for (query, source) in queries {
        let ttl = Duration::from_secs(60);
        let answer = if source == IpAddr::from(SOURCE) {
            Answer::Records { data: &record, ttl }
        } else {
            Answer::Nothing { ttl: None }
        };
        bed.core.relay_input(bed.now, RelayInput::Answer { query, answer, routes: &Everywhere });
        bed.drain();
    }
    // What is sent by the tunnel's own port goes to the third VMR, which takes it for another gateway's.
    let end = at("198.51.100.5:41000");
    for _ in 0..6 {
        for output in std::mem::take(&mut bed.relays) {
            let RelayEffect::Send { tunnel, remote, bytes } = output else { continue };
            assert_eq!(remote, relay);
            let vmr = &mut bed.vmrs[2].relay;
            vmr.handle_input(bed.now, relay::Input::Datagram { local: relay, remote: end, bytes: &bytes });
            let mut answers = Vec::new();
            while let Some(output) = vmr.poll_output() {
                if let relay::Output::Transmit { bytes, .. } = output {
                    answers.push(bytes);
                }
            }
            for bytes in answers {
                let input = RelayInput::Datagram { tunnel, remote: relay, tos: 0, bytes: &bytes };
                bed.core.relay_input(bed.now, input);
                bed.drain();
            }
        }
        bed.run(Duration::from_millis(300));
    }
    let wanted: Vec<_> = bed.vmrs[2].relay.tunnels().flat_map(|tunnel| tunnel.groups.clone()).collect();
    assert_eq!(wanted.len(), 2, "both groups: {wanted:?}");
    let only = |source: Ipv4Addr| Filter::Include([source.into()].into());
    for group in [OTHER_GROUP, GROUP] {
        assert_eq!(bed.vmrs[0].memberships[&group.into()], only(OTHER_SOURCE));
    }
    // Data of the source counts from its own relay, and not from the VMR.
    let packet = ipv4::encapsulate(SOURCE, GROUP, 16, 0, 17, false, b"data");
    let bytes = vmcast_wire::amt::Message::MulticastData { packet: &packet }.to_vec();
    let before = bed.data.len();
    bed.input(Input::FromTunnel { remote: at("192.0.2.1:2268"), tos: 0, bytes: &bytes });
    assert_eq!(bed.data.len(), before);
    bed.core.relay_input(bed.now, RelayInput::Datagram { tunnel: 0, remote: relay, tos: 0, bytes: &bytes });
    bed.drain();
    assert_eq!(bed.data.len(), before + 1);
}
