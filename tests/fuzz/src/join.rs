use vmcast::identity::{CertificateRequest, JoinToken};
use vmcast_proto::registry::NodeId;
use vmcast_signal::v1;

use crate::registry::{decode, explained};

/// What a stranger sends to become a node: a `JoinRequest`, the request for a certificate (PKCS #10) in it or alone,
/// and a join token as an operator hands it on.
pub fn join(data: &[u8]) {
    if let Some(request) = decode::<v1::JoinRequest>(data) {
        explained(request.node_id.parse::<NodeId>());
        certificate_request(&request.certificate_request);
    }
    if let Some(request) = decode::<v1::RenewRequest>(data) {
        certificate_request(&request.certificate_request);
    }
    certificate_request(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(token) = explained(text.parse::<JoinToken>()) {
        let again = token.to_string().parse::<JoinToken>().ok();
        assert_eq!(again.map(|again| again.to_string()), Some(token.to_string()));
    }
}

fn certificate_request(der: &[u8]) {
    if let Some(request) = CertificateRequest::parse(der) {
        let again = CertificateRequest::parse(der).expect("what can be read once");
        assert_eq!(request.key(), again.key());
    }
}
